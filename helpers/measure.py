"""How well an attribution does where the truth is known: separation, place, flatness, LDS."""
from itertools import combinations

import torch
from scipy.stats import rankdata


def auc(positive: torch.Tensor, negative: torch.Tensor) -> float:
    """Area under the curve: how often `positive` exceeds `negative`; ties count half."""
    difference = positive[:, None] - negative[None, :]
    return ((difference > 0).double() + 0.5 * (difference == 0)).mean().item()


def span_positions(tokenizer, text: str, start: int, end: int) -> range:
    """Positions that *predict* a token of `text[start:end]`: from one before its first token on."""
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    inside = [t for t, (left, right) in enumerate(offsets)
              if left < end and right > start and right > left]
    return range(max(inside[0] - 1, 0), inside[-1])


def profile_correlation(profiles: list[torch.Tensor]) -> float:
    """Mean Pearson correlation between token profiles of stories, cut to the shorter of two.
    1 means every story shows the same curve: the flat-attribution bug."""
    values = []
    for first, second in combinations(profiles, 2):
        length = min(len(first), len(second))
        values.append(torch.corrcoef(torch.stack([first[:length], second[:length]]))[0, 1])
    return torch.stack(values).mean().item()


def lds(predicted, actual) -> torch.Tensor:
    """Linear datamodelling score by query, `(…, Q)` (Park et al. 2023): Spearman's correlation over
    S subsets of the kept stories' summed scores with f after retraining, both `(…, S, Q)`."""
    a, b = (torch.from_numpy(rankdata(values, axis=-2)) for values in (predicted, actual))
    a, b = (ranks - ranks.mean(-2, keepdim=True) for ranks in (a, b))
    return (a * b).sum(-2) / (a.norm(dim=-2) * b.norm(dim=-2)).clamp(min=1e-9)
