"""Ask the model anything and see why: questions answered live from an index.

A question is taken apart by the tokens of its completion, and all that was found for it is kept, so that another
choice of tokens, method or layer costs next to nothing. What is shown is a query of the JSON of `python -m helpers`,
with more said of every story: where it stands among all, and what was planted in it.
"""
import re
import shutil
from dataclasses import dataclass, field, replace

import torch

from . import default_cache, files, influence, pictures, pipeline
from .curvature import Identity, cache_key, code_version, model_key
from .measure import KINDS, load_planted
from .search import WORD, tfidf
from .stories import (InputError, Query, Story, complete, context_length, encode_query, load_model, load_stories, local_path,
                      query_notes, token_texts, tokenise)
from .tracked import Tracked, share, track

METHODS = {"ekfac": "EK-FAC", "kfac": "K-FAC", "identity": "dot product", "tfidf": "TF-IDF"}
MOST_TOKENS = 48  # of a completion: each is a query of its own
KEPT = 2  # indexes that stay in the cache
OURS = re.compile("explorer-[0-9a-f]{24}")  # their folders' names; all else there is the user's own


@dataclass
class Question:
    """A prompt and what follows it, by the completion's m tokens.

    The log-probability of a completion is the sum of its tokens', so gradients, iHVPs and influences are sums as well,
    and choosing tokens is choosing rows of what is kept here.
    """
    query: Query
    notes: list[str]  # what may not have been meant
    tokens: list[str]  # m texts
    log_probs: torch.Tensor  # (m,)
    gradients: dict  # {layer: (m, out, in+1)}
    ihvps: dict = field(default_factory=dict)  # {method: {layer: (m, out, in+1)}}
    scores: dict = field(default_factory=dict)  # {(method, "together" or "each"): (1 or m, N)}, as exact as the index
    values: dict = field(default_factory=dict)  # {(method, …): {row: (1 or m, layer, token)}}, exact


class Explorer:
    """Answers from `index`, under its own curvature and others `{method: Curvature}`, by dot product and by TF-IDF."""

    def __init__(self, setting, index, curvatures=None, names=("default", "default"), tracked: Tracked | None = None):
        self.setting, self.index, self.names = replace(setting, quiet=True), index, names
        self.tracked = tracked or share(setting.model, setting.layers)
        self.note = pipeline.batch_note(self.setting)
        self.curvatures = {"ekfac": index.matrix, **(curvatures or {}), "identity": Identity(setting.layers)}
        self.methods = {name: METHODS[name] for name in (*self.curvatures, "tfidf")}
        self.words = tfidf([story.text for story in setting.corpus.stories])
        try:
            self.planted = load_planted(setting.corpus, whole=False)
        except InputError:
            self.planted = []

    @classmethod
    def open(cls, model="default", stories="default", limit=None, fit_limit=1000, cache=None, device="auto", quiet=False):
        """Loads model and stories; the index and the factors are made once, in minutes, and kept in the folder `cache`.

        `model`, `stories`, `limit`: as for `python -m helpers`. Raises InputError.
        """
        names = str(model), str(stories)
        model, tokenizer = load_model(names[0], device)
        corpus = tokenise(load_stories(names[1], limit), tokenizer, _longest(model))
        if not any(re.search(WORD, story.text) for story in corpus.stories):  # TF-IDF would say so, minutes later
            raise InputError("the stories hold no words, which the explorer matches too: give stories with words")
        tracked = track(model)
        setting = pipeline.Setting(model, tokenizer, tracked.layers, corpus, quiet=quiet)
        cache = local_path(cache or default_cache())
        key = model_key(model)  # once: it reads every weight
        name = cache_key(key, setting.layers, corpus.ids, fit_limit=fit_limit, code=code_version("search.py"))
        folder = cache / f"explorer-{name}"
        index = pipeline.open_index(setting, folder, fit_limit=fit_limit, cache=cache, key=key)
        kfac = pipeline.fit(setting, "kfac", fit_limit, cache=cache, key=key)
        _keep_newest(folder)
        return cls(setting, index, {"kfac": kfac}, names, tracked)

    # -- a question and its numbers -----------------------------------------------------------------

    def ask(self, prompt, completion="", length=12, temperature=0.0, seed=0) -> Question:
        """A question; without a completion the model writes one of at most `length` tokens. Raises InputError."""
        model, tokenizer = self.setting.model, self.setting.tokenizer
        query = Query(prompt, completion if completion.strip() else None)
        if not (typed := query.completion is not None):
            query = replace(query, completion=complete(model, tokenizer, prompt, length, temperature, seed))
        ids, start = encode_query(tokenizer, query, context_length(model))
        if len(ids) - start > MOST_TOKENS:
            raise InputError(f"the completion has {len(ids) - start} tokens, more than {MOST_TOKENS}: shorten it")
        gradients, log_probs = influence.query_gradients(model, self.setting.layers,
                                                         [(ids[:at + 1], at) for at in range(start, len(ids))])
        notes = query_notes(tokenizer, query, ids, start, typed)
        return Question(query, notes, token_texts(tokenizer, ids)[start:], log_probs, gradients)

    def scores(self, question, method="ekfac", chosen=None) -> torch.Tensor:
        """Influence of every story on the chosen tokens of the completion (None: all), `(N,)`, as exact as the index."""
        terms, ihvps, at = self._terms(question, method, chosen)
        if terms not in question.scores:
            question.scores[terms] = influence.finite(self.index.scores(ihvps, self.setting.corpus))
        return question.scores[terms][at].sum(0)

    def values(self, question, rows, method="ekfac", chosen=None) -> dict[int, torch.Tensor]:
        """Exact influence of the stories `rows` on the chosen tokens, by layer and token of the story: `{row: (layer, token)}`."""
        terms, ihvps, at = self._terms(question, method, chosen)
        kept = question.values.setdefault(terms, {})
        new = [row for row in dict.fromkeys(rows) if row not in kept]
        if new:
            each = range(len(next(iter(ihvps.values()))))
            found = pipeline.picked_tokens(self.setting, ihvps, [(new, [])] * len(each))
            kept.update({row: torch.stack([found[term, row] for term in each]) for row in new})
        return {row: kept[row][at].sum(0) for row in rows}

    def _terms(self, question, method, chosen):
        """Under what name results are kept, the iHVPs, and which of their rows are wanted.

        All tokens together are asked as one; the first choice of some asks for each, and then every choice is a sum.
        """
        if method not in question.ihvps:
            question.ihvps[method] = self.curvatures[method].solve(question.gradients)
        ihvps = question.ihvps[method]
        if chosen is None or len(chosen) == len(question.tokens):
            return (method, "together"), {name: p.sum(0, keepdim=True) for name, p in ihvps.items()}, [0]
        return (method, "each"), ihvps, list(chosen)

    def similar(self, question) -> torch.Tensor:
        """TF-IDF cosine of prompt and completion with every story, `(N,)`."""
        return torch.from_numpy(self.words([question.query.prompt + question.query.completion])).float()[0]

    # -- what is shown ------------------------------------------------------------------------------

    def view(self, question, chosen=None, method="ekfac", top=5, layer=None) -> dict:
        """The `top` stories of either sign for the chosen tokens of the completion (None: all), as the JSON has a query.

        layer: name of the one layer whose token values are shown; None for their sum. With `tfidf` the stories whose
        words match best, with their EK-FAC influence.
        """
        chosen = self._chosen(question, chosen)
        measure = _measure(method)
        scores = self.scores(question, measure, chosen)
        if method == "tfidf":
            similar = self.similar(question)
            listed = similar.argsort(descending=True, stable=True)[:2 * top].tolist()
        else:
            listed = sum(influence.top_indices(scores[None], top + max(5, top // 2))[0], [])
        values = self.values(question, listed, measure, chosen)
        known = torch.zeros_like(scores)
        known[listed] = torch.stack([values[row].sum() for row in listed]).to(scores)
        scores = torch.where(known != 0, known, scores)
        sides = [listed] if method == "tfidf" else influence.top_indices(known[None], top)[0]
        entries = [self._entry(question, rank, row, values[row], scores, layer) for side in sides
                   for rank, row in enumerate(side, start=1)]
        for entry in entries if method == "tfidf" else ():
            entry["similarity"] = similar[entry["index"]].item()
        return self._query(question, chosen, method, layer, scores, entries)

    def _chosen(self, question, chosen):
        """Places of the chosen tokens, all for None. Raises InputError for none."""
        chosen = list(range(len(question.tokens))) if chosen is None else sorted(chosen)
        if not chosen:
            raise InputError("no token is chosen: click at least one word of the completion")
        return chosen

    def _query(self, question, chosen, method, layer, scores, entries):
        """What was asked and found, as the JSON has a query."""
        return {"prompt": question.query.prompt, "completion": question.query.completion,
                "log_prob": question.log_probs[chosen].sum().item(), "method": METHODS[method], "layer": layer,
                "explained": [[text, at in chosen] for at, text in enumerate(question.tokens)],
                "distribution": pictures.spread(scores), "influences": entries}

    def _entry(self, question, rank, row, value, scores, layer, corpus=None):
        """`influence.entry` of a story with its standing among all `scores` and what was planted in it."""
        layers = list(self.setting.layers)
        entry = influence.entry(rank, row, corpus or self.setting.corpus, value, layers, self.setting.tokenizer)
        if layer is not None:
            for token, own in zip(entry["tokens"], value[layers.index(layer)].tolist()):
                token["influence"] = own
        higher = int((scores > entry["influence"]).sum())
        entry["standing"] = {"rank": higher + 1, "of": len(scores), "above": float((scores < entry["influence"]).sum()) / len(scores)}
        if not corpus and (planted := self.planted_in(question, row)):
            entry["planted"] = planted
        return entry

    def planted_in(self, question, row) -> dict | None:
        """What the planted item that the prompt asks about left in this story: its role and the sentence."""
        prompt = " ".join(question.query.prompt.split())
        for item in self.planted:
            if prompt.endswith(item["prompt"]):
                for kind in KINDS:
                    for place in item[kind]:
                        if place["row"] == row:
                            text = self.setting.corpus.stories[row].text[place["start"]:place["end"]]
                            return {"item": item["id"], "role": kind.removesuffix("s"), "sentence": text}
        return None

    def find(self, text) -> int | None:
        """The row of the story with this id or number, or else of the first that holds this text; None if there is none."""
        stories, text = self.setting.corpus.stories, " ".join(text.split())
        if not text:
            raise InputError("nothing to look for: give a story's number, some of its words, or a story of your own")
        first = lambda fits: next((row for row, story in enumerate(stories) if fits(story)), None)
        if (row := first(lambda story: story.id == text)) is not None:  # before the number: cards show ids, which may be numbers
            return row
        if text.isascii() and text.isdigit():
            if len(text) > 9 or int(text) >= len(stories):  # int() itself refuses thousands of digits
                raise InputError(f"there is no story {text}: numbers go from 0 to {len(stories) - 1}")
            return int(text)
        return first(lambda story: text.lower() in " ".join(story.text.split()).lower())

    def look_up(self, question, text, chosen=None, method="ekfac", layer=None) -> dict:
        """Why this story, or why not: a view of one story, the one that `find` finds or else a new one with this text.

        Raises InputError for an empty text.
        """
        measure = _measure(method)
        chosen = self._chosen(question, chosen)
        scores, row = self.scores(question, measure, chosen), self.find(text)
        if row is None:
            corpus = tokenise([Story("your text", text)], self.setting.tokenizer, _longest(self.setting.model))
            value = self._of_new(question, corpus, measure, chosen)
            note = "No story holds these words: this is what one copy of your text would do, were it added to the training set."
        else:
            corpus, value = None, self.values(question, [row], measure, chosen)[row]
            note = self._reason(question, row, scores, measure)
        entry = self._entry(question, None, row or 0, value, scores, layer, corpus)
        return self._query(question, chosen, measure, layer, scores, [{**entry, "rank": entry["standing"]["rank"], "note": note}])

    def _of_new(self, question, corpus, method, chosen):
        """Influence of a story that is not in the corpus, `(layer, token)`: N stays that of the corpus."""
        one, (_, ihvps, at) = replace(self.setting, corpus=corpus), self._terms(question, method, chosen)
        found = influence.tokenwise(self.setting.model, self.setting.layers, one.stream([0]), ihvps,
                                    len(self.setting.corpus), [(term, 0) for term in at])
        return sum(found[term, 0] for term in at)

    def _reason(self, question, row, scores, method):
        """One sentence on the two factors of an influence: how long the story's gradient is, and how well it points."""
        similar = self.similar(question)[row].item()
        if method != "ekfac":
            return f"Words match: cosine {similar:.2f}."
        norms = self.index.norms(self.setting.corpus)
        cosines = scores / norms
        longer, closer = ((values.abs() < values[row].abs()).double().mean().item() for values in (norms, cosines))
        way = "with" if cosines[row] >= 0 else "against"
        return (f"Its gradient is longer than those of {longer:.0%} of the stories, and points {way} the question's, more strongly "
                f"than {closer:.0%} of them point either way; words match: cosine {similar:.2f}.")

    def result(self, *views) -> dict:
        """Views as the JSON of `python -m helpers`; where their curvatures differ, each λ says whose it is."""
        named = {said: name for name, said in METHODS.items()}
        methods = dict.fromkeys(named[view["method"]] for view in views)
        measures = dict.fromkeys(map(_measure, methods))
        damping = {layer if len(measures) == 1 else f"{name}: {layer}": value
                   for name in measures for layer, value in self.curvatures[name].damping.items()}
        return {"model": self.names[0], "stories": self.names[1], "method": ", ".join(methods),
                "n_train": len(self.setting.corpus), "unit": pictures.UNIT, "damping": damping,
                "tracked": self.tracked.summary(), "queries": list(views)}


def _measure(method):
    """The method whose influences are shown: TF-IDF has none, so its stories carry those of EK-FAC."""
    return "ekfac" if method == "tfidf" else method


def _longest(model):
    """Tokens to which stories are cut."""
    return min(512, context_length(model))


def _keep_newest(folder):
    """Notes that the index was used now, and removes all but the newest indexes of explorers beside it."""
    files.touch(folder)
    there = [pair for pair in files.present(folder.parent.glob("explorer-*/")) if OURS.fullmatch(pair[0].name)]
    for old, _ in sorted(there, key=lambda pair: pair[1].st_mtime, reverse=True)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
