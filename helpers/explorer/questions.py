"""Ask the model anything and see why: questions answered live from an index.

A question is taken apart by the tokens of its completion, and all that was computed for it is kept,
so that another choice of tokens, method or layer costs next to nothing. What is shown is a query of
the JSON of `python -m helpers`, with more said of every story: where it stands among all, and what
was planted in it.
"""
import re
import shutil
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from .. import default_cache, pictures
from ..curvature import Identity
from ..influence import Strongest, query_gradients, tokenwise, top_indices
from ..search import WORD, tfidf
from ..sources import (Tracked, context_length, load_model, load_planted, load_stories, read_corpus,
                       read_query, share, track)
from ..sources.files import local_path, present
from ..sources.records import KINDS
from ..stories import EncodedQuery, InputError, Query, Story, token_texts
from ..terminal import kept
from ..terminal.answers import entry as story_entry
from ..terminal.answers import picked_tokens, short_list
from ..terminal.fitting import fit
from ..terminal.index import finite, open_index
from ..terminal.setting import Setting, batch_note

METHODS = {"ekfac": "EK-FAC", "kfac": "K-FAC", "identity": "dot product", "tfidf": "TF-IDF"}
MOST_TOKENS = 48  # of a completion: each is a query of its own
KEPT = 2  # indexes that stay in the cache
OURS = re.compile("explorer-[0-9a-f]{24}")  # their folders' names; the rest is the user's own


@dataclass
class Question:
    """A prompt and what follows it, by the completion's m tokens.

    The log-probability of a completion is the sum of its tokens', so gradients, iHVPs and
    influences are sums as well, and choosing tokens is choosing rows of what is kept here.
    """
    query: Query
    notes: list[str]  # what may not have been meant
    tokens: list[str]  # m texts
    log_probs: torch.Tensor  # (m,)
    gradients: dict  # {layer: (m, out, in+1)}
    ihvps: dict = field(default_factory=dict)  # {method: {layer: (m, out, in+1)}}
    scores: dict = field(default_factory=dict)  # {terms: (1 or m, N)}, as exact as the index
    values: dict = field(default_factory=dict)  # {terms: {row: (1 or m, layer, token)}}, exact


class Terms(NamedTuple):
    """How a choice of tokens is asked: the name under which results are kept, the iHVPs, and which
    of their rows are wanted."""
    name: tuple[str, str]
    ihvps: dict
    rows: list[int]


class Explorer:
    """Answers from `index`, under its own curvature and others, by dot product and by TF-IDF."""

    def __init__(self, setting, index, curvatures=None, names=("default", "default"),
                 tracked: Tracked | None = None):
        """`curvatures` `{method: Curvature}`, `names` of model and stories."""
        self.setting, self.index, self.names = replace(setting, quiet=True), index, names
        self.tracked = tracked or share(setting.model, setting.layers)
        self.note = batch_note(self.setting)
        self.curvatures = {"ekfac": index.curvature, **(curvatures or {}),
                           "identity": Identity(setting.layers)}
        self.methods = {name: METHODS[name] for name in (*self.curvatures, "tfidf")}
        self.words = tfidf([story.text for story in setting.corpus.stories])
        try:
            self.planted = load_planted(setting.corpus, whole=False)
        except InputError:
            self.planted = []

    @classmethod
    def open(cls, model="default", stories="default", limit=None, fit_limit=1000, cache=None,
             device="auto", quiet=False):
        """Loads model and stories; index and factors are made once, in minutes, and kept.

        `model`, `stories`, `limit`: as for `python -m helpers`. Raises InputError.
        """
        names = str(model), str(stories)
        model, tokenizer = load_model(names[0], device)
        corpus = read_corpus(load_stories(names[1], limit), tokenizer, _longest(model))
        # TF-IDF would say so, minutes later
        if not any(re.search(WORD, story.text) for story in corpus.stories):
            raise InputError("the stories hold no words, which the explorer matches too: give "
                             "stories with words")
        tracked = track(model)
        setting = Setting(model, tokenizer, tracked.layers, corpus, quiet=quiet)
        cache = local_path(cache or default_cache())
        key = kept.model_key(model)  # once: it reads every weight
        name = kept.cache_key(key, setting.layers, corpus.ids, fit_limit=fit_limit,
                              code=kept.code_version(kept.INDEXING))
        folder = cache / f"explorer-{name}"
        index = open_index(setting, folder, fit_limit=fit_limit, cache=cache, key=key)
        kfac = fit(setting, "kfac", fit_limit, cache=cache, key=key)
        _keep_newest(folder)
        return cls(setting, index, {"kfac": kfac}, names, tracked)

    # -- a question and its numbers -------------------------------------------------------------

    def ask(self, prompt, completion="", length=12, temperature=0.0, seed=0) -> Question:
        """A question; without a completion the model writes one of at most `length` tokens.

        Raises InputError.
        """
        model, tokenizer = self.setting.model, self.setting.tokenizer
        query = Query(prompt, completion if completion.strip() else None)
        query, (ids, start), notes = read_query(model, tokenizer, query, max_new_tokens=length,
                                                temperature=temperature, seed=seed)
        if len(ids) - start > MOST_TOKENS:
            raise InputError(f"the completion has {len(ids) - start} tokens, more than "
                             f"{MOST_TOKENS}: shorten it")
        each = [EncodedQuery(ids[:place + 1], place) for place in range(start, len(ids))]
        gradients, log_probs = query_gradients(model, self.setting.layers, each)
        return Question(query, notes, token_texts(tokenizer, ids)[start:], log_probs, gradients)

    def scores(self, question, method="ekfac", chosen=None) -> torch.Tensor:
        """Influence of every story on the chosen tokens of the completion (None: all), `(N,)`.

        As exact as the index.
        """
        terms = self._terms(question, method, chosen)
        if terms.name not in question.scores:
            scores = self.index.scores(terms.ihvps, self.setting.corpus)
            question.scores[terms.name] = finite(scores)
        return question.scores[terms.name][terms.rows].sum(0)

    def values(self, question, rows, method="ekfac", chosen=None) -> dict[int, torch.Tensor]:
        """Exact influence of the stories `rows` on the chosen tokens: `{row: (layer, token)}`."""
        terms = self._terms(question, method, chosen)
        known = question.values.setdefault(terms.name, {})
        new = [row for row in dict.fromkeys(rows) if row not in known]
        if new:
            count = len(next(iter(terms.ihvps.values())))
            values = picked_tokens(self.setting, terms.ihvps, [Strongest(new, [])] * count)
            for row in new:
                known[row] = torch.stack([values[term, row] for term in range(count)])
        return {row: known[row][terms.rows].sum(0) for row in rows}

    def _terms(self, question, method, chosen) -> Terms:
        """All tokens together are asked as one; the first choice of some asks for each, and then
        every choice is a sum."""
        if method not in question.ihvps:
            question.ihvps[method] = self.curvatures[method].solve(question.gradients)
        ihvps = question.ihvps[method]
        if chosen is None or len(chosen) == len(question.tokens):
            together = {name: p.sum(0, keepdim=True) for name, p in ihvps.items()}
            return Terms((method, "together"), together, [0])
        return Terms((method, "each"), ihvps, list(chosen))

    def similar(self, question) -> torch.Tensor:
        """TF-IDF cosine of prompt and completion with every story, `(N,)`."""
        text = question.query.prompt + question.query.completion
        return torch.from_numpy(self.words([text])).float()[0]

    # -- what is shown --------------------------------------------------------------------------

    def view(self, question, chosen=None, method="ekfac", top=5, layer=None) -> dict:
        """The `top` stories of either sign for the chosen tokens (None: all), as in the JSON.

        layer: name of the one layer whose token values are shown; None for their sum. With `tfidf`
        the stories whose words match best, with their EK-FAC influence. Raises InputError where no
        token is chosen.
        """
        chosen = self._chosen(question, chosen)
        scores = self.scores(question, _measure(method), chosen)
        if method == "tfidf":
            similar = self.similar(question)
            listed = similar.argsort(descending=True, stable=True)[:2 * top].tolist()
        else:
            (sides,) = short_list(scores[None], top)
            listed = [*sides.positive, *sides.negative]
        values = self.values(question, listed, _measure(method), chosen)
        exact = torch.zeros_like(scores)
        exact[listed] = torch.stack([values[row].sum() for row in listed]).to(scores)
        scores = torch.where(exact != 0, exact, scores)
        sides = [listed] if method == "tfidf" else top_indices(exact[None], top)[0]
        entries = [self._entry(question, rank, row, values[row], scores, layer) for side in sides
                   for rank, row in enumerate(side, start=1)]
        if method == "tfidf":
            for entry in entries:
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
        explained = [[text, place in chosen] for place, text in enumerate(question.tokens)]
        return {"prompt": question.query.prompt, "completion": question.query.completion,
                "log_prob": question.log_probs[chosen].sum().item(), "method": METHODS[method],
                "layer": layer, "explained": explained,
                "distribution": pictures.spread(scores), "influences": entries}

    def _entry(self, question, rank, row, value, scores, layer, corpus=None):
        """A story with its standing among all `scores` and what was planted in it."""
        layers = list(self.setting.layers)
        entry = story_entry(rank, row, corpus or self.setting.corpus, value, layers,
                            self.setting.tokenizer)
        if layer is not None:
            for token, own in zip(entry["tokens"], value[layers.index(layer)].tolist()):
                token["influence"] = own
        higher, lower = scores > entry["influence"], scores < entry["influence"]
        entry["standing"] = {"rank": int(higher.sum()) + 1, "of": len(scores),
                             "above": float(lower.sum()) / len(scores)}
        if not corpus and (planted := self.planted_in(question, row)):
            entry["planted"] = planted
        return entry

    def planted_in(self, question, row) -> dict | None:
        """What the planted item that the prompt asks about left in this story."""
        prompt = " ".join(question.query.prompt.split())
        for item in self.planted:
            places = [(kind, place) for kind in KINDS for place in item[kind]
                      if place["row"] == row]
            if prompt.endswith(item["prompt"]) and places:
                kind, place = places[0]
                text = self.setting.corpus.stories[row].text[place["start"]:place["end"]]
                return {"item": item["id"], "role": kind.removesuffix("s"), "sentence": text}
        return None

    # -- why not this story? --------------------------------------------------------------------

    def find(self, text) -> int | None:
        """The row of the story with this id or number, or else of the first that holds this text.

        None if there is none. Raises InputError for an empty text and a number that is too large.
        """
        stories, text = self.setting.corpus.stories, " ".join(text.split())
        if not text:
            raise InputError("nothing to look for: give a story's number, some of its words, or a "
                             "story of your own")
        # ids before numbers: cards show ids, which may be numbers
        for row, story in enumerate(stories):
            if story.id == text:
                return row
        if text.isascii() and text.isdigit():
            # int() itself refuses thousands of digits
            if len(text) > 9 or int(text) >= len(stories):
                raise InputError(f"there is no story {text}: numbers go from 0 to "
                                 f"{len(stories) - 1}")
            return int(text)
        for row, story in enumerate(stories):
            if text.lower() in " ".join(story.text.split()).lower():
                return row
        return None

    def look_up(self, question, text, chosen=None, method="ekfac", layer=None) -> dict:
        """Why this story, or why not: a view of the one that `find` finds, or else of this text.

        Raises InputError for an empty text.
        """
        measure = _measure(method)
        chosen = self._chosen(question, chosen)
        scores, row = self.scores(question, measure, chosen), self.find(text)
        if row is None:
            corpus = read_corpus([Story("your text", text)], self.setting.tokenizer,
                                 _longest(self.setting.model))
            value = self._of_new(question, corpus, measure, chosen)
            note = ("No story holds these words: this is what one copy of your text would do, were "
                    "it added to the training set.")
        else:
            corpus, value = None, self.values(question, [row], measure, chosen)[row]
            note = self._reason(question, row, scores, measure)
        entry = self._entry(question, None, row or 0, value, scores, layer, corpus)
        entry |= {"rank": entry["standing"]["rank"], "note": note}
        return self._query(question, chosen, measure, layer, scores, [entry])

    def _of_new(self, question, corpus, method, chosen):
        """Influence of a story outside the corpus, `(layer, token)`: N stays the corpus's."""
        setting, terms = self.setting, self._terms(question, method, chosen)
        stream = replace(setting, corpus=corpus).stream([0])
        values = tokenwise(setting.model, setting.layers, stream, terms.ihvps, len(setting.corpus),
                           [(term, 0) for term in terms.rows])
        return sum(values[term, 0] for term in terms.rows)

    def _reason(self, question, row, scores, method):
        """One sentence on the two factors of an influence: how long the story's gradient is, and
        how well it points."""
        similar = self.similar(question)[row].item()
        if method != "ekfac":
            return f"Words match: cosine {similar:.2f}."
        norms = self.index.norms(self.setting.corpus)
        cosines = scores / norms
        longer, closer = ((values.abs() < values[row].abs()).double().mean().item()
                          for values in (norms, cosines))
        way = "with" if cosines[row] >= 0 else "against"
        return (f"Its gradient is longer than those of {longer:.0%} of the stories, and points "
                f"{way} the question's, more strongly than {closer:.0%} of them point either way; "
                f"words match: cosine {similar:.2f}.")

    def result(self, *views) -> dict:
        """Views as the JSON has them; where curvatures differ, each λ says whose it is."""
        named = {said: name for name, said in METHODS.items()}
        methods = dict.fromkeys(named[view["method"]] for view in views)
        damping = {}
        measures = dict.fromkeys(map(_measure, methods))
        for name in measures:
            for layer, value in self.curvatures[name].damping.items():
                damping[layer if len(measures) == 1 else f"{name}: {layer}"] = value
        return {"model": self.names[0], "stories": self.names[1], "method": ", ".join(methods),
                "n_train": len(self.setting.corpus), "unit": pictures.UNIT, "damping": damping,
                "tracked": self.tracked.summary(), "queries": list(views)}


def _measure(method):
    """The method whose influences are shown: TF-IDF has none, so its stories carry EK-FAC's."""
    return "ekfac" if method == "tfidf" else method


def _longest(model):
    """Tokens to which stories are cut."""
    return min(512, context_length(model))


def _keep_newest(folder):
    """Notes that the index was used now, and removes all but the newest indexes of explorers."""
    kept.touch(folder)
    there = [pair for pair in present(folder.parent.glob("explorer-*/"))
             if OURS.fullmatch(pair[0].name)]
    there.sort(key=lambda pair: pair[1].st_mtime, reverse=True)
    for old, _ in there[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
