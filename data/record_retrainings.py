"""Records what notebook 06 judges by: retrainings of the small model, and what each method predicted.

    python data/record_retrainings.py [--workers 2] [--out data/retrainings.safetensors]

Every retraining is deterministic given its weights and seed, runs on one thread, and is kept as one line of
.retrain/jobs.jsonl as soon as it is done: started again, the script goes on from there. The scores are kept
stage by stage. Notebook 06 checks the result's checksum and repeats some retrainings.
"""
import argparse
import copy
import hashlib
import json
import multiprocessing
import re
import sys
from pathlib import Path

import torch
from record_planted import HERE, staged
from sklearn.feature_extraction.text import TfidfVectorizer
from tqdm import tqdm

from helpers import curvature, influence, pipeline, retrain, search
from helpers.capture import find_layers
from helpers.sources.records import save_record, sha256
from helpers.sources import load_model, load_stories
from helpers.stories import Query, encode_query, tokenise

RECIPES = {"fine": retrain.Recipe(), "scratch": retrain.Recipe(rate=3e-3)}
SUBSETS, SEEDS = 64, {"fine": 4, "scratch": 2}
TENTHS = 32                         # subsets that leave out a tenth
ONE_SEEDS = 4                       # of the full run, and of runs with one story more or less
ASKED = list(range(1, 16, 2))       # the questions (facts with opponents) that stories and tokens are dropped for
SHARES = (0.005, 0.01, 0.02, 0.05)  # of the stories, dropped by score
TOKEN_SHARE = 0.01                  # of the loss terms, dropped by score
STORIES_BY = ("exact", "ekfac", "dot", "tfidf")
TOKENS_BY = ("exact", "terms", "ekfac", "tfidf")
RANDOM = 4                          # random choices at each share
INPUTS = ["fresh_stories.jsonl", "fresh_facts.json", "validation.jsonl", "small/model.safetensors", "small/tokenizer.json"]
CG_STORIES, CG_STEPS = 96, 10
DAMPINGS = (0.1, 10, 100)           # times EK-FAC's own


class Setting:
    """The small model, the fresh stories, the 24 questions: 16 facts, then 8 ordinary sentences."""

    def __init__(self):
        torch.set_num_threads(1)
        self.model, self.tokenizer = load_model(HERE / "small", device="cpu")
        self.corpus = tokenise(load_stories(HERE / "fresh_stories.jsonl"), self.tokenizer, 512)
        self.ids, self.facts = self.corpus.ids, json.loads((HERE / "fresh_facts.json").read_text())
        self.queries = [Query(fact["prompt"], fact["completion"]) for fact in self.facts] + ordinary(8)
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
    return torch.stack([torch.randperm(count, generator=draw) >= round(left_out * count) for _ in range(number)])


def ordinary(count):
    """Third sentences of validation stories after the first two: what no story of the corpus was planted for."""
    lines = (HERE / "validation.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    sentences = [re.split(r"(?<=[.!?]) ", json.loads(line)["text"]) for line in lines]
    return [Query(" ".join(parts[:2]), f" {parts[2]}") for parts in sentences]


def untrained(model):
    """The same shape with fresh weights."""
    torch.manual_seed(6)
    return type(model)(copy.deepcopy(model.config)).eval()


def trained(model, theta):
    """A copy of the model that holds the parameters θ."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter, value in zip(other.parameters(), retrain.parameters_of(model, theta).values()):
            parameter.copy_(value)
    return other


# -- what the methods predict ---------------------------------------------------------------------

def predictions(setting, regime) -> dict:
    """Of the run with seed 0: `score/<method>` `(Q, N)`, the influence of every story on every question, and
    `tokens/<method>` `(Q, M)`, the M loss terms of largest influence, as positions of the flat `(N, T)`. (Of the latter
    the record keeps those of the fine-tuned model for the questions ASKED.)"""
    model, recipe = setting.models[regime], RECIPES[regime]
    states = retrain.train(model, setting.ids, recipe, 0, keep=True)
    end = trained(model, states[-1].theta)
    run = pipeline.Setting(end, setting.tokenizer, find_layers(end), setting.corpus, batch_size=4, quiet=True)
    encoded = [encode_query(setting.tokenizer, query, 512) for query in setting.queries]
    gradients, _ = influence.query_gradients(end, run.layers, encoded)
    ihvps = all_ihvps(run, gradients, regime == "fine")
    by_story = by_gradients(run, gradients, ihvps) | by_words(setting)
    by_token = {"ekfac": positions_read(run, ihvps["ekfac"]), "terms": loss_terms(run, ihvps["ekfac"]),
                "tfidf": words_predicted(setting)}
    by_token["exact"] = retrain.metagradient(model, setting.ids, recipe, 0, states, setting.questions)
    by_story["exact"] = by_token["exact"].sum(-1)
    if regime == "fine":
        by_story["no curvature"] = retrain.metagradient(model, setting.ids, recipe, 0, states, setting.questions, bends=False).sum(-1)
        by_story["ekfac, all layers"] = every_layer(setting, end, encoded)
    return ({f"score/{method}": values.float() for method, values in by_story.items()}
            | {f"tokens/{method}": strongest(setting, values) for method, values in by_token.items()})


def all_ihvps(run, gradients, every):
    """`{method: iHVPs}`; with `every` also other dampings, and EK-FAC as preconditioner of CG on the Gauss–Newton Hessian."""
    found = {}
    for method in ("ekfac", "kfac", "diagonal", "identity"):
        matrix = pipeline.fit(run, method)
        found[method] = matrix.solve(gradients)
        if method == "ekfac" and every:
            found["cg"] = solved(run, gradients, matrix)
            for factor in DAMPINGS:
                found[f"ekfac λ×{factor}"] = rescaled(matrix, factor).solve(gradients)
                if factor == 10:
                    found[f"cg λ×{factor}"] = solved(run, gradients, rescaled(matrix, factor))
    return found


def rescaled(matrix, factor):
    """The same curvature with `factor` times its damping."""
    other = copy.copy(matrix)
    other.damping = {name: factor * value for name, value in matrix.damping.items()}
    return other


def by_gradients(run, gradients, ihvps):
    """Scores by the iHVPs, the plain dot product and the cosine of gradients, in one pass over the stories."""
    together = {name: torch.cat([one[name] for one in ihvps.values()]) for name in run.layers}
    scores, (norms,) = influence.sequence_scores(run.model, run.layers, run.stream(), together, len(run.corpus),
                                                 [curvature.Identity(run.layers)])
    own = sum(part.flatten(1).pow(2).sum(1) for part in gradients.values()).sqrt()
    result = dict(zip(ihvps, scores.split(len(own))))
    result["dot"] = result.pop("identity")
    result["cosine"] = result["dot"] * len(run.corpus) / norms / own[:, None]
    return result


def solved(run, gradients, preconditioner):
    """(G + λI)⁻¹ by preconditioned conjugate gradients, G measured on a sample of the stories, λ as EK-FAC's."""
    rows = pipeline.fit_sample(len(run.corpus), CG_STORIES, seed=0)
    exact = curvature.GaussNewton(run.model, run.layers, lambda: run.stream(rows), preconditioner.damping)
    return curvature.conjugate_gradients(exact.matvec, gradients, preconditioner, CG_STEPS)[0]


def every_layer(setting, end, encoded):
    """EK-FAC on the attention's matrices too."""
    run = pipeline.Setting(end, setting.tokenizer, find_layers(end, "all"), setting.corpus, quiet=True)
    gradients, _ = influence.query_gradients(end, run.layers, encoded)
    ihvps = pipeline.fit(run, "ekfac").solve(gradients)
    return influence.sequence_scores(end, run.layers, run.stream(), ihvps, len(run.corpus))


def by_words(setting):
    """TF-IDF and BM25 of the question's words, and random numbers."""
    asked = [query.prompt + query.completion for query in setting.queries]
    texts = [story.text for story in setting.corpus.stories]
    draw = torch.Generator().manual_seed(6)
    return {"tfidf": torch.from_numpy(search.tfidf_scores(asked, texts)),
            "bm25": torch.from_numpy(search.bm25_scores(asked, texts)),
            "random": torch.rand(len(asked), len(texts), generator=draw)}


def positions_read(run, ihvps):
    """Equation 31 for every story, `(Q, N, T)`."""
    return pipeline.all_token_scores(run, ihvps, None)["token"]


def loss_terms(run, ihvps):
    """The influence of every loss term, `(Q, N, T)`."""
    asked = [{name: ihvp[query] for name, ihvp in ihvps.items()} for query in range(len(next(iter(ihvps.values()))))]
    found = torch.zeros(len(asked), len(run.corpus), max(map(len, run.corpus.ids)))
    for batch in run.stream():
        for query, direction in enumerate(asked):
            values = influence.loss_slopes(run.model, run.layers, batch, direction) / len(run.corpus)
            found[query, batch.index, :values.shape[-1]] = values
    return found


def words_predicted(setting):
    """TF-IDF by loss term, `(Q, N, T)`: the story's similarity times what the predicted word adds to it."""
    asked = [query.prompt + query.completion for query in setting.queries]
    texts = [story.text for story in setting.corpus.stories]
    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=search.WORD)
    stories, wanted = vectorizer.fit_transform(texts).toarray(), vectorizer.transform(asked).toarray()
    found = torch.zeros(len(asked), len(texts), max(map(len, setting.ids)))
    for row, text in enumerate(texts):
        adds = torch.from_numpy(wanted * stories[row])
        words = [(match.span(), vectorizer.vocabulary_[match[0].lower()]) for match in re.finditer(search.WORD, text)]
        places = setting.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        for t, (left, right) in enumerate(places[1:]):
            for (start, end), word in words:
                if left < end and right > start:
                    found[:, row, t] = adds[:, word] * adds.sum(1)
    return found


def strongest(setting, values):
    """Flat positions `(Q, M)` of the loss terms with the largest values, M = TOKEN_SHARE of all terms."""
    real = torch.zeros(values.shape[1:], dtype=torch.bool)
    for row, ids in enumerate(setting.ids):
        real[row, :len(ids) - 1] = True
    count = round(TOKEN_SHARE * real.sum().item())
    return values.masked_fill(~real, -torch.inf).flatten(1).topk(count).indices.int()


# -- retrainings ----------------------------------------------------------------------------------

def jobs(predicted) -> list[tuple]:
    """Every retraining as `(name, regime, seed, what)`; `what` tells `weights_of` which loss weights to use."""
    listed = [("fine", seed, ("full",)) for seed in range(ONE_SEEDS)]
    listed += [("fine", seed, ("half", s)) for s in range(SUBSETS) for seed in range(SEEDS["fine"])]
    listed += [("fine", 0, ("tenth", s)) for s in range(TENTHS)]
    listed += [("fine", 0, ("drop", method, share, query)) for method in STORIES_BY for share in SHARES for query in ASKED]
    listed += [("fine", 0, ("drop", "random", share, draw)) for share in SHARES for draw in range(RANDOM)]
    listed += [("fine", 0, ("tokens", method, query)) for method in TOKENS_BY for query in ASKED]
    listed += [("fine", 0, ("tokens", "random", draw)) for draw in range(RANDOM)]
    listed += [("fine", seed, ("copies", row, weight)) for row in singles(predicted) for weight in (0, 2) for seed in range(ONE_SEEDS)]
    listed += [("scratch", seed, ("half", s)) for s in range(SUBSETS) for seed in range(SEEDS["scratch"])]
    return listed


def singles(predicted) -> list[int]:
    """The stories whose single copies are added and removed: EK-FAC's first and last for some questions."""
    chosen = [predicted["fine"]["score/ekfac"][query].argsort(descending=True)[at].item() for query in ASKED[::2] for at in (0, -1)]
    return sorted(set(chosen))


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
        scores = torch.rand(count, generator=draw) if method == "random" else predicted["fine"][f"score/{method}"][which]
        weights[scores.topk(round(share * count)).indices] = 0
    elif kind == "tokens":
        method, which = rest
        draw = torch.Generator().manual_seed(which)
        places = (strongest(setting, torch.rand(1, count, longest, generator=draw))[0] if method == "random"
                  else predicted["fine"][f"tokens/{method}"][which])
        weights.view(-1)[places.long()] = 0
    return weights


worker = {}


def begin(predicted):
    """In every worker process, once."""
    worker.update(setting=Setting(), predicted=predicted)


def predict(folder, regime):
    """The predictions of one regime, from their file where it is there."""
    return regime, staged(folder / f"{regime}.safetensors", lambda: predictions(worker["setting"], regime))


def work(job):
    """One retraining; its line of jobs.jsonl."""
    regime, seed, what = job
    weights = weights_of(worker["setting"], worker["predicted"], what)
    outcome = worker["setting"].outcome(regime, seed, weights)
    return {"job": [regime, seed, list(what)], "outcome": [round(value, 6) for value in outcome.tolist()]}


def done_already(path) -> dict:
    """Finished jobs by name; a line cut off by a kill is left out."""
    found = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
            found[json.dumps(entry["job"])] = entry["outcome"]
        except ValueError:
            continue
    return found


def run_jobs(listed, predicted, path, workers) -> dict:
    """All outcomes by name; what is on disk is not run again."""
    outcomes = done_already(path)
    name = lambda job: json.dumps([job[0], job[1], list(job[2])])
    left = [job for job in listed if name(job) not in outcomes]
    with open(path, "a", encoding="utf-8") as file, multiprocessing.get_context("spawn").Pool(workers, begin, (predicted,)) as pool:
        file.write("\n")  # ends a line that a kill may have cut off
        for entry in tqdm(pool.imap_unordered(work, left), total=len(left), desc="retrainings", file=sys.stderr):
            file.write(json.dumps(entry) + "\n")
            file.flush()
            outcomes[json.dumps(entry["job"])] = entry["outcome"]
    return {name(job): outcomes[name(job)] for job in listed}


# -- putting it together --------------------------------------------------------------------------

def settings() -> dict:
    """Everything that decides the recorded numbers."""
    return {"recipes": {name: vars(recipe) for name, recipe in RECIPES.items()}, "seeds": SEEDS, "one_seeds": ONE_SEEDS,
            "subsets": SUBSETS, "tenths": TENTHS, "asked": ASKED, "shares": SHARES, "token_share": TOKEN_SHARE, "cg": [CG_STORIES, CG_STEPS], "dampings": DAMPINGS,
            "inputs": {name: sha256(HERE / name) for name in INPUTS}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "retrainings.safetensors", help="in data/, beside its inputs")
    args = parser.parse_args()
    made_by = json.dumps(settings())
    folder = HERE / ".retrain" / hashlib.sha256(made_by.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(args.workers, begin, (None,)) as pool:
        predicted = dict(pool.starmap(predict, [(folder, regime) for regime in RECIPES]))
    outcomes = run_jobs(jobs(predicted), predicted, folder / "jobs.jsonl", args.workers)
    tensors = {f"{regime}/{name}": tensor for regime, found in predicted.items() for name, tensor in found.items()
               if name.startswith("score/")}
    tensors |= {f"fine/{name}": tensor[ASKED] for name, tensor in predicted["fine"].items() if "tokens/" in name}
    tensors["outcomes"] = torch.tensor(list(outcomes.values()))
    count = predicted["fine"]["score/dot"].shape[1]
    tensors |= {"kept/half": subsets(count), "kept/tenth": subsets(count, TENTHS, 0.1)}
    queries = [vars(query) for query in Setting().queries]
    save_record(tensors, args.out, INPUTS, script="data/record_retrainings.py", settings=made_by,
                queries=json.dumps(queries), jobs=json.dumps([json.loads(name) for name in outcomes]))
    print(f"{len(outcomes)} retrainings, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
