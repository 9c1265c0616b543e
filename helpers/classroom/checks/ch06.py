"""The checks of notebook 06: does it predict retraining?"""
import torch

from helpers.classroom.checks.core import Expected, Problem, check, draws, judge


def _by_query(one, other, kind="spearmanr"):
    """scipy's correlations over the subsets, one for each query: (S, Q), (S, Q) → (Q,)."""
    from scipy import stats
    pairs = zip(one.double().T.numpy(), other.double().T.numpy(), strict=True)
    return torch.tensor([getattr(stats, kind)(*pair)[0] for pair in pairs], dtype=torch.float64)


def _wrong_correlations(one, other):
    """{what was done: what it gives} for (S, Q), (S, Q) in place of Spearman's, query by query."""
    right, count, places = _by_query(one, other), len(one), (one.argsort(0), other.argsort(0))
    along, across = ([x.argsort(axis).argsort(axis) for x in (one, other)] for axis in (0, 1))
    return {
        "that is Pearson's correlation: put ranks in place of the values":
            _by_query(one, other, "pearsonr"),
        "that is Kendall's τ: Spearman's is Pearson's of the ranks":
            _by_query(one, other, "kendalltau"),
        "ranked over all queries at once: rank and correlate one query, and average then":
            _by_query(one.view(-1, 1), other.view(-1, 1)),
        "correlated over the queries of each subset: correlate over the subsets, query by query":
            _by_query(one.T, other.T),
        "ranked along the last axis: rank the subsets, axis 0": _by_query(*across, "pearsonr"),
        "argsort is not a rank: it says who stands first, second, …; its own argsort says which "
        "place each one has": _by_query(*places, "pearsonr"),
        "the queries were averaged before ranking: average the correlations":
            _by_query(one.mean(1, keepdim=True), other.mean(1, keepdim=True)),
        "the ranks are not centred: first take off their mean":
            (along[0] * along[1]).sum(0) / along[0].double().pow(2).sum(0),
        "too small by (S − 1)/S: std divides by S − 1": right * (count - 1) / count,
        "that is the covariance: divide by both norms": right * count * (count + 1) / 12,
        "too large by S/(S − 1): std is without the correction": right * count / (count - 1),
        "ranks on one side only: both need them": _by_query(along[0].float(), other, "pearsonr"),
        "that is r², not r": right ** 2,
        "the first query only: average over all": right[0],
        "the best query only: average over all": right.max(),
    }


def _datamodel(seed, queries, stories, subsets, sign):
    """A problem of `lds`: outcomes follow the summed scores (or their opposite), bent and noisy."""
    draw = draws(seed)
    scores, kept = (draw(queries, stories).exp() - 0.8).float(), draw(subsets, stories) > 0
    predicted = torch.tensor([[sum(row[i] for i in range(stories) if subset[i])
                               for row in scores.tolist()] for subset in kept.tolist()])
    bent = ((predicted + 2.5 * draw(subsets, queries)) / 3).exp()
    actual = (sign * bent + 4 * draw(queries)).float()
    right = _by_query(predicted, actual)
    wrong = _wrong_correlations(predicted, actual)
    return Problem((scores, kept, actual), Expected("the LDS", right.mean(), {
        "the sign is turned: sum the scores of the stories that are kept": -right.mean(),
        "the prediction is the sum over the kept stories, not their mean":
            _by_query(predicted / kept.sum(1, keepdim=True), actual).mean(),
        "that is a sum over the queries: take their mean": right.sum(),
        "that is a distance, 1 − r": 1 - right.mean(),
        "1 always: something was correlated with itself": torch.tensor(1.0),
        **{message: values.mean() for message, values in wrong.items()}}))


@check
def lds(answer):
    """`answer(scores (Q, N), kept (S, N), actual (S, Q)) → scalar`, against scipy on plain sums."""
    judge(answer, [_datamodel(79, 4, 12, 20, 1), _datamodel(82, 3, 9, 17, -1)])
    return "equal to scipy's Spearman correlation over 20 subsets, averaged over 4 queries"


def _descend(X, y, weights, rate, steps):
    """All θ of gradient descent from 0 on Σ_i w_i ½(x_iᵀθ − y_i)²/N: weights (..., N)."""
    path = [torch.zeros(*weights.shape[:-1], X.shape[1], dtype=X.dtype)]
    for _ in range(steps):
        path.append(path[-1] - rate * (weights * (path[-1] @ X.T - y)) @ X / len(X))
    return path


def _slopes(X, y, rate, steps, x_q, more=1e-5, less=1e-5):
    """The derivative by each weight, (N,), from training with more and with less of it."""
    eye = torch.eye(len(X), dtype=X.dtype)
    ends = [_descend(X, y, 1 + change * eye, rate, steps)[-1] @ x_q for change in (more, -less)]
    return (ends[0] - ends[1]) / (more + less)


def _reverse_mistakes(X, y, rate, steps, x_q):
    """{what was done: the derivative that it gives} for passes back through the steps."""
    H, theta = X.T @ X / len(X), torch.stack(_descend(X, y, torch.ones_like(y), rate, steps))
    r, rule = theta @ X.T - y, "u_k = (I − ηXᵀX/N) u_{k+1}"  # r: (steps + 1, N)
    at_rest, ends = X @ torch.linalg.solve(H, X.T @ y / len(X)) - y, X @ torch.linalg.solve(H, x_q)

    def adjoints(size):  # rows 0 … steps: x_iᵀ u_k, where u_k = (I − size H)^(steps − k) x_q
        step = torch.eye(len(H), dtype=X.dtype) - size * H
        return torch.stack([X @ torch.linalg.matrix_power(step, steps - k) @ x_q
                            for k in range(steps + 1)])

    u, r_k = adjoints(rate), r[:-1]
    by_step = {
        "the adjoint is constant, which is TracIn: later steps change a change again": r_k * u[-1],
        "the residual is that of θ_{k+1}: take it at θ_k, before the step": r[1:] * u[1:],
        "you used the residuals of the trained θ throughout: each step has its own": r[-1] * u[1:],
        "the target is missing in the residual x_iᵀθ_k − y_i": (r_k + y) * u[1:],
        "the adjoint is one step ahead: use u_{k+1}, then turn it into u_k": r_k * u[:-1],
        "the adjoint meets the steps in the wrong order: the last comes first":
            r_k * u[1:].flip(0),
        f"1/N is missing in the adjoint's step: {rule}": r_k * adjoints(rate * len(X))[1:],
        f"η is missing in the adjoint's step: {rule}": r_k * adjoints(1)[1:],
        f"the adjoint grows, with + in place of −: {rule}": r_k * adjoints(-rate)[1:],
        "only the last step was counted: the weights act in every step": r[-2:-1] * u[-1]}
    return {**{message: -rate / len(X) * shares.sum(0) for message, shares in by_step.items()},
            "that is the influence function, the limit of endless training: after these steps θ is "
            "not there yet": -at_rest * ends / len(X),
            "that is the influence function at the θ reached: H⁻¹ is right only in the limit of "
            "endless training": -r[-1] * ends / len(X)}


def _training(seed, count, width, rate, steps):
    """A problem of `through_training`: correlated features, a column of ones, noisy targets."""
    draw = draws(seed)
    mixing = draw(width - 1, width - 1) + 2 * torch.eye(width - 1)
    X = torch.cat([draw(count, width - 1) @ mixing, torch.ones(count, 1)], dim=1) / 3
    y = 3 * X @ draw(width) + 0.7 * draw(count)
    X, y, x_q = (x.float().double() for x in (X, y, draw(width)))  # exactly what is handed out
    data, truth = (X, y, rate, steps, x_q), _slopes(X, y, rate, steps, x_q)
    given = X.float(), y.float(), rate, steps, x_q.float()
    return Problem(given, Expected("the derivative", truth, {
        "the sign is turned: a step goes against the gradient": -truth,
        "N times too large: 1/N is missing, the loss is a mean": count * truth,
        "N times too large and the sign is turned": -count * truth,
        "the learning rate is missing: a step is −η times the gradient": truth / rate,
        "the size without the sign: more weight can lower the prediction": truth.abs(),
        "one step too many: there are K": _slopes(X, y, rate, steps + 1, x_q),
        "one step too few: there are K": _slopes(X, y, rate, steps - 1, x_q),
        "1/N is missing in training: the loss is a mean": _slopes(X, y, rate * count, steps, x_q),
        "that is what leaving an example out does: the derivative is for a small change of weight":
            _slopes(*data, more=0, less=1),
        **_reverse_mistakes(*data)}))


@check
def through_training(answer):
    """`answer(X (N, d), y (N,), rate, steps, x_q (d,)) → (N,)`, against retraining."""
    judge(answer, [_training(63, 7, 3, 0.4, 6), _training(64, 5, 2, 0.7, 3)])
    return "equal to finite differences of 14 trainings, two for each weight"


def _ceiling(correlations):
    r = correlations.mean()
    return (2 * r / (1 + r)).sqrt()


def _retrained(seed, subsets, seeds, queries):
    """A problem of `noise_ceiling`: every subset has an effect, every seed adds skewed noise."""
    draw, half = draws(seed), seeds // 2
    effects = draw(subsets, 1, queries) * draw(queries).exp() + 3 * draw(queries)
    actual = (effects + draw(subsets, seeds, queries).exp()).float()
    one, other = (sum(actual[:, seed] for seed in part) / half
                  for part in (range(half), range(half, seeds)))
    right, in_turns = _by_query(one, other), [actual[:, i::2].mean(1) for i in (0, 1)]
    r, by_subsets = right.mean(), [part.mean(1) for part in actual.chunk(2)]
    pairs = torch.stack([_by_query(actual[:, i], actual[:, j])
                         for i in range(seeds) for j in range(i)])
    wrong = _wrong_correlations(one, other)
    return Problem((actual,), Expected("the ceiling", _ceiling(r), {
        "that is r itself: it needs Spearman–Brown, 2r/(1 + r), and then the square root": r,
        "Spearman–Brown is missing: √r is for half the seeds, all are more reliable": r.sqrt(),
        "the square root is missing: a reliability compares two noisy means, but the best "
        "prediction has no noise": 2 * r / (1 + r),
        "the square root comes last: first r, then 2r/(1 + r)": 2 * r.sqrt() / (1 + r.sqrt()),
        "the reliability is 2r/(1 + r): the denominator is missing": (2 * r).sqrt(),
        "the reliability is 2r/(1 + r): the factor 2 is missing": (r / (1 + r)).sqrt(),
        "Spearman–Brown takes r, not r²": _ceiling(r ** 2),
        "halves are two, however many seeds: 2r/(1 + r)":
            (seeds * r / (1 + (seeds - 1) * r)).sqrt(),
        "the subsets were halved, and no subset stands in both halves: halve the seeds":
            _ceiling(_by_query(*by_subsets)),
        "first average r over the queries, then Spearman–Brown and the root":
            (2 * right / (1 + right)).sqrt().mean(),
        "that is a sum over the queries: take the mean of the correlations": _ceiling(right.sum()),
        "seeds were taken in turns: the first half of them against the second":
            _ceiling(_by_query(*in_turns)),
        "one seed against another: average each half first": _ceiling(pairs[0]),
        "each pair of seeds was compared: average each half first": _ceiling(pairs),
        "half the seeds against the mean of all, which holds them":
            _by_query(one, actual.mean(1)).mean(),
        "1 is the ceiling without noise: something was correlated with itself": torch.tensor(1.0),
        **{message: _ceiling(values) for message, values in wrong.items()}}))


@check
def noise_ceiling(answer):
    """`answer(actual (S, seeds, Q)) → scalar`, against scipy on means taken seed by seed."""
    judge(answer, [_retrained(83, 24, 6, 3), _retrained(123, 18, 4, 5)])
    return "equal to scipy's Spearman of two halves, Spearman–Brown and the root, over 24 subsets"
