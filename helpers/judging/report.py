"""How well each method told what training without stories did: LDS, and what its lists cost."""
from itertools import combinations

import torch

from ..measure import lds
from . import BASELINES

WIDE = 16
NAMES = {"relatif": "RelatIF", "identity": "dot product", "tfidf": "TF-IDF"}  # in the table
UNITLESS = "relatif", "tfidf", "random"


def report(bench, scores: dict) -> dict:
    """The result as the JSON has it, from outcomes that are all there."""
    halves = torch.stack([torch.stack([bench.outcome(kept, seed) for kept in bench.subsets])
                          for seed in bench.seeds])
    judging = len(bench.judging)
    removed = [removal(bench, scores, share) for share in bench.options.drop]
    return {"stories": bench.count, "kept": int(bench.subsets[0].sum()),
            "subsets": len(bench.subsets), "queries": [vars(query) for query in bench.queries],
            "seeds": bench.seeds, "judged_on": bench.judging,
            "noise_ceiling": noise_ceiling(halves, judging),
            "lds": by_lds(scores, bench.subsets, halves[-judging:].mean(0)), "removed": removed}


def noise_ceiling(halves: torch.Tensor, seeds: int) -> float | None:
    """The largest mean LDS to expect against the mean over some seeds, from how two seeds agree on
    the subsets `(seeds, S, Q)` (Spearman–Brown); None for a single seed."""
    pairs = [lds(one, other).mean() for one, other in combinations(halves, 2)]
    r = max(sum(pairs).item() / len(pairs), 0) if pairs else None
    return r if r is None else (seeds * r / (1 + (seeds - 1) * r)) ** 0.5


def by_lds(scores, kept, actual) -> dict:
    """LDS of each method, and by how much it exceeds the best baseline's; 95% intervals."""
    predicted = {name: kept.double() @ values.double().T for name, values in scores.items()}
    found = {name: lds(values, actual) for name, values in predicted.items()}
    best = max(BASELINES, key=lambda name: found[name].mean())
    entries = {}
    for name, values in predicted.items():
        entries[name] = {"value": found[name].mean().item(), "by_query": found[name].tolist(),
                         "interval": lds_interval(values, actual)}
        if name not in BASELINES:
            interval = lds_interval(values, actual, predicted[best])
            entries[name] |= less(found[name] - found[best], best, interval)
    return entries


def removal(bench, scores, share) -> dict:
    """How each query's measure changes without the top of its list, mean over the seeds that judge;
    a measure's change over what the scores foretold is the factor that mends their unit."""
    changes, told, dropped = {}, {}, {}
    for name, values in scores.items():
        without = [bench.without(row, share) for row in values]
        dropped[name] = [bench.ids(~kept) for kept in without]
        gaps = [[(bench.outcome(kept, seed) - bench.outcome(bench.everything, seed))[query]
                 for query, kept in enumerate(without)] for seed in bench.judging]
        changes[name] = torch.tensor(gaps, dtype=torch.float64).mean(0)
        told[name] = sum(-row[~kept].sum().item() for row, kept in zip(values, without))
    best, entries = min(BASELINES, key=lambda name: changes[name].mean()), {}
    for name, change in changes.items():
        entries[name] = {"value": change.mean().item(), "by_query": change.tolist(),
                         "interval": mean_interval(change), "dropped": dropped[name]}
        if name not in UNITLESS:
            entries[name]["measured_by_predicted"] = change.sum().item() / (told[name] or 1)
        if name not in BASELINES:
            gap = change - changes[best]
            entries[name] |= less(gap, best, mean_interval(gap))
    return {"share": share, "stories": int((~without[0]).sum()), "methods": entries}


def mean_interval(values: torch.Tensor, draws=2000) -> list[float] | None:
    """95% bootstrap interval of a mean over queries; None for a single one."""
    draw, count = torch.Generator().manual_seed(0), len(values)
    again = values[torch.randint(count, (draws, count), generator=draw)].mean(1)
    return again.quantile(values.new_tensor([0.025, 0.975])).tolist() if count > 1 else None


def less(gap, baseline, interval) -> dict:
    """A difference to the best baseline, and whether it is one."""
    apart = interval is not None and not interval[0] <= 0 <= interval[1]
    return {"baseline": baseline, "less_baseline": gap.mean().item(), "less_interval": interval,
            "told_apart": apart}


# -- as text -------------------------------------------------------------------------------------

def table(result: dict) -> str:
    """What is printed."""
    judges = ", ".join(map(str, result["judged_on"]))
    count = len(result["queries"])
    asked = f"{count} quer{'y' if count == 1 else 'ies'}"
    lines = [f"{result['stories']} stories, {asked}, {result['subsets']} "
             f"random subsets of {result['kept']}; methods see the model of seed 0, judged on seed "
             f"{judges}", "", "LDS (rank correlation over the subsets; 95% intervals)",
             *rows(result["lds"])]
    if result["noise_ceiling"] is not None:
        lines.append(f"{'noise allows':{WIDE}} {result['noise_ceiling']:5.2f}")
    for part in result["removed"]:
        lines += ["", f"change in nats without the first {100 * part['share']:.3g}% of its list "
                  f"({part['stories']} of {result['stories']} stories)", *rows(part["methods"])]
    return "\n".join(lines)


def rows(methods: dict) -> list[str]:
    lines = []
    for name, entry in methods.items():
        line = f"{NAMES.get(name, name):{WIDE}} {entry['value']:5.2f}  {between(entry['interval'])}"
        if "baseline" in entry:
            best = NAMES.get(entry["baseline"], entry["baseline"])
            line += (f"  less {best}: {entry['less_baseline']:+.2f} "
                     f"{between(entry['less_interval'])}"
                     + ("" if entry["told_apart"] else ", not told apart"))
        if "measured_by_predicted" in entry:
            line += f"  measured / predicted {entry['measured_by_predicted']:.2g}"
        lines.append(line)
    return lines


def between(interval):
    return "" if interval is None else f"[{interval[0]:+.2f}, {interval[1]:+.2f}]"


def lds_interval(predicted, actual, other=None, draws=300) -> list[float]:
    """95% bootstrap interval of the mean `lds`, less that of the predictions `other`: subsets and
    queries drawn again, with replacement, the same for both."""
    draw = torch.Generator().manual_seed(0)
    again = [[torch.randint(n, (n,), generator=draw) for n in actual.shape] for _ in range(draws)]
    rows, queries = map(torch.stack, zip(*again))
    values = lds(predicted[rows], actual[rows])
    values = values if other is None else values - lds(other[rows], actual[rows])
    return values.gather(1, queries).mean(1).quantile(values.new_tensor([0.025, 0.975])).tolist()
