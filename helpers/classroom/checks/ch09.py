"""Checks of notebook 09, the explorer: against cross-entropy, dense solves, all subsets."""
import math
from itertools import combinations

import torch

from .core import Expected, Problem, check, draws, judge


def _completion(seed, length, words, start):
    """A problem of `word_log_probs`."""
    draw = draws(seed)
    logits, ids = 2 * draw(length, words), draw(length, words).argmax(1)
    targets = torch.arange(start, length)

    def taken(table, rows=targets - 1, tokens=ids[start:]):
        return table[rows, tokens]

    def log_probs(rows, tokens=ids[start:]):  # one position at a time
        return torch.stack([-torch.nn.functional.cross_entropy(logits[row], token)
                            for row, token in zip(rows, tokens, strict=True)])

    truth = log_probs(targets - 1)
    behind = logits[start - 1:-1]
    return Problem((logits, ids, start), Expected("the log-probabilities", truth, {
        "the logits at t predict token t+1: the completion's first token is predicted at start − 1":
            log_probs(targets),
        "that is the row t − 2: the logits at t predict token t+1": log_probs(targets - 2),
        "those are the probabilities of the token before: row t − 1 belongs to the token at t":
            log_probs(targets - 1, ids[start - 1:-1]),
        "those are logits: normalise them over the vocabulary": taken(logits),
        "those are logits, one place too late: normalise them; the logits at t predict token t+1":
            taken(logits, targets),
        "those are probabilities: take their logarithms": truth.exp(),
        "those are losses: a log-probability is at most 0": -truth,
        "the softmax runs over the vocabulary, not over the positions":
            taken(logits.log_softmax(0)),
        "the softmax runs over the vocabulary, not over the completion's rows":
            taken(behind.log_softmax(0), targets - start),
        "each token alone, not added up": truth.cumsum(0),
        "that is to base 2: take natural logarithms": truth / math.log(2),
        "reversed: the completion's first token comes first": truth.flip(0),
        "those are the largest of each row: take the entry of the token that came":
            behind.log_softmax(-1).max(-1).values,
    }, {"that is the log-probability of the prompt's tokens": (start - 1,),
        "those are all tokens but the first: the completion begins at start": (length - 1,),
        "those are whole rows: take from each the entry of the token that came": behind.shape}))


@check
def word_log_probs(answer):
    """`answer(logits (T, V), ids (T,), start) → (T − start,)`, against PyTorch's cross-entropy, one
    position at a time."""
    length, start = 9, 5
    judge(answer, [_completion(81, length, 7, start), _completion(82, 12, 5, 3)])
    return f"equal to PyTorch's cross-entropy for the {length - start} tokens of the completion"


def _factors(query, gradient, q_s, q_a, eigenvalues, damping, power=1):
    """Length and cosine, where every product is a dense solve with (G + λI)^power."""
    basis = torch.kron(q_s.contiguous(), q_a.contiguous())
    matrix = basis @ torch.diag((eigenvalues.flatten() + damping) ** power) @ basis.T
    pair = torch.stack([query.flatten(), gradient.flatten()])
    (qq, qr), (_, rr) = pair @ torch.linalg.solve(matrix, pair.T)
    return rr.sqrt(), qr / (qq * rr).sqrt()


def _wrong_factors(query, gradient, q_s, q_a, eigenvalues, damping):
    """Mistakes that change both numbers."""
    def factors(q_s=q_s, q_a=q_a, eigenvalues=eigenvalues, damping=damping, power=1):
        return _factors(query, gradient, q_s, q_a, eigenvalues, damping, power)

    roots = eigenvalues.sqrt()
    turned = "rotated the wrong way round{}: eigenvectors stand in columns, so Q_Sᵀ Dθ Q_A"
    rooted = "the damping belongs under the root: √(Λ+λ)"
    return {
        "measured without the curvature: divide by √(Λ+λ) first": factors(power=0),
        "divided by Λ+λ, not by its root: then the product would be divided by (Λ+λ)²":
            factors(power=2),
        "the damping is missing": factors(damping=0),
        "multiplied by √(Λ+λ): the inverse divides": factors(power=-1),
        "not rotated: Λ belongs to the eigenvectors' directions": factors(q_s @ q_s.T, q_a @ q_a.T),
        turned.format(""): factors(q_s.T, q_a.T),
        turned.format(" by Q_S"): factors(q_s=q_s.T), turned.format(" by Q_A"): factors(q_a=q_a.T),
        rooted: factors(eigenvalues=(roots + damping) ** 2, damping=0),
        rooted + ", not beside it": factors(eigenvalues=(roots + damping ** 0.5) ** 2, damping=0),
        "the two are exchanged: the length comes first": factors()[::-1],
    }


def _whitened(seed, out, width, damping):
    """A problem of `two_factors`."""
    draw = draws(seed)
    q_s, q_a = (torch.linalg.qr(draw(size, size))[0].contiguous() for size in (out, width))
    eigenvalues, query, gradient = draw(out, width).exp(), draw(out, width), draw(out, width)
    arguments = query, gradient, q_s, q_a, eigenvalues, damping
    length, cosine = _factors(*arguments)
    query_length, mistakes = _factors(query, query, *arguments[2:])[0], _wrong_factors(*arguments)
    whitened = q_s.T @ gradient @ q_a / (eigenvalues + damping).sqrt()
    return Problem(arguments, [Expected("the length", length, {
        **{message: factors[0] for message, factors in mistakes.items()},
        "the length is squared: take the root": length ** 2,
        "the length is the query's: take the story's": query_length,
        "that is the sum of sizes: a length is the root of the sum of squares":
            whitened.abs().sum(),
        "that is the root of the mean square: a length is the root of the sum":
            whitened.pow(2).mean().sqrt(),
    }), Expected("the cosine", cosine, {
        **{message: factors[1] for message, factors in mistakes.items()},
        "the second is the inner product: divide it by both lengths":
            cosine * length * query_length,
        "divided by the story's length only: divide the product by both": cosine * query_length,
        "divided by the query's length only: divide the product by both": cosine * length,
        "that is 1 − cosine: return the cosine": 1 - cosine,
        "the cosine is squared": cosine ** 2,
        "that is the angle: return its cosine": cosine.acos(),
    })])


@check
def two_factors(answer):
    """`answer(query, gradient (out, in+1), q_s, q_a, Λ, λ) → (length, cosine)`, by dense solves."""
    judge(answer, [_whitened(82, 3, 4, 0.3), _whitened(84, 5, 2, 0.9)])
    return "length and cosine equal to those by dense solves"


def _subset(seed, count, share):
    """A problem of `smallest_set`, with a seed for which no other set of so few tokens will do."""
    values = draws(seed)(count)
    size = values.abs()
    sizes = size.tolist()
    truth = _mask(count, next(chosen for number in range(1, count + 1)
                              for chosen in combinations(range(count), number)
                              if sum(sizes[place] for place in chosen) >= share * sum(sizes)))
    order, kept = size.argsort(descending=True), int(truth.sum())
    return Problem((values, share), Expected("the mask", truth, {
        "the last one is missing: the sum has to reach the share": _mask(count, order[:kept - 1]),
        "one too many: the share is reached before": _mask(count, order[:kept + 1]),
        "tokens above a share of the largest; asked is a share of the sum":
            size >= share * size.max(),
        "tokens above 1 − share of the largest; asked is a share of the sum":
            size >= (1 - share) * size.max(),
        "by signed value: negative tokens count by their size":
            _leading(values, share, values.sum()),
        "only positive tokens: negative ones count by their size":
            _leading(values.clamp(min=0), share),
        "only negative tokens: positive ones count by their size":
            _leading((-values).clamp(min=0), share),
        "only the positive ones are kept: negative ones count by their size": truth * (values > 0),
        "by squares: sum the sizes": _leading(values ** 2, share),
        "that is a share of the net sum: add up the sizes":
            _leading(size, share, values.sum().abs()),
        "that is a share of the number of tokens, not of their sum":
            _mask(count, order[:math.ceil(share * count)]),
        "that reaches 1 − share, not the share": _leading(size, 1 - share),
        "those are the other tokens: the mask is turned": 1 - truth,
        "the smallest first: the fewest tokens are the largest":
            _leading(size, share, order=order.flip(0)),
        "in the order of the tokens: the fewest are the largest":
            _leading(size, share, order=torch.arange(count)),
        "in sorted order: True belongs where the tokens stand": _mask(count, range(kept)),
        "those are the values: return True and False": values * truth,
        "those above the mean: asked is a share of the sum": size > size.mean(),
        "all tokens are kept": torch.ones(count),
    }, {"that is the number of tokens, not a mask": (), "those are places, not a mask": (kept,)}))


def _mask(count, chosen):
    return torch.zeros(count).index_fill(0, torch.as_tensor(chosen), 1)


def _leading(sizes, share, total=None, order=None):
    """The first of `sizes`, largest first unless ordered, until they reach a share of the total."""
    order = sizes.argsort(descending=True) if order is None else order
    short = sizes[order].cumsum(0) < share * (sizes.sum() if total is None else total)
    return _mask(len(sizes), order[:int(short.sum()) + 1])


@check
def smallest_set(answer):
    """`answer(values (T,), share) → bool (T,)`, against all subsets, tried one by one."""
    problems = [_subset(1088, 11, 0.8), _subset(88, 8, 0.55), _subset(57, 9, 0.88)]
    judge(answer, problems)
    chosen = int(problems[0].expected.truth.sum())
    return f"equal to the best of all {2 ** 11 - 1:,} sets: {chosen} of 11 tokens"
