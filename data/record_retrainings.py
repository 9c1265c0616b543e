"""Records what notebooks 06 and 07 judge by: retrainings of a base model, and forecasts of them.

    python data/record_retrainings.py [--base small|model] [--workers 2]

Every retraining is deterministic given its weights and seed, runs on one thread, and is kept as one
line of .retrain/<base>-…/jobs.jsonl as soon as it is done; forecasts are kept stage by stage:
started again, the script goes on from there. Notebook 06 checks the result's checksum and repeats
some retrainings.
"""
import argparse
import copy
import hashlib
import json
import multiprocessing
import random
import sys

import plots
import torch
from forecasts import STAGES, Course
from record_planted import HERE, staged
from tqdm import tqdm

from helpers import retrain
from helpers.sources import load_model, load_stories
from helpers.sources.records import save_record, sha256
from helpers.stories import Query, tokenise

RECIPES = {"fine": retrain.Recipe(), "scratch": retrain.Recipe(rate=3e-3)}
# of each base: every how many-th question, random halves, and the seeds they are trained with
BASES = {"small": {"every": 1, "subsets": 64,
                   "seeds": {"fine": [0, 1, 2, 3], "scratch": [0, 1, 2]}},
         "model": {"every": 2, "subsets": 32, "seeds": {"fine": [1, 2]}}}
NAMES = {"small": "retrainings", "model": "retrainings_model"}
TENTHS = 32                         # subsets that leave out a tenth
ONE_SEEDS = 4                       # of the full run, and of runs with one story more or less
ASKED = list(range(1, 16, 2))       # the questions (facts with opponents) to drop something for
SHARES = (0.005, 0.01, 0.02, 0.05)  # of the stories, dropped by score
BUDGETS = (59, 150, 300, 593)       # loss terms, dropped by score; the last is 1% of all
STORIES_BY = ("exact", "ekfac", "dot", "tfidf")
TOKENS_BY = ("exact", "terms", "ekfac", "tfidf", "answers")
RANDOM = 4                          # random choices at each share


class Setting:
    """A base model, the fresh stories, the questions: 16 facts, then 8 ordinary sentences.

    The model is trained as transformers ships it: last digits grow over a training.
    """

    def __init__(self, base="small"):
        torch.set_num_threads(1)
        self.base, self.recipes = base, RECIPES
        self.model, self.tokenizer = load_model(HERE / base, device="cpu", fused=False)
        self.corpus = tokenise(load_stories(HERE / "fresh_stories.jsonl"), self.tokenizer, 512)
        self.ids, self.facts = self.corpus.ids, json.loads((HERE / "fresh_facts.json").read_text())
        queries = [Query(fact["prompt"], fact["completion"]) for fact in self.facts]
        every = BASES[base]["every"]
        self.queries = (queries + ordinary(8))[every - 1::every]
        self.questions = retrain.query_batch(self.tokenizer, self.queries, 512)
        self.models = {"fine": self.model, "scratch": untrained(self.model)}

    def outcome(self, regime, seed, weights=None):
        """f of all questions after training, `(Q,)`."""
        model = self.models[regime]
        end = retrain.train(model, self.ids, RECIPES[regime], seed, weights)
        return retrain.log_probs(model, self.questions, end.theta).detach()


def inputs_of(base):
    """The files, in data/, that a record is made from."""
    return ["fresh_stories.jsonl", "fresh_facts.json", f"{base}/model.safetensors",
            f"{base}/tokenizer.json"]


def subsets(count, number, left_out=0.5):
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
    return type(model)(copy.deepcopy(model.config)).eval()


# -- retrainings ---------------------------------------------------------------------------------

def jobs(base, predicted) -> list[tuple]:
    """Every retraining as `(regime, seed, what)`.

    `what` tells `weights_of` which loss weights to use.
    """
    subsets_of, seeds = BASES[base]["subsets"], BASES[base]["seeds"]
    listed = [("fine", seed, ("full",)) for seed in range(ONE_SEEDS)]
    listed += [(regime, seed, ("half", subset)) for regime in seeds
               for seed in seeds[regime] for subset in range(subsets_of)]
    if base == "model":
        return listed
    listed += [("fine", 0, ("tenth", subset)) for subset in range(TENTHS)]
    listed += [("fine", 0, ("drop", method, share, query))
               for method in STORIES_BY for share in SHARES for query in ASKED]
    listed += [("fine", 0, ("drop", "random", share, draw))
               for share in SHARES for draw in range(RANDOM)]
    listed += [("fine", 2, ("tokens", way, budget, query))
               for way in TOKENS_BY for budget in BUDGETS for query in ASKED]
    listed += [("fine", 2, ("tokens", "random", budget, draw))
               for budget in BUDGETS for draw in range(RANDOM)]
    listed += [("fine", seed, ("copies", row, weight))
               for row in singles(predicted) for weight in (0, 2) for seed in range(ONE_SEEDS)]
    return listed


def singles(predicted) -> list[int]:
    """The stories whose single copies are added and removed.

    EK-FAC's first and last for some questions.
    """
    scores = predicted["fine/score/ekfac"]
    orders = [scores[query].argsort(descending=True).tolist() for query in ASKED[::2]]
    return sorted({order[place] for order in orders for place in (0, -1)})


def weights_of(setting, predicted, what):
    """Loss weights `(N,)` or `(N, T)` of one job."""
    count, longest = len(setting.ids), max(map(len, setting.ids))
    kind, *rest = what
    if kind == "half":
        return subsets(count, BASES[setting.base]["subsets"])[rest[0]].float()
    if kind == "tenth":
        return subsets(count, TENTHS, 0.1)[rest[0]].float()
    weights = torch.ones(count, longest) if kind == "tokens" else torch.ones(count)
    if kind == "copies":
        weights[rest[0]] = rest[1]
    elif kind == "drop":
        method, share, which = rest
        draw = torch.Generator().manual_seed(which)
        scores = (torch.rand(count, generator=draw) if method == "random"
                  else predicted[f"fine/score/{method}"][which])
        weights[scores.topk(round(share * count)).indices] = 0
    elif kind == "tokens":
        way, budget, which = rest
        places = (random_terms(setting, which) if way == "random"
                  else predicted[f"fine/tokens/{way}"][which])[:budget].long()
        weights.view(-1)[places[places >= 0]] = 0
    return weights


def random_terms(setting, seed):
    """All loss terms in random order, as flat positions."""
    longest = max(map(len, setting.ids))
    places = torch.cat([row * longest + torch.arange(len(ids) - 1)
                        for row, ids in enumerate(setting.ids)])
    return places[torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))]


worker = {}


def begin(base, predicted):
    """In every worker process, once."""
    worker.update(setting=Setting(base), predicted=predicted, courses={})


def forecast(folder, regime, stage):
    """One stage's tensors, from their file where it is there."""
    def make():
        courses, setting = worker["courses"], worker["setting"]
        course = courses.setdefault(regime, Course(setting, regime))
        course.costs.clear()
        return {name: (values.float() if values.is_floating_point() else values).contiguous()
                for name, values in (stage(course) | course.costs).items()}
    return {f"{regime}/{name}": values for name, values
            in staged(folder / f"{regime}-{stage.__name__}.safetensors", make).items()}


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
    """Everything that decides the retrainings."""
    return {"recipes": {name: vars(recipe) for name, recipe in RECIPES.items()}, **BASES[base],
            "inputs": {name: sha256(HERE / name) for name in inputs_of(base)}}


def forecasts(base, folder, workers) -> dict:
    """All tensors of all stages by `regime/name`."""
    predicted = {}
    tasks = [(folder, regime, stage) for (of, regime), stages in STAGES.items() if of == base
             for stage in stages]
    with multiprocessing.get_context("spawn").Pool(workers, begin, (base, None)) as pool:
        for tensors in pool.starmap(forecast, tasks, chunksize=1):
            predicted |= tensors
    return predicted


def recorded(base, predicted, outcomes) -> dict:
    """The tensors of the record; scores in half precision, each row divided by its largest."""
    tensors, count = {}, predicted["fine/score/dot"].shape[1]
    for name, values in predicted.items():
        if "/score/" in name:
            scale = values.abs().amax(1, keepdim=True)
            tensors[name] = (values / scale).half()
            tensors[name.replace("/score/", "/scale/")] = scale
        elif "/tokens/" not in name:
            tensors[name] = values
        elif base == "small" and name.startswith("fine/"):
            tensors[name] = values[ASKED]
    tensors["kept/half"] = subsets(count, BASES[base]["subsets"])
    if base == "small":
        tensors["kept/tenth"] = subsets(count, TENTHS, 0.1)
    return tensors | {"outcomes": torch.tensor(list(outcomes.values()))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", choices=BASES, default="small")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    made_by = json.dumps(settings(args.base))
    name = f"{args.base}-{hashlib.sha256(made_by.encode()).hexdigest()[:12]}"
    folder, out = HERE / ".retrain" / name, HERE / f"{NAMES[args.base]}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    predicted = forecasts(args.base, folder, args.workers)
    outcomes = run_jobs(args.base, jobs(args.base, predicted), predicted, folder / "jobs.jsonl",
                        args.workers)
    queries = [vars(query) for query in Setting(args.base).queries]
    save_record(recorded(args.base, predicted, outcomes), out, inputs_of(args.base),
                script="data/record_retrainings.py", settings=made_by, queries=json.dumps(queries),
                jobs=json.dumps([json.loads(name) for name in outcomes]))
    print(f"{len(outcomes)} retrainings, {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
