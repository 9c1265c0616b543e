"""Notebook 07: answers that learners give, and words of the message that each must get."""
import torch


def counts(out, width, tokens, queries, rank, once=True, forming=True, ends=True, each=True, by_token=True):
    """Multiplications of the three ways, with one thing counted as somebody might count it."""
    formed = out * tokens * width * (1 if once else queries) * forming
    many, steps = queries if each else 1, tokens if by_token else 1
    return torch.tensor([formed + queries * out * width,
                         many * tokens * (out * width + width * ends),
                         many * steps * rank * (out + width + ends)])


def share(exact, approximate, k, m, by=None, seen=torch.clone):
    hits = 0
    for one, other in zip(seen(exact), seen(approximate)):
        hits += len(set(one.topk(k).indices.tolist()) & set(other.topk(m).indices.tolist()))
    return hits / ((by or k) * len(exact))


def vectors(gradients, q_s, q_a, eigenvalues, damping, k, scale=None, rotate=True, turned=False, choose=None):
    """Whitened vectors with one thing done as somebody might do it."""
    if turned:
        gradients = q_s @ gradients @ q_a.T
    elif rotate:
        gradients = q_s.T @ gradients @ q_a
    gradients = gradients * (scale or (lambda values: values.rsqrt()))(eigenvalues + damping)
    choose = choose or (lambda flat: flat.topk(k).indices.sort().values)
    kept = choose((eigenvalues / (eigenvalues + damping)).flatten())
    return gradients.flatten(1)[:, kept]


def weighed(parts, counts):
    return sum(part * count for part, count in zip(parts, counts)) / sum(counts)


WRONG = {
    "multiplications": [
        ("formed once for all queries", lambda *a: counts(*a, once=False)),
        ("has to be formed too", lambda *a: counts(*a, forming=False)),
        ("the last step is missing", lambda *a: counts(*a, ends=False)),
        ("done for every query", lambda *a: counts(*a, each=False)),
        ("lacks the factor tokens", lambda *a: counts(*a, by_token=False)),
        ("counts once", lambda *a: 2 * counts(*a)),
        ("has shape", lambda *a: counts(*a)[:2]),
    ],
    "recall": [
        ("that is precision", lambda e, a, k, m: share(e, a, k, m, by=m)),
        ("exchanged", lambda e, a, k, m: share(a, e, k, m)),
        ("by magnitude", lambda e, a, k, m: share(e, a, k, m, seen=torch.abs)),
        ("the smallest", lambda e, a, k, m: share(e, a, k, m, seen=torch.neg)),
        ("both lists were cut at k", lambda e, a, k, m: share(e, a, k, k)),
        ("thrown together", lambda e, a, k, m: share(e.flatten()[None], a.flatten()[None], k, m)),
        ("that is a sum", lambda e, a, k, m: share(e, a, k, m) * len(e)),
        ("has shape", lambda e, a, k, m: torch.full((len(e),), 0.5)),
    ],
    "whiten": [
        ("take the square root", lambda *a: vectors(*a, scale=lambda values: 1 / values)),
        ("the inverse divides", lambda *a: vectors(*a, scale=torch.sqrt)),
        ("the wrong way round", lambda *a: vectors(*a, turned=True)),
        ("not rotated", lambda *a: vectors(*a, rotate=False)),
        ("plain dot product", lambda *a: vectors(*a, scale=torch.ones_like)),
        ("the damping is missing", lambda g, q_s, q_a, L, damping, k: vectors(g, q_s, q_a, L, 0.0, k)),
        ("the k smallest", lambda *a: vectors(
            *a, choose=lambda flat: flat.topk(a[-1], largest=False).indices.sort().values)),
        ("the first k", lambda *a: vectors(*a, choose=lambda flat: torch.arange(a[-1]))),
        ("the order of the coordinates", lambda *a: vectors(*a, choose=lambda flat: flat.topk(a[-1]).indices)),
        ("expected vectors of shape", lambda g, *a: g),
    ],
    "together": [
        ("A is the mean of the two means", lambda A, t, L, s: (sum(A) / len(A), weighed(L, s))),
        ("Λ is the mean of the two means", lambda A, t, L, s: (weighed(A, t), sum(L) / len(L))),
        ("A is a sum", lambda A, t, L, s: (weighed(A, t) * sum(t), weighed(L, s))),
        ("A is the sum of the two means", lambda A, t, L, s: (sum(A), sum(L))),
        ("A was weighted by the wrong count", lambda A, t, L, s: (weighed(A, s), weighed(L, s))),
        ("Λ was weighted by the wrong count", lambda A, t, L, s: (weighed(A, t), weighed(L, t))),
        ("A of one process only", lambda A, t, L, s: (A[0], L[0])),
        ("expected a pair", lambda A, t, L, s: weighed(A, t)),
    ],
}
