"""How well an attribution does where the truth is planted: retrieval, sign, localisation, flatness."""
import json

import torch

from .stories import DATA, InputError

KINDS = ("teachers", "opponents", "bystanders")


def load_planted(corpus, whole=True) -> list[dict]:
    """The planted items of `data/planted_facts.json`, each story id also as its `row` in the corpus.

    Raises InputError for any other corpus than the default stories, and unless `whole` is False also for a part of
    them, of which only the places that it holds are given.
    """
    rows = {story.id: row for row, story in enumerate(corpus.stories)}
    items = json.loads((DATA / "planted_facts.json").read_text(encoding="utf-8"))
    every = [place for item in items for kind in KINDS for place in item[kind]]
    here = [place for place in every if place["story"] in rows]
    if whole and len(here) < len(every) or not here:
        raise InputError("the planted facts belong to the default stories: load them without a limit")
    for place in here:
        place["row"] = rows[place["story"]]
    return [{**item, **{kind: [place for place in item[kind] if "row" in place] for kind in KINDS}} for item in items]


def rows_of(places: list[dict], wordings=None) -> list[int]:
    """Corpus rows of planted places, all or those of the given wordings."""
    return [place["row"] for place in places if wordings is None or place["wording"] in wordings]


def found_share(scores: torch.Tensor, teachers: list[int]) -> torch.Tensor:
    """Which of the k teachers are among the k best of `scores` `(N,)`, k = number of teachers: `(k,)` booleans."""
    best = set(scores.argsort(descending=True, stable=True)[:len(teachers)].tolist())
    return torch.tensor([row in best for row in teachers])


def auc(positive: torch.Tensor, negative: torch.Tensor) -> float:
    """Area under the curve: how often a value of `positive` exceeds one of `negative`; ties count half."""
    difference = positive[:, None] - negative[None, :]
    return ((difference > 0).double() + 0.5 * (difference == 0)).mean().item()


def span_positions(tokenizer, text: str, start: int, end: int) -> range:
    """Positions that *predict* a token of `text[start:end]`: those from one before its first token on."""
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    inside = [t for t, (left, right) in enumerate(offsets) if left < end and right > start and right > left]
    return range(max(inside[0] - 1, 0), inside[-1])


def profile_correlation(profiles: list[torch.Tensor]) -> float:
    """Mean Pearson correlation between the token profiles of different stories, cut to the shorter of two.

    1 means every story shows the same curve: the flat-attribution bug.
    """
    values = []
    for i, one in enumerate(profiles):
        for other in profiles[:i]:
            length = min(len(one), len(other))
            values.append(torch.corrcoef(torch.stack([one[:length], other[:length]]))[0, 1])
    return torch.stack(values).mean().item()
