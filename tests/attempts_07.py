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


def other_by_sum(logits, moved, targets):
    found = []
    for row, change, target in zip(logits.double(), moved.double(), targets.tolist()):
        p = row.softmax(0)
        slopes = (p * change).sum() - change
        p[target] = 0
        found.append(slopes[target] - (p / p.sum() * slopes).sum())
    return torch.stack(found)


def other_by_jvp(logits, moved, targets):
    def losses(logits):
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    values, slopes = torch.func.jvp(losses, (logits,), (moved,))
    return slopes / (1 - (-values).exp())


def other_in_numpy(logits, moved, targets):
    logits, moved, targets = logits.double().numpy(), moved.double().numpy(), targets.numpy()
    p, rows = np.exp(logits - logits.max(1, keepdims=True)), np.arange(len(logits))
    p[rows, targets] = 0
    return (p * moved).sum(1) / p.sum(1) - moved[rows, targets]


def other_by_loops(logits, moved, targets):
    p, found = logits.double().softmax(-1).tolist(), []
    for t, target in enumerate(targets.tolist()):
        mean = sum(p[t][y] * moved[t, y].item() for y in range(len(p[t])) if y != target)
        found.append(mean / (1 - p[t][target]) - moved[t, target].item())
    return found


def other_in_place(logits, moved, targets):
    moved = moved.double()
    rows = torch.arange(len(targets))
    own = moved[rows, targets].clone()
    logits[rows, targets] = -torch.inf
    moved[rows, targets] = 0
    return (logits.double().softmax(-1) * moved).sum(-1) - own


def other(logits, moved, targets, centre=True, sign=1, scale=lambda p: 1 / (1 - p)):
    """The slope with one thing done as somebody might do it."""
    p, at = logits.softmax(-1), targets[:, None]
    slope = centre * (p * moved).sum(-1) - moved.gather(1, at)[:, 0]
    return sign * slope * scale(p.gather(1, at)[:, 0])


def other_uniform(logits, moved, targets):
    count, own = logits.shape[1], moved.gather(1, targets[:, None])[:, 0]
    return (moved.sum(1) - own) / (count - 1) - own


def learnt(shares, rates, scale=lambda shares, rates: shares / rates[:, None],
           clean=lambda x: x.clamp(min=0), part=0.5, none=-1, shift=0):
    """The step with one thing done as somebody might do it."""
    kept = clean(scale(shares, rates))
    sums = kept.cumsum(0)
    step = (sums < part * sums[-1]).sum(0) + shift
    return torch.where((shares > 0).any(0), step, none)


def learnt_by_loops(shares, rates):
    found = []
    for column in shares.T.tolist():
        steps = [max(share, 0) / rate for share, rate in zip(column, rates.tolist())]
        total, half = 0, sum(steps) / 2
        for k, step in enumerate(steps):
            total += step
            if half and total >= half:
                found.append(k)
                break
        else:
            found.append(-1)
    return found


def learnt_in_numpy(shares, rates):
    sums = np.maximum(shares.numpy() / rates.numpy()[:, None], 0).cumsum(0)
    return np.where(sums[-1] > 0, (sums >= sums[-1] / 2).argmax(0), -1)


def learnt_by_argmax(shares, rates):
    sums = (shares / rates[:, None]).relu().double().cumsum(0)
    step = (2 * sums >= sums[-1]).int().argmax(0)
    step[sums[-1] == 0] = -1
    return step


def learnt_in_place(shares, rates):
    shares /= rates[:, None]
    shares[shares < 0] = 0
    total = shares.sum(0)
    return torch.where(total > 0, (shares.cumsum(0) < total / 2).sum(0), -1)


def learnt_by_search(shares, rates):
    sums = (shares / rates[:, None]).clamp(min=0).cumsum(0).T.contiguous()
    step = torch.searchsorted(sums, sums[:, -1:] / 2)[:, 0]
    return torch.where(sums[:, -1] > 0, step, -1)


def largest_step(shares, rates):
    equal = shares / rates[:, None]
    return torch.where((shares > 0).any(0), equal.argmax(0), -1)


RIGHT = {
    "drop_tokens": [
        weights_by_sorting, weights_by_threshold, weights_in_numpy, weights_in_place,
        weights_by_removal,
        lambda values, mask, k: weights(values, mask, k).bool(),
        lambda values, mask, k: weights(values, mask, k).long(),
        lambda values, mask, k: weights(values - 1000, mask, k, fill=-1e9),
    ],
    "other_target": [other_by_sum, other_by_jvp, other_in_numpy, other_by_loops, other_in_place,
                     other],
    "when_learnt": [learnt_by_loops, learnt_in_numpy, learnt_by_argmax, learnt_in_place,
                    learnt_by_search, learnt,
                    lambda shares, rates: learnt(shares, rates).double()],
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
    "other_target": [
        ("the sign is turned", lambda *given: other(*given, sign=-1)),
        ("still in the draw", lambda *given: other(*given, scale=torch.ones_like)),
        ("expected slope of the draw alone",
         lambda *given: other(*given, scale=lambda p: -p / (1 - p))),
        ("not renormalised", lambda *given: other(*given, scale=lambda p: 1 + p)),
        ("divided by p", lambda *given: other(*given, scale=lambda p: 1 / p)),
        ("multiplied by 1 − p", lambda *given: other(*given, scale=lambda p: 1 - p)),
        ("equally often", other_uniform),
        ("lacks its mean under p", lambda *given: other(*given, centre=False)),
        ("slope of the target's logit",
         lambda *given: other(*given, centre=False, scale=torch.ones_like)),
        ("absolute values", lambda *given: other(*given).abs()),
        ("every entry is 0", lambda *given: 0 * other(*given)),
        ("squared", lambda *given: other(*given) ** 2),
        ("has shape", lambda *given: other(*given)[:, None]),
        ("has shape", lambda *given: other(*given).sum()),
        (None, lambda logits, moved, targets: other(logits, moved, targets.roll(1))),
        ("your function raised", lambda logits, moved, targets: logits.gather(1, targets)),
    ],
    "when_learnt": [
        ("not divided by the rates",
         lambda *given: learnt(*given, scale=lambda shares, rates: shares)),
        ("multiplied by the rates",
         lambda *given: learnt(*given, scale=lambda shares, rates: shares * rates[:, None])),
        ("counted from 0", lambda *given: learnt(*given, none=0, shift=1)),
        ("one step too early", lambda *given: learnt(*given, none=-2, shift=-1)),
        ("without any positive share", lambda *given: learnt(*given, none=0)),
        ("clamp them", lambda *given: learnt(*given, clean=torch.abs, none=(
            (given[0] / given[1][:, None]).abs().cumsum(0)
            < (given[0] / given[1][:, None]).abs().sum(0) / 2).sum(0))),
        ("largest share", largest_step),
        ("first positive share", lambda *given: learnt(*given, part=1e-9)),
        ("nearly all of it", lambda *given: learnt(*given, part=0.99)),
        ("has shape", lambda *given: learnt(*given)[None]),
        ("has shape", lambda shares, rates: learnt(shares, rates)[0]),
        ("every entry is 0", lambda *given: 0 * learnt(*given)),
        ("absolute values", lambda *given: learnt(*given, none=1)),
        (None, lambda *given: learnt(*given, part=0.7)),
        ("your function raised", lambda shares, rates: learnt(shares.T, rates)),
    ],
}
