"""Notebook 04: right answers by other ways, wrong ones with words that each must be told."""
import numpy as np
import torch


def labels(ids, keep, shift=1):
    """x_{t+shift} at the positions in `keep`, −100 elsewhere."""
    return torch.tensor([ids[t + shift] if t in keep and t + shift < len(ids) else -100
                         for t in range(len(ids))])


def rotated(gradients, Q_A, Q_S):
    return Q_S.T @ gradients @ Q_A


def squares(gradients, Q_A, Q_S, divisor):
    return (rotated(gradients, Q_A, Q_S) ** 2 / divisor).sum((1, 2))



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


def relatif_by_loop(scores, gradients, Q_A, Q_S, Lambda, damping):
    result = torch.empty_like(scores)
    for b, r in enumerate(gradients):
        rotated = Q_S.T @ r @ Q_A
        ihvp = Q_S @ (rotated / (Lambda + damping)) @ Q_A.T
        result[b] = scores[b] / torch.sqrt(torch.sum(r * ihvp))
    return result


def relatif_by_numpy(scores, gradients, Q_A, Q_S, Lambda, damping):
    rotated = np.einsum("ki,bkl,lj->bij", Q_S.numpy(), gradients.numpy(), Q_A.numpy())
    whitened = rotated / np.sqrt(Lambda.numpy() + damping)
    return scores.numpy() / np.linalg.norm(whitened.reshape(len(whitened), -1), axis=1)


def relatif_in_place(scores, gradients, Q_A, Q_S, Lambda, damping):
    Lambda += damping
    parts = torch.matmul(torch.matmul(Q_S.t(), gradients), Q_A).square() / Lambda
    scores /= parts.flatten(1).sum(1).sqrt()
    return scores


def relatif_by_axes(scores, gradients, Q_A, Q_S, Lambda, damping):
    """One eigenvector pair at a time."""
    total = torch.zeros_like(scores)
    for i in range(Lambda.shape[0]):
        for j in range(Lambda.shape[1]):
            total = total + (Q_S[:, i] @ gradients @ Q_A[:, j]) ** 2 / (Lambda[i, j] + damping)
    return scores * total.rsqrt()


RIGHT = {
    "completion_labels": [
        labels_by_append, labels_by_mask, labels_by_where, labels_by_numpy, labels_in_place,
        lambda ids, start: torch.tensor([-100] * (start - 1) + ids[start:] + [-100]),
        lambda ids, start: labels(ids, range(start - 1, len(ids))),
        lambda ids, start: labels(ids, range(start - 1, len(ids))).int(),
        lambda ids, start: [torch.tensor(label) for label in labels_by_append(ids, start)],
    ],
    "token_influence": [
        influence_by_loop, influence_by_numpy, influence_in_place,
        lambda a, s, P, N: torch.einsum("to,oi,ti->t", s, P, a) / N,
        lambda a, s, P, N: (s @ P @ a.T).diag() / N,
        lambda a, s, P, N: ((s[:, :, None] * a[:, None, :]) * P).sum((1, 2)) / N,
        lambda a, s, P, N: ((s.float() @ P.float())[:, None] @ a.float()[:, :, None]).flatten() / N,
        lambda a, s, P, N: torch.stack([s[t] @ P @ a[t] for t in range(len(a))]).div(N),
        lambda a, s, P, N: torch.nn.functional.bilinear(s, a, P[None])[:, 0] / N,
    ],
    "on_predicted": [
        profile_by_loop, profile_by_roll, profile_in_place,
        lambda values: torch.nn.functional.pad(values, (1, 0))[:-1],
        lambda values: np.concatenate([[0.0], values.numpy()[:-1]]),
        lambda values: torch.cat([values[:1] * 0, values[:len(values) - 1]]).float(),
        lambda values: [0, *values[:-1]],
        lambda values: torch.eye(len(values), dtype=values.dtype).roll(1, 0).tril() @ values,
        lambda values: torch.tensor([0.0] + values.tolist()[:-1]),
    ],
    "relatif": [
        relatif_by_loop, relatif_by_numpy, relatif_in_place, relatif_by_axes,
        lambda raw, r, A, S, L, d: raw / ((S.T @ r @ A) / (L + d).sqrt()).flatten(1).norm(dim=1),
        lambda raw, r, A, S, L, d: raw / torch.einsum(
            "bij,bij->b", r, S @ ((S.T @ r @ A) / (L + d)) @ A.T) ** 0.5,
        lambda raw, r, A, S, L, d: raw.float() / squares(
            r.float(), A.float(), S.float(), L.float() + d).sqrt(),
    ],
}


# -- wrong ----------------------------------------------------------------------------------------

def filled(ids, start, fill):
    result = labels(ids, range(start - 1, len(ids)))
    return torch.where(result == -100, fill, result)


def relatif_dense(scores, gradients, Q_A, Q_S, Lambda, damping, numpy=False):
    """Right, but by the matrix that the card forbids."""
    if numpy:
        basis = np.kron(Q_S.numpy(), Q_A.numpy())
        G = basis @ np.diag(Lambda.numpy().ravel() + damping) @ basis.T
        r = gradients.numpy().reshape(len(gradients), -1)
        return scores.numpy() / np.sqrt((r * np.linalg.solve(G, r.T).T).sum(1))
    basis, r = torch.kron(Q_S.contiguous(), Q_A.contiguous()), gradients.flatten(1)
    G = basis @ (Lambda + damping).flatten().diag() @ basis.T
    return scores / (r * torch.linalg.solve(G, r.T).T).sum(1).sqrt()


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
        ("activations were summed", lambda a, s, P, N: torch.einsum("to,oi,ji->t", s, P, a) / N),
        ("output gradients were summed",
         lambda a, s, P, N: torch.einsum("jo,oi,ti->t", s, P, a) / N),
        ("1/N is missing", lambda a, s, P, N: ((s @ P) * a).sum(1)),
        ("sign is turned", lambda a, s, P, N: -((s @ P) * a).sum(1) / N),
        ("the query (P) is missing", lambda a, s, P, N: s.norm(dim=1) * a.norm(dim=1) / N),
        ("carries a 1 for the bias", lambda a, s, P, N: ((s @ P)[:, :-1] * a[:, :-1]).sum(1) / N),
        ("shape", lambda a, s, P, N: s @ P @ a.T / N),
        ("shape", lambda a, s, P, N: (s @ P * a) / N),
        ("total", lambda a, s, P, N: ((s @ P) * a).sum() / N),
        ("mean over", lambda a, s, P, N: ((s @ P) * a).mean(1) / N),
        ("tokens", lambda a, s, P, N: ((s @ P) * a).sum(1) / len(a)),
        (None, lambda a, s, P, N: ((s @ P) * a).sum(1) / 50),
        ("twice", lambda a, s, P, N: ((s @ P) * a).sum(1) / N ** 2),
        ("sign is turned", lambda a, s, P, N: -torch.einsum("to,oi,ti->t", s, P, a) / N),
        ("shared out",
         lambda a, s, P, N: torch.full((len(a),), ((s @ P) * a).sum() / N / len(a), dtype=a.dtype)),
        ("absolute", lambda a, s, P, N: ((s @ P) * a).sum(1).abs() / N),
        ("activations were averaged",
         lambda a, s, P, N: ((s @ P) * a.mean(0)).sum(1) / N),
        ("ā is missing", lambda a, s, P, N: (s @ P).sum(1) / N),
        (None, lambda a, s, P, N: ((s @ P) * a).norm(dim=1) / N),
        ("running", lambda a, s, P, N: ((s @ P) * a).sum(1).cumsum(0) / N),
        ("last column", lambda a, s, P, N: ((s @ P[:, :-1]) * a[:, :-1]).sum(1) / N),
        ("cosine", lambda a, s, P, N: torch.cosine_similarity(s @ P, a, dim=1)),
        ("times N", lambda a, s, P, N: ((s @ P) * a).sum(1) * N),
        ("one token",
         lambda a, s, P, N: torch.cat([((s[1:] @ P) * a[:-1]).sum(1), a.new_zeros(1)]) / N),
        ("one token",
         lambda a, s, P, N: torch.cat([a.new_zeros(1), ((s[:-1] @ P) * a[1:]).sum(1)]) / N),
        (None, lambda a, s, P, N: s.sum(1) * a.sum(1) * P.sum() / N),
        ("squared", lambda a, s, P, N: ((s @ P) * a).pow(2).sum(1) / N),
        ("raised", lambda a, s, P, N: (a @ P * s).sum(1) / N),
        ("shape", lambda a, s, P, N: torch.einsum("to,oi,ti->o", s, P, a) / N),
        (None, lambda a, s, P, N: ((s.mean(0) @ P) * a).sum(1) / N),
        ("rescaled",
         lambda a, s, P, N: (lambda v: v * ((s @ P) * a).sum() / v.sum() / N)((s @ P) @ a.sum(0))),
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
    "relatif": [
        ("square root", lambda raw, r, A, S, L, d: raw / squares(r, A, S, L + d)),
        ("curvature is missing", lambda raw, r, A, S, L, d: raw / r.flatten(1).norm(dim=1)),
        ("length of the iHVP",
         lambda raw, r, A, S, L, d: raw / (rotated(r, A, S) / (L + d)).flatten(1).norm(dim=1)),
        ("multiplied by Λ + λ",
         lambda raw, r, A, S, L, d: raw / squares(r, A, S, 1 / (L + d)).sqrt()),
        ("must lose rank", lambda raw, r, A, S, L, d: raw * squares(r, A, S, L + d).sqrt()),
        ("eigenvectors stand in columns",
         lambda raw, r, A, S, L, d: raw / ((S @ r @ A.T) ** 2 / (L + d)).sum((1, 2)).sqrt()),
        ("damping is missing", lambda raw, r, A, S, L, d: raw / squares(r, A, S, L).sqrt()),
        ("a matrix as large as G", relatif_dense),
        ("a matrix as large as G", lambda *a: relatif_dense(*a, numpy=True)),
        ("every sign", lambda raw, r, A, S, L, d: -raw / squares(r, A, S, L + d).sqrt()),
        ("root is taken twice", lambda raw, r, A, S, L, d: raw / squares(r, A, S, L + d) ** 0.25),
        (None, lambda raw, r, A, S, L, d: raw / squares(r, A, S, L + d).sqrt().mean()),
        (None,
         lambda raw, r, A, S, L, d: raw / (rotated(r, A, S) / (L + d).sqrt()).abs().sum((1, 2))),
        ("all stories",
         lambda raw, r, A, S, L, d: raw / (rotated(r, A, S) ** 2 / (L + d)).sum().sqrt()),
        ("mean",
         lambda raw, r, A, S, L, d: raw / (rotated(r, A, S) ** 2 / (L + d)).mean((1, 2)).sqrt()),
        ("scores are missing", lambda raw, r, A, S, L, d: squares(r, A, S, L + d).sqrt()),
        ("scores are missing", lambda raw, r, A, S, L, d: 1 / squares(r, A, S, L + d).sqrt()),
        ("signs are lost", lambda raw, r, A, S, L, d: raw.abs() / squares(r, A, S, L + d).sqrt()),
        ("not rotated", lambda raw, r, A, S, L, d: raw / (r ** 2 / (L + d)).sum((1, 2)).sqrt()),
        ("damping", lambda raw, r, A, S, L, d: raw / (squares(r, A, S, L) + d).sqrt()),
        ("damping", lambda raw, r, A, S, L, d: raw / (squares(r, A, S, L).sqrt() + d)),
        ("√(Λ + λ)", lambda raw, r, A, S, L, d: raw / squares(r, A, S, (L + d).sqrt()).sqrt()),
        ("square is missing",
         lambda raw, r, A, S, L, d: raw / (rotated(r, A, S) / (L + d)).sum((1, 2)).abs().sqrt()),
        (None, lambda raw, r, A, S, L, d: raw / squares(r, A, S, L + 0.2).sqrt()),
        ("Q_S is not transposed",
         lambda raw, r, A, S, L, d: raw / ((S @ r @ A) ** 2 / (L + d)).sum((1, 2)).sqrt()),
        ("Q_A is transposed",
         lambda raw, r, A, S, L, d: raw / ((S.T @ r @ A.T) ** 2 / (L + d)).sum((1, 2)).sqrt()),
        ("λ²", lambda raw, r, A, S, L, d: raw / squares(r, A, S, L + d ** 2).sqrt()),
        ("raised",
         lambda raw, r, A, S, L, d: raw / (rotated(r, A, S) ** 2 / (L + d)).sum(1).sqrt()),
        ("shape",
         lambda raw, r, A, S, L, d: raw[:, None] / (rotated(r, A, S) ** 2 / (L + d)).sum(1).sqrt()),
        ("shape", lambda raw, r, A, S, L, d: raw[:, None] / squares(r, A, S, L + d).sqrt()),
        ("squared", lambda raw, r, A, S, L, d: raw ** 2 / squares(r, A, S, L + d)),
    ],
}
