"""Notebook 01: right answers by other ways than the solution; wrong ones, with words of the message
each must get."""
import numpy as np
import torch
from torch.autograd.functional import hessian, jacobian


def ridge(X, y, penalty, index, in_theta=True, in_hessian=True, mean=True, summed=False, sign=-1,
          own=0.0, multiply=False, gradient=None, power=1):
    """dθ*/dε of a ridge regression, with one thing done as somebody might do it."""
    N, eye = len(X), torch.eye(X.shape[1], dtype=X.dtype)
    scale = 1 if summed else N
    theta = torch.linalg.solve(X.T @ X / scale + penalty * eye * in_theta, X.T @ y / scale)
    H = X.T @ X / (N if mean else 1) + penalty * eye * in_hessian
    r, x = X[index] @ theta - y[index], X[index]
    g = gradient(r, x, theta, y[index]) if gradient else r * x + own * penalty * theta
    H = torch.linalg.matrix_power(H, power)
    return sign * (H @ g if multiply else torch.linalg.solve(H, g))


def refitted(X, y, penalty, weights):
    """Minimises (1/N) Σ w_i ½ r_i² + (penalty/2)‖θ‖²."""
    H = X.T @ (weights[:, None] * X) / len(X) + penalty * torch.eye(X.shape[1], dtype=X.dtype)
    return torch.linalg.solve(H, X.T @ (weights * y) / len(X))


def moved(X, y, penalty, index, weight):
    """How far θ* moves when the example's weight in the sum changes by `weight`."""
    weights = torch.ones_like(y)
    before = refitted(X, y, penalty, weights)
    weights[index] += weight
    return refitted(X, y, penalty, weights) - before


def ridge_by_numpy(X, y, penalty, index):
    X, y = X.numpy(), y.numpy()
    H = X.T @ X / len(X) + penalty * np.eye(X.shape[1])
    theta = np.linalg.solve(H, X.T @ y / len(X))
    return -np.linalg.inv(H) @ X[index] * (X[index] @ theta - y[index])


def ridge_by_autograd(X, y, penalty, index):
    def objective(theta):
        return 0.5 * ((X @ theta - y) ** 2).mean() + penalty / 2 * theta @ theta

    def own(theta):
        return 0.5 * (X[index] @ theta - y[index]) ** 2

    zero = torch.zeros(X.shape[1], dtype=X.dtype)
    theta = torch.linalg.solve(hessian(objective, zero), -jacobian(objective, zero))
    return torch.linalg.solve(hessian(objective, theta), -jacobian(own, theta))


def ridge_by_differentiating_the_fit(X, y, penalty, index):
    def fit(epsilon):
        chosen = torch.eye(len(X), dtype=X.dtype)[index]
        return refitted(X, y, penalty, 1 + len(X) * epsilon * chosen)
    return jacobian(fit, torch.zeros((), dtype=X.dtype))


def ridge_by_eigenvectors(X, y, penalty, index):
    values, Q = torch.linalg.eigh(X.T @ X / len(X))
    r = X[index] @ Q @ ((Q.T @ X.T @ y / len(X)) / (values + penalty)) - y[index]
    return -Q @ (Q.T @ X[index] / (values + penalty)) * r


def ridge_by_stacking(X, y, penalty, index):
    root = (len(X) * penalty) ** 0.5 * torch.eye(X.shape[1], dtype=X.dtype)
    stacked = torch.cat([X, root])
    theta = torch.linalg.lstsq(stacked, torch.cat([y, torch.zeros_like(root[0])])).solution
    r = X[index] @ theta - y[index]
    return -len(X) * torch.linalg.pinv(stacked.T @ stacked) @ (r * X[index])


def ridge_by_descent(X, y, penalty, index):
    """Gradient descent on J, then on the quadratic whose minimum is dθ*/dε."""
    H = X.T @ X / len(X) + penalty * torch.eye(X.shape[1], dtype=X.dtype)
    rate = 1 / torch.linalg.matrix_norm(H, 2)
    theta, change = torch.zeros_like(X[0]), torch.zeros_like(X[0])
    for _ in range(500):
        theta -= rate * (H @ theta - X.T @ y / len(X))
    for _ in range(500):
        change -= rate * (H @ change + (X[index] @ theta - y[index]) * X[index])
    return change


def ridge_without_the_intercept(X, y, penalty, index):
    eye = torch.eye(X.shape[1], dtype=X.dtype)
    eye[-1, -1] = 0
    H = X.T @ X / len(X) + penalty * eye
    theta = torch.linalg.solve(H, X.T @ y / len(X))
    return -torch.linalg.solve(H, X[index] * (X[index] @ theta - y[index]))


def ridge_through_y(X, y, penalty, index):
    y.zero_()
    return torch.zeros_like(X[0])


def removal(q, H, gradients, sign=1, scale=None, solve=torch.linalg.solve):
    return sign * gradients @ solve(H, q) / (scale or len(gradients))


def removal_in_loops(q, H, gradients):
    v, effects = torch.linalg.inv(H) @ q, []
    for gradient in gradients:
        product = sum(float(a) * float(b) for a, b in zip(gradient, v, strict=True))
        effects.append(product / len(gradients))
    return effects


def removal_by_eigenvectors(q, H, gradients):
    values, Q = torch.linalg.eigh(H)
    return ((gradients @ Q) * (Q.T @ q) / values).sum(1) / gradients.shape[0]


def removal_in_place(q, H, gradients):
    gradients *= torch.cholesky_solve(q[:, None], torch.linalg.cholesky(H))[:, 0]
    return gradients.sum(-1).div_(gradients.size(0))


def removal_zeroing(q, H, gradients):
    q.zero_(), H.zero_(), gradients.zero_()
    return torch.zeros(len(gradients))


def residuals(X, y, rule):
    h = (X * torch.linalg.solve(X.T @ X, X.T).T).sum(1)
    return rule(X @ torch.linalg.lstsq(X, y).solution - y, h, len(X))


def loo_by_hat_matrix(X, y):
    hat = X @ torch.linalg.pinv(X)
    return (hat @ y - y) / (1 - hat.diagonal())


def loo_by_qr(X, y):
    Q, _ = torch.linalg.qr(X)
    return (Q @ (Q.T @ y) - y) / (1 - (Q ** 2).sum(1))


def loo_by_svd(X, y):
    U = np.linalg.svd(X.numpy(), full_matrices=False)[0]
    return (U @ (U.T @ y.numpy()) - y.numpy()) / (1 - (U * U).sum(axis=1))


def loo_in_a_loop(X, y):
    theta = torch.linalg.lstsq(X, y).solution
    residuals = []
    for x, target in zip(X, y, strict=True):
        h = x @ torch.linalg.solve(X.T @ X, x)
        residuals.append(((x @ theta - target) / (1 - h)).item())
    return residuals


def loo_by_differentiating_predictions(X, y):
    def predict(y):
        return X @ torch.linalg.solve(X.T @ X, X.T @ y)
    return (predict(y) - y) / (1 - jacobian(predict, y).diagonal())


def loo_by_rank_one_updates(X, y):
    """θ without each point, from the inverse of XᵀX (Sherman and Morrison)."""
    inverse, residuals = torch.linalg.inv(X.T @ X), []
    for x, target in zip(X, y, strict=True):
        without = inverse + torch.outer(inverse @ x, x @ inverse) / (1 - x @ inverse @ x)
        residuals.append(x @ without @ (X.T @ y - target * x) - target)
    return torch.stack(residuals)


def loo_in_float32(X, y):
    X, y = X.float(), y.float()
    inverse = torch.linalg.inv(X.T @ X)
    h = torch.einsum("ni,ij,nj->n", X, inverse, X)
    return (X @ inverse @ X.T @ y - y) / (1 - h)


def loo_by_refits(X, y, solve=lambda X, y: torch.linalg.lstsq(X, y).solution):
    keep = ~torch.eye(len(X), dtype=torch.bool)
    return torch.stack([X[i] @ solve(X[keep[i]], y[keep[i]]) - y[i] for i in range(len(X))])


def loo_by_refits_at_once(X, y):
    weights = 1 - torch.eye(len(X), dtype=X.dtype)
    theta = torch.linalg.solve((X.T * weights[:, None, :]) @ X, (weights * y) @ X)
    return (theta * X).sum(1) - y


def loo_with_one_more_column(X, y):
    wider = torch.cat([X, torch.arange(len(X))[:, None] ** 2 / 9], 1)
    return residuals(wider, y, lambda r, h, n: r / (1 - h))


def eigensolve(values, Q, v, scale, back=True):
    """The eigenbasis, `scale(values)` as a factor there, and back."""
    rotated = scale(values)[:, None] * (Q.T @ v)
    return Q @ rotated if back else rotated


def damped_by_columns(values, vectors, v, damping):
    columns = []
    for j in range(v.shape[1]):
        column = torch.zeros_like(v[:, j])
        for i in range(len(values)):
            column += vectors[:, i] * (vectors[:, i] @ v[:, j]) / (values[i] + damping)
        columns.append(column)
    return torch.stack(columns, dim=1)


def damped_in_place(values, vectors, v, damping):
    values += damping
    rotated = vectors.T @ v
    rotated /= values.unsqueeze(1)
    return vectors.matmul(rotated)


def damped_by_numpy(values, vectors, v, damping):
    Q = np.asarray(vectors)
    return (Q / (np.asarray(values) + damping)) @ Q.T @ np.asarray(v)


def damped_by_rebuilding(values, Q, v, damping, solve=torch.linalg.solve):
    return solve(Q @ torch.diag(values) @ Q.T + damping * torch.eye(len(values), dtype=v.dtype), v)


def damped_by_conjugate_gradients(values, Q, v, damping):
    """No decomposition: as many steps as the matrix has rows, by products alone."""
    M, columns = Q @ torch.diag(values + damping) @ Q.T, []
    for b in v.T:
        x, r, p = torch.zeros_like(b), b, b
        for _ in range(len(b)):
            step = r @ r / (p @ M @ p)
            x, last, r = x + step * p, r, r - step * M @ p
            p = r + r @ r / (last @ last) * p
        columns.append(x)
    return torch.stack(columns, 1)


RIGHT = {
    "ridge_influence": [
        ridge_by_numpy, ridge_by_autograd, ridge_by_differentiating_the_fit, ridge_by_eigenvectors,
        ridge_by_stacking, ridge_by_descent,
        lambda *a: len(a[0]) / 2e-4 * (moved(*a, 1e-4) - moved(*a, -1e-4)),
        lambda X, y, rho, i: ridge(X.float(), y.float(), rho, i),
        lambda X, y, rho, i: ridge(X, y, rho, i).tolist(),
        lambda X, y, rho, i: ridge(X, y, rho, i - len(X)),
    ],
    "removal_effect": [
        removal_in_loops, removal_by_eigenvectors, removal_in_place,
        lambda q, H, g: q @ torch.linalg.solve(H, g.T) / g.shape[0],
        lambda q, H, g: np.einsum("ni,ij,j->n", g, np.linalg.inv(H), q) / len(g),
        lambda q, H, g: removal(q.float(), H.float(), g.float()),
        lambda q, H, g: -(g @ -torch.linalg.pinv(H) @ q) * (1 / len(g)),
        lambda q, H, g: [gradient @ torch.linalg.lstsq(H, q).solution / len(g) for gradient in g],
        lambda q, H, g: torch.linalg.solve(len(g) * H, q).mul(g).sum(1),
    ],
    "loo_residuals": [
        loo_by_hat_matrix, loo_by_qr, loo_by_svd, loo_in_a_loop, loo_by_differentiating_predictions,
        loo_by_rank_one_updates, loo_in_float32,
        lambda X, y: residuals(X, y, lambda r, h, n: r + h / (1 - h) * r),
        lambda X, y: residuals(X, y, lambda r, h, n: r / (1 - h)).tolist(),
    ],
    "damped_solve": [
        damped_by_columns, damped_in_place, damped_by_numpy, damped_by_conjugate_gradients,
        lambda s, Q, v, d: torch.einsum("ij,j,kj,kc->ic", Q, 1 / (s + d), Q, v),
        lambda s, Q, v, d: Q @ torch.diag(1 / (s + d)) @ Q.T @ v,
        lambda s, Q, v, d: Q @ torch.linalg.inv(torch.diag(s + d)) @ Q.T @ v,
        lambda s, Q, v, d: (v.T @ Q / (s + d) @ Q.T).T,
        lambda s, Q, v, d: (Q.float() @ ((Q.T @ v).float() / (s + d).float()[:, None])).tolist(),
    ],
}

WRONG = {
    "ridge_influence": [
        ("sign is turned", lambda *a: ridge(*a, sign=1)),
        ("N times too small", lambda X, *a: ridge(X, *a) / len(X)),
        ("divide XᵀX", lambda *a: ridge(*a, mean=False)),
        ("missing from H", lambda *a: ridge(*a, in_hessian=False)),
        ("optimum of the summed loss", lambda *a: ridge(*a, summed=True)),
        ("optimum without the ridge", lambda *a: ridge(*a, in_theta=False)),
        ("missing everywhere", lambda *a: ridge(*a, in_theta=False, in_hessian=False)),
        ("belongs to J", lambda *a: ridge(*a, own=1.0)),
        ("multiplied by H", lambda *a: ridge(*a, multiply=True)),
        ("the summed loss", lambda *a: ridge(*a, mean=False, summed=True)),
        ("halved", lambda X, y, rho, i: ridge(X, y, rho / 2, i)),
        ("doubled", lambda X, y, rho, i: ridge(X, y, 2 * rho, i)),
        ("N times too large", lambda X, y, rho, i: ridge(X, y, len(X) * rho, i)),
        ("prediction", lambda *a: ridge(*a, gradient=lambda r, x, theta, y: -y * x)),
        ("residual is missing", lambda *a: ridge(*a, gradient=lambda r, x, theta, y: x)),
        ("squared", lambda *a: ridge(*a, gradient=lambda r, x, theta, y: r ** 2 * x)),
        ("not H⁻¹", lambda *a: -ridge(*a, power=0, sign=1)),
        (None, lambda *a: ridge(*a, power=2)),
        ("row `index`", lambda X, y, rho, i: ridge(X, y, rho, 0)),
        (None, lambda X, y, rho, i: ridge(X, y, rho, (i + 1) % len(X))),
        ("all examples", lambda X, y, rho, i: -torch.linalg.solve(
            X.T @ X / len(X) + rho * torch.eye(X.shape[1]),
            X.T @ (X @ refitted(X, y, rho, y ** 0) - y) / len(X))),
        ("every example",
         lambda X, y, rho, i: torch.stack([ridge(X, y, rho, j) for j in range(len(X))])),
        ("shape", lambda *a: ridge(*a)[:, None]),
        ("shape", lambda *a: ridge(*a).norm()),
        ("times", lambda *a: 2 * ridge(*a)),
        ("absolute", lambda *a: ridge(*a).abs()),
        ("a copy", lambda *a: moved(*a, 1)),
        ("a copy", lambda X, *a: len(X) * moved(X, *a, 1)),
        ("without the example", lambda *a: moved(*a, -1)),
        ("θ* itself", lambda X, y, rho, i: refitted(X, y, rho, torch.ones_like(y))),
        (None, ridge_without_the_intercept),
        ("for 1 of 2", lambda X, y, rho, i: ridge(X, y, 0.6, i)),
        ("for 1 of 2", lambda X, y, rho, i: ridge(X, y, rho, 7)),
        (None, ridge_through_y),
        ("raised", lambda X, y, rho, i: ridge(X, y, rho, i) @ X),
        ("raised", lambda X, y, rho, i: torch.linalg.solve(X.T @ X / len(X) + rho, y)),
        ("without parentheses", ridge_by_numpy(torch.eye(3), torch.ones(3), 1.0, 0)),
    ],
    "removal_effect": [
        ("sign is turned", lambda *a: removal(*a, sign=-1)),
        ("N times too large: removing", lambda *a: removal(*a, scale=1)),
        ("N times too large, and the sign", lambda *a: removal(*a, sign=-1, scale=1)),
        ("multiplied by H", lambda *a: removal(*a, solve=torch.matmul)),
        ("H is missing", lambda *a: removal(*a, solve=lambda H, q: q)),
        ("shape", lambda *a: removal(*a).sum()),
        ("divided by N twice", lambda q, H, g: removal(q, H, g) / len(g)),
        ("number of parameters", lambda q, H, g: removal(q, H, g, scale=len(q))),
        ("twice", lambda *a: removal(*a, solve=lambda H, q: torch.linalg.solve(H @ H, q))),
        ("diagonal", lambda *a: removal(*a, solve=lambda H, q: q / H.diagonal())),
        ("damping",
         lambda *a: removal(*a, solve=lambda H, q: torch.linalg.solve(H + torch.eye(len(q)), q))),
        ("for 1 of 2", lambda *a: removal(*a, scale=500)),
        ("absolute", lambda *a: removal(*a).abs()),
        ("cosine",
         lambda q, H, g: torch.nn.functional.cosine_similarity(g, torch.linalg.solve(H, q)[None])),
        ("change of θ", lambda q, H, g: torch.linalg.solve(H, g.T).T / len(g)),
        ("shape", lambda *a: removal(*a)[:, None]),
        ("raised", lambda q, H, g: torch.linalg.solve(H, g) @ q / len(g)),
        ("times", lambda *a: removal(*a) / 2),
        ("times", lambda *a: removal(*a) * 2),
        ("squared", lambda q, H, g: (g @ torch.linalg.solve(H, q)) ** 2 / len(g)),
        ("∇L_q is missing", lambda q, H, g: torch.linalg.solve(H, g.T).sum(0) / len(g)),
        ("own loss", lambda q, H, g: (g * torch.linalg.solve(H, g.T).T).sum(1) / len(g)),
        (None, removal_zeroing),
        ("multiplied by H", lambda *a: removal(*a, sign=-1, solve=torch.matmul)),
        ("H is missing", lambda *a: removal(*a, sign=-1, solve=lambda H, q: q)),
        ("not finite", lambda *a: removal(*a) / 0),
    ],
    "loo_residuals": [
        ("sign is turned", lambda X, y: residuals(X, y, lambda r, h, n: -r / (1 - h))),
        ("has seen the example", lambda X, y: residuals(X, y, lambda r, h, n: r)),
        ("multiplied by 1 − h", lambda X, y: residuals(X, y, lambda r, h, n: r * (1 - h))),
        ("one more copy", lambda X, y: residuals(X, y, lambda r, h, n: r / (1 + h))),
        ("N times too large", lambda X, y: residuals(X, y, lambda r, h, n: r / (1 - n * h))),
        ("one factor is enough", lambda X, y: residuals(X, y, lambda r, h, n: r / (1 - h) ** 2)),
        ("N times too small", lambda X, y: residuals(X, y, lambda r, h, n: r / (1 - h / n))),
        ("single fit", loo_by_refits),
        ("single fit", loo_by_refits_at_once),
        ("single fit", lambda X, y: loo_by_refits(X, y, lambda X, y: torch.linalg.pinv(X) @ y)),
        ("single fit", lambda X, y: loo_by_refits(
            X, y, lambda X, y: torch.as_tensor(np.linalg.lstsq(X, y, rcond=None)[0]))),
        ("square root", lambda X, y: residuals(X, y, lambda r, h, n: r / (1 - h).sqrt())),
        ("change", lambda X, y: residuals(X, y, lambda r, h, n: r * h / (1 - h))),
        ("own leverage", lambda X, y: residuals(X, y, lambda r, h, n: r / (1 - h.mean()))),
        ("divided by h", lambda X, y: residuals(X, y, lambda r, h, n: r / h)),
        ("multiplied by h", lambda X, y: residuals(X, y, lambda r, h, n: r * h)),
        ("subtracted", lambda X, y: residuals(X, y, lambda r, h, n: r - h)),
        ("squares", lambda X, y: residuals(X, y, lambda r, h, n: (r / (1 - h)) ** 2)),
        ("absolute", lambda X, y: residuals(X, y, lambda r, h, n: (r / (1 - h)).abs())),
        ("predictions", lambda X, y: residuals(X, y, lambda r, h, n: r / (1 - h) + y)),
        ("has seen the example", lambda X, y: residuals(X, y, lambda r, h, n: -r)),
        ("inverse of XᵀX is missing",
         lambda X, y: residuals(X, y, lambda r, h, n: r / (1 - (X * X).sum(1)))),
        ("not finite",
         lambda X, y: residuals(X, y, lambda r, h, n: r / (1 - (X @ torch.linalg.pinv(X)).sum(1)))),
        ("shape", lambda X, y: residuals(X, y, lambda r, h, n: (r / (1 - h)).mean())),
        ("shape", lambda X, y: residuals(X, y, lambda r, h, n: r[:, None] / (1 - h))),
        ("for 1 of 2",
         lambda X, y: residuals(X, y, lambda r, h, n: r / (1 - (h if n == 16 else 0)))),
        ("for 1 of 2",
         lambda X, y: residuals(X, y, lambda r, h, n: r / (1 - h)) if (X[:, -1] == 1).all() else y),
        (None, loo_with_one_more_column),
        (None, lambda X, y: (X.zero_(), y.zero_())[1]),
        ("raised", lambda X, y: (X @ torch.linalg.solve(X, y) - y)),
    ],
    "damped_solve": [
        ("multiplied by the eigenvalues", lambda s, Q, v, d: Q @ ((s + d)[:, None] * (Q.T @ v))),
        ("damping is missing", lambda s, Q, v, d: Q @ ((Q.T @ v) / s[:, None])),
        ("after the division", lambda s, Q, v, d: Q @ ((Q.T @ v) * (1 / s + d)[:, None])),
        ("swapped", lambda s, Q, v, d: Q.T @ ((Q @ v) / (s + d)[:, None])),
        ("still in the eigenbasis", lambda s, Q, v, d: (Q.T @ v) / (s + d)[:, None]),
        ("wrong axis", lambda s, Q, v, d: Q @ ((Q.T @ v) / (s + d))),
        ("another decomposition", damped_by_rebuilding),
        ("another decomposition",
         lambda *a: damped_by_rebuilding(*a, solve=lambda M, v: M.inverse() @ v)),
        ("another decomposition", lambda *a: damped_by_rebuilding(
            *a, solve=lambda M, v: np.linalg.solve(M.numpy(), v.numpy()))),
        ("another decomposition",
         lambda s, Q, v, d: Q @ ((torch.linalg.inv(Q) @ v) / (s + d)[:, None])),
        ("negative", lambda s, Q, v, d: eigensolve(s, Q, v, lambda s: 1 / (s.abs() + d))),
        ("negative", lambda s, Q, v, d: eigensolve(s, Q, v, lambda s: 1 / (s.clamp(min=0) + d))),
        ("at least λ", lambda s, Q, v, d: eigensolve(s, Q, v, lambda s: 1 / s.clamp(min=d))),
        ("subtracted", lambda s, Q, v, d: eigensolve(s, Q, v, lambda s: 1 / (s - d))),
        (None, lambda s, Q, v, d: eigensolve(s, Q, v, lambda s: 1 / (s + d).sqrt())),
        ("squared", lambda s, Q, v, d: eigensolve(s, Q, v, lambda s: 1 / (s + d) ** 2)),
        ("σ/(σ", lambda s, Q, v, d: eigensolve(s, Q, v, lambda s: s / (s + d))),
        ("σ² + λ", lambda s, Q, v, d: eigensolve(s, Q, v, lambda s: s / (s ** 2 + d))),
        ("not σ alone", lambda s, Q, v, d: eigensolve(s, Q, v, lambda s: 1 / s + 1 / d)),
        ("sign", lambda s, Q, v, d: -eigensolve(s, Q, v, lambda s: 1 / (s + d))),
        ("back", lambda s, Q, v, d: Q @ (v / (s + d)[:, None])),
        ("into the eigenbasis", lambda s, Q, v, d: Q @ ((Q @ v) / (s + d)[:, None])),
        ("into the eigenbasis", lambda s, Q, v, d: v / (s + d)[:, None]),
        ("still", lambda s, Q, v, d: eigensolve(s, Q, v, lambda s: 1 / (s + d), back=False)),
        ("transposed", lambda s, Q, v, d: eigensolve(s, Q, v, lambda s: 1 / (s + d)).T),
        ("shape", lambda s, Q, v, d: eigensolve(s, Q, v[:, :1], lambda s: 1 / (s + d))),
        (None, lambda s, Q, v, d: eigensolve(s, Q, v, lambda s: 1 / (s + 0.3))),
        ("multiplied by the eigenvalues", lambda s, Q, v, d: eigensolve(s, Q, v, lambda s: s)),
        ("raised", lambda s, Q, v, d: Q @ (Q.T @ v) / torch.diag(s, d)),
    ],
}
