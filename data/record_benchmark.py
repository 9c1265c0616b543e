"""What everything costs: times as ratios to one plain forward and backward pass, peak memory, and how both grow.

    python data/record_benchmark.py [--only default,real,1M,growth,terminal] [--stories 512] [--json FILE] [--png FILE]

The plain pass computes the gradients of all parameters, with the model as transformers ships it. Everything in one
table shares model, batches, precision and threads, and was timed in one process; peak memory is that of a fresh process
for each step. kronfluence gets the same batches and the same sampled labels. A benchmark, not a test: run it on a quiet machine.
"""
import argparse
import json
import logging
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import time
import warnings
from contextlib import nullcontext
from copy import deepcopy
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest.mock import patch

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import GPTNeoConfig, GPTNeoForCausalLM

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from helpers import processes
from helpers.capture import backward_pass, find_layers
from helpers.curvature import EKFAC, corrected, covariances, factors, sampled_labels
from helpers.terminal.kept import as_blocks
from helpers.sources.files import save_tensors, save_text
from helpers.influence import query_gradients, sequence_scores, tokenwise, top_indices
from helpers.terminal import Setting, explain_indexed
from helpers.search import low_rank, low_rank_token_scores
from helpers.terminal import Index
from helpers.sources import load_model, load_stories
from helpers.stories import IGNORE, Query, batches, encode_query, sequence_loss, tokenise

REAL = ROOT.parent / "shared" / "real"
PARTS = ("default", "real", "1M", "growth", "terminal", "profile")
FULL = {"sizes": (500, 1000, 2000, 4000), "widths": (32, 64, 128, 256), "width_stories": 64, "counts": (1, 4, 16, 64)}
QUICK = {"sizes": (6,), "widths": (16, 32), "width_stories": 4, "counts": (1, 3)}
RANKS = (8, 32)


class Work:
    """A model, its stories and queries, and what the steps have `made` so far, `{what: {name: tensor}}`, which goes
    from process to process."""

    def __init__(self, name, stories, queries, threads, folder):
        torch.set_num_threads(threads)
        self.folder, self.made = Path(folder), {}
        model, tokenizer = load_model(str(REAL / "stories260K-hf") if name == "real" else "default", "cpu")
        texts = load_stories(str(REAL / "tinystories.jsonl") if name == "real" else "default")
        if name not in ("default", "real"):
            model = random_model(width=64 if name == "1M" else int(name), vocabulary=50257 if name == "1M" else 1536)
        self.setting = Setting(model, tokenizer, find_layers(model), tokenise(texts[:stories], tokenizer, 512), quiet=True)
        longest = max(map(len, self.setting.corpus.ids))  # so that no batch is cut smaller, and kronfluence gets the same ones
        self.setting.batch_size = max(1, min(self.setting.batch_size, self.setting.max_positions() // longest))
        self.parts = model, self.setting.layers
        asked = [Query(" ".join(words[:12]), " " + words[12]) for words in (s.text.split() for s in texts[::-1]) if len(words) > 12]
        if name != "real":
            planted = json.loads((ROOT / "data" / "planted_facts.json").read_text(encoding="utf-8"))
            random.Random(0).shuffle(planted)
            asked = [Query(item["prompt"], item["completion"]) for item in planted] + asked
        encoded = [(encode_query(tokenizer, query, 512), query) for query in asked[:queries]]
        encoded.sort(key=lambda pair: len(pair[0][0]))  # as batches() would
        self.encoded, self.queries = map(list, zip(*encoded))

    @property
    def exact(self):
        return self.made["scores"]["exact"]

    @property
    def kept(self):
        return self.folder / "made.safetensors"

    def save(self):
        save_tensors({f"{what}|{name}": tensor.clone(memory_format=torch.contiguous_format)  # K-FAC and EK-FAC share their Q
                      for what, parts in self.made.items() for name, tensor in parts.items()}, self.kept)

    def load(self):
        for key, tensor in (load_file(self.kept) if self.kept.exists() else {}).items():
            what, _, name = key.partition("|")
            self.made.setdefault(what, {})[name] = tensor


def random_model(width, vocabulary):
    """TinyStories-1M's shape (width 64) with random weights."""
    torch.manual_seed(0)
    return GPTNeoForCausalLM(GPTNeoConfig(
        vocab_size=vocabulary, hidden_size=width, num_layers=8, attention_types=[[["global", "local"], 4]], num_heads=16,
        max_position_embeddings=2048, window_size=256, embed_dropout=0.0, resid_dropout=0.0, attention_dropout=0.0, bos_token_id=0, eos_token_id=0)).eval()


# -- the steps --------------------------------------------------------------------------------------

def plain(work):
    for batch in work.setting.stream():
        work.setting.model.zero_grad()
        sequence_loss(work.setting.model, batch).sum().backward()
    work.setting.model.zero_grad()


def moments(work):
    pairs, tokens = covariances(*work.parts, work.setting.stream(), seed=0)
    work.made |= {kind: {name: pair[at] for name, pair in pairs.items()} for at, kind in enumerate("AS")}
    work.made["tokens"] = {"a story": torch.tensor(tokens, dtype=torch.float64)}


def eigenbasis(work):
    pairs = {name: (work.made["A"][name], work.made["S"][name]) for name in work.setting.layers}
    work.made["kfac"] = parts_of(eigenvectors(pairs, work.made["tokens"]["a story"].item()))


def parts_of(blocks):
    """The tensors of which `as_blocks` makes these blocks."""
    return {f"{name}/{part}": tensor for name, block in blocks.items() for part, tensor in vars(block).items()}


def lambdas(work):
    work.made["ekfac"] = parts_of(corrected(*work.parts, work.setting.stream(), as_blocks(work.made["kfac"]), seed="0, second"))


def scores(work):
    gradients, _ = query_gradients(*work.parts, work.encoded)
    work.made["ihvps"] = EKFAC(as_blocks(work.made["ekfac"])).solve(gradients)
    work.made["scores"] = {"exact": sequence_scores(*work.parts, work.setting.stream(), work.made["ihvps"], len(work.setting.corpus))}


def fit_and_score(work):
    for one in (moments, eigenbasis, lambdas, scores):
        one(work)


def tokens(work):
    total = len(work.setting.corpus)
    top = max(1, 50 * total // 5000)
    wanted = [(q, row) for q, (positive, _) in enumerate(top_indices(work.exact, top)) for row in positive]
    tokenwise(*work.parts, work.setting.stream({row for _, row in wanted}), work.made["ihvps"], total, wanted)
    return {"top": top}


def build(work):
    shutil.rmtree(work.folder / "index", ignore_errors=True)
    index = Index.create(work.folder / "index", work.setting.model, EKFAC(as_blocks(work.made["ekfac"])))
    index.add(*work.parts, work.setting.corpus, work.setting.stream, index.missing(work.setting.corpus))
    return {"megabytes": index.size() / 1e6}


def query(work):
    """Answers one query after the other; then all at once, to compare them with the exact scores."""
    index, times, exact = Index.open(work.folder / "index", work.setting.model), [], work.exact
    for one in work.queries[:6]:
        start = time.perf_counter()
        explain_indexed(work.setting, [one], index, 10)
        times.append(time.perf_counter() - start)
    rough = index.scores(work.made["ihvps"], work.setting.corpus)
    listed = [{e["index"] for e in entry["influences"] if e["influence"] > 0}
              for entry in explain_indexed(work.setting, work.queries, index, 10)]
    best, raw = ([set(positive) for positive, _ in top_indices(values, 10)] for values in (exact, rough))
    overlap = lambda found: mean(len(a & b) / max(1, len(a)) for a, b in zip(best, found))
    return {"query": median(times[1:] or times), "spearman": mean(correlation(a.argsort().argsort(), b.argsort().argsort())
            for a, b in zip(exact, rough)), "overlap": overlap(listed), "overlap unscored": overlap(raw)}


def correlation(x, y):
    return torch.corrcoef(torch.stack([x.flatten().double(), y.flatten().double()]))[0, 1].item()


# -- kronfluence on the same work ---------------------------------------------------------------------

def collated(rows):
    """A batch of `(row, ids, start)` as ours are made."""
    (batch,) = batches([ids for _, ids, _ in rows], len(rows))
    for at, (_, _, start) in enumerate(rows):
        batch.labels[at, :start - 1] = IGNORE
    return {"index": torch.tensor([row for row, _, _ in rows]), "input_ids": batch.input_ids, "labels": batch.labels,
            "attention_mask": batch.mask.long()}


def their_analyzer(work, fused):
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.utils.dataset import DataLoaderKwargs
    from record_kronfluence import LabelledTask

    class Labelled(LabelledTask):
        seed = 0

        def compute_train_loss(self, batch, model, sample=False):
            logits, labels = model(input_ids=batch["input_ids"], use_cache=False).logits, batch["labels"]
            if sample:
                labels = sampled_labels(logits.detach(), SimpleNamespace(index=batch["index"].tolist(), labels=labels), self.seed)
            return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum")

    warnings.filterwarnings("ignore", category=FutureWarning, module="kronfluence")
    task = Labelled(list(work.setting.layers))
    analyzer = Analyzer(f"fused-{fused}", prepare_model(deepcopy(work.setting.model), task), task, cpu=True,
                        output_dir=str(work.folder), disable_tqdm=True, log_level=logging.ERROR)
    analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=collated))
    ids = work.setting.corpus.ids
    train = [(row, ids[row], 1) for row in sorted(range(len(ids)), key=lambda row: len(ids[row]))]
    return analyzer, task, train, fused_attention(analyzer.model) if fused else nullcontext()


def their_fit(work, fused=False):
    from kronfluence.arguments import FactorArguments
    analyzer, task, train, attention = their_analyzer(work, fused)
    options = {"factor_args": FactorArguments(strategy="ekfac"), "overwrite_output_dir": True}
    with attention:
        analyzer.fit_covariance_matrices("f", train, per_device_batch_size=work.setting.batch_size, **options)
        analyzer.perform_eigendecomposition("f", **options)
        task.seed = "0, second"
        analyzer.fit_lambda_matrices("f", train, per_device_batch_size=work.setting.batch_size, **options)


def their_scores(work, fused=False):
    from kronfluence.arguments import ScoreArguments
    analyzer, _, train, attention = their_analyzer(work, fused)
    asked = [(at, ids, start) for at, (ids, start) in enumerate(work.encoded)]
    with attention:
        analyzer.compute_pairwise_scores(
            "s", "f", asked, train, per_device_query_batch_size=len(asked), per_device_train_batch_size=work.setting.batch_size,
            score_args=ScoreArguments(damping_factor=None), overwrite_output_dir=True)
    found = analyzer.load_pairwise_scores("s")["all_modules"].float()
    return {"pearson": correlation(work.exact[:, [row for row, _, _ in train]], found)}


STEPS = {"plain": plain, "A and S": moments, "eigenvectors": eigenbasis, "Λ": lambdas, "scores": scores, "tokens": tokens,
         "index build": build, "index query": query, "kronfluence fit": their_fit, "kronfluence scores": their_scores,
         "kronfluence fused fit": lambda work: their_fit(work, True),
         "kronfluence fused scores": lambda work: their_scores(work, True), "fit and scores": fit_and_score}
NAMES = {"plain": "plain forward and backward pass", "A and S": "fit EK-FAC: A and S", "eigenvectors": "fit EK-FAC: eigenvectors",
         "Λ": "fit EK-FAC: Λ", "fit": "fit EK-FAC, in all", "scores": "exact scores by sequence, {queries} queries",
         "tokens": "token values of the top {top} of each query", "index build": "index build",
         "index query": "index query, one, with tokens of its top 10", "kronfluence fit": "kronfluence: fit",
         "kronfluence scores": "kronfluence: scores", "kronfluence fused fit": "kronfluence with our fused attention: fit",
         "kronfluence fused scores": "kronfluence with our fused attention: scores",
         "one process": "fit and scores, one process of one thread", "two processes": "fit and scores, two processes of one thread"}


def memory():
    """(now, at the peak) MB of this process. Not ru_maxrss where it can be helped: a child's begins with its parent's."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return tuple(int(lines[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))
    except (OSError, KeyError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
        return peak, peak


def step(work, name):
    """Runs one step; its seconds, peak memory and what it says itself."""
    say(f"{name}, {len(work.setting.corpus)} stories")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    except OSError:
        pass
    processes.wait()
    before, start = memory()[0], time.perf_counter()
    facts = STEPS[name](work) or {}
    processes.wait()
    seconds, peak = time.perf_counter() - start, memory()[1]
    return {"seconds": facts.pop("query", seconds), "above": max(0.0, peak - before), "process": peak, **facts}


def say(text):
    if processes.rank() == 0:
        print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def in_child(spec, names, launcher=()):
    """What each step says, in their order, from a fresh process, or from two of them under torchrun, which go on from what
    was made."""
    command = [sys.executable, *launcher, str(Path(__file__).resolve()), "--child", json.dumps([spec, names])]
    environment = os.environ | {"OMP_NUM_THREADS": str(spec["threads"])}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{', '.join(names)} failed in a process of its own")
    return json.loads(done.stdout.splitlines()[-1])


def child(spec, names):
    processes.start("cpu")
    if any("kronfluence" in name for name in names):
        import record_kronfluence  # noqa: F401: what is only imported is no memory of the step
    work = Work(**spec)
    work.load()
    found = [step(work, name) for name in names]
    if processes.rank() == 0:
        work.save()
        print(json.dumps(found))
    processes.stop()


# -- the parts ----------------------------------------------------------------------------------------

def setting_table(options, name, spec):
    """Every row for one model and its stories."""
    work, order = Work(**spec), ["plain"]  # the first plain pass is only to warm up
    names = [key for key in list(STEPS)[1:-1] if ("kronfluence" not in key or find_spec("kronfluence"))
             and ("fused" not in key or work.setting.model.config.model_type == "gpt_neo")]  # others are fused anyway
    for key in names:
        if key not in ("eigenvectors", "tokens", "index query") and not (options.quick and len(order) > 1):
            order.append("plain")
        order.append(key)
    order += ["fit and scores"] * options.quick  # else in a process of one thread, below
    timed_rows = list(zip(order, in_child(spec, order)))[1:]
    passes = [row["seconds"] for key, row in timed_rows if key == "plain"]
    rows = dict(timed_rows)
    rows["plain"] |= {"seconds": median(passes), "all": passes}
    if not options.quick:
        for key in ("plain", *names):
            (fresh,) = in_child(spec, [key])
            rows[key] |= {"above": fresh["above"], "process": fresh["process"]}
    fit = [rows[key] for key in ("A and S", "eigenvectors", "Λ")]
    rows["fit"] = {"seconds": sum(row["seconds"] for row in fit)} | {key: max(row[key] for row in fit) for key in ("above", "process")}
    alone, torchrun = spec | {"threads": 1}, ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    rows["one process"] = rows.pop("fit and scores") if options.quick else in_child(alone, ["fit and scores"])[0]
    (rows["two processes"],) = in_child(alone, ["fit and scores"], torchrun)
    for row in rows.values():
        row["ratio"] = row["seconds"] / rows["plain"]["seconds"]
    return {"stories": len(work.setting.corpus), "queries": len(work.queries), "batch": work.setting.batch_size,
            "tokens": sum(map(len, work.setting.corpus.ids)), "rows": {key: rows[key] for key in NAMES if key in rows}}


def growth(options, _, spec):
    """With the number of stories, the width of the layers and the number of queries."""
    sizes = QUICK if options.quick else FULL
    work = Work(**spec)
    fit_and_score(work)
    work.save()
    by_stories, steps = {}, ["scores", "index build", "index query"]
    for count in sizes["sizes"]:
        for group in [steps] if options.quick else [[key] for key in steps]:
            by_stories.setdefault(count, {}).update(zip(group, in_child(spec | {"stories": count}, group)))
    by_width = {}
    for width in sizes["widths"]:
        narrow = Work(**spec | {"name": width, "stories": sizes["width_stories"]})
        step(narrow, "plain")  # to warm up
        by_width[width] = {key: step(narrow, key) for key in ("plain", "A and S", "eigenvectors", "Λ", "scores")}
    return {"fitted on": len(work.setting.corpus), "queries": len(work.queries), "stories": by_stories, "width": by_width,
            "width stories": sizes["width_stories"], "count": by_queries(spec, sizes["counts"])}


def by_queries(spec, counts):
    """Seconds of a scoring pass, by rank, and of the index, for more and more queries at once."""
    work, found = Work(**spec | {"queries": max(counts)}), {}
    fit_and_score(work)
    build(work)
    index, stream, total = Index.open(work.folder / "index", work.setting.model), work.setting.stream, len(work.setting.corpus)
    explain_indexed(work.setting, work.queries[:1], index, 10)  # to warm up
    for count in counts:
        say(f"{count} queries")
        ihvps, row = {name: part[:count] for name, part in work.made["ihvps"].items()}, {}
        row["full"] = timed(lambda: sequence_scores(*work.parts, stream(), ihvps, total))
        for rank in RANKS:
            factors, scored = low_rank(ihvps, rank), torch.zeros(count, total)

            def narrow():
                for batch in stream():
                    scored[:, batch.index] = low_rank_token_scores(backward_pass(*work.parts, batch)[0], factors, total).sum(-1)
            row[f"rank {rank}"] = timed(narrow)
            row[f"pearson {rank}"] = mean(correlation(a, b) for a, b in zip(work.exact, scored))
        row["index"] = timed(lambda: explain_indexed(work.setting, work.queries[:count], index, 10))
        found[count] = row
    return found


def timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def terminal(options, _, spec):
    """Seconds of the command line on the embedded default: nothing kept, factors kept, index built, index used."""
    size = ["--limit", str(spec["stories"])] if options.quick else []
    base, index = [sys.executable, "-m", "helpers", *size, "--cache", f"{spec['folder']}/cache"], ["--index", f"{spec['folder']}/asked"]
    found = {}
    for name, more in {"nothing kept": [], "factors kept": [], "index built": index, "index kept": index}.items():
        say(name)
        found[name] = timed(lambda: subprocess.run(base + more, check=True, capture_output=True, cwd=ROOT))
    return found


def profile(options, _, spec):
    """The eight dearest operations of a scoring pass, as shares of its time, with plain and with fused attention."""
    work, found = Work(**spec), {}
    fit_and_score(work)
    for name, attention in {"plain attention": lambda model: nullcontext(), "fused attention": fused_attention}.items():
        with patch("helpers.capture.fused_attention", attention):
            scores(work)  # to warm up
            seconds = timed(lambda: scores(work))
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
                scores(work)
        events = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
        whole = sum(event.self_cpu_time_total for event in events)
        found[name] = {"seconds": seconds, "shares": {event.key: event.self_cpu_time_total / whole for event in events[:8]}}
    return found


# -- what is written ----------------------------------------------------------------------------------

def table(head, rows):
    cell = lambda x: "" if x is None else x if isinstance(x, str) else f"{x:,.0f}" if abs(x) >= 100 else f"{x:.2f}"
    lines = [head, ["---"] * len(head), *([cell(x) for x in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def tell_setting(name, part):
    rows, tells = part["rows"], []
    text = lambda key: NAMES[key].format(queries=part["queries"], top=rows["tokens"]["top"])
    seen = rows["index query"]
    tells.append(f"Index: {rows['index build']['megabytes']:.1f} MB, Spearman with the exact scores {seen['spearman']:.4f}, overlap of the top "
                 f"10 {seen['overlap']:.3f} ({seen['overlap unscored']:.3f} before its short list is scored exactly).")
    for kind in ("kronfluence", "kronfluence fused"):
        if f"{kind} fit" in rows:
            faster = (rows[f"{kind} {what}"]["seconds"] / rows[what]["seconds"] for what in ("fit", "scores"))
            tells.append("Against {}: fit {:.2f} and scores {:.2f} times faster, Pearson {:.6f}.".format(
                kind, *faster, rows[f"{kind} scores"]["pearson"]))
    tells.append(f"Two processes: {rows['one process']['seconds'] / rows['two processes']['seconds']:.2f} times faster than one.")
    return (f"## {name}: {part['stories']} stories, {part['tokens']:,} tokens, batches of {part['batch']}\n\n" + table(
        ["what", "seconds", "÷ plain pass", "peak MB above what was loaded", "of the whole process"],
        [[text(key), *(row.get(k) for k in ("seconds", "ratio", "above", "process"))] for key, row in rows.items()])
        + "\n" + "\n".join(f"- {line}" for line in tells) + "\n")


def tell_growth(_, part):
    pairs = [("scores", "seconds"), ("scores", "above"), ("index build", "seconds"), ("index build", "above"),
             ("index build", "megabytes"), ("index query", "seconds"), ("index query", "spearman"), ("index query", "overlap")]
    ranks = [f"{kind} {rank}" for rank in RANKS for kind in ("rank", "pearson")]
    fit = lambda row: row["A and S"]["seconds"] + row["eigenvectors"]["seconds"] + row["Λ"]["seconds"]
    return "\n".join([
        f"## Growth with the stories ({part['queries']} queries, factors of {part['fitted on']} stories)\n",
        table(["stories", "scores, s", "peak MB above", "index build, s", "peak MB above", "index, MB",
               "query, s", "Spearman", "top 10"], [[n, *(row[a][b] for a, b in pairs)] for n, row in part["stories"].items()]),
        f"## Growth with the layer's width ({part['width stories']} stories, random weights)\n",
        table(["hidden", "plain pass, s", "fit, s", "of it eigenvectors", "scores, s", "fit ÷ plain", "scores ÷ plain"],
              [[n, row["plain"]["seconds"], fit(row), row["eigenvectors"]["seconds"], row["scores"]["seconds"],
                fit(row) / row["plain"]["seconds"], row["scores"]["seconds"] / row["plain"]["seconds"]]
               for n, row in part["width"].items()]),
        f"## Growth with the queries ({part['fitted on']} stories; seconds, and Pearson with full rank)\n",
        table(["queries", "full rank", *ranks, "index"],
              [[n, row["full"], *(row[key] for key in ranks), row["index"]] for n, row in part["count"].items()])])


def tell_other(name, part):
    if name == "terminal":
        return "## Terminal\n\n" + table(list(part), [list(part.values())])
    return "\n".join(f"## Profile of a scoring pass: {kind}, {found['seconds']:.1f} s\n\n" + table(
        ["operation", "share"], [[key, f"{share:.1%}"] for key, share in found["shares"].items()]) for kind, found in part.items())


def draw(part, path):
    """Three small panels: seconds against stories, width and queries."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), dpi=100, facecolor="white", layout="constrained")
    seconds = lambda key: lambda row: row[key]["seconds"]
    peak = lambda key: "–".join(f"{f([row[key]['above'] for row in part['stories'].values()]):,.0f}" for f in (min, max))
    panels = [("stories", "stories", {f"exact scores (peak +{peak('scores')} MB)": seconds("scores"),
                                      f"index build (peak +{peak('index build')} MB)": seconds("index build"),
                                      "one query through the index": seconds("index query")}),
              ("width", "hidden width of the model", {"plain pass": seconds("plain"), "exact scores": seconds("scores"),
               "fit": lambda row: sum(row[key]["seconds"] for key in ("A and S", "eigenvectors", "Λ"))}),
              ("count", "queries at once", {"full rank": lambda row: row["full"], f"rank {RANKS[1]}": lambda row: row[f"rank {RANKS[1]}"],
                                            "through the index": lambda row: row["index"]})]
    styles = [("#E66101", "o", "-"), ("#286EDC", "s", "--"), ("#767676", "^", ":")]
    for axis, (kind, label, lines) in zip(axes, panels):
        at = [int(key) for key in part[kind]]
        for (name, value), (color, marker, line) in zip(lines.items(), styles):
            axis.plot(at, [value(row) for row in part[kind].values()], color=color, marker=marker, linestyle=line, label=name)
        axis.set(xscale="log", yscale="log", xlabel=label)
        axis.set_xticks(at, [f"{x:,}" for x in at])
        axis.xaxis.minorticks_off()
        axis.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1))
    axes[0].set_ylabel("seconds")
    figure.savefig(path)


def environment(options):
    packages = [name for name in ("torch", "transformers", "kronfluence", "numpy") if find_spec(name)]
    return {"date": time.strftime("%Y-%m-%d"), "machine": platform.machine(), "cpus": os.cpu_count(), "threads": options.threads,
            "python": platform.python_version(), **{name: version(name) for name in packages}}


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stories", type=int, default=512, help="in the tables (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=20, help="scored together (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of the process that is timed (default: %(default)s)")
    parser.add_argument("--only", default=",".join(PARTS[:-1]), metavar="PART,…", help="of %(default)s,profile; none: print --json again")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--profile", action="store_true", help="the profile too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything measured; parts that are not run again are kept")
    parser.add_argument("--png", type=Path, metavar="FILE", help="the growth as a figure")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.only = [part for part in options.only.split(",") if part != "none"] + ["profile"] * options.profile
    if wrong := set(options.only) - set(PARTS):
        parser.error(f"--only knows {', '.join(PARTS)}, not {', '.join(wrong)}")
    return options


def main():
    options = parse()
    if options.child:
        return child(*json.loads(options.child))
    parts = json.loads(options.json.read_text(encoding="utf-8")) if options.json and options.json.exists() else {}
    run = {"growth": growth, "terminal": terminal, "profile": profile}
    tell = {"growth": tell_growth, "terminal": tell_other, "profile": tell_other}
    size = {"stories": 6, "queries": 3} if options.quick else {"stories": options.stories, "queries": options.queries}
    for name in options.only:
        if name == "real" and not REAL.is_dir():
            say("real: skipped, there is no folder ../shared/real")
            continue
        with TemporaryDirectory() as folder:
            spec = {"name": name if name in ("default", "real", "1M") else "default", **size, "threads": options.threads, "folder": folder}
            found = run.get(name, setting_table)(options, name, spec)
        found = json.loads(json.dumps(found, allow_nan=False))  # keys are texts from here on, as in the file
        parts[name] = {"environment": environment(options), "found": found}
        if options.json:
            save_text(json.dumps(parts, indent=1, ensure_ascii=False) + "\n", options.json)
    for name, part in parts.items():
        print(", ".join(f"{key} {value}" for key, value in part["environment"].items()) + "\n")
        print(tell.get(name, tell_setting)(name, part["found"]))
    if options.png and "growth" in parts:
        draw(parts["growth"]["found"], options.png)


if __name__ == "__main__":
    main()
