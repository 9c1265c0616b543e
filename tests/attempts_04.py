"""Notebook 04: right answers by other ways, wrong ones with words that each must be told."""
import numpy as np
import torch


def labels(ids, keep, shift=1):
    """x_{t+shift} at the positions in `keep`, −100 elsewhere."""
    return torch.tensor([ids[t + shift] if t in keep and t + shift < len(ids) else -100
                         for t in range(len(ids))])


# -- right, by other ways -------------------------------------------------------------------------

def labels_by_append(ids, start):
    result = []
    for t in range(len(ids)):
        result.append(ids[t + 1] if t + 1 < len(ids) and t + 1 >= start else -100)
    return result


def labels_by_mask(ids, start):
    ids = torch.tensor(ids)
    shifted = torch.roll(ids, -1)
    shifted[:start - 1] = -100
    shifted[-1] = -100
    return shifted


def labels_by_where(ids, start):
    following = torch.tensor(ids[1:] + [-100])
    return torch.where(torch.arange(len(ids)) + 1 >= start, following, -100)


def labels_by_numpy(ids, start):
    result = np.full(len(ids), -100)
    result[start - 1:len(ids) - 1] = ids[start:]
    return result


def labels_in_place(ids, start):
    for t in range(start):
        ids[t] = -100
    ids.append(-100)
    return torch.LongTensor(ids[1:])


def biased(answer):
    """An answer that takes ā, as one that takes a."""
    def whole(a, output_grads, P, n_train):
        return answer(torch.cat([a, torch.ones_like(a[:, :1])], 1), output_grads, P, n_train)
    return whole


def influence_in_parts(a, output_grads, P, n_train):
    weight, bias = P[:, :-1], P[:, -1]
    return (output_grads * (a @ weight.T + bias)).sum(1) / n_train


def influence_by_loop(inputs, output_grads, P, n_train):
    values = []
    for a, s in zip(inputs, output_grads, strict=True):
        values.append((torch.outer(s, a) * P).sum().item() / n_train)
    return values


def influence_by_numpy(inputs, output_grads, P, n_train):
    return np.einsum("to,oi,ti->t", output_grads.numpy(), P.numpy(), inputs.numpy()) / n_train


def influence_in_place(inputs, output_grads, P, n_train):
    pushed = inputs @ P.T
    pushed *= output_grads
    pushed /= n_train
    return pushed.sum(dim=1)


def profile_by_loop(values):
    moved = [0.0] * len(values)
    for t in range(len(values) - 1):
        moved[t + 1] = values[t].item()
    return moved


def profile_by_roll(values):
    moved = values.roll(1)
    moved[0] = 0
    return moved


def profile_in_place(values):
    values[1:] = values[:-1].clone()
    values[0] = 0
    return values


def chosen(log_p, labels):
    """p of the labels, of token 0 where there is none."""
    return log_p.gather(1, labels.clamp(min=0)[:, None])[:, 0].exp()


def content_by_loop(log_p, labels):
    weights = []
    for row, label in zip(log_p, labels.tolist(), strict=True):
        if label == -100:
            weights.append(0.0)
        else:
            weights.append(1 / max(1 - row[label].exp().item(), 0.02))
    return weights


def content_by_numpy(log_p, labels):
    log_p, labels = log_p.numpy(), labels.numpy()
    p = np.exp(log_p[np.arange(len(labels)), labels * (labels >= 0)])
    return np.where(labels >= 0, 1 / np.maximum(-np.expm1(np.log(p)), 0.02), 0)


def content_in_place(log_p, labels):
    p = log_p.exp_()
    none = labels == -100
    labels[none] = 0
    weights = p.gather(1, labels[:, None]).squeeze(1)
    weights.neg_().add_(1).clamp_(min=0.02).reciprocal_()
    weights[none] = 0
    return weights


def content_by_one_hot(log_p, labels):
    """No gather: a masked row has no 1."""
    hot = (labels[:, None] == torch.arange(log_p.shape[1])).to(log_p.dtype)
    return hot.sum(1) / (1 - (hot * log_p.exp()).sum(1)).clamp(min=0.02)


def content_by_rivals(log_p, labels):
    """1 − p_t as what all other tokens have together."""
    hot = labels[:, None] == torch.arange(log_p.shape[1])
    rivals = log_p.exp().masked_fill(hot, 0).sum(1)
    return torch.where(hot.any(1), torch.minimum(1 / rivals, torch.tensor(50.0)), 0)


def content_by_autograd(log_p, labels):
    """The quotient of both gradients, as the card asks for it."""
    kept = labels >= 0
    x = log_p[kept, labels[kept]].requires_grad_()
    (slope,) = torch.autograd.grad((x - (1 - x.exp()).log()).sum(), x)
    weights = torch.zeros(len(labels), dtype=slope.dtype)
    weights[kept] = slope.clamp(max=50)
    return weights


def content_by_losses(log_p, labels, floor=0.02):
    """As the helper does it, from the losses, which are 0 where there is no target."""
    losses = torch.nn.functional.nll_loss(log_p, labels, ignore_index=-100, reduction="none")
    return (losses != 0) / (1 - (-losses).exp()).clamp(min=floor)


RIGHT = {
    "completion_labels": [
        labels_by_append, labels_by_mask, labels_by_where, labels_by_numpy, labels_in_place,
        lambda ids, start: torch.tensor([-100] * (start - 1) + ids[start:] + [-100]),
        lambda ids, start: labels(ids, range(start - 1, len(ids))),
        lambda ids, start: labels(ids, range(start - 1, len(ids))).int(),
        lambda ids, start: [torch.tensor(label) for label in labels_by_append(ids, start)],
    ],
    "token_influence": [influence_in_parts, *map(biased, [
        influence_by_loop, influence_by_numpy, influence_in_place,
        lambda a, s, P, N: torch.einsum("to,oi,ti->t", s, P, a) / N,
        lambda a, s, P, N: (s @ P @ a.T).diag() / N,
        lambda a, s, P, N: ((s[:, :, None] * a[:, None, :]) * P).sum((1, 2)) / N,
        lambda a, s, P, N: ((s.float() @ P.float())[:, None] @ a.float()[:, :, None]).flatten() / N,
        lambda a, s, P, N: torch.stack([s[t] @ P @ a[t] for t in range(len(a))]).div(N),
        lambda a, s, P, N: torch.nn.functional.bilinear(s, a, P[None])[:, 0] / N,
    ])],
    "on_predicted": [
        profile_by_loop, profile_by_roll, profile_in_place,
        lambda values: torch.nn.functional.pad(values, (1, 0))[:-1],
        lambda values: np.concatenate([[0.0], values.numpy()[:-1]]),
        lambda values: torch.cat([values[:1] * 0, values[:len(values) - 1]]).float(),
        lambda values: [0, *values[:-1]],
        lambda values: torch.eye(len(values), dtype=values.dtype).roll(1, 0).tril() @ values,
        lambda values: torch.tensor([0.0] + values.tolist()[:-1]),
    ],
    "content_weights": [
        content_by_loop, content_by_numpy, content_in_place, content_by_one_hot, content_by_rivals,
        content_by_autograd, content_by_losses,
        lambda log_p, labels: content_by_losses(log_p.float(), labels),
        lambda log_p, labels: torch.tensor(content_by_loop(log_p, labels)),
        lambda log_p, labels: (content_by_losses(log_p, labels) * 1000).round() / 1000,
        lambda log_p, labels: torch.stack([
            1 / max(1 - row[label].exp(), torch.tensor(0.02)) if label >= 0 else torch.tensor(0.0)
            for row, label in zip(log_p, labels)]),
        lambda log_p, labels: torch.where(
            labels < 0, 0, 1 / (1 - chosen(log_p, labels).clamp(max=0.98))),
    ],
}


# -- wrong ----------------------------------------------------------------------------------------

def filled(ids, start, fill):
    result = labels(ids, range(start - 1, len(ids)))
    return torch.where(result == -100, fill, result)


def bounded(p, labels):
    """The right weights, given p."""
    return torch.where(labels >= 0, 1 / (1 - p).clamp(min=0.02), 0)


WRONG = {
    "completion_labels": [
        ("not shifted", lambda ids, start: labels(ids, range(start, len(ids)), shift=0)),
        ("predicted at position start − 1", lambda ids, start: labels(ids, range(start, len(ids)))),
        ("the prompt is asked about too", lambda ids, start: labels(ids, range(len(ids)))),
        ("one position too many", lambda ids, start: labels(ids, range(start - 2, len(ids)))),
        ("last token is missing", lambda ids, start: labels(ids, range(start - 1, len(ids) - 2))),
        ("the completion's tokens alone", lambda ids, start: torch.tensor(ids[start:])),
        ("dtype torch.long", lambda ids, start: labels(ids, range(start - 1, len(ids))).float()),
        ("a token id, or", lambda ids, start: labels(ids, range(start - 1, len(ids))).apply_(
            lambda id: id if id < 0 else id + 100)),
        ("−100 where there is no target",
         lambda ids, start: labels(ids, range(start - 1, len(ids))).clamp(min=-1)),
        ("−100", lambda ids, start: filled(ids, start, 0)),
        ("4 of 7 entries are right", lambda ids, start: torch.full((len(ids),), -100)),
        ("entries are right", lambda ids, start: torch.tensor(
            [-100] * (start - 1) + ids[start - 1:-1] + [-100])),
        ("−100", lambda ids, start: filled(ids, start, -1)),
        ("−100", lambda ids, start: filled(ids, start, 100)),
        (None, lambda ids, start: torch.tensor([-100, -100, -100, 5, 2, 6, -100])),
        (None, lambda ids, start: labels(ids, range(3, len(ids)))),
        ("not shifted", lambda ids, start: torch.tensor([-100] * start + ids[start:])),
        ("last position needs",
         lambda ids, start: torch.tensor([-100] * (start - 1) + ids[start:])),
        ("shifted twice", lambda ids, start: labels(ids, range(start - 2, len(ids)), shift=2)),
        ("backwards", lambda ids, start: labels(ids, range(start + 1, len(ids)), shift=-1)),
        ("prompt", lambda ids, start: labels(ids, range(start - 1))),
        ("prompt", lambda ids, start: torch.tensor(ids[:start] + [-100] * (len(ids) - start))),
        ("not shifted", lambda ids, start: torch.tensor(ids)),
        ("predicts nothing", lambda ids, start: torch.where(
            torch.arange(len(ids)) >= start - 1, torch.tensor(ids).roll(-1), -100)),
        ("whole numbers", lambda ids, start: labels(ids, range(start - 1, len(ids))).bool()),
        (None,
         lambda ids, start: [None] * (start - 1) + ids[start:] + [None]),
        ("raised", lambda ids, start: torch.tensor(ids[t + 1] for t in range(start, len(ids)))),
        ("positions",
         lambda ids, start: torch.tensor([t + 1 if start - 1 <= t < len(ids) - 1 else -100
                                                       for t in range(len(ids))])),
        ("whole numbers", lambda ids, start: torch.arange(len(ids)) >= start),
        ("last token only", lambda ids, start: labels(ids, [len(ids) - 2])),
        ("first token only", lambda ids, start: labels(ids, [start - 1])),
    ],
    "token_influence": [
        ("the bias is missing", lambda a, s, P, N: ((s @ P[:, :-1]) * a).sum(1) / N),
        ("the bias alone", lambda a, s, P, N: s @ P[:, -1] / N),
        ("sum over all tokens", lambda a, s, P, N: (
            ((s @ P[:, :-1]) * a).sum(1) + (s @ P[:, -1]).sum()) / N),
        ("without the bias", lambda a, s, P, N: (s @ P)[:, :-1] * a / N),
        ("raised", lambda a, s, P, N: ((s @ P) * a).sum(1) / N),
        ("activations were summed",
         biased(lambda a, s, P, N: torch.einsum("to,oi,ji->t", s, P, a) / N)),
        ("output gradients were summed",
         biased(lambda a, s, P, N: torch.einsum("jo,oi,ti->t", s, P, a) / N)),
        ("1/N is missing", biased(lambda a, s, P, N: ((s @ P) * a).sum(1))),
        ("sign is turned", biased(lambda a, s, P, N: -((s @ P) * a).sum(1) / N)),
        ("the query (P) is missing", biased(lambda a, s, P, N: s.norm(dim=1) * a.norm(dim=1) / N)),
        ("the bias is missing",
         biased(lambda a, s, P, N: ((s @ P)[:, :-1] * a[:, :-1]).sum(1) / N)),
        ("shape", biased(lambda a, s, P, N: s @ P @ a.T / N)),
        ("shape", biased(lambda a, s, P, N: (s @ P * a) / N)),
        ("total", biased(lambda a, s, P, N: ((s @ P) * a).sum() / N)),
        ("mean over", biased(lambda a, s, P, N: ((s @ P) * a).mean(1) / N)),
        ("tokens", biased(lambda a, s, P, N: ((s @ P) * a).sum(1) / len(a))),
        (None, biased(lambda a, s, P, N: ((s @ P) * a).sum(1) / 50)),
        ("twice", biased(lambda a, s, P, N: ((s @ P) * a).sum(1) / N ** 2)),
        ("sign is turned", biased(lambda a, s, P, N: -torch.einsum("to,oi,ti->t", s, P, a) / N)),
        ("shared out",
         biased(lambda a, s, P, N: (((s @ P) * a).sum() / N / len(a)).expand(len(a)))),
        ("absolute", biased(lambda a, s, P, N: ((s @ P) * a).sum(1).abs() / N)),
        ("activations were averaged",
         biased(lambda a, s, P, N: ((s @ P) * a.mean(0)).sum(1) / N)),
        ("ā is missing", biased(lambda a, s, P, N: (s @ P).sum(1) / N)),
        (None, biased(lambda a, s, P, N: ((s @ P) * a).norm(dim=1) / N)),
        ("running", biased(lambda a, s, P, N: ((s @ P) * a).sum(1).cumsum(0) / N)),
        ("the bias is missing",
         biased(lambda a, s, P, N: ((s @ P[:, :-1]) * a[:, :-1]).sum(1) / N)),
        ("cosine", biased(lambda a, s, P, N: torch.cosine_similarity(s @ P, a, dim=1))),
        ("times N", biased(lambda a, s, P, N: ((s @ P) * a).sum(1) * N)),
        ("one token",
         biased(lambda a, s, P, N: torch.cat([((s[1:] @ P) * a[:-1]).sum(1), a.new_zeros(1)]) / N)),
        ("one token",
         biased(lambda a, s, P, N: torch.cat([a.new_zeros(1), ((s[:-1] @ P) * a[1:]).sum(1)]) / N)),
        (None, biased(lambda a, s, P, N: s.sum(1) * a.sum(1) * P.sum() / N)),
        ("squared", biased(lambda a, s, P, N: ((s @ P) * a).pow(2).sum(1) / N)),
        ("raised", biased(lambda a, s, P, N: (a @ P * s).sum(1) / N)),
        ("shape", biased(lambda a, s, P, N: torch.einsum("to,oi,ti->o", s, P, a) / N)),
        (None, biased(lambda a, s, P, N: ((s.mean(0) @ P) * a).sum(1) / N)),
        ("rescaled",
         biased(lambda a, s, P, N: (lambda v: v * ((s @ P) * a).sum() / v.sum() / N)(
             (s @ P) @ a.sum(0)))),
    ],
    "on_predicted": [
        ("nothing was moved", lambda values: values),
        ("moved to the left: a value", lambda values: torch.cat([values[1:], values[:1] * 0])),
        ("came round", lambda values: values.roll(1)),
        ("and around", lambda values: values.roll(-1)),
        ("falls away", lambda values: values[:-1]),
        ("every sign", lambda values: -profile_by_roll(values)),
        ("two places, and around", lambda values: values.roll(2)),
        ("every entry is 0", torch.zeros_like),
        ("in another order", lambda values: profile_by_roll(values).flip(0)),
        ("turned round", lambda values: values.flip(0)),
        ("two", lambda values: torch.cat([values[:2] * 0, values[:-2]])),
        ("first value is lost", lambda values: torch.cat([values[:1] * 0, values[1:]])),
        ("last", lambda values: torch.cat([values[:-1], values[:1] * 0])),
        ("one value too many",
         lambda values: torch.cat([torch.zeros(1, dtype=values.dtype), values])),
        ("falls away", lambda values: values[1:]),
        (None, lambda values: torch.cat([torch.zeros(1, dtype=values.dtype), values[:4]])),
        (None, lambda values: torch.tensor([0, 0.1, -0.4, 2.0, 0.3], dtype=torch.float64)),
        ("kept", lambda values: torch.cat([values[:1], values[:-1]])),
        ("running", lambda values: torch.cat([values[:1] * 0, values[:-1]]).cumsum(0)),
        ("signs are lost", lambda values: profile_by_roll(values).abs()),
        ("mean", lambda values: torch.cat([values.mean()[None], values[:-1]])),
        ("shape", lambda values: profile_by_roll(values)[None]),
        ("not finite", lambda values: torch.cat([values[:1] * float("nan"), values[:-1]])),
        ("raised", lambda values: [0] + values[:-1]),
        ("differences", lambda values: torch.diff(values, prepend=values[:1])),
        ("1 goes to", lambda values: torch.cat([torch.ones_like(values[:1]), values[:-1]])),
    ],
    "content_weights": [
        ("p_t in place of 1 − p_t",
         lambda log_p, labels: bounded(1 - chosen(log_p, labels), labels)),
        ("in place of 1 − p_t, and no floor",
         lambda log_p, labels: (labels >= 0) / chosen(log_p, labels)),
        ("a factor of the loss's gradient",
         lambda log_p, labels: (labels >= 0) * (1 - chosen(log_p, labels))),
        ("1 − p_t with its floor", lambda log_p, labels: torch.where(
            labels >= 0, (1 - chosen(log_p, labels)).clamp(min=0.02), 0)),
        ("that is p_t", lambda log_p, labels: (labels >= 0) * chosen(log_p, labels)),
        ("exp(log p_t)", lambda log_p, labels: bounded(chosen(log_p, labels).log(), labels)),
        ("loss −log p_t in place",
         lambda log_p, labels: bounded(1 + chosen(log_p, labels).log(), labels)),
        ("p_t − 1 is negative",
         lambda log_p, labels: bounded(2 - chosen(log_p, labels), labels)),
        ("the sign is turned", lambda log_p, labels: -content_by_losses(log_p, labels)),
        ("needs the floor", lambda log_p, labels: (labels >= 0) / (1 - chosen(log_p, labels))),
        ("not finite", lambda log_p, labels: content_by_losses(log_p, labels, floor=0)),
        ("needs the floor",
         lambda log_p, labels: (labels >= 0) / (1 - chosen(log_p, labels).clamp(min=0.02))),
        ("needs the floor", lambda log_p, labels: torch.where(
            labels >= 0, (1 / (1 - chosen(log_p, labels))).clamp(min=0.02), 0)),
        ("the floor is added",
         lambda log_p, labels: (labels >= 0) / (1.02 - chosen(log_p, labels))),
        ("take the larger",
         lambda log_p, labels: (labels >= 0) / (1 - chosen(log_p, labels)).clamp(max=0.02)),
        ("the weight's own bound", lambda log_p, labels: torch.where(
            labels >= 0, (1 / (1 - chosen(log_p, labels))).clamp(max=0.02), 0)),
        ("not 0", lambda log_p, labels: (
            content_by_losses(log_p, labels) * (chosen(log_p, labels) < 0.98))),
        ("entries are right", lambda log_p, labels: (
            content_by_losses(log_p, labels) ** (chosen(log_p, labels) < 0.98))
            * (labels >= 0)),
        ("leaves the loss as it is", lambda log_p, labels: (labels >= 0).double()),
        ("the odds", lambda log_p, labels: (
            content_by_losses(log_p, labels) * chosen(log_p, labels))),
        ("the log-odds loss", lambda log_p, labels: torch.where(
            labels >= 0, -torch.logit(chosen(log_p, labels)), 0)),
        ("the slope by p_t", lambda log_p, labels: (
            content_by_losses(log_p, labels) / chosen(log_p, labels))),
        ("return the weights alone", lambda log_p, labels: (
            -content_by_losses(log_p, labels) * chosen(log_p, labels).log())),
        ("divided by their mean", lambda log_p, labels: (
            lambda w: w / w[labels >= 0].mean())(content_by_losses(log_p, labels))),
        ("right one times", lambda log_p, labels: (
            lambda w: w / w.sum())(content_by_losses(log_p, labels))),
        ("right one times 0.02", lambda log_p, labels: content_by_losses(log_p, labels) / 50),
        ("squared", lambda log_p, labels: content_by_losses(log_p, labels) ** 2),
        ("the root", lambda log_p, labels: content_by_losses(log_p, labels).sqrt()),
        ("no target", lambda log_p, labels: 1 / (
            1 - log_p.gather(1, labels.clamp(min=0)[:, None])[:, 0].exp()).clamp(min=0.02)),
        ("no target", lambda log_p, labels: 1 / (
            1 - log_p[torch.arange(len(labels)), labels].exp()).clamp(min=0.02)),
        ("no target", lambda log_p, labels: 1 / (
            1 - log_p[torch.arange(len(labels)), labels.clamp(min=-1)].exp()).clamp(min=0.02)),
        ("no target", lambda log_p, labels: 1 / (1 - (-torch.nn.functional.nll_loss(
            log_p, labels, reduction="none")).exp()).clamp(min=0.02)),
        ("no target", lambda log_p, labels: content_by_losses(log_p, labels).clamp(min=1)),
        ("shifted once more", lambda log_p, labels: content_by_losses(
            log_p, torch.cat([labels[1:], torch.tensor([-100])]))),
        ("belongs to row t already",
         lambda log_p, labels: content_by_losses(log_p[:-1], labels[1:])),
        ("shifted back", lambda log_p, labels: content_by_losses(
            log_p, torch.cat([torch.tensor([-100]), labels[:-1]]))),
        ("likeliest", lambda log_p, labels: bounded(log_p.max(1).values.exp(), labels)),
        ("take the label's log p",
         lambda log_p, labels: 1 / (1 - log_p.exp()).clamp(min=0.02)),
        ("every label met every position",
         lambda log_p, labels: 1 / (1 - log_p[:, labels].exp()).clamp(min=0.02)),
        ("leave no position out", lambda log_p, labels: content_by_losses(
            log_p[labels >= 0], labels[labels >= 0])),
        ("one number for the story", lambda log_p, labels: content_by_losses(log_p, labels).sum()),
        ("shape", lambda log_p, labels: content_by_losses(log_p, labels)[:, None]),
        ("not finite", lambda log_p, labels: 1 / (1 - (-torch.nn.functional.nll_loss(
            log_p, labels, reduction="none")).exp())),
        ("raised", lambda log_p, labels: 1 / (1 - log_p.gather(1, labels[:, None]).exp())),
        (None, lambda log_p, labels: (labels >= 0) * torch.tensor(
            [1.4286, 0, 50, 1.004, 33.3333, 4, 0, 2, 0])),
        (None, lambda log_p, labels: content_by_losses(log_p, labels, floor=0.01)),
        (None, lambda log_p, labels: content_by_losses(log_p / 2, labels)),
        (None, lambda log_p, labels: (labels >= 0) * -(
            log_p.exp() * log_p).sum(1)),
    ],
}
