"""Ask the model anything and see why: questions answered live from an index.

All that was computed for a question is kept, so that another look at it costs next to nothing. What
is shown is a query of the JSON of `python -m helpers`, with more said of every story: where it
stands among all, and what was planted in it.
"""
import re
import shutil
from dataclasses import dataclass, field, replace
from itertools import product
from typing import NamedTuple

import torch

from .. import default_cache, pictures
from ..curvature import Identity
from ..influence import Strongest, query_gradients, top_indices
from ..search import WORD, tfidf
from ..sources import (Tracked, context_length, load_model, load_planted, load_stories, read_corpus,
                       read_query, share, track)
from ..sources.files import local_path, present
from ..sources.records import KINDS
from ..sources.texts import as_message, beginnings, plain_queries
from ..stories import EncodedQuery, InputError, Query, Story, encode_query, token_texts
from ..terminal import kept
from ..terminal.answers import combined, picked_tokens, short_list
from ..terminal.answers import entry as story_entry
from ..terminal.fitting import fit
from ..terminal.index import finite, open_index
from ..terminal.setting import Setting, batch_note

METHODS = {"ekfac": "EK-FAC", "kfac": "K-FAC", "identity": "dot product", "tfidf": "TF-IDF"}
TARGETS = {"influence": "what one more copy would do", "content": "what the story holds about it"}
OTHERS = {"teacher": "teaches other facts", "opponent": "opposes other facts",
          "bystander": "stands by other facts"}
MOST = 512  # tokens of a story
MOST_TOKENS = 48  # of a completion: each is a query of its own
KEPT = 2  # indexes that stay in the cache: one for each target
OURS = re.compile("explorer-[0-9a-f]{24}")  # their folders' names; the rest is the user's own


@dataclass
class Question:
    """A prompt and what follows it, by the completion's m tokens, and what stands against it.

    Log-probabilities are sums over tokens and means over contexts, so gradients are as well, and
    another choice of tokens is another sum of the R rows kept here: one for each token, and where
    something stands against them one for that (R = m + 1).
    """
    query: Query
    notes: list[str]  # what may not have been meant
    contexts: list[str]  # beginnings that the prompt stands behind, none: as it is
    tokens: list[str]  # m texts
    log_probs: torch.Tensor  # (R,)
    gradients: dict  # {layer: (R, out, in+1)}
    measured: dict = field(default_factory=dict)  # {(method, target, chosen tokens): Measured}


class Measured(NamedTuple):
    """All that was computed for a choice of tokens, its row first, then that of what stands against
    it, less: iHVPs, scores `(rows, N)` as the index has them, `{story: (rows, layer, token)}`."""
    ihvps: dict
    scores: torch.Tensor
    values: dict


class Explorer:
    """Answers from an index, under its own curvature and others, by dot product and by TF-IDF. Two
    targets are known, "influence" and "content" (see `stories.content_weights`); each has an index
    of its own, made when it is first asked for."""

    def __init__(self, setting, indexed, curvatures=None, names=("default", "default"),
                 tracked: Tracked | None = None):
        """`indexed` a function from a setting (with its target) to the index of its stories,
        `curvatures` `{method: Curvature}`, `names` of model and stories."""
        self.setting, self.names, self._indexed = replace(setting, quiet=True), names, indexed
        self.indexes = {}
        self.tracked = tracked or share(setting.model, setting.layers)
        self.note = batch_note(self.setting)
        self.index = self.index_of("influence", setting.quiet)
        ekfac = self.index.curvature  # also of the stories whose words match
        self.curvatures = {"ekfac": ekfac, **(curvatures or {}),
                           "identity": Identity(setting.layers), "tfidf": ekfac}
        self.methods = {name: METHODS[name] for name in self.curvatures}
        self.words = tfidf([story.text for story in setting.corpus.stories])
        try:
            self.planted = load_planted(setting.corpus, whole=False)
        except InputError:
            self.planted = []
        self._places = {}  # {row: what of which item stands in the story}
        for item, kind in product(self.planted, KINDS):
            for place in item[kind]:
                self._places.setdefault(place["row"], []).append((item, kind, place))

    @classmethod
    def open(cls, model="default", stories="default", limit=None, fit_limit=1000, cache=None,
             device="auto", quiet=False):
        """Loads model and stories; index and factors are made once, in minutes, and kept. `model`,
        `stories`, `limit`: as for `python -m helpers`. Raises InputError."""
        names = str(model), str(stories)
        model, tokenizer = load_model(names[0], device)
        longest = min(MOST, context_length(model))
        corpus = read_corpus(load_stories(names[1], limit, tokenizer), tokenizer, longest)
        # TF-IDF would say so, minutes later
        if not any(re.search(WORD, story.text) for story in corpus.stories):
            raise InputError("the stories hold no words, which the explorer matches too: give "
                             "stories with words")
        tracked = track(model)
        setting = Setting(model, tokenizer, tracked.layers, corpus, quiet=quiet)
        cache = local_path(cache or default_cache())
        key = kept.model_key(model)  # once: it reads every weight

        def indexed(setting):
            learnt = [kept.learnt(corpus, row) for row in range(len(corpus))]
            name = kept.cache_key(key, setting.layers, learnt, fit_limit=fit_limit,
                                  target=setting.target, code=kept.code_version(kept.INDEXING))
            folder = cache / f"explorer-{name}"
            index = open_index(setting, folder, fit_limit=fit_limit, cache=cache, key=key)
            _keep_newest(folder)
            return index
        kfac = fit(setting, "kfac", fit_limit, cache=cache, key=key)
        return cls(setting, indexed, {"kfac": kfac}, names, tracked)

    def index_of(self, target, quiet=True):
        """The index of one target; making it takes as long as `open` did. Raises InputError."""
        if target not in self.indexes:
            self.indexes[target] = self._indexed(replace(self.setting, target=target, quiet=quiet))
        return self.indexes[target]

    # -- a question and its numbers -------------------------------------------------------------

    def ask(self, prompt, completion="", against="", contexts=0, length=12, seed=0,
            chat=False) -> Question:
        """A question; without a completion the model writes one of at most `length` tokens.
        against: another completion, for log p(completion) − log p(against). contexts: how many
        beginnings of stories the prompt is asked behind, for the mean. chat: the prompt is a user's
        message. Raises InputError."""
        model, tokenizer = self.setting.model, self.setting.tokenizer
        query = Query(prompt, *(text if text.strip() else None for text in (completion, against)))
        query = as_message(tokenizer, query) if chat else query
        query, (ids, start), notes = read_query(model, tokenizer, query, max_new_tokens=length)
        if len(ids) - start > MOST_TOKENS:
            raise InputError(f"the completion has {len(ids) - start} tokens, more than "
                             f"{MOST_TOKENS}: shorten it")
        texts = beginnings(tokenizer, self.setting.corpus.stories, [query], contexts,
                           context_length(model), seed)
        tokens = token_texts(tokenizer, ids)[start:]
        return Question(query, notes, texts, tokens, *_read(self.setting, query, texts))

    def scores(self, question, method="ekfac", chosen=None, target="influence") -> torch.Tensor:
        """Influence of every story on the chosen tokens of the completion (None: all), `(N,)`. Less
        that on what stands against it. As exact as the index. Raises InputError where no token is
        chosen."""
        return self._measured(question, method, chosen, target).scores.sum(0)

    def values(self, question, rows, method="ekfac", chosen=None, target="influence"):
        """Exact influence of the stories `rows` on the chosen tokens: `{row: (layer, token)}`."""
        measured = self._measured(question, method, chosen, target)
        new = [row for row in dict.fromkeys(rows) if row not in measured.values]
        measured.values.update(self._exact(measured, new, self.setting, target) if new else {})
        return {row: measured.values[row].sum(0) for row in rows}

    def _measured(self, question, method, chosen, target) -> Measured:
        m = len(question.tokens)
        chosen = range(m) if chosen is None else sorted(chosen)
        if not chosen:
            raise InputError("no token is chosen: click at least one word of the completion")
        key = (method, target, tuple(chosen))
        if key not in question.measured:
            wanted = torch.zeros(1, m).index_fill(1, torch.tensor(key[-1]), 1)
            sums = torch.block_diag(wanted, -torch.eye(len(question.log_probs) - m))
            ihvps = self.curvatures[method].solve(combined(question.gradients, sums))
            scores = finite(self.index_of(target).scores(ihvps, self.setting.corpus))
            question.measured[key] = Measured(ihvps, scores, {})
        return question.measured[key]

    def _exact(self, measured, rows, setting, target):
        """`{row: (rows of the question, layer, token)}` of stories of the setting's corpus."""
        count, setting = len(measured.scores), replace(setting, target=target)
        values = picked_tokens(setting, measured.ihvps, [Strongest(rows, [])] * count)
        return {row: torch.stack([values[asked, row] for asked in range(count)]) for row in rows}

    def similar(self, question) -> torch.Tensor:
        """TF-IDF cosine of prompt and completion with every story, `(N,)`."""
        text = question.query.prompt + question.query.completion
        return torch.from_numpy(self.words([text])).float()[0]

    # -- what is shown --------------------------------------------------------------------------

    def view(self, question, chosen=None, method="ekfac", top=5, layer=None,
             target="influence") -> dict:
        """The `top` stories of either sign for the chosen tokens (None: all), as in the JSON.

        layer: name of the one layer whose token values are shown; None for their sum. With `tfidf`
        the stories whose words match best, with their EK-FAC influence. Raises InputError where no
        token is chosen.
        """
        measure = method, chosen, target
        scores = self.scores(question, *measure)
        if method == "tfidf":
            similar = self.similar(question)
            listed = similar.argsort(descending=True, stable=True)[:2 * top].tolist()
        else:
            (sides,) = short_list(scores[None], top)
            listed = [*sides.positive, *sides.negative]
        values, exact = self.values(question, listed, *measure), torch.zeros_like(scores)
        for row, value in values.items():
            exact[row] = value.sum()
        scores = torch.where(exact != 0, exact, scores)
        sides = [listed] if method == "tfidf" else top_indices(exact[None], top)[0]
        entries = [self._entry(question, rank, row, values[row], scores, layer, measure)
                   for side in sides for rank, row in enumerate(side, start=1)]
        for entry in entries if method == "tfidf" else []:
            entry["similarity"] = similar[entry["index"]].item()
        return self._query(question, method, layer, chosen, target, entries)

    def overview(self, question, chosen=None, top=5) -> list[dict]:
        """A `view` of every method under every target."""
        return [self.view(question, chosen, method, top, target=target)
                for method in self.methods for target in TARGETS]

    def _query(self, question, method, layer, chosen, target, entries):
        """What was asked and found, as the JSON has a query."""
        query, m = question.query, len(question.tokens)
        chosen = list(range(m)) if chosen is None else list(chosen)
        explained = [[text, place in chosen] for place, text in enumerate(question.tokens)]
        against = question.log_probs[m].item() if query.against else None
        return {"prompt": query.prompt, "completion": query.completion, "against": query.against,
                "log_prob": question.log_probs[chosen].sum().item(), "log_prob_against": against,
                "contexts": question.contexts, "method": METHODS[method], "target": target,
                "unit": pictures.UNITS[target], "layer": layer, "explained": explained,
                "influences": entries}

    def _entry(self, question, rank, row, value, scores, layer, measure, corpus=None):
        """A story with its standing among all `scores`; one of the corpus also with what was
        planted there, and in a comparison with its influence on each of the answers."""
        layers = list(self.setting.layers)
        entry = story_entry(rank, row, corpus or self.setting.corpus, value, layers,
                            self.setting.tokenizer)
        if layer is not None:
            for token, own in zip(entry["tokens"], value[layers.index(layer)].tolist()):
                token["influence"] = own
        higher, lower = scores > entry["influence"], scores < entry["influence"]
        entry["standing"] = {"rank": int(higher.sum()) + 1, "of": len(scores),
                             "above": float(lower.sum()) / len(scores)}
        if self.planted and not corpus:
            entry["planted"] = self.planted_in(question, row)
        if question.query.against and not corpus:
            completion, against = self._measured(question, *measure).values[row].sum((1, 2))
            entry["parts"] = [completion.item(), -against.item()]
        return entry

    def planted_in(self, question, row) -> dict:
        """What was planted in this story: `{"item", "role", "sentences"}`. The role is the one for
        the item that the prompt asks about; where it has none there, the role says whether it was
        planted for others."""
        prompt, places = " ".join(question.query.prompt.split()), self._places.get(row, [])
        text = self.setting.corpus.stories[row].text
        own = [place for place in places if prompt.endswith(place[0]["prompt"])]
        kinds = {kind for _, kind, _ in own or places}
        named = [kind.removesuffix("s") for kind in KINDS if kind in kinds]
        role = " and ".join(named) if own else OTHERS[named[0]] if named else "nothing planted"
        return {"item": own[0][0]["id"] if own else None, "role": role,
                "sentences": [text[place["start"]:place["end"]] for _, _, place in own]}

    # -- why not this story? --------------------------------------------------------------------

    def find(self, text) -> int | None:
        """The row of the story with this id or number, or else of the first that holds this text.
        None if there is none. Raises InputError for an empty text and a number that is too
        large."""
        stories, text = self.setting.corpus.stories, " ".join(text.split())
        if not text:
            raise InputError("nothing to look for: give a story's number, some of its words, or a "
                             "story of your own")
        ids = [story.id for story in stories]
        if text in ids:  # before numbers: cards show ids, which may be numbers
            return ids.index(text)
        if text.isascii() and text.isdigit():
            if len(text) > 9 or int(text) >= len(stories):  # int() refuses thousands of digits
                raise InputError(f"there is no story {text}: numbers go from 0 to "
                                 f"{len(stories) - 1}")
            return int(text)
        return next((row for row, story in enumerate(stories)
                     if text.lower() in " ".join(story.text.split()).lower()), None)

    def look_up(self, question, text, chosen=None, method="ekfac", layer=None,
                target="influence") -> dict:
        """Why this story, or why not: a view of the one that `find` finds, or else of this text.
        Raises InputError for an empty text."""
        measure = method, chosen, target
        scores, row = self.scores(question, *measure), self.find(text)
        if row is None:
            corpus = read_corpus([Story("your text", text)], self.setting.tokenizer,
                                 min(MOST, context_length(self.setting.model)))
            value = self._of_new(question, corpus, *measure)
            note = ("No story holds these words: this is what one copy of your text would do, were "
                    "it added to the training set.")
        else:
            (value,), corpus = self.values(question, [row], *measure).values(), None
            note = self._reason(question, row, scores, *measure)
        entry = self._entry(question, None, row or 0, value, scores, layer, measure, corpus)
        entry |= {"rank": entry["standing"]["rank"], "note": note}
        return self._query(question, method, layer, chosen, target, [entry])

    def _of_new(self, question, corpus, method, chosen, target="influence"):
        """Influence of a story outside the corpus, `(layer, token)`: N stays the corpus's."""
        measured = self._measured(question, method, chosen, target)
        setting = replace(self.setting, corpus=corpus)
        return self._exact(measured, [0], setting, target)[0].sum(0) / len(self.setting.corpus)

    def _reason(self, question, row, scores, method, _, target):
        """One sentence on the two factors of an influence: how long the story's gradient is, and
        how well it points."""
        similar = self.similar(question)[row].item()
        if self.curvatures[method] is not self.index.curvature:
            return f"Words match: cosine {similar:.2f}."
        norms = self.index_of(target).norms(self.setting.corpus)
        cosines = scores / norms
        longer, closer = ((values.abs() < values[row].abs()).double().mean().item()
                          for values in (norms, cosines))
        way = "with" if cosines[row] >= 0 else "against"
        return (f"Its gradient is longer than those of {longer:.0%} of the stories, and points "
                f"{way} the question's, more strongly than {closer:.0%} of them point either way; "
                f"words match: cosine {similar:.2f}.")

    def result(self, *views) -> dict:
        """Views as the JSON has them; of several methods, each λ says whose it is."""
        named = {said: name for name, said in METHODS.items()}
        methods, targets = (list(dict.fromkeys(view[key] for view in views))
                            for key in ("method", "target"))
        methods = [named[method] for method in methods]
        damping = {layer if len(methods) == 1 else f"{name}: {layer}": value for name in methods
                   for layer, value in self.curvatures[name].damping.items()}
        return {"model": self.names[0], "stories": self.names[1], "method": ", ".join(methods),
                "n_train": len(self.setting.corpus), "target": ", ".join(targets),
                "unit": "; ".join(map(pictures.UNITS.get, targets)), "damping": damping,
                "tracked": self.tracked.summary(), "queries": list(views)}


def _read(setting, query, contexts):
    """Log-probabilities `(R,)` and gradients `{layer: (R, out, in+1)}` of a `Question`."""
    longest, count = context_length(setting.model), len(contexts) or 1
    encoded = [encode_query(setting.tokenizer, plain, longest)
               for plain in plain_queries(query, contexts)]
    tokens = [[EncodedQuery(ids[:place + 1], place) for place in range(start, len(ids))]
              for ids, start in encoded[:count]]
    m, against = len(tokens[0]), encoded[count:]
    if any(len(each) != m for each in tokens):
        raise InputError("the completion has other tokens behind some beginnings of stories: ask "
                         "without them")
    rows, log_probs = query_gradients(setting.model, setting.layers, [*sum(tokens, []), *against],
                                      setting.batch_size)
    other = torch.ones(len(against) // count, len(against))
    means = torch.block_diag(torch.eye(m).repeat(1, count), other) / count
    return means.to(log_probs) @ log_probs, combined(rows, means)


def _keep_newest(folder):
    """Notes that the index was used now, and removes all but the newest indexes of explorers."""
    kept.touch(folder)
    there = [(status.st_mtime, path) for path, status in present(folder.parent.glob("explorer-*/"))
             if OURS.fullmatch(path.name)]
    for _, old in sorted(there, reverse=True)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
