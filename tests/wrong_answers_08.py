"""Notebook 08: answers that learners give, and words of the message that each must get."""
import torch


def log_probs(logits, ids, start, first=None, shift=1, dim=-1):
    at = torch.arange(start if first is None else first, len(ids) if first is None else start)
    return logits.log_softmax(dim)[at - shift, ids[at]]


def factors(query, gradient, q_s, q_a, eigenvalues, damping, power=-0.5):
    q, r = ((q_s.T @ x @ q_a * (eigenvalues + damping) ** power).flatten() for x in (query, gradient))
    return r.norm(), q @ r / (q.norm() * r.norm())


def kept(sizes, share, extra=1, order=None):
    order = sizes.argsort(descending=True) if order is None else order
    enough = int((sizes[order].cumsum(0) < share * sizes.sum()).sum()) + extra
    mask = torch.zeros(len(sizes), dtype=torch.bool)
    mask[order[:enough]] = True
    return mask


WRONG = {
    "word_log_probs": [
        ("predict token t+1", lambda logits, ids, start: log_probs(logits, ids, start, shift=0)),
        ("those are logits", lambda logits, ids, start: logits[torch.arange(start, len(ids)) - 1, ids[start:]]),
        ("those are probabilities", lambda *given: log_probs(*given).exp()),
        ("those are losses", lambda *given: -log_probs(*given)),
        ("not over the positions", lambda *given: log_probs(*given, dim=0)),
        ("not added up", lambda *given: log_probs(*given).cumsum(0)),
        ("has shape", lambda *given: log_probs(*given).sum()),
        ("the prompt's tokens", lambda *given: log_probs(*given, first=1)),
    ],
    "two_factors": [
        ("take the root", lambda *given: (factors(*given)[0] ** 2, factors(*given)[1])),
        ("without the curvature", lambda *given: factors(*given, power=0)),
        ("not by its root", lambda *given: factors(*given, power=-1)),
        ("the damping is missing", lambda *given: factors(*given[:-1], 0)),
        ("the inverse divides", lambda *given: factors(*given, power=0.5)),
        ("by both lengths", lambda q, r, *rest: (
            factors(q, r, *rest)[0], factors(q, r, *rest)[1] * factors(q, r, *rest)[0] * factors(r, q, *rest)[0])),
        ("the length is the query's", lambda q, r, *rest: factors(r, q, *rest)),
    ],
    "smallest_set": [
        ("the last one is missing", lambda values, share: kept(values.abs(), share, extra=0)),
        ("one too many", lambda values, share: kept(values.abs(), share, extra=2)),
        ("a share of the largest", lambda values, share: values.abs() >= share * values.abs().max()),
        ("1 − share of the largest", lambda values, share: values.abs() >= (1 - share) * values.abs().max()),
        ("by signed value", lambda values, share: kept(values, share)),
        ("only positive tokens", lambda values, share: kept(values.clamp(min=0), share)),
        ("by squares", lambda values, share: kept(values ** 2, share)),
    ],
}
