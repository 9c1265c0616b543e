"""How well an attribution does where the truth is planted: retrieval, sign, localisation, flatness."""
import json

import torch

from .stories import DATA, InputError


def load_planted(corpus) -> list[dict]:
    """The planted items of `data/planted_facts.json`, each story id also as its `row` in the corpus.

    Raises InputError for any other corpus than the default stories.
    """
    rows = {story.id: row for row, story in enumerate(corpus.stories)}
    if not {"story-0000", "story-0001"} <= rows.keys():
        raise InputError("the planted facts belong to the default stories: load them without a limit")
    items = json.loads((DATA / "planted_facts.json").read_text(encoding="utf-8"))
    for item in items:
        for place in item["teachers"] + item["opponents"] + item["bystanders"]:
            place["row"] = rows[place["story"]]
    return items


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
