"""Notebook 06: right answers by many ways, wrong ones with words of the message each must get."""
import numpy as np
import torch


def ranks(x):
    return x.argsort(0).argsort(0).to(torch.float64)


def correlation(one, other):
    """Pearson's correlation over the rows, column by column."""
    one, other = one.double() - one.double().mean(0), other.double() - other.double().mean(0)
    return (one * other).sum(0) / (one.norm(dim=0) * other.norm(dim=0))


def spearman(one, other, rank=ranks):
    return correlation(rank(one), rank(other)).mean()


def sums(scores, kept):
    return kept.to(scores.dtype) @ scores.T


def by_squares(one, other, count=None):
    """1 − 6Σd²/(S(S² − 1)), column by column, with the number of rows given or measured."""
    count = count or len(one)
    return 1 - 6 * (ranks(one) - ranks(other)).pow(2).sum(0) / (count * (count ** 2 - 1))


def with_scipy(scores, kept, actual):
    from scipy.stats import spearmanr
    predicted = kept.numpy() @ scores.numpy().T
    return np.mean([spearmanr(predicted[:, q], actual[:, q].numpy())[0]
                    for q in range(len(scores))])


def with_loops(scores, kept, actual):
    def places(values):
        return [sum(other < value for other in values) for value in values]
    correlations = []
    for row, truth in zip(scores.tolist(), actual.T.tolist(), strict=True):
        predicted = [sum(row[i] for i in range(len(row)) if subset[i]) for subset in kept.tolist()]
        apart = sum((a - b) ** 2 for a, b in zip(places(predicted), places(truth), strict=True))
        correlations.append(1 - 6 * apart / (len(truth) * (len(truth) ** 2 - 1)))
    return sum(correlations) / len(correlations)


def with_rows_as_queries(scores, kept, actual):
    predicted = torch.einsum("qn,sn->qs", scores, kept.float())
    pairs = torch.stack([predicted, actual.T], dim=1).argsort().argsort().float()
    return torch.stack([torch.corrcoef(pair)[0, 1] for pair in pairs]).mean()


def by_comparisons(scores, kept, actual):
    predicted = (scores[None] * kept[:, None]).sum(-1)
    a, b = ((x[:, None] > x[None]).float().sum(1) for x in (predicted, actual))
    a -= a.mean(0)
    b -= b.mean(0)
    return (a * b).sum() / (a.norm() * b.norm())


def cheating_with_the_truth(scores, kept, actual):
    actual.copy_(sums(scores, kept))
    return spearman(sums(scores, kept), actual)


def keeping_everything(scores, kept, actual):
    kept.fill_(True)
    return spearman(sums(scores, kept), actual)


def kendall(scores, kept, actual):
    predicted = sums(scores, kept)
    pairs = [((x[:, None] - x[None]).sign()) for x in (predicted, actual)]
    return (pairs[0] * pairs[1]).sum() / (len(kept) * (len(kept) - 1) * len(scores))


def unlike_deviations(scores, kept, actual):
    a, b = ranks(sums(scores, kept)), ranks(actual)
    return (((a - a.mean(0)) * (b - b.mean(0))).mean(0) / (a.std(0) * b.std(0))).mean()


def backwards(X, y, rate, steps, x_q, constant=False, after=False, trained=False, ahead=False,
              curvature=None, reverse=True, count=None):
    """The reverse pass through gradient descent, with one thing done as somebody might do it."""
    theta, path = torch.zeros_like(x_q), []
    for _ in range(steps):
        path.append(theta)
        theta = theta - rate * X.T @ (X @ theta - y) / len(X)
    path = path[1:] + [theta] if after else [theta] * steps if trained else path
    path = path[::-1] if reverse else path
    total, adjoint, curvature = torch.zeros_like(y), x_q, curvature or rate / len(X)
    for theta in path[:count]:
        following = adjoint if constant else adjoint - curvature * X.T @ (X @ adjoint)
        total = total - rate / len(X) * (X @ theta - y) * (X @ (following if ahead else adjoint))
        adjoint = following
    return total


def converged(X, y, rate, steps, x_q):
    H = X.T @ X / len(X)
    theta = torch.linalg.solve(H, X.T @ y / len(X))
    return -(X @ theta - y) * (X @ torch.linalg.solve(H, x_q)) / len(X)


def at_the_end(X, y, rate, steps, x_q):
    theta = torch.zeros_like(x_q)
    for _ in range(steps):
        theta = theta - rate * X.T @ (X @ theta - y) / len(X)
    return -(X @ theta - y) * (X @ torch.linalg.solve(X.T @ X / len(X), x_q)) / len(X)


def prediction(X, y, rate, steps, x_q, w):
    """x_q·θ_K as a function of the weights."""
    theta = torch.zeros(X.shape[1], dtype=X.dtype)
    for _ in range(steps):
        theta = theta - rate / len(X) * X.T @ (w * (X @ theta - y))
    return x_q @ theta


def by_autograd(X, y, rate, steps, x_q):
    w = torch.ones(len(X), dtype=X.dtype, requires_grad=True)
    return torch.autograd.grad(prediction(X, y, rate, steps, x_q, w), w)[0]


def by_forward_mode(X, y, rate, steps, x_q):
    theta, slopes = torch.zeros_like(x_q), torch.zeros(len(x_q), len(X))  # slopes: dθ/dw
    for _ in range(steps):
        r = X @ theta - y
        slopes = slopes - rate / len(X) * (X.T @ (X @ slopes) + X.T * r)
        theta = theta - rate / len(X) * X.T @ r
    return x_q @ slopes


def by_differences(X, y, rate, steps, x_q, step=1e-4):
    X, y, x_q, result = X.double(), y.double(), x_q.double(), []
    for row in torch.eye(len(X), dtype=torch.float64):
        ends = [prediction(X, y, rate, steps, x_q, 1 + sign * step * row) for sign in (1, -1)]
        result.append((ends[0] - ends[1]) / (2 * step))
    return torch.stack(result)


def backwards_in_numpy(X, y, rate, steps, x_q):
    X, y, u = X.numpy().astype(float), y.numpy().astype(float), x_q.numpy().astype(float)
    path = [np.zeros(X.shape[1])]
    while len(path) < steps:
        path.append(path[-1] - rate / len(X) * X.T @ (X @ path[-1] - y))
    step, total = np.eye(len(u)) - rate * X.T @ X / len(X), np.zeros(len(X))
    for theta in path[::-1]:
        total -= rate / len(X) * (X @ theta - y) * (X @ u)
        u = step.T @ u
    return total


def backwards_with_loops(X, y, rate, steps, x_q):
    X, y, u, N = X.tolist(), y.tolist(), x_q.tolist(), len(X)

    def dot(a, b):
        return sum(p * q for p, q in zip(a, b, strict=True))

    path, theta = [], [0.0] * len(u)
    for _ in range(steps):
        path.append(theta)
        r = [dot(x, theta) - target for x, target in zip(X, y, strict=True)]
        theta = [p - rate / N * sum(r[i] * X[i][j] for i in range(N)) for j, p in enumerate(theta)]
    total = [0.0] * N
    for theta in reversed(path):
        along = [dot(x, u) for x in X]
        total = [total[i] - rate / N * (dot(X[i], theta) - y[i]) * along[i] for i in range(N)]
        u = [p - rate / N * sum(along[i] * X[i][j] for i in range(N)) for j, p in enumerate(u)]
    return total


def removal(X, y, rate, steps, x_q):
    """What leaving an example out does, with the sign of its weight."""
    full = prediction(X, y, rate, steps, x_q, torch.ones_like(y))
    return torch.stack([full - prediction(X, y, rate, steps, x_q, 1 - row)
                        for row in torch.eye(len(X))])


def summed_loss(X, y, rate, steps, x_q):
    return backwards(X, y, rate * len(X), steps, x_q)


def from_the_question(X, y, rate, steps, x_q):
    """Training starts at x_q in place of 0."""
    theta, path = x_q, []
    for _ in range(steps):
        path.append(theta)
        theta = theta - rate * X.T @ (X @ theta - y) / len(X)
    total, u = torch.zeros_like(y), x_q
    for theta in reversed(path):
        total = total - rate / len(X) * (X @ theta - y) * (X @ u)
        u = u - rate * X.T @ (X @ u) / len(X)
    return total


def targets_emptied(X, y, rate, steps, x_q):
    y.zero_()
    return backwards(X, y, rate, steps, x_q)


def growing(X, y, rate, *rest):
    return backwards(X, y, rate, *rest, curvature=-rate / len(X))


def halves(actual):
    half = actual.shape[1] // 2
    return actual[:, :half].mean(1), actual[:, half:].mean(1)


def ceiling(r):
    return (2 * r / (1 + r)).sqrt()


def ceiling_with_scipy(actual):
    from scipy.stats import spearmanr
    a, b = (half.mean(1).numpy() for half in actual.chunk(2, dim=1))
    r = np.mean([spearmanr(a[:, q], b[:, q]).statistic for q in range(a.shape[1])])
    return np.sqrt(2 * r / (1 + r))


def ceiling_with_ranks_of_scipy(actual):
    from scipy.stats import rankdata
    a, b = (rankdata(half.sum(1).numpy(), axis=0) for half in actual.tensor_split(2, dim=1))
    r = [np.corrcoef(a[:, q], b[:, q])[0, 1] for q in range(a.shape[1])]
    return (2 / (1 + 1 / np.mean(r))) ** 0.5


def ceiling_with_loops(actual):
    subsets, seeds, queries = actual.shape
    total = 0.0
    for q in range(queries):
        sides = [[sum(actual[s, seed, q].item() for seed in part) for s in range(subsets)]
                 for part in (range(seeds // 2), range(seeds // 2, seeds))]
        places = [[sorted(side).index(value) for value in side] for side in sides]
        apart = sum((a - b) ** 2 for a, b in zip(*places, strict=True))
        total += 1 - 6 * apart / (subsets * (subsets ** 2 - 1))
    r = total / queries
    return (2 * r / (1 + r)) ** 0.5


def same_seeds_twice(actual):
    half, _ = halves(actual)
    return ceiling(spearman(half, half))


def odd_queries_against_even(actual):
    width = actual.shape[2] // 2
    return ceiling(spearman(actual[..., :width].mean(1), actual[..., width:2 * width].mean(1)))


def all_pairs(actual):
    pairs = [(i, j) for i in range(actual.shape[1]) for j in range(i)]
    return ceiling(torch.stack([spearman(actual[:, i], actual[:, j]) for i, j in pairs]).mean())


def against_the_whole(actual):
    return spearman(halves(actual)[0], actual.mean(1))


RIGHT = {
    "lds": [
        with_scipy, with_loops, with_rows_as_queries, by_comparisons,
        lambda scores, kept, actual: by_squares(sums(scores, kept), actual).mean(),
        lambda scores, kept, actual: spearman(sums(scores, 2 * kept.float() - 1), actual),
        lambda scores, kept, actual: spearman(sums(scores, ~kept), -actual).float(),
        lambda scores, kept, actual: float(spearman(sums(scores, kept), actual)),
        lambda scores, kept, actual: torch.tensor([spearman(
            sums(scores, kept)[:, [q]], actual[:, [q]]) for q in range(len(scores))]).mean(),
    ],
    "through_training": [
        by_autograd, by_forward_mode, by_differences, backwards_in_numpy, backwards_with_loops,
        lambda X, y, rate, steps, x_q: torch.func.jacrev(
            lambda w: prediction(X, y, rate, steps, x_q, w))(torch.ones_like(y)),
        lambda X, y, rate, steps, x_q: backwards(X.double(), y.double(), rate, steps, x_q.double()),
        lambda X, y, rate, steps, x_q: backwards(X.float(), y.float(), rate, steps, x_q.float()),
    ],
    "noise_ceiling": [
        ceiling_with_scipy, ceiling_with_ranks_of_scipy, ceiling_with_loops,
        lambda actual: ceiling(spearman(*halves(actual))),
        lambda actual: ceiling(by_squares(*halves(actual)).mean()).float(),
        lambda actual: ceiling(spearman(*(half.sum(1) for half in actual.chunk(2, 1)))).item(),
        lambda actual: (2 * spearman(*halves(actual)) / (1 + spearman(*halves(actual)))) ** 0.5,
    ],
}

WRONG = {
    "lds": [
        ("Pearson", lambda scores, kept, actual: correlation(sums(scores, kept), actual).mean()),
        ("over all queries at once", lambda scores, kept, actual: spearman(
            sums(scores, kept).flatten()[:, None], actual.flatten()[:, None])),
        ("sign is turned", lambda scores, kept, actual: spearman(sums(scores, ~kept), actual)),
        ("over the queries", lambda scores, kept, actual: spearman(sums(scores, kept).T, actual.T)),
        ("argsort is not a rank", lambda scores, kept, actual: spearman(
            sums(scores, kept), actual, lambda x: x.argsort(0))),
        ("averaged before ranking", lambda scores, kept, actual: spearman(
            sums(scores, kept).mean(1, keepdim=True), actual.mean(1, keepdim=True))),
        ("not their mean", lambda scores, kept, actual: spearman(
            sums(scores, kept) / kept.sum(1, keepdim=True), actual)),
        ("shape (4,), expected ()",
         lambda scores, kept, actual: correlation(ranks(sums(scores, kept)), ranks(actual))),
        ("right for 1 of 2", lambda scores, kept, actual: spearman(
            sums(scores, kept), actual) if len(kept) == 20 else 0.63),
        ("right for 1 of 2",
         lambda scores, kept, actual: by_squares(sums(scores, kept), actual, 20).mean()),
        ("right for 1 of 2", lambda scores, kept, actual: correlation(
            ranks(sums(scores, kept)), ranks(actual)).sum() / 4),
        ("right for 1 of 2",
         lambda scores, kept, actual: spearman(sums(scores, kept), actual).abs()),
        ("sum over the queries",
         lambda scores, kept, actual: correlation(ranks(sums(scores, kept)), ranks(actual)).sum()),
        ("first query",
         lambda scores, kept, actual: correlation(ranks(sums(scores, kept)), ranks(actual))[0]),
        ("the best query only",
         lambda scores, kept, actual: correlation(ranks(sums(scores, kept)), ranks(actual)).max()),
        (None, lambda scores, kept, actual: spearman(
            kept.sum(1, keepdim=True).expand_as(actual) + 1e-3 * sums(scores, kept), actual)),
        ("last axis", lambda scores, kept, actual: correlation(
            *(x.argsort().argsort().double() for x in (sums(scores, kept), actual))).mean()),
        ("Kendall", kendall),
        ("(S − 1)/S", unlike_deviations),
        ("covariance", lambda scores, kept, actual: torch.stack([
            torch.cov(pair)[0, 1] for pair in torch.stack(
                [ranks(sums(scores, kept)).T, ranks(actual).T], dim=1)]).mean()),
        ("centre",
         lambda scores, kept, actual: (ranks(sums(scores, kept)) * ranks(actual)).sum(0).div(
            ranks(sums(scores, kept)).norm(dim=0) * ranks(actual).norm(dim=0)).mean()),
        ("r², not r",
         lambda scores, kept, actual: correlation(
             ranks(sums(scores, kept)), ranks(actual)).pow(2).mean()),
        (None, lambda scores, kept, actual: spearman(sums(scores.abs(), kept), actual)),
        (None, cheating_with_the_truth),
        (None, keeping_everything),
        (None, lambda scores, kept, actual: 1.0),
        ("your function raised", lambda scores, kept, actual: spearman(kept @ scores, actual)),
    ],
    "through_training": [
        ("TracIn", lambda *a: backwards(*a, constant=True)),
        ("that of θ_{k+1}", lambda *a: backwards(*a, after=True)),
        ("trained θ throughout", lambda *a: backwards(*a, trained=True)),
        ("one step ahead", lambda *a: backwards(*a, ahead=True)),
        ("wrong order", lambda *a: backwards(*a, reverse=False)),
        ("1/N is missing in the adjoint",
         lambda X, y, rate, *a: backwards(X, y, rate, *a, curvature=rate)),
        ("η is missing in the adjoint", lambda X, *a: backwards(X, *a, curvature=1 / len(X))),
        ("only the last step", lambda *a: backwards(*a, count=1)),
        ("sign is turned: a step goes against the gradient", lambda *a: -backwards(*a)),
        ("N times too large: 1/N", lambda X, *a: len(X) * backwards(X, *a)),
        ("N times too large and the sign", lambda X, *a: -len(X) * backwards(X, *a)),
        ("learning rate is missing", lambda X, y, rate, *a: backwards(X, y, rate, *a) / rate),
        ("endless training: after these steps", converged),
        ("function at the θ reached", at_the_end),
        ("right for 1 of 2",
         lambda X, *a: backwards(X, *a) if len(X) == 7 else torch.zeros(len(X))),
        ("right for 1 of 2", lambda X, y, rate, steps, x_q: backwards(X, y, rate, 6, x_q)),
        ("right for 1 of 2", lambda X, y, rate, steps, x_q: backwards(X, y, 0.4, steps, x_q)),
        ("right for 1 of 2", lambda X, y, *a: backwards(X, y, *a) * len(X) / 7),
        ("one step too many", lambda X, y, rate, steps, x_q: backwards(X, y, rate, steps + 1, x_q)),
        ("one step too few", lambda X, y, rate, steps, x_q: backwards(X, y, rate, steps - 1, x_q)),
        ("right one times 2", lambda *a: 2 * backwards(*a)),
        ("size", lambda *a: backwards(*a).abs()),
        (None, lambda X, y, rate, steps, x_q: backwards(X, torch.zeros_like(y), rate, steps, x_q)),
        ("leaving an example out", removal),
        ("1/N is missing in training", summed_loss),
        (None, from_the_question),
        ("adjoint grows", growing),
        ("right one times 0.1667",
         lambda X, y, rate, steps, x_q: backwards(X, y, rate, steps, x_q) / steps),
        ("has shape", lambda X, y, rate, steps, x_q: backwards(X, y, rate, steps, x_q)[:, None]),
        ("has shape", lambda *a: backwards(*a).sum()),
        ("has shape", lambda X, *a: X.T @ backwards(X, *a)),
        (None, targets_emptied),
        ("your function raised",
         lambda X, y, rate, steps, x_q: backwards(X.T, y, rate, steps, x_q)),
    ],
    "noise_ceiling": [
        ("that is r itself", lambda actual: spearman(*halves(actual))),
        ("Spearman–Brown is missing", lambda actual: spearman(*halves(actual)).sqrt()),
        ("square root is missing", lambda actual: ceiling(spearman(*halves(actual))) ** 2),
        ("square root comes last", lambda actual: ceiling(spearman(*halves(actual)).sqrt()) ** 2),
        ("over the queries",
         lambda actual: ceiling(spearman(*(half.T for half in halves(actual))))),
        ("subsets were halved",
         lambda actual: ceiling(spearman(*(half.mean(1) for half in actual.chunk(2))))),
        ("first average r",
         lambda actual: ceiling(correlation(*map(ranks, halves(actual)))).mean()),
        ("taken in turns",
         lambda actual: ceiling(spearman(actual[:, ::2].mean(1), actual[:, 1::2].mean(1)))),
        ("one seed against another", lambda actual: ceiling(spearman(actual[:, 0], actual[:, 1]))),
        ("averaged before ranking",
         lambda actual: ceiling(spearman(*halves(actual.mean(2, keepdim=True))))),
        ("Pearson", lambda actual: ceiling(correlation(*halves(actual)).mean())),
        ("right for 1 of 2", lambda actual:
            ceiling(spearman(*halves(actual))) if len(actual) == 24 else 0.85),
        ("right for 1 of 2",
         lambda actual: ceiling(spearman(actual[:, :3].mean(1), actual[:, 3:].mean(1)))),
        ("right for 1 of 2",
         lambda actual: ceiling(correlation(*map(ranks, halves(actual))).sum() / 3)),
        ("argsort is not a rank",
         lambda actual: ceiling(spearman(*halves(actual), lambda x: x.argsort(0)))),
        ("last axis", lambda actual: ceiling(correlation(
            *(half.argsort().argsort() for half in halves(actual))).mean())),
        ("queries at once",
         lambda actual: ceiling(spearman(*(half.flatten()[:, None] for half in halves(actual))))),
        ("sum over the queries",
         lambda actual: ceiling(correlation(*map(ranks, halves(actual))).sum())),
        ("first query", lambda actual: ceiling(correlation(*map(ranks, halves(actual)))[0])),
        ("r, not r²", lambda actual: ceiling(spearman(*halves(actual)) ** 2)),
        ("2r/(1 + r)", lambda actual: spearman(*halves(actual)).mul(2).sqrt()),
        ("2r/(1 + r)",
         lambda actual: (spearman(*halves(actual)) / (1 + spearman(*halves(actual)))).sqrt()),
        ("without noise", lambda actual: 1.0),
        ("with itself", same_seeds_twice),
        (None, odd_queries_against_even),
        ("each pair of seeds", all_pairs),
        ("has shape", lambda actual: ceiling(correlation(*map(ranks, halves(actual))))),
        ("against the mean of all", against_the_whole),
        ("your function raised",
         lambda actual: ceiling(spearman(*actual.chunk(2, dim=1)).argsort(5))),
    ],
}
