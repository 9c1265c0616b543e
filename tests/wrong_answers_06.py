"""Notebook 06: answers that learners give, and words of the message that each must get."""
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


def weights(values, mask, k, fill=-torch.inf, allowed=None, seen=torch.clone, shift=0, largest=True, by_story=False):
    """Loss weights with one thing done as somebody might do it."""
    target = torch.zeros_like(mask)
    target[:, :-1] = mask[:, 1:]
    ranked = seen(values).masked_fill(~(target if allowed is None else allowed(mask)), fill)
    result = torch.ones_like(values)
    if by_story:
        return result.scatter(1, ranked.topk(k, dim=1).indices, 0)
    result.view(-1)[ranked.flatten().topk(k, largest=largest).indices + shift] = 0
    return result


def backwards(X, y, rate, steps, x_q, constant=False, after=False, trained=False, ahead=False, curvature=None,
              reverse=True, count=None):
    """The reverse pass through gradient descent, with one thing done as somebody might do it."""
    theta, path = torch.zeros_like(x_q), []
    for _ in range(steps):
        path.append(theta)
        theta = theta - rate * X.T @ (X @ theta - y) / len(X)
    path = path[1:] + [theta] if after else [theta] * steps if trained else path
    path = path[::-1] if reverse else path
    total, adjoint = torch.zeros_like(y), x_q
    for theta in path[:count]:
        following = adjoint if constant else adjoint - (curvature or rate / len(X)) * X.T @ (X @ adjoint)
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


def halves(actual):
    half = actual.shape[1] // 2
    return actual[:, :half].mean(1), actual[:, half:].mean(1)


def ceiling(r):
    return (2 * r / (1 + r)).sqrt()


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
        ("shape (4,), expected ()", lambda scores, kept, actual: correlation(ranks(sums(scores, kept)), ranks(actual))),
    ],
    "drop_tokens": [
        ("of each story", lambda values, mask, k: weights(values, mask, k, by_story=True)),
        ("shifted by one to the right", lambda values, mask, k: weights(values, mask, k, shift=1)),
        ("shifted by one to the left", lambda values, mask, k: weights(values, mask, k, shift=-1)),
        ("by magnitude", lambda values, mask, k: weights(values, mask, k, seen=torch.abs)),
        ("last token", lambda values, mask, k: weights(values, mask, k, allowed=lambda mask: mask)),
        ("padding was chosen", lambda values, mask, k: weights(values, mask, k, allowed=torch.ones_like)),
        ("a 0 there still beats", lambda values, mask, k: weights(values, mask, k, fill=0)),
        ("exchanged", lambda values, mask, k: 1 - weights(values, mask, k)),
        ("k smallest", lambda values, mask, k: weights(values, mask, k, fill=torch.inf, largest=False)),
        ("without a target too", lambda values, mask, k: weights(values, mask, k) * torch.cat(
            [mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)),
    ],
    "through_training": [
        ("TracIn", lambda *a: backwards(*a, constant=True)),
        ("that of θ_{k+1}", lambda *a: backwards(*a, after=True)),
        ("trained θ throughout", lambda *a: backwards(*a, trained=True)),
        ("one step ahead", lambda *a: backwards(*a, ahead=True)),
        ("wrong order", lambda *a: backwards(*a, reverse=False)),
        ("1/N is missing in the adjoint", lambda X, y, rate, *a: backwards(X, y, rate, *a, curvature=rate)),
        ("η is missing in the adjoint", lambda X, *a: backwards(X, *a, curvature=1 / len(X))),
        ("only the last step", lambda *a: backwards(*a, count=1)),
        ("sign is turned: a step goes against the gradient", lambda *a: -backwards(*a)),
        ("N times too large: 1/N", lambda X, *a: len(X) * backwards(X, *a)),
        ("N times too large and the sign", lambda X, *a: -len(X) * backwards(X, *a)),
        ("learning rate is missing", lambda X, y, rate, *a: backwards(X, y, rate, *a) / rate),
        ("endless training: after these steps", converged),
        ("function at the θ reached", at_the_end),
    ],
    "noise_ceiling": [
        ("that is r itself", lambda actual: spearman(*halves(actual))),
        ("Spearman–Brown is missing", lambda actual: spearman(*halves(actual)).sqrt()),
        ("square root is missing", lambda actual: ceiling(spearman(*halves(actual))) ** 2),
        ("square root comes last", lambda actual: ceiling(spearman(*halves(actual)).sqrt()) ** 2),
        ("over the queries", lambda actual: ceiling(spearman(*(half.T for half in halves(actual))))),
        ("subsets were halved", lambda actual: ceiling(spearman(*(half.mean(1) for half in actual.chunk(2))))),
        ("first average r", lambda actual: ceiling(correlation(*map(ranks, halves(actual)))).mean()),
        ("taken in turns", lambda actual: ceiling(spearman(actual[:, ::2].mean(1), actual[:, 1::2].mean(1)))),
        ("one seed against another", lambda actual: ceiling(spearman(actual[:, 0], actual[:, 1]))),
        ("averaged before ranking", lambda actual: ceiling(spearman(*halves(actual.mean(2, keepdim=True))))),
        ("Pearson", lambda actual: ceiling(correlation(*halves(actual)).mean())),
    ],
}
