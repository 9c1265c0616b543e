"""The checks of notebook 08: scaling up."""
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers.classroom.checks import core
from helpers.classroom.checks.core import Expected, Problem, Wrong, check, draws, judge


def _counted(left, right):
    """Multiply-adds of a matrix product as PyTorch counts them while it really runs."""
    with FlopCounterMode(display=False) as counter:
        left @ right
    return counter.get_total_flops() // 2


def _steps(out, width, tokens, queries, rank):
    """Counts of both steps of the three ways, as they run."""
    Ds, a, P = torch.ones(tokens, out), torch.ones(tokens, width), torch.ones(queries, out, width)
    U, V = torch.ones(queries, out, rank), torch.ones(queries, width, rank)

    def dots(length):  # for every query and token, as (1, k) @ (k, 1) products, which are counted
        vectors = torch.ones(queries * tokens, 1, length)
        return _counted(vectors, vectors.mT)

    return ((_counted(Ds.T, a), _counted(P.flatten(1), (Ds.T @ a).view(-1, 1))),
            (_counted(Ds, P), dots(width)), (_counted(Ds, U) + _counted(a, V), dots(rank)))


def _layer(*sizes):
    """A problem of `multiplications`."""
    out, width, tokens, queries, rank = sizes
    (forming, products), (moving, ends), (sides, meeting) = _steps(*sizes)
    first, second, third = forming + products, moving + ends, sides + meeting
    wider, narrower = (sum(_steps(out, width + more, *sizes[2:])[0]) for more in (1, -1))
    wrong_first = {
        "the gradient is formed once for all queries": queries * forming + products,
        "the gradient has to be formed too: out · tokens · in+1, once": products,
        "products with P have to follow, one for each query": forming,
        "by the gradient: every query needs a product of its own": forming + products // queries,
        "by the gradient: the products are with a sum over all tokens": queries * forming,
        "counted multiplications and additions: one multiply-add counts once": 2 * first,
        "the order is: by the gradient, token by token, at rank r": second,
        "the order is turned round: first by the gradient, last at rank r": third,
        "width is in+1 already: nothing is added": wider,
        "width is in+1, and all of it counts": narrower}
    end = "the last step is missing: a dot product for every token and query"
    wrong_second = {
        f"token by token, {end}": moving,
        "Ds @ P leaves a dot product of length width, not out": moving + queries * tokens * out,
        "token by token, the last step is for all tokens": moving + queries * width,
        "a dot product takes as many multiplications as it is long": moving + queries * tokens,
        "in the second and third way everything is done for every query": second // queries}
    wrong_third = {
        f"at rank r, {end}": sides,
        "at rank r, the last step is for all tokens": sides + queries * rank,
        "a dot product of length r takes r multiplications": sides + queries * tokens,
        "U and V are applied to every token: the third way lacks the factor tokens":
            third // tokens,
        "at rank r too, everything is done for every query": third // queries,
        "P itself is never made": queries * out * width * rank + second,
        "U and V are applied to one side each, (out + in+1) · rank": moving * rank + meeting,
        "U and V are applied to one side each: out + in+1, not out · (in+1)": moving * rank}
    ways = (("by the gradient", first, wrong_first), ("token by token", second, wrong_second),
            ("at rank r", third, wrong_third))
    return Problem(sizes, [Expected(f"the count {way}", torch.tensor(truth), {
        message: torch.tensor(count) for message, count in wrong.items()})
        for way, truth, wrong in ways])


@check
def multiplications(answer):
    """`answer(out, width, tokens, queries, rank) → (3,)`, against PyTorch's counter at work."""
    judge(answer, [_layer(6, 11, 5, 3, 2), _layer(8, 4, 7, 2, 3)])
    return "equal to PyTorch's own count over the products as they run"


def _best(row, count, key=float):
    return sorted(range(len(row)), key=lambda i: -key(row[i]))[:count]


def _shares(one, other, k, m, key=float):
    """For each query the share of the k best that is among the m best of the other."""
    pairs = zip(one.tolist(), other.tolist(), strict=True)
    return torch.tensor([len({*_best(a, k, key)} & {*_best(b, m, key)}) / k for a, b in pairs])


def _search(seed, queries, count, k, m, level):
    """A problem of `recall`: noisy approximate scores, most of them positive or most negative."""
    draw = draws(seed)
    exact = (draw(queries, count) + level).float()
    approximate = exact + 1.5 * draw(queries, count).float()
    right, back = _shares(exact, approximate, k, m), _shares(approximate, exact, k, m).mean()
    lists = [torch.tensor([_best(row, min(k, m)) for row in x.tolist()])
             for x in (exact, approximate)]
    wrong = {
        "that is precision, a share of the m candidates: recall divides by k": right * k / m,
        "exact and approximate are exchanged": back,
        "exact and approximate are exchanged, and m divides for k": back * k / m,
        "by magnitude: largest means most positive": _shares(exact, approximate, k, m, abs),
        "the smallest, not the largest": _shares(-exact, -approximate, k, m),
        "both lists were cut at k: the candidates are m": _shares(exact, approximate, k, k),
        "both lists were cut at m: the exact one has k": _shares(exact, approximate, m, m),
        "all queries were thrown together: choose for each query its own":
            _shares(exact.view(1, -1), approximate.view(1, -1), k, m),
        "that is a sum over the queries: take the mean": right.sum(),
        "that is the number of stories found: divide by k": right * k,
        "that is the number found for all queries: divide by k and the queries": right.sum() * k,
        "divided by the number of all stories: divide by k": right * k / count,
        "divided by the union of both lists: divide by k": right * k / (k + m - right * k),
        "compared place by place: a story counts wherever it stands among the m":
            (lists[0] == lists[1]).sum() / (k * queries),
        "the first query only: take the mean": right[0],
        "the best query only: take the mean": right.max(),
        "both lists are one too short": _shares(exact, approximate, k - 1, m - 1) * (k - 1) / k,
        "the list of candidates is one too short": _shares(exact, approximate, k, m - 1),
        "the list of candidates is one too long": _shares(exact, approximate, k, m + 1),
        "that is F1, of precision too: recall divides by k": right * 2 * k / (k + m),
        "the worst query only: take the mean": right.min(),
        "that is the share that is missed": 1 - right,
        "1 always: something was compared with itself": torch.tensor(1.0),
    }
    return Problem((exact, approximate, k, m), Expected("the recall", right.mean(), {
        message: value.mean() for message, value in wrong.items()}))


@check
def recall(answer):
    """`answer(exact (Q, N), approximate (Q, N), k, m) → scalar`, against sets, query by query."""
    judge(answer, [_search(72, 5, 60, 8, 19, 0.5), _search(73, 3, 50, 13, 9, -1)])
    return "equal to counting with sets, query by query"


def _wrongly_whitened(gradients, q_s, q_a, eigenvalues, damping):
    """{what was done: the vectors that it gives, (rows, out, width)}."""
    rotated, root = q_s.T @ gradients @ q_a, (eigenvalues + damping).sqrt()
    right, columns = rotated / root, "eigenvectors stand in columns"
    return {
        "divided by Λ+λ, so its product by (Λ+λ)²: take the square root": right / root,
        "divided by (Λ+λ)^¼, so its product by √(Λ+λ)": rotated / root.sqrt(),
        "multiplied by √(Λ+λ): the inverse divides": rotated * root,
        "multiplied by Λ+λ: divide by its root": rotated * root ** 2,
        f"rotated the wrong way round: {columns}": q_s @ gradients @ q_a.T / root,
        f"rotated the wrong way round by Q_S: {columns}": q_s @ gradients @ q_a / root,
        f"rotated the wrong way round by Q_A: {columns}": q_s.T @ gradients @ q_a.T / root,
        "rotated by Q_S only": q_s.T @ gradients / root,
        "rotated by Q_A only": gradients @ q_a / root,
        "not rotated: Λ belongs to the eigenvectors' directions": gradients / root,
        "the damping is missing": rotated / eigenvalues.sqrt(),
        "√(Λ+λ) is not the sum of the roots": rotated / (eigenvalues.sqrt() + damping ** 0.5),
        "the damping stands beside the root: √(Λ+λ)": rotated / (eigenvalues.sqrt() + damping),
        "not divided at all: that is the plain dot product": rotated,
        "every vector has length 1: that is the cosine":
            right / right.flatten(1).norm(dim=1)[:, None, None],
        "absolute values: influence has a sign": right.abs(),
    }


def _whitening(seed, rows, out, width, damping, k):
    """A problem of `whiten`, in two parts: dot products by dense solves, sizes of coordinates."""
    draw = draws(seed)
    sides = [torch.linalg.qr(draw(size, size))[0] for size in (out, width)]
    given = [x.float() for x in (draw(rows, out, width), *sides, draw(out, width).exp())]
    gradients, q_s, q_a, eigenvalues = layer = [x.double() for x in given]
    basis, flat, values = torch.kron(q_s, q_a), gradients.flatten(1), eigenvalues.flatten()

    def dense(kept):  # G in these directions only, solved
        part = basis[:, kept]
        G = part.T @ (basis * values) @ basis.T @ part
        solved = torch.linalg.solve(G + damping * torch.eye(k, dtype=G.dtype), part.T @ flat.T)
        return flat @ part @ solved

    coordinates, order = flat @ basis / (values + damping).sqrt(), values.argsort(descending=True)
    kept = order[:k].sort().values
    if k == len(values):
        what, wrong = "all", {message: x.flatten(1) @ x.flatten(1).T for message, x
                              in _wrongly_whitened(*layer, damping).items()}
    else:
        back = (q_s @ coordinates.view(rows, out, width) @ q_a.T).flatten(1)[:, kept]
        what, wrong = k, {
            "those are the k smallest: keep those with the largest Λ/(Λ+λ)": dense(order[-k:]),
            "those are the first k: choose by Λ/(Λ+λ)": dense(range(k)),
            "those are the last k: choose by Λ/(Λ+λ)": dense(range(-k, 0)),
            "chosen by the gradients: choose by Λ/(Λ+λ), for all vectors alike":
                dense(coordinates.norm(dim=0).topk(k).indices),
            "rotated back: keep the coordinates along the eigenvectors": back @ back.T}
    return Problem((*given, damping, k), [
        Expected(f"the matrix of dot products of {what} coordinates", dense(kept), wrong),
        Expected("the vectors", coordinates[:, kept].abs())])


@check
def whiten(answer):
    """`answer(gradients (B, out, in+1), q_s, q_a, Λ, λ, k) → (B, k)`: products by dense solves."""
    layers, sizes = ((72, 5, 3, 4, 0.3), (75, 6, 5, 2, 1.1)), []
    for counts in ((12, 10), (7, 4)):  # whole layers, then some of the directions
        products = []
        for layer, k in zip(layers, counts, strict=True):
            arguments, (dots, entries) = _whitening(*layer, k)
            vectors = core.numbers(core.call(answer, *arguments), "the vectors")
            if vectors.shape != entries.truth.shape:
                raise Wrong(f"expected vectors of shape {tuple(entries.truth.shape)}, "
                            f"got {tuple(vectors.shape)}")
            products.append(((vectors.double() @ vectors.double().T).to(vectors.dtype), dots))
            sizes.append((vectors.abs(), entries))  # an eigenvector may have either sign
        core.compare_all(products)
    try:
        core.compare_all(sizes)
    except Wrong:
        raise Wrong("the order of the coordinates is not that of the flattened layer: sort their "
                    "places") from None
    return "dot products equal to dense solves, whole and cut to 7 of 12 directions"


def _mean(name, unit, parts, counts, others, truth, shapes):
    """What `together` should give for a mean over this unit, and what goes wrong."""
    (one, two), total = parts, sum(counts)
    added, by_others = (weights[0] * one + weights[1] * two for weights in (counts, others))

    def fact(value):  # which multiples of the two means add up to it?
        columns = torch.stack([one.flatten(), two.flatten()], 1)
        multiples = torch.linalg.lstsq(columns, value.double().flatten()[:, None]).solution
        if (columns @ multiples - value.double().flatten()[:, None]).abs().max() > 1e-3:
            return None
        first, second = multiples.flatten().tolist()
        return (f"{name} is {first:.3g} × the first plus {second:.3g} × the second mean: weighted "
                f"by {unit} it would be {counts[0] / total:.3g} and {counts[1] / total:.3g}")

    return Expected(name, truth, {
        f"{name} is the mean of the two means: more {unit} have to count more": (one + two) / 2,
        f"{name} is a sum: divide by the {unit} of both": added,
        f"{name} is the sum of the two means": one + two,
        f"{name} was weighted by the wrong count, not by {unit}": by_others / sum(others),
        f"{name} is divided by the number of processes: divide by the {unit} of both": added / 2,
        f"{name} is divided by the wrong count: it is a mean over {unit}": added / sum(others),
        f"{name} of one process only": one,
        f"{name} of one process only, the second": two,
        f"{name} holds the larger entries of the two": torch.maximum(one, two),
        f"{name}: the size without the sign": truth.abs(),
    }, shapes, fact=fact)


def _processes(seed, out, width, lengths):
    """A problem of `together`: two processes that have stories of these lengths."""
    draw = draws(seed)
    stories = [[(draw(length, width), draw(out, width)) for length in part] for part in lengths]

    def measured(part):
        tokens = torch.cat([activations for activations, _ in part])
        squares = torch.stack([gradient ** 2 for _, gradient in part])
        return tokens.T @ tokens / len(tokens), squares.mean(0)

    (A, L), whole = zip(*map(measured, stories), strict=True), measured(sum(stories, []))
    tokens, sequences = list(map(sum, lengths)), list(map(len, lengths))
    exchanged = {"return A first, then Λ": (out, width)}
    return Problem(([x.float() for x in A], tokens, [x.float() for x in L], sequences), [
        _mean("A", "tokens", A, tokens, sequences, whole[0], exchanged),
        _mean("Λ", "sequences", L, sequences, tokens, whole[1], {})])


@check
def together(answer):
    """`answer([A], [tokens], [Λ], [sequences]) → (A, Λ)`, against both measured over the union."""
    judge(answer, [_processes(73, 2, 3, ((4, 9, 2), (31,))),
                   _processes(74, 5, 4, ((12, 5), (2, 3, 1, 2, 4)))])
    return "A and Λ equal to those measured over the stories of both"
