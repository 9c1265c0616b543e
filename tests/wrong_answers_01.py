"""Notebook 01: answers that learners give, and words of the message that each must get."""
import torch


def ridge(X, y, penalty, index, in_theta=True, in_hessian=True, mean=True, summed=False, sign=-1, own=0.0,
          multiply=False):
    """dθ*/dε of a ridge regression, with one thing done as somebody might do it."""
    N, eye = len(X), torch.eye(X.shape[1], dtype=X.dtype)
    scale = 1 if summed else N
    theta = torch.linalg.solve(X.T @ X / scale + penalty * eye * in_theta, X.T @ y / scale)
    H = X.T @ X / (N if mean else 1) + penalty * eye * in_hessian
    gradient = (X[index] @ theta - y[index]) * X[index] + own * penalty * theta
    return sign * (H @ gradient if multiply else torch.linalg.solve(H, gradient))


def removal(q, H, gradients, sign=1, scale=None, solve=torch.linalg.solve):
    return sign * gradients @ solve(H, q) / (scale or len(gradients))


def residuals(X, y, rule):
    h = (X * torch.linalg.solve(X.T @ X, X.T).T).sum(1)
    return rule(X @ torch.linalg.lstsq(X, y).solution - y, h, len(X))


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
    ],
    "removal_effect": [
        ("sign is turned", lambda *a: removal(*a, sign=-1)),
        ("N times too large: removing", lambda *a: removal(*a, scale=1)),
        ("N times too large, and the sign", lambda *a: removal(*a, sign=-1, scale=1)),
        ("multiplied by H", lambda *a: removal(*a, solve=torch.matmul)),
        ("H is missing", lambda *a: removal(*a, solve=lambda H, q: q)),
        ("shape", lambda *a: removal(*a).sum()),
    ],
    "loo_residuals": [
        ("sign is turned", lambda X, y: residuals(X, y, lambda r, h, n: -r / (1 - h))),
        ("has seen the example", lambda X, y: residuals(X, y, lambda r, h, n: r)),
        ("multiplied by 1 − h", lambda X, y: residuals(X, y, lambda r, h, n: r * (1 - h))),
        ("one more copy", lambda X, y: residuals(X, y, lambda r, h, n: r / (1 + h))),
        ("N times too large", lambda X, y: residuals(X, y, lambda r, h, n: r / (1 - n * h))),
        ("one factor is enough", lambda X, y: residuals(X, y, lambda r, h, n: r / (1 - h) ** 2)),
    ],
    "damped_solve": [
        ("multiplied by the eigenvalues", lambda s, Q, v, d: Q @ ((s + d)[:, None] * (Q.T @ v))),
        ("damping is missing", lambda s, Q, v, d: Q @ ((Q.T @ v) / s[:, None])),
        ("after the division", lambda s, Q, v, d: Q @ ((Q.T @ v) * (1 / s + d)[:, None])),
        ("swapped", lambda s, Q, v, d: Q.T @ ((Q @ v) / (s + d)[:, None])),
        ("still in the eigenbasis", lambda s, Q, v, d: (Q.T @ v) / (s + d)[:, None]),
        ("wrong axis", lambda s, Q, v, d: Q @ ((Q.T @ v) / (s + d))),
    ],
}
