"""Notebook 08: right answers by many ways, wrong ones with words of the message each must get."""
import numpy as np
import torch


def counts(out, width, tokens, queries, rank, once=True, forming=True, ends=True, each=True,
           by_token=True):
    """Multiplications of the three ways, with one thing counted as somebody might count it."""
    formed = out * tokens * width * (1 if once else queries) * forming
    many, steps = queries if each else 1, tokens if by_token else 1
    return torch.tensor([formed + queries * out * width,
                         many * tokens * (out * width + width * ends),
                         many * steps * rank * (out + width + ends)])


def counted_one_by_one(out, width, tokens, queries, rank):
    """Every multiplication of the three ways, in loops."""
    gradient = by_token = low_rank = 0
    for _ in range(tokens):
        gradient += out * width
        for _ in range(queries):
            by_token += sum(out + 1 for _ in range(width))
            low_rank += sum(out + width + 1 for _ in range(rank))
    for _ in range(queries):
        gradient += out * width
    return [gradient, by_token, low_rank]


def counted_in_numpy(out, width, tokens, queries, rank):
    return np.array([out * width * (tokens + queries), queries * tokens * width * (out + 1),
                     queries * tokens * rank * (out + width + 1)])


def product(n, k, m):
    return n * k * m


def counted_as_products(out, width, tokens, queries, rank):
    first = product(out, tokens, width) + product(queries, out * width, 1)
    second = queries * (product(tokens, out, width) + tokens * product(1, width, 1))
    sides = product(tokens, out, rank) + product(tokens, width, rank)
    third = queries * (sides + tokens * product(1, rank, 1))
    return torch.tensor([float(first), float(second), float(third)])


def p_times_a_first(out, width, tokens, queries, rank):
    first, _, third = counts(out, width, tokens, queries, rank).tolist()
    return first, queries * tokens * (out * width + out), third


def p_formed_again(out, width, tokens, queries, rank):
    first, second, _ = counts(out, width, tokens, queries, rank).tolist()
    return first, second, queries * out * rank * width + second


def share(exact, approximate, k, m, by=None, seen=torch.clone):
    hits = 0
    for one, other in zip(seen(exact), seen(approximate), strict=True):
        hits += len(set(one.topk(k).indices.tolist()) & set(other.topk(m).indices.tolist()))
    return hits / ((by or k) * len(exact))


def share_by_threshold(exact, approximate, k, m):
    wanted = exact >= exact.sort(dim=1, descending=True).values[:, k - 1:k]
    proposed = approximate >= approximate.sort(dim=1, descending=True).values[:, m - 1:m]
    return (wanted & proposed).double().sum(1).div(k).mean()


def share_in_numpy(exact, approximate, k, m):
    wanted, proposed = (np.argsort(-x.numpy(), axis=1) for x in (exact, approximate))
    return np.mean([np.isin(wanted[q, :k], proposed[q, :m]).mean() for q in range(len(exact))])


def share_by_comparing(exact, approximate, k, m):
    wanted, proposed = exact.topk(k, dim=1).indices, approximate.topk(m, dim=1).indices
    return (wanted[:, :, None] == proposed[:, None, :]).any(2).float().mean()


def share_by_ranks(exact, approximate, k, m):
    places = approximate.argsort(dim=1, descending=True).argsort(dim=1)
    return (places.gather(1, exact.topk(k).indices) < m).float().mean(1).mean().item()


def share_with_loops(exact, approximate, k, m):
    shares = []
    for one, other in zip(exact.tolist(), approximate.tolist(), strict=True):
        wanted = [i for i in range(len(one)) if sum(value > one[i] for value in one) < k]
        hits = [i for i in wanted if sum(value > other[i] for value in other) < m]
        shares.append(len(hits) / len(wanted))
    return sum(shares) / len(shares)


def by_mask(exact, approximate, k, m, compare=torch.ge):
    """Recall with thresholds, compared as somebody might compare them."""
    wanted = compare(exact, exact.topk(k).values[:, -1:])
    proposed = compare(approximate, approximate.topk(m).values[:, -1:])
    return (wanted & proposed).double().sum() / (k * len(exact))


def jaccard(exact, approximate, k, m):
    wanted = [set(row) for row in exact.topk(k).indices.tolist()]
    proposed = [set(row) for row in approximate.topk(m).indices.tolist()]
    return sum(len(a & b) / len(a | b) for a, b in zip(wanted, proposed, strict=True)) / len(exact)


def same_places(exact, approximate, k, m):
    count = min(k, m)
    same = exact.topk(count).indices == approximate.topk(count).indices
    return same.double().sum() / (k * len(exact))


def overwritten(exact, approximate, k, m):
    approximate.copy_(exact)
    return share(exact, approximate, k, m)


def vectors(gradients, q_s, q_a, eigenvalues, damping, k, scale=None, rotate=True, turned=False,
            choose=None):
    """Whitened vectors with one thing done as somebody might do it."""
    if turned:
        gradients = q_s @ gradients @ q_a.T
    elif rotate:
        gradients = q_s.T @ gradients @ q_a
    gradients = gradients * (scale or (lambda values: values.rsqrt()))(eigenvalues + damping)
    choose = choose or (lambda flat: flat.topk(k).indices.sort().values)
    kept = choose((eigenvalues / (eigenvalues + damping)).flatten())
    return gradients.flatten(1)[:, kept]


def vectors_by_kron(gradients, q_s, q_a, eigenvalues, damping, k):
    basis = torch.kron(q_s, q_a) / (eigenvalues + damping).sqrt().flatten()
    kept = sorted(eigenvalues.flatten().argsort(descending=True)[:k].tolist())
    return gradients.flatten(1) @ basis[:, kept]


def vectors_by_einsum(gradients, q_s, q_a, eigenvalues, damping, k):
    rotated = torch.einsum("boi,op,iq->bpq", gradients, q_s, q_a)
    weight = (eigenvalues / (eigenvalues + damping)).reshape(-1)
    keep = weight >= weight.sort(descending=True).values[k - 1]
    return (rotated * (eigenvalues + damping) ** -0.5).reshape(len(gradients), -1)[:, keep]


def vectors_in_numpy(gradients, q_s, q_a, eigenvalues, damping, k):
    gradients, q_s, q_a, eigenvalues = (x.numpy() for x in (gradients, q_s, q_a, eigenvalues))
    flat = (q_s.T @ gradients @ q_a / np.sqrt(eigenvalues + damping)).reshape(len(gradients), -1)
    return flat[:, np.sort(np.argsort(-eigenvalues, axis=None)[:k])]


def vectors_with_loops(gradients, q_s, q_a, eigenvalues, damping, k):
    out, width = eigenvalues.shape
    places = [(eigenvalues[i, j].item(), i, j) for i in range(out) for j in range(width)]
    places = sorted(sorted(places)[-k:], key=lambda place: place[1:])
    return [[float(q_s[:, i] @ gradient @ q_a[:, j]) / (value + damping) ** 0.5
             for value, i, j in places] for gradient in gradients]


def vectors_in_place(gradients, q_s, q_a, eigenvalues, damping, k):
    order = eigenvalues.flatten().topk(k).indices
    eigenvalues += damping
    gradients = (q_a.T @ gradients.mT @ q_s).mT.div_(eigenvalues.sqrt_())
    return gradients.flatten(1)[:, order[order.argsort()]]


def rotated_back(gradients, q_s, q_a, eigenvalues, damping, k):
    whitened = q_s @ ((q_s.T @ gradients @ q_a) / (eigenvalues + damping).sqrt()) @ q_a.T
    return whitened.flatten(1)[:, eigenvalues.flatten().topk(k).indices.sort().values]


def zeroed(gradients, q_s, q_a, eigenvalues, damping, k):
    every = vectors(gradients, q_s, q_a, eigenvalues, damping, eigenvalues.numel())
    keep = torch.zeros(every.shape[1])
    keep[eigenvalues.flatten().topk(k).indices] = 1
    return every * keep


def columns_first(gradients, q_s, q_a, eigenvalues, damping, k):
    rotated = (q_s.T @ gradients @ q_a) / (eigenvalues + damping).sqrt()
    return rotated.mT.flatten(1)[:, eigenvalues.mT.flatten().topk(k).indices.sort().values]


def by_the_gradients(gradients, q_s, q_a, eigenvalues, damping, k):
    every = vectors(gradients, q_s, q_a, eigenvalues, damping, eigenvalues.numel())
    return every[:, every.pow(2).sum(0).topk(k).indices.sort().values]


def of_length_one(*arguments):
    result = vectors(*arguments)
    return result / result.norm(dim=1, keepdim=True)


def undamped_by_force(gradients, q_s, q_a, eigenvalues, damping, k):
    eigenvalues.sub_(damping)
    return vectors(gradients, q_s, q_a, eigenvalues, damping, k)


def weighed(parts, counts):
    return sum(part * count for part, count in zip(parts, counts, strict=True)) / sum(counts)


def with_stacks(A, tokens, eigenvalues, sequences):
    def mean(parts, counts):
        counts = torch.tensor(counts, dtype=parts[0].dtype)
        return torch.einsum("p,pij->ij", counts / counts.sum(), torch.stack(parts))
    return mean(A, tokens), mean(eigenvalues, sequences)


def in_numpy(A, tokens, eigenvalues, sequences):
    return (np.average(np.stack([part.numpy() for part in A]), axis=0, weights=tokens),
            np.average(np.stack([part.numpy() for part in eigenvalues]), axis=0, weights=sequences))


def running(A, tokens, eigenvalues, sequences):
    results = []
    for parts, counts in ((A, tokens), (eigenvalues, sequences)):
        mean, seen = torch.zeros_like(parts[0]), 0
        for part, count in zip(parts, counts, strict=True):
            seen += count
            mean += (part - mean) * count / seen
        results.append(mean)
    return results


def in_place(A, tokens, eigenvalues, sequences):
    for parts, counts in ((A, tokens), (eigenvalues, sequences)):
        parts[0].mul_(counts[0])
        for part, count in zip(parts[1:], counts[1:], strict=True):
            parts[0].add_(part, alpha=count)
        parts[0].div_(sum(counts))
    return A[0], eigenvalues[0]


def element_by_element(A, tokens, eigenvalues, sequences):
    def mean(parts, counts):
        rows, columns = parts[0].shape
        return [[sum(parts[p][i, j].item() * counts[p] for p in range(len(parts))) / sum(counts)
                 for j in range(columns)] for i in range(rows)]
    return mean(A, tokens), mean(eigenvalues, sequences)


def for_two(A, tokens, eigenvalues, sequences):
    part, other = tokens[0] / sum(tokens), sequences[0] / sum(sequences)
    return part * A[0] + (1 - part) * A[1], torch.lerp(eigenvalues[1], eigenvalues[0], other)


def turned_round(A, tokens, eigenvalues, sequences):
    return weighed(A, tokens[::-1]), weighed(eigenvalues, sequences[::-1])


def counts_made_equal(A, tokens, eigenvalues, sequences):
    tokens[:], sequences[:] = [1] * len(tokens), [1] * len(sequences)
    return weighed(A, tokens), weighed(eigenvalues, sequences)


RIGHT = {
    "multiplications": [
        counted_one_by_one, counted_in_numpy, counted_as_products,
        lambda *a: counts(*a).float(),
        lambda out, width, tokens, queries, rank: counts(out, width, queries, tokens, rank),
        lambda *a: tuple(counts(*a).tolist()),
        lambda *a: counts(*a).double().requires_grad_(),
        lambda *a: [torch.tensor(float(count)) for count in counts(*a)],
        lambda o, w, t, q, r: torch.stack(
            [torch.tensor(o * w * (t + q)), torch.tensor(q * t * w * (o + 1)),
             torch.tensor(q * t * r * (o + w + 1))]),
    ],
    "recall": [
        share, share_by_threshold, share_in_numpy, share_by_comparing, share_by_ranks,
        share_with_loops, by_mask,
        lambda *a: torch.tensor(share(*a)),
    ],
    "whiten": [
        vectors, vectors_by_kron, vectors_by_einsum, vectors_in_numpy, vectors_with_loops,
        vectors_in_place,
        lambda *a: -vectors(*a),
        lambda *a: vectors(*a).float(),
    ],
    "together": [
        with_stacks, in_numpy, running, in_place, element_by_element, for_two,
        lambda A, t, L, s: (weighed(A, t), weighed(L, s)),
        lambda A, t, L, s: [weighed([part.double() for part in A], t), weighed(L, s).numpy()],
    ],
}

WRONG = {
    "multiplications": [
        ("formed once for all queries", lambda *a: counts(*a, once=False)),
        ("has to be formed too", lambda *a: counts(*a, forming=False)),
        ("the last step is missing", lambda *a: counts(*a, ends=False)),
        ("done for every query", lambda *a: counts(*a, each=False)),
        ("lacks the factor tokens", lambda *a: counts(*a, by_token=False)),
        ("counts once", lambda *a: 2 * counts(*a)),
        ("return 3 things", lambda *a: counts(*a)[:2]),
        ("right for 1 of 2", lambda *a: [528, 1155, 540]),
        ("right for 1 of 2",
         lambda out, width, tokens, queries, rank: counts(out, width, tokens, queries, 2)),
        ("right for 1 of 2",
         lambda out, width, tokens, queries, rank: counts(out, width, 5, queries, rank)),
        ("length width", p_times_a_first),
        ("P itself", p_formed_again),
        ("width is in+1", lambda out, width, *a: counts(out, width - 1, *a)),
        ("width is in+1", lambda out, width, *a: counts(out, width + 1, *a)),
        ("order", lambda *a: counts(*a)[[1, 0, 2]]),
        ("order", lambda *a: counts(*a).flip(0)),
        ("length width", lambda out, width, *a: counts(width, out, *a)),
        ("product of its own",
         lambda o, w, t, q, r: [o * w * (t + 1), q * t * w * (o + 1), q * t * r * (o + w + 1)]),
        ("U and V",
         lambda o, w, t, q, r: [o * w * (t + q), q * t * w * (o + 1), q * t * (o * w * r + r)]),
        ("for all tokens", lambda o, w, t, q, r: torch.tensor(
            [o * w * (t + q), q * t * w * (o + 1), q * (t * r * (o + w) + r)])),
        ("at rank r, the last step is missing",
         lambda o, w, t, q, r: [o * w * (t + q), q * t * w * (o + 1), q * t * r * (o + w)]),
        ("token by token, the last step is missing",
         lambda o, w, t, q, r: [o * w * (t + q), q * t * w * o, q * t * r * (o + w + 1)]),
        ("return 3 things", lambda *a: counts(*a).sum()),
        ("return 3 things", lambda *a: counts(*a).min()),
        ("right one times 1e-06", lambda *a: counts(*a) / 1e6),
        (None,
         lambda o, w, t, q, r: torch.tensor([o * w + t + q, q * t * w + o, q * t * r + o + w])),
        ("your function raised", lambda *a: counts(*a) @ torch.ones(2)),
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
        ("right for 1 of 2", lambda e, a, k, m: share(e, a, k, m) if k == 8 else 0.75),
        ("right for 1 of 2", lambda e, a, k, m: share(e, a, 8, m)),
        ("right for 1 of 2", lambda e, a, k, m: share(e, a, k, 19)),
        ("right for 1 of 2", lambda e, a, k, m: share(e, a, k, m) * len(e) / 5),
        ("right for 1 of 2", lambda e, a, k, m: share(e, a, k, m, by=min(k, m))),
        ("both lists were cut at m", lambda e, a, k, m: share(e, a, m, m)),
        ("number", lambda e, a, k, m: share(e, a, k, m) * k * len(e)),
        ("number", lambda e, a, k, m: share(e, a, k, m) * k),
        ("of all stories", lambda e, a, k, m: share(e, a, k, m, by=e.shape[1])),
        ("right one times 100", lambda e, a, k, m: 100 * share(e, a, k, m)),
        ("union", jaccard),
        ("place by place", same_places),
        ("first query", lambda e, a, k, m: share(e[:1], a[:1], k, m)),
        ("best query", lambda e, a, k, m: max(
            share(e[q:q + 1], a[q:q + 1], k, m) for q in range(len(e)))),
        ("one too short", lambda e, a, k, m: by_mask(e, a, k, m, torch.gt)),
        ("one too short", lambda e, a, k, m: share(e, a, k, m - 1)),
        ("missed", lambda e, a, k, m: 1 - share(e, a, k, m)),
        ("has shape",
         lambda e, a, k, m: [share(e[q:q + 1], a[q:q + 1], k, m) for q in range(len(e))]),
        ("your function raised", lambda e, a, k, m: share(e.T, a.T, k, m)),
        (None, overwritten),
        (None, lambda e, a, k, m: 1.0),
        ("your function raised", lambda e, a, k, m: (set(e.topk(k)) & set(a.topk(m))) / k),
    ],
    "whiten": [
        ("take the square root", lambda *a: vectors(*a, scale=lambda values: 1 / values)),
        ("the inverse divides", lambda *a: vectors(*a, scale=torch.sqrt)),
        ("the wrong way round", lambda *a: vectors(*a, turned=True)),
        ("not rotated", lambda *a: vectors(*a, rotate=False)),
        ("plain dot product", lambda *a: vectors(*a, scale=torch.ones_like)),
        ("the damping is missing",
         lambda g, q_s, q_a, L, damping, k: vectors(g, q_s, q_a, L, 0.0, k)),
        ("the k smallest", lambda *a: vectors(
            *a, choose=lambda flat: flat.topk(a[-1], largest=False).indices.sort().values)),
        ("the first k", lambda *a: vectors(*a, choose=lambda flat: torch.arange(a[-1]))),
        ("the order of the coordinates",
         lambda *a: vectors(*a, choose=lambda flat: flat.topk(a[-1]).indices)),
        ("expected vectors of shape", lambda g, *a: g),
        ("expected vectors of shape", lambda *a: vectors(*a[:-1], 7)),
        ("expected vectors of shape", lambda *a: vectors(*a[:-1], a[3].numel())),
        ("expected vectors of shape", lambda *a: vectors(*a).T),
        ("expected vectors of shape", zeroed),
        ("expected vectors of shape", lambda *a: vectors(*a)[:, :-1]),
        ("expected vectors of shape", lambda *a: vectors(*a).mean(0)),
        ("inputs", lambda *a: vectors(*a[:4], 0.3, a[-1])),
        (None, lambda *a: vectors(*a, scale=torch.ones_like) * (a[3] + a[4]).flatten()[: a[-1]]),
        ("the sum of the roots", lambda g, q_s, q_a, L, damping, k: vectors(
            g, q_s, q_a, L, damping, k, scale=lambda values: 1 / (L.sqrt() + damping ** 0.5))),
        ("beside the root", lambda g, q_s, q_a, L, damping, k: vectors(
            g, q_s, q_a, L, damping, k, scale=lambda values: 1 / (L.sqrt() + damping))),
        ("^¼", lambda *a: vectors(*a, scale=lambda values: values ** -0.25)),
        ("rotated back", rotated_back),
        ("the order of the coordinates", columns_first),
        ("chosen by the gradients", by_the_gradients),
        ("length", of_length_one),
        ("absolute", lambda *a: vectors(*a).abs()),
        ("by Q_S only",
         lambda g, q_s, q_a, *a: vectors(g, q_s, torch.eye(len(q_a), dtype=g.dtype), *a)),
        ("by Q_A only",
         lambda g, q_s, q_a, *a: vectors(g, torch.eye(len(q_s), dtype=g.dtype), q_a, *a)),
        ("the wrong way round", lambda g, q_s, q_a, *a: vectors(g, q_s.T, q_a, *a)),
        ("the wrong way round", lambda g, q_s, q_a, *a: vectors(g, q_s, q_a.T, *a)),
        ("the damping is missing", undamped_by_force),
        ("the last k",
         lambda *a: vectors(*a, choose=lambda flat: torch.arange(len(flat) - a[-1], len(flat)))),
        ("the order of the coordinates", lambda *a: vectors(*a).flip(1)),
        ("the right one times 0.04", lambda g, *a: vectors(g, *a) / len(g)),
        ("your function raised", lambda g, q_s, q_a, *a: vectors(g, q_a, q_s, *a)),
    ],
    "together": [
        ("A is the mean of the two means", lambda A, t, L, s: (sum(A) / len(A), weighed(L, s))),
        ("Λ is the mean of the two means", lambda A, t, L, s: (weighed(A, t), sum(L) / len(L))),
        ("A is a sum", lambda A, t, L, s: (weighed(A, t) * sum(t), weighed(L, s))),
        ("A is the sum of the two means", lambda A, t, L, s: (sum(A), sum(L))),
        ("A was weighted by the wrong count", lambda A, t, L, s: (weighed(A, s), weighed(L, s))),
        ("Λ was weighted by the wrong count", lambda A, t, L, s: (weighed(A, t), weighed(L, t))),
        ("A of one process only", lambda A, t, L, s: (A[0], L[0])),
        ("2 things, in this order: A, Λ", lambda A, t, L, s: weighed(A, t)),
        ("A of one process only", lambda A, t, L, s: (A[1], weighed(L, s))),
        ("Λ of one process only", lambda A, t, L, s: (weighed(A, t), L[-1])),
        ("Λ is a sum",
         lambda A, t, L, s: (weighed(A, t), weighed(L, s) * sum(s))),
        ("Λ is the sum of the two means", lambda A, t, L, s: (weighed(A, t), sum(L))),
        ("A first, then Λ", lambda A, t, L, s: (weighed(L, s), weighed(A, t))),
        ("0.674 × the first", turned_round),
        ("number of processes",
         lambda A, t, L, s: (weighed(A, t) * sum(t) / len(A), weighed(L, s))),
        ("it would be 0.586 and 0.414",
         lambda A, t, L, s: ((15 * A[0] + 31 * A[1]) / 46, weighed(L, s))),
        ("A is divided by the wrong count",
         lambda A, t, L, s: (weighed(A, t) * sum(t) / sum(s), weighed(L, s))),
        ("Λ is divided by the wrong count",
         lambda A, t, L, s: (weighed(A, t), weighed(L, s) * sum(s) / sum(t))),
        ("size", lambda A, t, L, s: (weighed(A, t).abs(), weighed(L, s))),
        ("larger", lambda A, t, L, s: (torch.stack(A).amax(0), torch.stack(L).amax(0))),
        (None, lambda A, t, L, s: (A[0] @ A[1], weighed(L, s))),
        ("the mean of the two means", counts_made_equal),
        ("has shape", lambda A, t, L, s: (torch.cat(A), torch.cat(L))),
        (None, lambda A, t, L, s: (weighed(A, t), torch.ones_like(L[0]))),
        ("0.0667 × the first",
         lambda A, t, L, s: (sum(a / n for a, n in zip(A, t, strict=True)), weighed(L, s))),
        ("your function raised", lambda A, t, L, s: (A @ t / sum(t), L @ s / sum(s))),
    ],
}
