"""Notebook 09: right answers by other ways than the solution; wrong ones, with words of the message
each must get."""
from itertools import combinations

import numpy as np
import torch
from torch.nn.functional import cross_entropy


def log_probs(logits, ids, start, first=None, shift=1, dim=-1):
    at = torch.arange(start if first is None else first, len(ids) if first is None else start)
    return logits.log_softmax(dim)[at - shift, ids[at]]


def factors(query, gradient, q_s, q_a, eigenvalues, damping, power=-0.5):
    scale = (eigenvalues + damping) ** power
    q, r = ((q_s.T @ x @ q_a * scale).flatten() for x in (query, gradient))
    return r.norm(), q @ r / (q.norm() * r.norm())


def kept(sizes, share, extra=1, order=None):
    order = sizes.argsort(descending=True) if order is None else order
    enough = int((sizes[order].cumsum(0) < share * sizes.sum()).sum()) + extra
    mask = torch.zeros(len(sizes), dtype=torch.bool)
    mask[order[:enough]] = True
    return mask


def log_probs_in_a_loop(logits, ids, start):
    values = []
    for t in range(start, len(ids)):
        row = logits[t - 1]
        values.append((row[ids[t]] - torch.log(torch.exp(row).sum())).item())
    return values


def log_probs_by_numpy(logits, ids, start):
    rows = logits.numpy()[start - 1:-1]
    rows = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows[np.arange(len(rows)), ids.numpy()[start:]]


def log_probs_in_place(logits, ids, start):
    logits -= logits.logsumexp(1, keepdim=True)
    return logits.roll(1, 0).take_along_dim(ids[:, None], 1).squeeze(1)[start:]


def factors_by_dense_matrices(query, gradient, q_s, q_a, eigenvalues, damping):
    """G + λI over all entries of a layer, as one matrix."""
    basis = torch.kron(q_s, q_a)
    inverse = torch.linalg.inv(basis @ torch.diag(eigenvalues.flatten() + damping) @ basis.T)
    q, r = query.flatten(), gradient.flatten()
    qq, qr, rr = q @ inverse @ q, q @ inverse @ r, r @ inverse @ r
    return rr ** 0.5, qr / torch.sqrt(qq * rr)


def factors_turned_back(query, gradient, q_s, q_a, eigenvalues, damping):
    root = torch.sqrt(eigenvalues + damping)
    q, r = (q_s @ (q_s.mT @ x @ q_a / root) @ q_a.mT for x in (query, gradient))
    return torch.linalg.matrix_norm(r), torch.cosine_similarity(q.flatten(), r.flatten(), dim=0)


def factors_by_numpy(query, gradient, q_s, q_a, eigenvalues, damping):
    scale = 1 / np.sqrt(eigenvalues.numpy() + damping)
    q, r = (np.einsum("oi,op,iq->pq", x, q_s, q_a) * scale for x in (query, gradient))
    length = np.linalg.norm(r)
    return np.array([length, np.vdot(q, r) / length / np.linalg.norm(q)])


def factors_in_loops(query, gradient, q_s, q_a, eigenvalues, damping):
    inner = {"qq": 0.0, "qr": 0.0, "rr": 0.0}
    for o in range(q_s.shape[1]):
        for i in range(q_a.shape[1]):
            q, r = (float(q_s[:, o] @ x @ q_a[:, i]) for x in (query, gradient))
            for pair, product in (("qq", q * q), ("qr", q * r), ("rr", r * r)):
                inner[pair] += product / (float(eigenvalues[o, i]) + damping)
    return [inner["rr"] ** 0.5, inner["qr"] / (inner["qq"] * inner["rr"]) ** 0.5]


def factors_of_rows(query, gradient, q_s, q_a, eigenvalues, damping):
    """Both as rows of one entry each."""
    root = (eigenvalues + damping).sqrt()
    q, r = ((q_s.T @ x @ q_a).div_(root).reshape(1, -1) for x in (query, gradient))
    return r.norm(dim=1), torch.nn.functional.cosine_similarity(q, r)


def factors_without(change, query, gradient, *rest):
    """`change(q, r)` of the whitened pair."""
    q_s, q_a, eigenvalues, damping = rest
    root = (eigenvalues + damping).sqrt()
    q, r = ((q_s.T @ x @ q_a / root).flatten() for x in (query, gradient))
    return change(q, r)


def eye(vectors):
    return torch.eye(len(vectors), dtype=vectors.dtype)


def cosine(query, gradient):
    return torch.cosine_similarity(query.flatten(), gradient.flatten(), dim=0)


def kept_in_a_loop(values, share):
    chosen, total = [], sum(abs(v) for v in values.tolist())
    for index, _ in sorted(enumerate(values.tolist()), key=lambda pair: -abs(pair[1])):
        if sum(abs(float(values[i])) for i in chosen) >= share * total:
            break
        chosen.append(index)
    return [index in chosen for index in range(len(values))]


def kept_of_sum(values, share):
    """Largest sizes first, until they reach a share of the signed sum."""
    sizes, order = values.abs().sort(descending=True)
    enough = int((sizes.cumsum(0) < share * values.sum().abs()).sum()) + 1
    return torch.zeros(len(values), dtype=torch.bool).index_fill(0, order[:enough], True)


def kept_by_numpy(values, share):
    sizes = np.abs(values.numpy())
    order = np.argsort(-sizes)
    count = np.searchsorted(np.cumsum(sizes[order]), share * sizes.sum()) + 1
    return np.isin(np.arange(len(sizes)), order[:count])


def kept_by_dropping(values, share):
    """Drops the smallest while what is left still reaches the share."""
    sizes, mask = values.abs(), torch.ones_like(values)
    for index in sizes.argsort():
        mask[index] = 0
        if (sizes * mask).sum() < share * sizes.sum():
            mask[index] = 1
            break
    return mask


def kept_by_trying(values, share):
    total = values.abs().sum()
    for count in range(1, len(values) + 1):
        for chosen in map(list, combinations(range(len(values)), count)):
            if values[chosen].abs().sum() >= share * total:
                return torch.tensor([index in chosen for index in range(len(values))])


def kept_by_threshold(values, share):
    values.abs_()
    sizes, order = values.sort(descending=True)
    smallest = sizes[(sizes.cumsum(0) >= share * sizes.sum()).nonzero()[0, 0]]
    return values >= smallest


def kept_before(values, share):
    """Those with less than the share in front of them."""
    sizes, order = values.float().abs().sort(descending=True)
    before = sizes.cumsum(0) - sizes
    return (before < share * sizes.sum())[order.argsort()].long()


RIGHT = {
    "word_log_probs": [
        log_probs_in_a_loop, log_probs_by_numpy, log_probs_in_place,
        lambda logits, ids, start: -cross_entropy(
            logits[start - 1:-1], ids[start:], reduction="none"),
        lambda logits, ids, start: logits[start - 1:-1].softmax(1).log().gather(
            1, ids[start:, None])[:, 0],
        lambda logits, ids, start: torch.distributions.Categorical(
            logits=logits[:-1].float()).log_prob(ids[1:])[start - 1:],
        lambda logits, ids, start: (logits.log_softmax(-1)[start - 1:-1]
                                    * torch.eye(logits.shape[1])[ids[start:]]).sum(-1),
        lambda logits, ids, start: torch.stack([
            logits[t - 1].log_softmax(0)[ids[t]] for t in range(start, len(ids))]),
    ],
    "two_factors": [
        factors_by_dense_matrices, factors_turned_back, factors_by_numpy, factors_in_loops,
        factors_of_rows,
        lambda *given: factors(*(x.float() for x in given[:-1]), given[-1]),
        lambda *given: torch.stack(factors(*given)),
        lambda *given: tuple(x.item() for x in factors(*given)),
    ],
    "smallest_set": [
        kept_in_a_loop, kept_by_numpy, kept_by_dropping, kept_by_trying, kept_by_threshold,
        kept_before,
        lambda values, share: kept(values.abs(), share),
        lambda values, share: kept(values.float().abs(), share).tolist(),
        lambda values, share: kept(values.abs() / values.abs().sum(), share).int(),
    ],
}

WRONG = {
    "word_log_probs": [
        ("predict token t+1", lambda logits, ids, start: log_probs(logits, ids, start, shift=0)),
        ("those are logits",
         lambda logits, ids, start: logits[torch.arange(start, len(ids)) - 1, ids[start:]]),
        ("those are probabilities", lambda *given: log_probs(*given).exp()),
        ("those are losses", lambda *given: -log_probs(*given)),
        ("not over the positions", lambda *given: log_probs(*given, dim=0)),
        ("not added up", lambda *given: log_probs(*given).cumsum(0)),
        ("has shape", lambda *given: log_probs(*given).sum()),
        ("the prompt's tokens", lambda *given: log_probs(*given, first=1)),
        ("t − 2", lambda *given: log_probs(*given, shift=2)),
        ("base", lambda *given: log_probs(*given) / np.log(2)),
        (None, lambda *given: log_probs(*given) / len(log_probs(*given))),
        ("reversed", lambda *given: log_probs(*given).flip(0)),
        ("all tokens but", lambda logits, ids, start: log_probs(logits, ids, 1)),
        ("shape", lambda logits, ids, start: log_probs(logits, ids, start + 1)),
        ("shape",
         lambda logits, ids, start: log_probs(logits, ids, start - 1)),
        ("whole rows", lambda logits, ids, start: logits.log_softmax(-1)[start - 1:-1]),
        ("shape", lambda *given: log_probs(*given)[:, None]),
        ("largest", lambda logits, ids, start: logits.log_softmax(-1)[start - 1:-1].max(-1).values),
        ("logits", lambda logits, ids, start: logits.gather(1, ids[:, None])[start:, 0]),
        (None, lambda logits, ids, start: log_probs(logits, ids, 5)),
        ("those are losses", lambda *given: log_probs(*given).abs()),
        ("completion's rows", lambda logits, ids, start: logits[start - 1:-1].log_softmax(0)[
            torch.arange(len(ids) - start), ids[start:]]),
        (None, lambda logits, ids, start: log_probs(logits[start - 1:], ids[start - 1:], 1, dim=0)),
        ("the token before", lambda logits, ids, start: logits.log_softmax(-1)[
            torch.arange(start, len(ids)) - 1, ids[start - 1:-1]]),
        ("shape",
         lambda logits, ids, start: logits.log_softmax(-1)[start - 1:, ids[start:]].diag(9)),
        ("raised",
         lambda logits, ids, start: logits.log_softmax(-1)[ids, torch.arange(start, len(ids))]),
        ("raised",
         lambda logits, ids, start: -cross_entropy(logits[:-1], ids[start:])),
        ("shape",
         lambda logits, ids, start: -cross_entropy(logits[start - 1:-1], ids[start:])),
        ("probabilities",
         lambda logits, ids, start: logits.softmax(-1)[range(start - 1, len(ids) - 1),
                                                          ids[start:]]),
        (None,
         lambda logits, ids, start: (logits.zero_(), log_probs(logits, ids, start))[1]),
        (None, lambda logits, ids, start: logits[start - 1:-1].sum(-1)),
    ],
    "two_factors": [
        ("take the root", lambda *given: (factors(*given)[0] ** 2, factors(*given)[1])),
        ("without the curvature", lambda *given: factors(*given, power=0)),
        ("not by its root", lambda *given: factors(*given, power=-1)),
        ("the damping is missing", lambda *given: factors(*given[:-1], 0)),
        ("the inverse divides", lambda *given: factors(*given, power=0.5)),
        ("by both lengths", lambda q, r, *rest: (
            factors(q, r, *rest)[0],
            factors(q, r, *rest)[1] * factors(q, r, *rest)[0] * factors(r, q, *rest)[0])),
        ("the length is the query's", lambda q, r, *rest: factors(r, q, *rest)),
        ("exchanged", lambda *given: factors(*given)[::-1]),
        ("wrong way round", lambda q, r, q_s, q_a, e, d: factors(q, r, q_s.T, q_a.T, e, d)),
        ("not rotated",
         lambda q, r, q_s, q_a, e, d: factors(q, r, eye(q_s), eye(q_a), e, d)),
        ("wrong way round", lambda q, r, q_s, q_a, e, d: factors(q, r, q_s.T, q_a, e, d)),
        ("wrong way round", lambda q, r, q_s, q_a, e, d: factors(q, r, q_s, q_a.T, e, d)),
        ("1 − cosine", lambda *given: (factors(*given)[0], 1 - factors(*given)[1])),
        ("for 1 of 2", lambda *given: (factors(*given)[0], factors(*given)[1].abs())),
        ("squared", lambda *given: (factors(*given)[0], factors(*given)[1] ** 2)),
        ("angle", lambda *given: (factors(*given)[0], factors(*given)[1].acos())),
        ("inner product", lambda *given: factors_without(lambda q, r: (r.norm(), q @ r), *given)),
        ("story's length only",
         lambda *given: factors_without(lambda q, r: (r.norm(), q @ r / r.norm()), *given)),
        ("query's length only",
         lambda *given: factors_without(lambda q, r: (r.norm(), q @ r / q.norm()), *given)),
        ("sum of sizes", lambda *given: factors_without(
            lambda q, r: (r.abs().sum(), q @ r / q.norm() / r.norm()), *given)),
        ("under the root",
         lambda q, r, q_s, q_a, e, d: factors(q, r, q_s, q_a, (e.sqrt() + d) ** 2, 0)),
        ("not beside it",
         lambda q, r, q_s, q_a, e, d: factors(q, r, q_s, q_a, (e.sqrt() + d ** 0.5) ** 2, 0)),
        ("without the curvature", lambda q, r, *rest: (factors(q, r, *rest)[0], cosine(q, r))),
        ("without the curvature", lambda q, r, *rest: (r.norm(), factors(q, r, *rest)[1])),
        ("return 2", lambda *given: factors(*given)[0]),
        ("shape", lambda *given: factors_without(lambda q, r: (r, q * r), *given)),
        ("mean", lambda *given: factors_without(
            lambda q, r: (r.pow(2).mean().sqrt(), q @ r / q.norm() / r.norm()), *given)),
        ("raised", lambda q, r, q_s, q_a, e, d: factors(q.T, r.T, q_s, q_a, e, d)),
        (None, lambda q, r, q_s, q_a, e, d: (
            factors(q, r, q_s, q_a, e, d)[0], cosine(q_s.T @ q @ q_a, q_s.T @ r @ q_a / (e + d)))),
    ],
    "smallest_set": [
        ("the last one is missing", lambda values, share: kept(values.abs(), share, extra=0)),
        ("one too many", lambda values, share: kept(values.abs(), share, extra=2)),
        ("a share of the largest",
         lambda values, share: values.abs() >= share * values.abs().max()),
        ("1 − share of the largest",
         lambda values, share: values.abs() >= (1 - share) * values.abs().max()),
        ("by signed value", lambda values, share: kept(values, share)),
        ("only positive tokens", lambda values, share: kept(values.clamp(min=0), share)),
        ("by squares", lambda values, share: kept(values ** 2, share)),
        ("the last one is missing",
         lambda values, share: kept(values.abs(), share, extra=0).float()),
        ("the other tokens", lambda values, share: ~kept(values.abs(), share)),
        ("smallest first",
         lambda values, share: kept(values.abs(), share, order=values.abs().argsort())),
        ("order of the tokens",
         lambda values, share: kept(values.abs(), share, order=torch.arange(len(values)))),
        ("sorted order",
         lambda values, share: kept(values.abs().sort(descending=True).values, share)),
        ("places",
         lambda values, share: kept(values.abs(), share).nonzero()[:, 0]),
        (None, lambda values, share: kept(values.abs(), 0.8)),
        ("share of the number of tokens",
         lambda values, share: kept(values ** 0, share, order=(-values.abs()).argsort())),
        ("all tokens", lambda values, share: torch.ones(len(values), dtype=torch.bool)),
        ("number of tokens", lambda values, share: kept(values.abs(), share).sum()),
        ("values", lambda values, share: values * kept(values.abs(), share)),
        ("above the mean", lambda values, share: values.abs() > values.abs().mean()),
        ("only positive", lambda values, share: kept(values.clamp(min=0), share) & (values > 0)),
        ("net sum", lambda values, share: kept_of_sum(values, share)),
        (None, lambda values, share: values.abs() >= share),
        (None, lambda values, share: (values.abs().cumsum(0) <= share * values.abs().sum())),
        ("1 − share", lambda values, share: kept(values.abs(), 1 - share)),
        (None, lambda values, share: torch.tensor([True] * 7 + [False] * (len(values) - 7))),
        ("raised", lambda values, share: kept(values.abs(), share)[values]),
        (None, lambda values, share: (values.zero_(), torch.zeros(len(values)))[1]),
        ("only negative", lambda values, share: kept((-values).clamp(min=0), share)),
    ],
}
