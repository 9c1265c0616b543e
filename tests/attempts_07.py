"""Notebook 07: right answers by many ways, wrong ones with words of the message each must get."""
import numpy as np
import torch


def weights(values, mask, k, fill=-torch.inf, allowed=None, seen=torch.clone, shift=0, largest=True,
            by_story=False):
    """Loss weights with one thing done as somebody might do it."""
    target = torch.zeros_like(mask)
    target[:, :-1] = mask[:, 1:]
    ranked = seen(values).masked_fill(~(target if allowed is None else allowed(mask)), fill)
    result = torch.ones_like(values)
    if by_story:
        return result.scatter(1, ranked.topk(k, dim=1).indices, 0)
    result.view(-1)[ranked.flatten().topk(k, largest=largest).indices + shift] = 0
    return result


def weights_by_sorting(values, mask, k):
    rows, columns = values.shape
    terms = [(values[i, t].item(), i, t) for i in range(rows) for t in range(columns - 1)
             if mask[i, t + 1]]
    result = [[1] * values.shape[1] for _ in values]
    for _, i, t in sorted(terms, reverse=True)[:k]:
        result[i][t] = 0
    return result


def weights_by_threshold(values, mask, k):
    target = torch.cat([mask[:, 1:], mask.new_zeros(len(mask), 1)], dim=1)
    smallest = values[target].sort(descending=True).values[k - 1]
    return 1 - (target & (values >= smallest)).double()


def weights_in_numpy(values, mask, k):
    values, mask = values.numpy(), mask.numpy()
    ranked = np.full(values.shape, -np.inf)
    ranked[:, :-1][mask[:, 1:]] = values[:, :-1][mask[:, 1:]]
    result = np.ones(values.size)
    result[np.argsort(ranked.ravel())[-k:]] = 0
    return result.reshape(values.shape)


def weights_in_place(values, mask, k):
    lengths = mask.sum(1)
    values[torch.arange(values.shape[1]) >= lengths[:, None] - 1] = -torch.inf
    chosen = values.flatten().argsort(descending=True)[:k]
    values.fill_(1).view(-1)[chosen] = 0
    return values


def weights_by_removal(values, mask, k):
    values = torch.where(mask.roll(-1, 1), values, -torch.inf)
    values[:, -1] = -torch.inf
    keep = torch.ones(values.shape, dtype=torch.bool)
    for _ in range(k):
        row, column = divmod(values.argmax().item(), values.shape[1])
        values[row, column], keep[row, column] = -torch.inf, False
    return keep


def threshold_everywhere(values, mask, k):
    target = torch.cat([mask[:, 1:], mask.new_zeros(len(mask), 1)], dim=1)
    return (values < values[target].topk(k).values.min()).float()


def rolled(mask):
    return mask.roll(-1, dims=1)


def moved_right(mask):
    target = torch.zeros_like(mask)
    target[:, 1:] = mask[:, :-1]
    return target


def first_column_out(mask):
    target = mask.clone()
    target[:, 0] = False
    return target


def last_column_out(mask):
    target = mask.clone()
    target[:, -1] = False
    return target


def one_by_column(values, mask, k):
    ranked = values.masked_fill(~last_column_out(mask), -torch.inf)
    return torch.ones_like(values).scatter(0, ranked.topk(min(k, len(values)), dim=0).indices, 0)


def hidden_mask(values, mask, k):
    mask.fill_(True)
    return weights(values, mask, k)


RIGHT = {
    "drop_tokens": [
        weights_by_sorting, weights_by_threshold, weights_in_numpy, weights_in_place,
        weights_by_removal,
        lambda values, mask, k: weights(values, mask, k).bool(),
        lambda values, mask, k: weights(values, mask, k).long(),
        lambda values, mask, k: weights(values - 1000, mask, k, fill=-1e9),
    ],
}

WRONG = {
    "drop_tokens": [
        ("of each story", lambda values, mask, k: weights(values, mask, k, by_story=True)),
        ("shifted by one to the right", lambda values, mask, k: weights(values, mask, k, shift=1)),
        ("shifted by one to the left", lambda values, mask, k: weights(values, mask, k, shift=-1)),
        ("by magnitude", lambda values, mask, k: weights(values, mask, k, seen=torch.abs)),
        ("last token", lambda values, mask, k: weights(values, mask, k, allowed=lambda mask: mask)),
        ("padding was chosen",
         lambda values, mask, k: weights(values, mask, k, allowed=torch.ones_like)),
        ("a 0 there still beats", lambda values, mask, k: weights(values, mask, k, fill=0)),
        ("exchanged", lambda values, mask, k: 1 - weights(values, mask, k)),
        ("k smallest",
         lambda values, mask, k: weights(values, mask, k, fill=torch.inf, largest=False)),
        ("without a target too", lambda values, mask, k: weights(values, mask, k) * torch.cat(
            [mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)),
        ("0 weights are 0 where k is 2", lambda values, mask, k:
            weights(values, mask, k) if k == 3 else torch.ones_like(values)),
        ("3 weights are 0 where k is 2", lambda values, mask, k: weights(values, mask, 3)),
        ("4 weights are 0 where k is 3", lambda values, mask, k: weights(values, mask, k + 1)),
        ("2 weights are 0 where k is 3", lambda values, mask, k: weights(values, mask, k - 1)),
        ("no loss term", threshold_everywhere),
        ("padding was chosen", lambda values, mask, k: weights(values, mask, k, allowed=rolled)),
        (None, lambda values, mask, k: weights(values, mask, k, allowed=moved_right)),
        ("last token", lambda values, mask, k: weights(values, mask, k, allowed=first_column_out)),
        ("last token", lambda values, mask, k: weights(values, mask, k, allowed=last_column_out)),
        ("exchanged", lambda values, mask, k: ~weights(values, mask, k).bool()),
        ("padding too", lambda values, mask, k: weights(values, mask, k) * mask),
        ("every weight is 1", lambda values, mask, k: torch.ones_like(values)),
        ("18 weights are 0", lambda values, mask, k: 1 - torch.cat(
            [mask[:, 1:], torch.zeros_like(mask[:, :1])], 1).float()),
        ("has shape", lambda values, mask, k: weights(values, mask, k).flatten()),
        ("has shape", lambda values, mask, k: weights(values, mask, k).T),
        (None, one_by_column),
        ("padding was chosen", hidden_mask),
        ("weights are 0 and 1", lambda values, mask, k: values * weights(values, mask, k)),
        ("your function raised",
         lambda values, mask, k: weights(values, mask, k, allowed=lambda mask: mask[:, 1:])),
    ],
}
