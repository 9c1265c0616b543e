"""Records what notebooks 06 and 07 judge by: retrainings, and each method's forecasts of them.

    python data/record_retrainings.py [--base small|model] [--workers 2]

Two models are fine-tuned, and trained from scratch in the same shape: the small one (data/small,
2 layers) and the embedded one (data/model, 8 layers); each has a record of its own. Every
retraining is deterministic given its weights and seed, runs on one thread, and is kept as one line
of .retrain/…/jobs.jsonl as soon as it is done; the forecasts are kept stage by stage: started
again, the script goes on from there. The notebooks check the records' checksums and repeat some
retrainings.
"""
import argparse
import copy
import hashlib
import json
import multiprocessing
import os
import random
import sys

import forecasts
import plots
import torch
from record_planted import HERE
from tqdm import tqdm

from helpers import retrain
from helpers.sources import fuse, load_model, load_stories
from helpers.sources.records import save_record, sha256
from helpers.stories import Query, tokenise

RECIPES = {"fine": retrain.Recipe(), "scratch": retrain.Recipe(rate=3e-3)}
OUT = {"small": "retrainings.safetensors", "model": "retrainings_model.safetensors"}
SUBSETS = {"small": 64, "model": 32}  # halves of the stories
EVERY = {"small": 1, "model": 2}    # of the questions: the larger model is asked every second
# Methods see the run of seed 0; these seeds judge them. On its own seed only where it is recorded
SEEDS = {"small": {"fine": (2, 3, 0), "scratch": (2, 3)},
         "model": {"fine": (2, 3), "scratch": (2, 3)}}
TENTHS = 32                         # subsets that leave out a tenth
OTHER = 2                           # the seed on which stories and loss terms are left out
ASKED = list(range(1, 16, 2))       # questions (facts with opponents) to leave loss terms out for
FACTS = list(range(16))             # and to leave stories out for
SHARES = (0.01, 0.05)               # of the stories, left out by score
STORIES_BY = ("exact", "steps", "ekfac", "tfidf", "answers")
TOKENS_BY = ("exact", "steps", "terms", "eq 31", "tfidf", "answers")
RANDOM = 4                          # random choices of each size
SINGLES, SINGLE_SEEDS = 24, (2, 3)  # stories read twice, on two seeds
INPUTS = ["fresh_stories.jsonl", "fresh_facts.json"]


class Setting:
    """A base model, the fresh stories, the 24 questions: 16 facts, then 8 ordinary sentences."""

    def __init__(self, base="small"):
        torch.set_num_threads(1)
        self.base, self.recipes = base, RECIPES
        self.model, self.tokenizer = load_model(HERE / base, device="cpu")
        self.corpus = tokenise(load_stories(HERE / "fresh_stories.jsonl"), self.tokenizer, 512)
        self.ids, self.facts = self.corpus.ids, json.loads((HERE / "fresh_facts.json").read_text())
        self.queries = [Query(fact["prompt"], fact["completion"]) for fact in self.facts]
        self.queries = (self.queries + ordinary(8))[::EVERY[base]]
        self.questions = retrain.query_batch(self.tokenizer, self.queries, 512)
        self.models = {"fine": self.model, "scratch": untrained(self.model)}

    def outcome(self, regime, seed, weights=None):
        """f of all questions after training, `(Q,)`."""
        model = self.models[regime]
        end = retrain.train(model, self.ids, RECIPES[regime], seed, weights)
        return retrain.log_probs(model, self.questions, end.theta).detach()


def subsets(count, number=64, left_out=0.5):
    """Which of `count` stories each random subset keeps, `(number, count)` bool."""
    draw = torch.Generator().manual_seed(6)
    return torch.stack([torch.randperm(count, generator=draw) >= round(left_out * count)
                        for _ in range(number)])


def ordinary(count):
    """Third sentences of new stories after the first two; nothing was planted for them."""
    told = [plots.tell(random.Random(f"ordinary/{number}")) for number in range(count)]
    return [Query(" ".join(parts[:2]), f" {parts[2]}") for parts in told]


def untrained(model):
    """The same shape with fresh weights."""
    torch.manual_seed(6)
    fresh = type(model)(copy.deepcopy(model.config)).eval()
    fuse(fresh)
    return fresh


# -- forecasts -----------------------------------------------------------------------------------

worker = {}


def begin(base, predicted=None):
    """In every worker process, once."""
    os.nice(5)
    worker.update(setting=Setting(base), predicted=predicted, runs={})


def stages(base) -> list[tuple]:
    """Every stage of forecasts as `(regime, name)`, the long ones first."""
    more = forecasts.FINE if base == "small" else ["steps"]
    listed = [("fine", name) for name in [*more, *reversed(forecasts.BOTH)]]
    listed += [("scratch", name) for name in reversed(forecasts.BOTH)]
    return listed


def forecast(folder, regime, name):
    """One stage, from its file where it is there: `(regime, name, tensors)`."""
    runs, makes = worker["runs"], forecasts.BOTH | forecasts.FINE
    if regime not in runs:
        runs[regime] = forecasts.Run(worker["setting"], regime)
    return regime, name, forecasts.stage(runs[regime], folder / regime, name, makes[name])


def gathered(setting, parts) -> dict:
    """`{regime: {"score/<method>": (Q, N), "cost/<stage>": …, "tokens/<way>": (Q, M)}}`."""
    predicted = {regime: {} for regime in RECIPES}
    for regime, name, tensors in parts:
        into = predicted[regime]
        into[f"cost/{name}"] = tensors.pop("cost")
        for key, values in tensors.items():
            if name in ("rayleigh", "pbrf") or key == "residuals":
                into[f"{name}/{key}"] = values
            elif values.dim() == 2:
                into[f"score/{key}"] = values.float()
            elif name != "exact, seed 1":
                into[f"term/{'steps' if name == 'steps' else key}"] = values
            if key == "exact":
                into[f"score/{name}"] = values.sum(-1)
    if setting.base != "small":
        return predicted
    fine, run = predicted["fine"], forecasts.Run(setting, "fine")
    fine["score/steps"] = fine[f"score/steps {forecasts.STEPS}"]
    fine["term/tfidf"] = forecasts.words_predicted(run)
    fine["term/answers"] = forecasts.answers_predicted(run, fine["term/tfidf"])
    for way in TOKENS_BY:
        fine[f"tokens/{way}"] = forecasts.strongest(setting.ids, fine[f"term/{way}"],
                                                    forecasts.TOKEN_BUDGETS[-1])
    return predicted


# -- retrainings ---------------------------------------------------------------------------------

def jobs(base, predicted) -> list[tuple]:
    """Every retraining as `(regime, seed, what)`.

    `what` tells `weights_of` which loss weights to use.
    """
    listed = [(regime, seed, ("half", subset)) for regime, seeds in SEEDS[base].items()
              for subset in range(SUBSETS[base]) for seed in seeds]
    listed += [("fine", seed, ("full",)) for seed in range(4)]
    if base != "small":
        return listed
    listed += [("fine", 0, ("tenth", subset)) for subset in range(TENTHS)]
    listed += [("fine", OTHER, ("drop", method, share, query))
               for method in STORIES_BY for share in SHARES for query in FACTS]
    listed += [("fine", OTHER, ("drop", "random", share, draw))
               for share in SHARES for draw in range(RANDOM)]
    listed += [("fine", OTHER, ("tokens", way, budget, query))
               for way in TOKENS_BY for budget in forecasts.TOKEN_BUDGETS for query in ASKED]
    listed += [("fine", OTHER, ("tokens", "random", forecasts.TOKEN_BUDGETS[-1], draw))
               for draw in range(RANDOM)]
    listed += [("fine", seed, ("copies", row, 2))
               for row in singles(predicted) for seed in SINGLE_SEEDS]
    return listed


def singles(predicted) -> list[int]:
    """Stories read twice: EK-FAC's first for every fact, and others by chance."""
    first = predicted["fine"]["score/ekfac"][FACTS].argmax(1).tolist()
    draw = torch.Generator().manual_seed(6)
    others = torch.randperm(predicted["fine"]["score/ekfac"].shape[1], generator=draw).tolist()
    return list(dict.fromkeys(first + others))[:SINGLES]


def weights_of(setting, predicted, what):
    """Loss weights `(N,)` or `(N, T)` of one job."""
    count, longest = len(setting.ids), max(map(len, setting.ids))
    kind, *rest = what
    if kind in ("half", "tenth"):
        kept = subsets(count) if kind == "half" else subsets(count, TENTHS, 0.1)
        return kept[rest[0]].float()
    weights = torch.ones(count, longest) if kind == "tokens" else torch.ones(count)
    if kind == "copies":
        weights[rest[0]] = rest[1]
    elif kind == "drop":
        method, share, which = rest
        draw = torch.Generator().manual_seed(which)
        scores = (torch.rand(count, generator=draw) if method == "random"
                  else predicted["fine"][f"score/{method}"][which])
        weights[scores.topk(round(share * count)).indices] = 0
    elif kind == "tokens":
        way, budget, which = rest
        draw = torch.Generator().manual_seed(which)
        chosen = (forecasts.strongest(setting.ids, torch.rand(1, count, longest, generator=draw),
                                      budget)[0] if way == "random"
                  else predicted["fine"][f"tokens/{way}"][which, :budget])
        weights.view(-1)[chosen.long()] = 0
    return weights


def work(job):
    """One retraining; its line of jobs.jsonl."""
    regime, seed, what = job
    weights = weights_of(worker["setting"], worker["predicted"], what)
    outcome = worker["setting"].outcome(regime, seed, weights)
    return {"job": [regime, seed, list(what)],
            "outcome": [round(value, 6) for value in outcome.tolist()]}


def done_already(path) -> dict:
    """Finished jobs by name; a line cut off by a kill is left out."""
    outcomes = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
            outcomes[json.dumps(entry["job"])] = entry["outcome"]
        except ValueError:
            continue
    return outcomes


def name_of(job) -> str:
    """The job as JSON, by which its line is found again."""
    regime, seed, what = job
    return json.dumps([regime, seed, list(what)])


def run_jobs(base, listed, predicted, path, workers) -> dict:
    """All outcomes by name; what is on disk is not run again."""
    outcomes = done_already(path)
    left = [job for job in listed if name_of(job) not in outcomes]
    pool = multiprocessing.get_context("spawn").Pool(workers, begin, (base, predicted))
    with open(path, "a", encoding="utf-8") as file, pool:
        file.write("\n")  # ends a line that a kill may have cut off
        for entry in tqdm(pool.imap_unordered(work, left), total=len(left), desc="retrainings",
                          file=sys.stderr):
            file.write(json.dumps(entry) + "\n")
            file.flush()
            outcomes[json.dumps(entry["job"])] = entry["outcome"]
    return {name_of(job): outcomes[name_of(job)] for job in listed}


# -- putting it together -------------------------------------------------------------------------

def settings(base) -> dict:
    """Everything that decides the recorded numbers."""
    return {"base": base, "recipes": {name: vars(recipe) for name, recipe in RECIPES.items()},
            "seeds": SEEDS[base], "subsets": SUBSETS[base], "tenths": TENTHS, "other": OTHER,
            "asked": ASKED, "shares": SHARES, "budgets": forecasts.TOKEN_BUDGETS,
            "singles": [SINGLES, SINGLE_SEEDS],
            "forecasts": [forecasts.SEGMENTS, forecasts.STEPS, forecasts.DRAWS, forecasts.WIDTH,
                          forecasts.PBRF_STORIES, forecasts.PBRF_CORPUS],
            "inputs": {name: sha256(HERE / name) for name in inputs(base)}}


def inputs(base) -> list[str]:
    return [*INPUTS, f"{base}/model.safetensors", f"{base}/tokenizer.json"]


def recorded(predicted, outcomes) -> dict:
    """The tensors of the record; scores in half precision, their largest in each row 1."""
    tensors = {}
    for regime, by_name in predicted.items():
        for name, values in by_name.items():
            if name.startswith("score/") and name != "score/steps":
                size = values.abs().amax(1, keepdim=True).clamp(min=1e-12)
                tensors[f"{regime}/{name}"] = (values / size).half()
                tensors[f"{regime}/{name.replace('score', 'scale')}"] = size[:, 0].float()
            elif name.startswith("tokens/"):
                tensors[f"{regime}/{name}"] = values[ASKED]
            elif not name.startswith(("score/", "term/")):
                tensors[f"{regime}/{name}"] = values.float()
    count = predicted["fine"]["score/dot"].shape[1]
    return tensors | {"outcomes": torch.tensor(list(outcomes.values())),
                      "kept/half": subsets(count), "kept/tenth": subsets(count, TENTHS, 0.1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", choices=OUT, default="small")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    base, out = args.base, HERE / OUT[args.base]
    made_by = json.dumps(settings(base))
    folder = HERE / ".retrain" / f"{base}-{hashlib.sha256(made_by.encode()).hexdigest()[:12]}"
    for regime in RECIPES:
        (folder / regime).mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(args.workers, begin, (base,)) as pool:
        work_list = [(folder, *part) for part in stages(base)]
        parts = pool.starmap(forecast, work_list, chunksize=1)
    predicted = gathered(Setting(base), parts)
    outcomes = run_jobs(base, jobs(base, predicted), predicted, folder / "jobs.jsonl", args.workers)
    queries = [vars(query) for query in Setting(base).queries]
    save_record(recorded(predicted, outcomes), out, inputs(base),
                script="data/record_retrainings.py", settings=made_by, queries=json.dumps(queries),
                jobs=json.dumps([json.loads(name) for name in outcomes]))
    print(f"{len(outcomes)} retrainings, {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
