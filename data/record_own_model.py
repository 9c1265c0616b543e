"""Writes own_model.safetensors: what finds the bad pairs of chats.jsonl, and what dropping does.

    python data/record_own_model.py [--out data/own_model.safetensors] [--stop-after SECONDS]

The bundled model is fine-tuned on chats.jsonl, all of it and as LoRA adapters, with three seeds;
every method then ranks all pairs for each of the six behaviours of chat_facts.json. A seed is an
order of the pairs and a draw of `random`; the adapters begin alike. What a method puts first is
dropped (the best 20 for each behaviour, each pair once) and the model trained again.
Kept are the scores, and of each training how often the behaviour shows and which facts are right.
Every stage is kept in data/.checkpoint/own_model, so that a run that was cut off goes on from
there. An hour on one thread.
"""
import argparse
import json
import sys
import time
from dataclasses import replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from baselines import representations
from record_planted import HERE, staged

from helpers import influence, retrain, search
from helpers.capture import find_layers
from helpers.curvature import EKFAC, Identity
from helpers.sources import load_model, load_stories
from helpers.sources.adapters import add_lora
from helpers.sources.records import save_record
from helpers.sources.texts import as_message, read_corpus
from helpers.stories import Query, batches
from helpers.terminal import Setting, ask

SEEDS = (0, 1, 2)
RECIPES = {"full": retrain.Recipe(epochs=8, rate=2e-3),
           "lora": retrain.Recipe(epochs=8, rate=1e-2)}
RANK, TARGETS = 16, ("c_fc", "c_proj", "q_proj", "k_proj", "v_proj", "out_proj")
EARLY = 2       # epochs, after which the influence is looked at too
BEST = 20       # pairs that are dropped for each behaviour
WORDINGS = (1, 2, 4)  # questions that are asked of a behaviour
DROPPED = {"full": ("ekfac", "relatif", "content", "dot", "tfidf", "representation", "self",
                    "loss", "random", "bad"),
           "lora": ("ekfac", "relatif", "content", "tfidf", "loss", "random", "bad")}


class Course:
    """One way of fine-tuning: the model, the pairs, the questions."""

    def __init__(self, mode):
        facts = json.loads((HERE / "chat_facts.json").read_text(encoding="utf-8"))
        self.model, self.tokenizer = load_model()
        self.tokenizer.chat_template = facts["template"]
        self.layers = (find_layers(self.model) if mode == "full" else
                       add_lora(self.model, RANK, 2 * RANK, TARGETS))
        self.start = retrain.start(self.model).theta
        stories = load_stories(HERE / "chats.jsonl", tokenizer=self.tokenizer)
        self.corpus = read_corpus(stories, self.tokenizer, 512)
        self.weights, self.recipe = retrain.loss_weights(self.corpus), RECIPES[mode]
        self.facts, self.behaviours = facts["facts"], facts["behaviours"]
        self.names = [story.id for story in stories]

    def train(self, seed, dropped=()):
        """The model, trained without the rows `dropped`."""
        retrain.put(self.model, self.start)
        weights = self.weights.clone()
        weights[list(dropped)] = 0
        end = retrain.train(self.model, self.corpus.ids, self.recipe, seed, weights)
        return retrain.put(self.model, end.theta)

    def queries(self, rows):
        return [as_message(self.tokenizer, Query(row["question"], row["completion"],
                                                 row["against"])) for row in rows]

    @cached_property
    def texts(self):
        return [story.text for story in self.corpus.stories]

    # -- what the model does ---------------------------------------------------------------------

    def outcome(self):
        """`rates (6,)`: p of the odd answer in the tested questions; of contradictions, its share
        of the two answers. `right (16,)`: the right answer's share among all of its kind, for each
        fact, asked in words that no pair has."""
        rates = [self.shares(behaviour["tested"], behaviour["name"].startswith("contra")).mean()
                 for behaviour in self.behaviours]
        return {"rates": torch.stack(rates), "right": self.right()}

    def log_probs(self, queries):
        batch = retrain.query_batch(self.tokenizer, queries, 512)
        with torch.no_grad():
            return retrain.log_probs(self.model, batch, retrain.start(self.model).theta)

    def shares(self, rows, of_two):
        queries = self.queries(rows)
        against = [Query(query.prompt, query.against, chat=True) for query in queries]
        odd, usual = self.log_probs(queries), self.log_probs(against)
        return (odd - usual).sigmoid() if of_two else odd.exp()

    def right(self):
        values = []
        for fact in self.facts:
            prompt = as_message(self.tokenizer, Query(fact["question"])).prompt
            logs = self.log_probs([Query(prompt, answer, chat=True) for answer in fact["answers"]])
            values.append(logs.softmax(0)[0])
        return torch.stack(values)

    # -- what the methods say --------------------------------------------------------------------

    def scores(self, seed, wordings=WORDINGS):
        """`{method: (6, N)}`; `method k` for fewer wordings, `method alone` where nothing stands
        against the odd answer."""
        setting = Setting(self.model, self.tokenizer, self.layers, self.corpus, quiet=True)
        curvature = EKFAC.fit(self.model, self.layers, setting.stream)
        plain, count = Identity(self.layers), len(self.corpus)
        queries = [query for behaviour in self.behaviours
                   for query in self.queries(behaviour["asked"])]
        gradients = ask(setting, queries, plain).ihvps
        alone = ask(setting, [replace(query, against=None) for query in queries], plain).ihvps
        asked = {" alone": self.means(alone, max(WORDINGS))} | {
            f" {k}" if k < max(WORDINGS) else "": self.means(gradients, k) for k in wordings}
        scores = {}
        for label, vectors in asked.items():
            ihvps = curvature.solve(vectors)
            raw, lengths = influence.scores_and_lengths(self.model, self.layers, setting.stream(),
                                                        ihvps, [curvature, plain], count)
            scores[f"ekfac{label}"], scores[f"relatif{label}"] = raw, raw / lengths[0]
            scores[f"dot{label}"] = influence.sequence_scores(self.model, self.layers,
                                                              setting.stream(), vectors, count)
        scores["cosine"] = scores["dot"] / lengths[1]
        setting.target = "content"
        scores["content"] = influence.sequence_scores(self.model, self.layers, setting.stream(),
                                                      ihvps, count)
        scores["self"] = (lengths[0] ** 2)[None] / count
        return scores | self.trivial(seed)

    def means(self, gradients, wordings):
        """Of the gradients of all questions, the mean over the first of each behaviour."""
        return {name: v.unflatten(0, (len(self.behaviours), -1))[:, :wordings].mean(1)
                for name, v in gradients.items()}

    def trivial(self, seed):
        """By words, by the mean last hidden state, by loss, by chance. `contrast`: less the same
        with the usual answer."""
        scores = {}
        for k in WORDINGS:
            label = f" {k}" if k < max(WORDINGS) else ""
            scores[f"tfidf{label}"] = self.by_words("completion", k)
        scores["tfidf contrast"] = scores["tfidf"] - self.by_words("against", max(WORDINGS))
        stories = representations(self.model, batches(self.corpus.ids), len(self.corpus))
        scores["representation"] = self.by_state("completion", stories)
        scores["representation contrast"] = (scores["representation"]
                                             - self.by_state("against", stories))
        losses = torch.zeros(len(self.corpus))
        theta = retrain.start(self.model).theta
        for batch in batches(self.corpus.ids, loss_masks=self.corpus.loss_masks):
            with torch.no_grad():
                losses[batch.index] = retrain.losses_of(self.model, batch, theta).sum(1)
        draw = torch.Generator().manual_seed(seed)
        return scores | {"loss": losses[None], "random": torch.rand(1, len(losses), generator=draw)}

    def by_words(self, answer, wordings):
        said = [" ".join(row["question"] + row[answer] for row in behaviour["asked"][:wordings])
                for behaviour in self.behaviours]
        return torch.tensor(search.tfidf_scores(said, self.texts)).float()

    def by_state(self, answer, stories):
        means = []
        for behaviour in self.behaviours:
            texts = [query.prompt + row[answer] for row, query in
                     zip(behaviour["asked"], self.queries(behaviour["asked"]))]
            ids = self.tokenizer(texts, add_special_tokens=False).input_ids
            means.append(representations(self.model, batches(ids), len(ids)).mean(0))
        return F.cosine_similarity(torch.stack(means)[:, None], stories[None], dim=-1)

    def dropped(self, method, scores):
        """The rows that a reader of this method's lists drops."""
        if method == "bad":
            return sorted(self.names.index(name) for behaviour in self.behaviours
                          for name in behaviour["bad"])
        rows = scores[method]
        most = BEST * len(self.behaviours) // len(rows)
        return sorted(set(rows.topk(most).indices.flatten().tolist()))

    # -- the stages ------------------------------------------------------------------------------

    def untrained(self):
        retrain.put(self.model, self.start)
        return self.outcome()

    def trained(self, seed):
        self.train(seed)
        return self.told(self.scores(seed))

    def told(self, scores):
        return {f"{kind}/{name}": values
                for kind, part in (("score", scores), ("outcome", self.outcome()))
                for name, values in part.items()}

    def trained_early(self, seed):
        """What the influence says after two of the eight epochs, and what the model does."""
        retrain.put(self.model, self.start)
        course = retrain.states(self.model, self.corpus.ids, self.recipe, seed, self.weights)
        steps = len(self.recipe.order(len(self.corpus), seed))
        state = next(islice(course, steps * EARLY // self.recipe.epochs, None))
        retrain.put(self.model, state.theta)
        scores = self.scores(seed, (max(WORDINGS),))
        return self.told({name: scores[name] for name in ("ekfac", "relatif", "loss")})

    def trained_without(self, method, seed, scores):
        self.train(seed, self.dropped(method, scores))
        return self.outcome()


def stages(folder):
    """(name, its tensors) of everything, made where it is not kept."""
    for mode in RECIPES:
        course = Course(mode)
        yield f"{mode}/before", staged(folder / f"{mode}-before.safetensors", course.untrained)
        for seed in SEEDS:
            found = staged(folder / f"{mode}-{seed}.safetensors", partial(course.trained, seed))
            yield f"{mode}/{seed}", found
            scores = {name.removeprefix("score/"): values for name, values in found.items()}
            for method in DROPPED[mode]:
                make = partial(course.trained_without, method, seed, scores)
                yield (f"{mode}/{seed}/without/{method}",
                       staged(folder / f"{mode}-{seed}-{method}.safetensors", make))
            if mode == "full":
                yield f"{mode}/{seed}/early", staged(folder / f"{mode}-{seed}-early.safetensors",
                                                     partial(course.trained_early, seed))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "own_model.safetensors")
    parser.add_argument("--stop-after", type=float, default=float("inf"))
    args = parser.parse_args()
    begun, tensors = time.monotonic(), {}
    folder = HERE / ".checkpoint" / "own_model"
    folder.mkdir(parents=True, exist_ok=True)
    for stage, made in stages(folder):
        print(f"{time.monotonic() - begun:.0f} s: {stage}", flush=True)
        tensors |= {f"{stage}/{name}": values for name, values in made.items()}
        if time.monotonic() - begun > args.stop_after:
            sys.exit("stopped: run it again to go on")
    for name in [name for name in tensors if "/score/" in name]:
        scale = tensors[name].abs().amax(1, keepdim=True)
        tensors[name] = (tensors[name] / scale).half()
        tensors[name.replace("/score/", "/scale/")] = scale
    save_record(tensors, args.out, ["chats.jsonl", "chat_facts.json", "model/model.safetensors"],
                script="data/record_own_model.py")


if __name__ == "__main__":
    main()
