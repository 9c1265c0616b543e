"""Checks of notebook 01, influence functions: against refits and dense solves."""
import re
from unittest import mock

import numpy as np
import torch
from torch.linalg import solve
from torch.utils._python_dispatch import TorchDispatchMode

from .core import Expected, Problem, Wrong, call, check, draws, judge


def _linear_data(seed, count, width, intercept=1):
    """Correlated features of unequal size, ones if `intercept`, and targets: X (N, p), y (N,)."""
    draw = draws(seed)
    X = draw(count, width) @ (draw(width, width) + 2 * torch.eye(width))
    X = torch.cat([X, torch.ones(count, intercept)], dim=1)
    return X, X @ draw(width + intercept) + 0.7 * draw(count)


def _refit(X, y, weights, ridge=0.0):
    """Minimises (1/N) Σ w_i ½(x_iᵀθ − y_i)² + (ridge/2)‖θ‖², weights (..., N) → θ (..., p)."""
    XtW = X.T * weights[..., None, :]
    return solve(XtW @ X / len(X) + ridge * torch.eye(X.shape[1]), XtW @ y / len(X))


def _refits_without(X, y):
    return _refit(X, y, 1 - torch.eye(len(X), dtype=X.dtype))


def _ridge(seed, N, width, ridge, index):
    """A problem of `ridge_influence`."""
    X, y = _linear_data(seed, N, width)
    chosen, everyone = torch.eye(N)[index], torch.ones_like(y)
    up, down = (_refit(X, y, everyone + weight * chosen, ridge) for weight in (N * 1e-5, N * -1e-5))
    theta, more, less = (_refit(X, y, everyone + weight * chosen, ridge) for weight in (0, 1, -1))
    truth, step = (up - down) / 2e-5, "that is the whole step to the fit with"
    return Problem((X, y, ridge, index), Expected("dθ*/dε", truth, {
        "the sign is turned: more weight on z moves θ against ∇L(z)": -truth,
        "N times too small: dθ*/dε has no factor 1/N, and H belongs to the mean loss": truth / N,
        "that is θ* itself: return its derivative": theta,
        f"{step} a copy of the example, not a derivative": more - theta,
        f"{step} a copy of the example, times N, not a derivative": N * (more - theta),
        f"{step}out the example, not a derivative": less - theta,
        **_other_ridges(X, y, ridge, index), **_other_gradients(X, y, ridge, index, theta),
    }, {"that is dθ*/dε of every example: return that of row `index`": X.shape}))


def _other_ridges(X, y, ρ, index):
    """Mistakes with H = XᵀX/N + ρI and with the θ* of ρ."""
    x, N, C, eye = X[index], len(X), X.T @ X / len(X), torch.eye(X.shape[1])

    def influence(scale, in_H, in_theta):
        theta = _refit(X, y, torch.ones_like(y), in_theta)
        return -solve(scale * C + in_H * eye, (x @ theta - y[index]) * x)

    second, sums = "(ρ/2)‖θ‖² has the second derivative ρI", "divide XᵀX and Xᵀy (but not ρ) by N"
    return {
        "H belongs to the mean loss: divide XᵀX (but not ρ) by N": influence(N, ρ, ρ),
        f"H and θ* are those of the summed loss: {sums}": influence(N, ρ, ρ / N),
        f"θ is the optimum of the summed loss: {sums}": influence(1, ρ, ρ / N),
        "θ is the optimum without the ridge: solve for it with ρ": influence(1, ρ, 0),
        f"the ridge is missing from H: {second}": influence(1, 0, ρ),
        "the ridge is missing everywhere: it belongs to θ* and to H": influence(1, 0, 0),
        f"the ridge is halved: {second}": influence(1, ρ / 2, ρ / 2),
        f"the ridge is doubled: {second}": influence(1, 2 * ρ, 2 * ρ),
        "the ridge is N times too large: only the losses have 1/N": influence(1, N * ρ, N * ρ),
    }


def _other_gradients(X, y, ridge, index, theta):
    """Mistakes with ∇L(z) = r x, and with H⁻¹ before it."""
    x, residuals = X[index], X @ theta - y
    r, H = residuals[index], X.T @ X / len(X) + ridge * torch.eye(len(x))
    return {
        "the ridge belongs to J, not to the example's own loss: ∇L(z) has no ρθ":
            -solve(H, r * x + ridge * theta),
        "you multiplied by H where its inverse is needed": -H @ (r * x),
        "that is −∇L(z), not H⁻¹ of it": -r * x,
        "the residual is missing: ∇L(z) = r x": -solve(H, x),
        "the residual is prediction minus target: xᵀθ is missing": solve(H, y[index] * x),
        "the residual is squared: ∇L(z) = r x": -solve(H, r ** 2 * x),
        "that is the gradient of all examples together: take row `index`":
            -solve(H, X.T @ residuals / len(X)),
        "that is the first example: take row `index`": -solve(H, residuals[0] * X[0]),
    }


@check
def ridge_influence(answer):
    """`answer(X (N, p), y (N,), ridge, index) → dθ*/dε (p,)`, against refits in ε."""
    judge(answer, [_ridge(1, 40, 4, 0.6, 7), _ridge(2, 23, 2, 1.4, 0)])
    return "dθ*/dε equals the finite difference of two refitted ridge regressions"


def _removal(seed, N, x_q, y_q):
    """A problem of `removal_effect`: refits without each example, their loss at a query."""
    X, y = _linear_data(seed, N, len(x_q) - 1)
    x_q, theta = torch.tensor(x_q, dtype=X.dtype), _refit(X, y, torch.ones_like(y))
    q, g, H = (x_q @ theta - y_q) * x_q, (X @ theta - y)[:, None] * X, X.T @ X / N
    before, after = (0.5 * (theta @ x_q - y_q) ** 2 for theta in (theta, _refits_without(X, y)))
    truth, effect, solved = after - before, g @ solve(H, q) / N, solve(H, g.T).T
    large = "N times too large{}: removing one of N examples is ε = −1/N"
    product = "you multiplied by H where its inverse is needed (torch.linalg.solve(H, v) is H⁻¹v)"
    absent = "H is missing: this is the plain dot product of gradients"
    turned = ", and the sign is turned"
    return Problem((q, H, g), Expected("the change of L_q", truth, {
        "the sign is turned: that is the change when a copy is added": -truth,
        large.format(""): N * truth, large.format(turned): -N * truth,
        product: g @ H @ q / N, product + turned: -g @ H @ q / N,
        absent: g @ q / N, absent + turned: -g @ q / N,
        "divided by N twice: removing one of N examples is ε = −1/N": effect / N,
        "divided by the number of parameters, not of examples": effect * N / len(q),
        "H⁻¹ is applied twice": g @ solve(H @ H, q) / N,
        "only the diagonal of H is used: H⁻¹v needs all of H": g @ (q / H.diagonal()) / N,
        "there is damping here: solve with H itself": g @ solve(H + torch.eye(len(q)), q) / N,
        "the products are squared": N * effect ** 2,
        "that is a cosine: influence keeps the lengths":
            torch.cosine_similarity(g, solve(H, q)[None]),
        "∇L_q is missing: that sums the changes of all parameters": solved.sum(1) / N,
        "that is the change of each example's own loss, not of the query's":
            (g * solved).sum(1) / N,
    }, {"that is the change of θ: take its product with ∇L_q": g.shape}, tolerance=0.03))


@check
def removal_effect(answer):
    """`answer(query_gradient (p,), H (p, p), gradients (N, p)) → (N,)` nats, against refits."""
    judge(answer, [_removal(2, 500, [1.5, -1.0, 2.0, 1.0], 0.0),
                   _removal(5, 380, [-2.0, 1.0, 0.5, 1.5, -1.0, 1.0], 3.0)])
    return "the predicted changes are within 3% of 500 real refits, each without one example"


def _left_out(seed, N, width, intercept):
    """A problem of `loo_residuals`."""
    X, y = _linear_data(seed, N, width, intercept)
    truth, hat = (_refits_without(X, y) * X).sum(1) - y, X @ solve(X.T @ X, X.T)
    r, h = hat @ y - y, hat.diagonal()
    seen = "these are the residuals of the fit that has seen the example: divide by 1 − h"
    return Problem((X, y), Expected("the residual", truth, {
        "the sign is turned: the residual is prediction minus target": -truth,
        seen: r, seen + "; and turn the sign": -r,
        "multiplied by 1 − h: a point left out has a larger residual, not a smaller one":
            r * (1 - h),
        "divided by 1 + h: that is the residual after one more copy": r / (1 + h),
        "this h is N times too large: the leverage uses XᵀX, the sum, not the mean H":
            r / (1 - N * h),
        "this h is N times too small: N has been divided out twice": r / (1 - h / N),
        "divided by (1 − h)²: one factor is enough": r / (1 - h) ** 2,
        "divided by the square root of 1 − h: that gives residuals of equal spread":
            r / (1 - h).sqrt(),
        "divided by h: divide by 1 − h": r / h, "multiplied by h: divide by 1 − h": r * h,
        "h is subtracted: divide by 1 − h": r - h,
        "that is the change of the residual: add the residual itself": r * h / (1 - h),
        "divided by the mean of 1 − h: each example has its own leverage": r / (1 - h.mean()),
        "those are the squares of the residuals": truth ** 2,
        "those are the predictions: subtract the targets": truth + y,
        "the inverse of XᵀX is missing from h": r / (1 - X.pow(2).sum(1)),
    }))


class _Factorisations(TorchDispatchMode):
    """Keeps the matrices that are solved with, inverted or decomposed inside the block."""
    ATEN = re.compile("linalg_(solve|lstsq|inv|pinv|chol|lu|ldl|qr|svd|eig)|cholesky|lu_solve")
    NUMPY = "solve", "lstsq", "inv", "pinv", "cholesky", "qr", "svd", "eig", "eigh"

    def __init__(self):
        super().__init__()
        self.matrices = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        factorises = self.ATEN.search(str(function))
        return (self.keeping(function) if factorises else function)(*args, **(kwargs or {}))

    def keeping(self, function):
        """The function, after its matrices have been kept."""
        def kept(matrices, *rest, **options):
            stack = torch.as_tensor(matrices).detach()
            for matrix in stack.reshape(-1, *stack.shape[-2:]):
                # 1 × 1 and diagonal ones are mere divisions
                if min(matrix.shape) > 1 and not matrix.equal(torch.diag_embed(matrix.diagonal())):
                    self.matrices.add(tuple(matrix.flatten().tolist()))
            return function(matrices, *rest, **options)
        return kept


def _factorised(answer, problem):
    """How many different matrices PyTorch and NumPy factorise while the answer runs."""
    with _Factorisations() as seen, mock.patch.multiple(np.linalg, **{
            name: seen.keeping(getattr(np.linalg, name)) for name in seen.NUMPY}):
        call(answer, *problem.arguments)
    return len(seen.matrices)


@check
def loo_residuals(answer):
    """`answer(X (N, p), y (N,)) → (N,)`, against a refit without each example."""
    problems = [_left_out(3, 16, 3, intercept=1), _left_out(6, 11, 2, intercept=0)]
    judge(answer, problems)
    if (matrices := _factorised(answer, problems[0])) > 8:  # 16 refits solve with 16 matrices
        raise Wrong(f"the numbers are right, but took {matrices} fits: r and h of a single fit do")
    return "one fit gives the same residuals as 16 refits, each without one point"


def _damped(seed, size, columns, damping, spectrum):
    """A problem of `damped_solve`: a symmetric matrix with these eigenvalues."""
    draw = draws(seed)
    basis, v = torch.linalg.qr(draw(size, size))[0], draw(size, columns)
    matrix = basis @ torch.diag(torch.tensor(spectrum, dtype=v.dtype)) @ basis.T
    values, Q = torch.linalg.eigh(matrix)
    s, u = values[:, None], Q.T @ v
    shifted, many = s + damping, "you multiplied by the eigenvalues where 1/(σ+λ) is needed"
    mistakes = {
        many: Q @ (shifted * u), many + ", and the damping is missing": Q @ (s * u),
        "the damping is missing: divide by σ + λ": Q @ (u / s),
        "λ is added after the division: it belongs under the fraction, 1/(σ+λ)":
            Q @ (u / s + damping * u),
        "1/λ is added to 1/σ: invert σ + λ, not σ alone":
            Q @ (u / s + u / damping),
        "λ is subtracted: divide by σ + λ": Q @ (u / (s - damping)),
        "σ + λ is squared: divide by it once": Q @ (u / shifted ** 2),
        "that is σ/(σ+λ), the share that damping leaves: divide by σ + λ alone":
            Q @ (u * s / shifted),
        "that is σ/(σ² + λ): divide by σ + λ": Q @ (u * s / (s ** 2 + damping)),
        "negative eigenvalues were made positive: divide by σ + λ": Q @ (u / (s.abs() + damping)),
        "negative eigenvalues were set to zero: divide by σ + λ":
            Q @ (u / (s.clamp(min=0) + damping)),
        "the eigenvalues were made at least λ: add λ to each": Q @ (u / s.clamp(min=damping)),
        "Q and Qᵀ are swapped: the eigenvectors are the columns, so Qᵀv comes first":
            Q.T @ ((Q @ v) / shifted),
        "still in the eigenbasis: multiply by Q at the end": u / shifted,
        "v never came into the eigenbasis, but is turned back: begin with Qᵀv": Q @ (v / shifted),
        "v never came into the eigenbasis: begin with Qᵀv": v / shifted,
        "Q v leads not into the eigenbasis: begin with Qᵀv": Q @ ((Q @ v) / shifted),
    }
    if size == columns:
        mistakes["σ + λ ran along the wrong axis: divide by (values + damping)[:, None]"] = (
            Q @ (u / shifted.T))
    truth = solve(matrix + damping * torch.eye(size), v)
    return Problem((values, Q, v, damping), Expected("(M + λI)⁻¹v", truth, mistakes))


@check
def damped_solve(answer):
    """`answer(values (p,), vectors (p, p), v (p, k), damping) → (p, k)`, against a dense solve."""
    square = _damped(4, 5, 5, 0.3, [0.2, 0.7, 1.5, 3.0, 6.0])  # so that a wrong axis runs
    judge(answer, [square, _damped(7, 3, 3, 0.8, [-2.0, 0.5, 2.5])])
    judge(answer, [_damped(8, 4, 2, 0.5, [-1.5, 0.1, 1.0, 4.0]),
                   _damped(9, 3, 7, 1.2, [0.3, 0.6, 2.0])])
    if _factorised(answer, square):
        raise Wrong("the numbers are right, but took another decomposition or solve: Q and σ do")
    return "equal to the dense solve with M + λI"
