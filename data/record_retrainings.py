"""Records what notebooks 06 and 07 judge by: retrainings of the small model, and forecasts of them.

    python data/record_retrainings.py [--workers 2] [--out data/retrainings.safetensors]

Every retraining is deterministic given its weights and seed, runs on one thread, and is kept as one
line of .retrain/jobs.jsonl as soon as it is done: started again, the script goes on from there. The
scores are kept stage by stage. Notebook 06 checks the result's checksum and repeats some
retrainings.
"""
import argparse
import copy
import hashlib
import json
import multiprocessing
import random
import re
import sys
from pathlib import Path

import plots
import torch
from record_planted import HERE, staged
from sklearn.feature_extraction.text import TfidfVectorizer
from tqdm import tqdm

from helpers import influence, retrain, search, terminal
from helpers.capture import find_layers
from helpers.curvature import EKFAC, Identity
from helpers.exact import GaussNewton
from helpers.sources import fuse, load_model, load_stories
from helpers.sources.records import save_record, sha256
from helpers.stories import Query, encode_query, tokenise
from helpers.terminal.answers import Asked, exact_token_scores

RECIPES = {"fine": retrain.Recipe(), "scratch": retrain.Recipe(rate=3e-3)}
SUBSETS, SEEDS = 64, {"fine": 2, "scratch": 2}
TENTHS = 32                         # subsets that leave out a tenth
ONE_SEEDS = 4                       # of the full run, and of runs with one story more or less
ASKED = list(range(1, 16, 2))       # the questions (facts with opponents) to drop something for
SHARES = (0.005, 0.01, 0.02, 0.05)  # of the stories, dropped by score
TOKEN_SHARE = 0.01                  # of the loss terms, dropped by score
STORIES_BY = ("exact", "ekfac", "dot", "tfidf")
TOKENS_BY = ("exact", "terms", "ekfac", "tfidf")
RANDOM = 4                          # random choices at each share
INPUTS = ["fresh_stories.jsonl", "fresh_facts.json", "small/model.safetensors",
          "small/tokenizer.json"]
CG_STORIES, CG_STEPS = 96, 10
DAMPINGS = (0.1, 10, 100)           # times EK-FAC's own


class Setting:
    """The small model, the fresh stories, the 24 questions: 16 facts, then 8 ordinary sentences.

    The model is trained as transformers ships it: last digits grow over a training.
    """

    def __init__(self):
        torch.set_num_threads(1)
        self.model, self.tokenizer = load_model(HERE / "small", device="cpu", fused=False)
        self.corpus = tokenise(load_stories(HERE / "fresh_stories.jsonl"), self.tokenizer, 512)
        self.ids, self.facts = self.corpus.ids, json.loads((HERE / "fresh_facts.json").read_text())
        self.queries = [Query(fact["prompt"], fact["completion"]) for fact in self.facts]
        self.queries += ordinary(8)
        self.questions = retrain.query_batch(self.tokenizer, self.queries, 512)
        self.models = {"fine": self.model, "scratch": untrained(self.model)}

    def outcome(self, regime, seed, weights=None):
        """f of all questions after training, `(Q,)`."""
        model = self.models[regime]
        end = retrain.train(model, self.ids, RECIPES[regime], seed, weights)
        return retrain.log_probs(model, self.questions, end.theta).detach()


def subsets(count, number=SUBSETS, left_out=0.5):
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


def trained(model, theta):
    """A copy of the model that holds the parameters θ, with fused attention."""
    other, values = copy.deepcopy(model), retrain.parameters_of(model, theta).values()
    with torch.no_grad():
        for parameter, value in zip(other.parameters(), values):
            parameter.copy_(value)
    fuse(other)
    return other


# -- what the methods predict --------------------------------------------------------------------

def predictions(setting, regime) -> dict:
    """Of the run with seed 0: what each method says of stories and of loss terms.

    `score/<method>` `(Q, N)` is the influence of every story on every question; `tokens/<method>`
    `(Q, M)` are the M loss terms of largest influence, as positions of the flat `(N, T)`. (Of the
    latter the record keeps those of the fine-tuned model for the questions ASKED.)
    """
    every, model = regime == "fine", setting.models[regime]
    course = (setting.ids, RECIPES[regime], 0)
    states = retrain.trajectory(model, *course)
    end = trained(model, states[-1].theta)
    run = terminal.Setting(end, setting.tokenizer, find_layers(end), setting.corpus, batch_size=4,
                           quiet=True)
    encoded = [encode_query(setting.tokenizer, query, 512) for query in setting.queries]
    gradients, log_probs = influence.query_gradients(end, run.layers, encoded)
    ihvps = all_ihvps(run, gradients, every)
    by_story = by_gradients(run, gradients, ihvps) | by_words(setting)
    asked = Asked(setting.queries, log_probs, ihvps["ekfac"])
    by_token = {"ekfac": exact_token_scores(run, asked)["token"],
                "terms": loss_terms(run, ihvps["ekfac"]), "tfidf": words_predicted(setting),
                "exact": retrain.metagradient(model, *course, states, setting.questions)}
    by_story["exact"] = by_token["exact"].sum(-1)
    if every:
        flat = retrain.metagradient(model, *course, states, setting.questions, bends=False)
        by_story["no curvature"] = flat.sum(-1)
        by_story["ekfac, all layers"] = every_layer(setting, end, encoded)
    scores = {f"score/{method}": values.float() for method, values in by_story.items()}
    return scores | {f"tokens/{method}": strongest(setting, values)
                     for method, values in by_token.items()}


def all_ihvps(run, gradients, every):
    """`{method: iHVPs}`.

    With `every` also other dampings, and EK-FAC as preconditioner of CG on the Gauss–Newton
    Hessian.
    """
    ihvps = {}
    for method in ("ekfac", "kfac", "diagonal", "identity"):
        curvature = terminal.fit(run, method)
        ihvps[method] = curvature.solve(gradients)
        if method == "ekfac" and every:
            ihvps["cg"] = solved(run, gradients, curvature)
            for factor in DAMPINGS:
                ihvps[f"ekfac λ×{factor}"] = rescaled(curvature, factor).solve(gradients)
                if factor == 10:
                    ihvps[f"cg λ×{factor}"] = solved(run, gradients, rescaled(curvature, factor))
    return ihvps


def rescaled(ekfac, factor):
    """The same curvature with `factor` times its damping."""
    return EKFAC(ekfac.blocks, {name: factor * value for name, value in ekfac.damping.items()})


def by_gradients(run, gradients, ihvps):
    """Scores by the iHVPs, the plain dot product and the cosine of gradients.

    All in one pass over the stories.
    """
    together = {name: torch.cat([one[name] for one in ihvps.values()]) for name in run.layers}
    scores, (lengths,) = influence.scores_and_lengths(
        run.model, run.layers, run.stream(), together, [Identity(run.layers)], len(run.corpus))
    own = sum(part.flatten(1).pow(2).sum(1) for part in gradients.values()).sqrt()
    by_method = dict(zip(ihvps, scores.split(len(own))))
    by_method["dot"] = by_method.pop("identity")
    by_method["cosine"] = by_method["dot"] * len(run.corpus) / lengths / own[:, None]
    return by_method


def solved(run, gradients, preconditioner):
    """(G + λI)⁻¹ by preconditioned conjugate gradients, λ as the preconditioner's.

    G is measured on a sample of the stories.
    """
    rows = terminal.fit_sample(len(run.corpus), CG_STORIES, seed=0)
    exact = GaussNewton(run.model, run.layers, lambda: run.stream(rows), preconditioner.damping,
                        preconditioner, CG_STEPS)
    return exact.solve(gradients)


def every_layer(setting, end, encoded):
    """EK-FAC on the attention's matrices too."""
    run = terminal.Setting(end, setting.tokenizer, find_layers(end, "all"), setting.corpus,
                           quiet=True)
    gradients, _ = influence.query_gradients(end, run.layers, encoded)
    ihvps = terminal.fit(run, "ekfac").solve(gradients)
    return influence.sequence_scores(end, run.layers, run.stream(), ihvps, len(run.corpus))


def by_words(setting):
    """TF-IDF and BM25 of the question's words, and random numbers."""
    asked = [query.prompt + query.completion for query in setting.queries]
    texts = [story.text for story in setting.corpus.stories]
    draw = torch.Generator().manual_seed(6)
    return {"tfidf": torch.from_numpy(search.tfidf_scores(asked, texts)),
            "bm25": torch.from_numpy(search.bm25_scores(asked, texts)),
            "random": torch.rand(len(asked), len(texts), generator=draw)}


def loss_terms(run, ihvps):
    """The influence of every loss term, `(Q, N, T)`."""
    count, total = len(next(iter(ihvps.values()))), len(run.corpus)
    directions = [{name: ihvp[query] for name, ihvp in ihvps.items()} for query in range(count)]
    terms = torch.zeros(count, total, max(map(len, run.corpus.ids)))
    for batch in run.stream():
        for query, direction in enumerate(directions):
            values = influence.loss_slopes(run.model, run.layers, batch, direction) / total
            terms[query, batch.index, :values.shape[-1]] = values
    return terms


def words_predicted(setting):
    """TF-IDF by loss term, `(Q, N, T)`.

    The story's similarity times what the predicted word adds to it.
    """
    asked = [query.prompt + query.completion for query in setting.queries]
    texts = [story.text for story in setting.corpus.stories]
    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=search.WORD)
    stories = vectorizer.fit_transform(texts).toarray()
    wanted = vectorizer.transform(asked).toarray()
    terms = torch.zeros(len(asked), len(texts), max(map(len, setting.ids)))
    for row, text in enumerate(texts):
        adds = torch.from_numpy(wanted * stories[row])
        words = [(match.span(), vectorizer.vocabulary_[match[0].lower()])
                 for match in re.finditer(search.WORD, text)]
        places = setting.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        for t, (left, right) in enumerate(places[1:]):
            for (start, end), word in words:
                if left < end and right > start:
                    terms[:, row, t] = adds[:, word] * adds.sum(1)
    return terms


def strongest(setting, values):
    """Flat positions `(Q, M)` of the loss terms with the largest values.

    M is TOKEN_SHARE of all terms.
    """
    real = torch.zeros(values.shape[1:], dtype=torch.bool)
    for row, ids in enumerate(setting.ids):
        real[row, :len(ids) - 1] = True
    count = round(TOKEN_SHARE * real.sum().item())
    return values.masked_fill(~real, -torch.inf).flatten(1).topk(count).indices.int()


# -- retrainings ---------------------------------------------------------------------------------

def jobs(predicted) -> list[tuple]:
    """Every retraining as `(regime, seed, what)`.

    `what` tells `weights_of` which loss weights to use.
    """
    listed = [("fine", seed, ("full",)) for seed in range(ONE_SEEDS)]
    listed += [("fine", seed, ("half", subset))
               for subset in range(SUBSETS) for seed in range(SEEDS["fine"])]
    listed += [("fine", 0, ("tenth", subset)) for subset in range(TENTHS)]
    listed += [("fine", 0, ("drop", method, share, query))
               for method in STORIES_BY for share in SHARES for query in ASKED]
    listed += [("fine", 0, ("drop", "random", share, draw))
               for share in SHARES for draw in range(RANDOM)]
    listed += [("fine", 0, ("tokens", method, query)) for method in TOKENS_BY for query in ASKED]
    listed += [("fine", 0, ("tokens", "random", draw)) for draw in range(RANDOM)]
    listed += [("fine", seed, ("copies", row, weight))
               for row in singles(predicted) for weight in (0, 2) for seed in range(ONE_SEEDS)]
    listed += [("scratch", seed, ("half", subset))
               for subset in range(SUBSETS) for seed in range(SEEDS["scratch"])]
    return listed


def singles(predicted) -> list[int]:
    """The stories whose single copies are added and removed.

    EK-FAC's first and last for some questions.
    """
    scores = predicted["fine"]["score/ekfac"]
    orders = [scores[query].argsort(descending=True).tolist() for query in ASKED[::2]]
    return sorted({order[place] for order in orders for place in (0, -1)})


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
        method, which = rest
        draw = torch.Generator().manual_seed(which)
        places = (strongest(setting, torch.rand(1, count, longest, generator=draw))[0]
                  if method == "random" else predicted["fine"][f"tokens/{method}"][which])
        weights.view(-1)[places.long()] = 0
    return weights


worker = {}


def begin(predicted):
    """In every worker process, once."""
    worker.update(setting=Setting(), predicted=predicted)


def predict(folder, regime):
    """The predictions of one regime, from their file where it is there."""
    return regime, staged(folder / f"{regime}.safetensors",
                          lambda: predictions(worker["setting"], regime))


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


def run_jobs(listed, predicted, path, workers) -> dict:
    """All outcomes by name; what is on disk is not run again."""
    outcomes = done_already(path)
    left = [job for job in listed if name_of(job) not in outcomes]
    pool = multiprocessing.get_context("spawn").Pool(workers, begin, (predicted,))
    with open(path, "a", encoding="utf-8") as file, pool:
        file.write("\n")  # ends a line that a kill may have cut off
        for entry in tqdm(pool.imap_unordered(work, left), total=len(left), desc="retrainings",
                          file=sys.stderr):
            file.write(json.dumps(entry) + "\n")
            file.flush()
            outcomes[json.dumps(entry["job"])] = entry["outcome"]
    return {name_of(job): outcomes[name_of(job)] for job in listed}


# -- putting it together -------------------------------------------------------------------------

def settings() -> dict:
    """Everything that decides the recorded numbers."""
    return {"recipes": {name: vars(recipe) for name, recipe in RECIPES.items()}, "seeds": SEEDS,
            "one_seeds": ONE_SEEDS, "subsets": SUBSETS, "tenths": TENTHS, "asked": ASKED,
            "shares": SHARES, "token_share": TOKEN_SHARE, "cg": [CG_STORIES, CG_STEPS],
            "dampings": DAMPINGS, "inputs": {name: sha256(HERE / name) for name in INPUTS}}


def recorded(predicted, outcomes) -> dict:
    """The tensors of the record."""
    tensors = {f"{regime}/{name}": tensor for regime, by_name in predicted.items()
               for name, tensor in by_name.items() if name.startswith("score/")}
    tensors |= {f"fine/{name}": tensor[ASKED] for name, tensor in predicted["fine"].items()
                if "tokens/" in name}
    count = predicted["fine"]["score/dot"].shape[1]
    return tensors | {"outcomes": torch.tensor(list(outcomes.values())),
                      "kept/half": subsets(count), "kept/tenth": subsets(count, TENTHS, 0.1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "retrainings.safetensors",
                        help="in data/, beside its inputs")
    args = parser.parse_args()
    made_by = json.dumps(settings())
    folder = HERE / ".retrain" / hashlib.sha256(made_by.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(args.workers, begin, (None,)) as pool:
        predicted = dict(pool.starmap(predict, [(folder, regime) for regime in RECIPES]))
    outcomes = run_jobs(jobs(predicted), predicted, folder / "jobs.jsonl", args.workers)
    queries = [vars(query) for query in Setting().queries]
    save_record(recorded(predicted, outcomes), args.out, INPUTS,
                script="data/record_retrainings.py", settings=made_by, queries=json.dumps(queries),
                jobs=json.dumps([json.loads(name) for name in outcomes]))
    print(f"{len(outcomes)} retrainings, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
