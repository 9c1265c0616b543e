"""The learner's checks: each judges an answer against an oracle that shares no code with the solution.

A check prints one line: "not attempted yet" for a stub, ✓ with what was verified, or ✗ with the
likely misconception. It never raises, so Run All passes with stubs, half answers and solutions.
"""
import functools

import torch


class NotAttempted(Exception):
    """The stub is untouched."""


class Wrong(Exception):
    """An answer that the oracle refutes; the message is for the learner."""


def check(judge):
    """Turns `judge(answer) -> what was verified` into a check that prints its verdict in one line."""
    @functools.wraps(judge)
    def verdict(answer):
        try:
            print(f"✓ {judge(answer)}")
        except NotAttempted:
            print("· not attempted yet")
        except Wrong as reason:
            print(f"✗ {reason}")
    return verdict


def call(answer, *arguments, **options):
    """The learner's function applied; its result as a tensor where it is a number.

    Raises NotAttempted for None or ..., Wrong when the function itself raises.
    """
    try:
        value = answer(*arguments, **options)
    except Exception as problem:
        raise Wrong(f"your function raised {type(problem).__name__}: {problem}") from None
    if value is None or value is ...:
        raise NotAttempted
    return torch.as_tensor(value).detach() if isinstance(value, (float, int)) or hasattr(value, "__array__") else value


def compare(value, truth, mistakes=None, tolerance=1e-4, what="your result"):
    """Raises Wrong unless `value` equals the oracle's `truth` to `tolerance`, relative to its largest entry.

    `mistakes` maps a message to the value that this misconception gives; the first that fits is told.
    """
    value, truth = torch.as_tensor(value).double(), torch.as_tensor(truth).double()
    if value.shape != truth.shape:
        raise Wrong(f"{what} has shape {tuple(value.shape)}, expected {tuple(truth.shape)}")
    if not torch.isfinite(value).all():
        raise Wrong(f"{what} holds values that are not finite")
    if _equal(value, truth, tolerance):
        return
    for message, wrong in (mistakes or {}).items():
        wrong = torch.as_tensor(wrong).double()
        if wrong.shape == value.shape and _equal(value, wrong, tolerance):
            raise Wrong(message)
    error = ((value - truth).norm() / truth.norm().clamp(min=1e-300)).item()
    raise Wrong(f"{what} is off by {error:.0%} from the oracle, in a way this check does not know")


def _equal(one, other, tolerance):
    return (one - other).abs().max() <= tolerance * other.abs().max()


# -- 01 influence functions -----------------------------------------------------------------------

def _linear_data(seed, count, width):
    """Correlated features of unequal size with a column of ones, and targets: X (count, width + 1), y (count,)."""
    generator = torch.Generator().manual_seed(seed)
    def draw(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)
    X = torch.cat([draw(count, width) @ (draw(width, width) + 2 * torch.eye(width)), torch.ones(count, 1)], dim=1)
    return X, X @ draw(width + 1) + 0.7 * draw(count)


def _refit(X, y, weights, ridge=0.0):
    """Minimises (1/N) Σ w_i ½(x_iᵀθ − y_i)² + (ridge/2)‖θ‖², weights (..., N) → θ (..., p), by solving for it."""
    XtW = X.T * weights[..., None, :]
    return torch.linalg.solve(XtW @ X / len(X) + ridge * torch.eye(X.shape[1], dtype=X.dtype), XtW @ y / len(X))


def _refits_without(X, y):
    return _refit(X, y, 1 - torch.eye(len(X), dtype=X.dtype))


@check
def ridge_influence(answer):
    X, y = _linear_data(seed=1, count=40, width=4)
    ridge, index, step = 0.6, 7, 1e-5
    value = call(answer, X, y, ridge, index)
    one = torch.ones_like(y)
    at = torch.eye(len(X), dtype=X.dtype)[index]
    moved = [_refit(X, y, one + len(X) * epsilon * at, ridge) for epsilon in (step, -step)]
    truth = (moved[0] - moved[1]) / (2 * step)
    theta, plain, bare = _refit(X, y, one, ridge), _refit(X, y, one), X.T @ X / len(X)
    H, x = bare + ridge * torch.eye(X.shape[1], dtype=X.dtype), X[index]
    r, r_plain = x @ theta - y[index], x @ plain - y[index]
    compare(value, truth, {
        "the sign is turned: more weight on z moves θ against the gradient ∇L(z)": -truth,
        "N times too small: dθ*/dε has no factor 1/N, and H belongs to the mean loss, not the sum": truth / len(X),
        "H belongs to the mean loss: divide XᵀX (but not ρ) by N":
            -torch.linalg.solve(X.T @ X + ridge * torch.eye(len(x), dtype=X.dtype), r * x),
        "the ridge is missing from H: ρI belongs to the second derivative of J": -torch.linalg.solve(bare, r * x),
        "θ is the optimum without the ridge: solve for it with ρ": -torch.linalg.solve(H, r_plain * x),
        "the ridge is missing everywhere: it belongs to θ* and to H": -torch.linalg.solve(bare, r_plain * x),
        "the ridge belongs to J, not to the example's own loss: ∇L(z) has no ρθ":
            -torch.linalg.solve(H, r * x + ridge * theta),
        "you multiplied by H where its inverse is needed": -H @ (r * x),
    }, tolerance=1e-5, what="dθ*/dε")
    return "dθ*/dε equals the finite difference of two refitted ridge regressions"


@check
def removal_effect(answer):
    X, y = _linear_data(seed=2, count=500, width=3)
    x_q, y_q = torch.tensor([1.5, -1.0, 2.0, 1.0], dtype=torch.float64), 0.0
    theta = _refit(X, y, torch.ones_like(y))
    query_gradient, gradients, H = (x_q @ theta - y_q) * x_q, (X @ theta - y)[:, None] * X, X.T @ X / len(X)
    value = call(answer, query_gradient, H, gradients)
    loss = lambda at: 0.5 * (at @ x_q - y_q) ** 2
    truth = loss(_refits_without(X, y)) - loss(theta)
    multiplied = gradients @ (H @ query_gradient) / len(X)
    compare(value, truth, {
        "the sign is turned: that is the change when a copy is added": -truth,
        "N times too large: removing one of N examples is ε = −1/N": len(X) * truth,
        "N times too large, and the sign is turned: removing one of N examples is ε = −1/N": -len(X) * truth,
        "you multiplied by H where its inverse is needed (torch.linalg.solve(H, v) gives H⁻¹v)": multiplied,
        "you multiplied by H where its inverse is needed, and the sign is turned": -multiplied,
        "H is missing: this is the plain dot product of gradients": gradients @ query_gradient / len(X),
    }, tolerance=0.03, what="the change of L_q")
    return "the predicted changes are within 3% of 500 real refits, each without one example"


@check
def loo_residuals(answer):
    X, y = _linear_data(seed=3, count=16, width=3)
    value = call(answer, X, y)
    truth = (_refits_without(X, y) * X).sum(1) - y
    r = X @ _refit(X, y, torch.ones_like(y)) - y
    h = (X * torch.linalg.solve(X.T @ X, X.T).T).sum(1)
    compare(value, truth, {
        "the sign is turned: the residual is prediction minus target": -truth,
        "these are the residuals of the fit that has seen the example: divide by 1 − h": r,
        "multiplied by 1 − h: a point left out has a larger residual, not a smaller one": r * (1 - h),
        "divided by 1 + h: that is the residual after one more copy": r / (1 + h),
        "this h is N times too large: the leverage uses XᵀX, the sum, not the mean H": r / (1 - len(X) * h),
        "this h is N times too small: N has been divided out twice": r / (1 - h / len(X)),
        "divided by (1 − h)²: one factor is enough": r / (1 - h) ** 2,
    }, tolerance=1e-6, what="the residual")
    return "one fit gives the same residuals as 16 refits, each without one point"


@check
def damped_solve(answer):
    generator = torch.Generator().manual_seed(4)
    root, v = (torch.randn(5, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    matrix, damping = root @ root.T, 0.3
    values, Q = torch.linalg.eigh(matrix)
    value = call(answer, values, Q, v, damping)
    rotated, shifted = Q.T @ v, (values + damping)[:, None]
    mistakes = {
        "you multiplied by the eigenvalues where 1/(σ+λ) is needed": Q @ (shifted * rotated),
        "the damping is missing: divide by σ + λ": Q @ (rotated / values[:, None]),
        "λ is added after the division: it belongs under the fraction, 1/(σ+λ)":
            Q @ (rotated / values[:, None] + damping * rotated),
        "Q and Qᵀ are swapped: the eigenvectors are the columns, so Qᵀv comes first": Q.T @ ((Q @ v) / shifted),
        "still in the eigenbasis: multiply by Q at the end": rotated / shifted,
        "σ + λ ran along the wrong axis: divide the rows of Qᵀv by it, with (values + damping)[:, None]":
            Q @ (rotated / (values + damping)),
    }
    truth = torch.linalg.solve(matrix + damping * torch.eye(5, dtype=v.dtype), v)
    compare(value, truth, mistakes, tolerance=1e-8, what="(M + λI)⁻¹v")
    return "equal to the dense solve with M + λI"


# -- 02 capturing gradients with hooks ------------------------------------------------------------

# -- 03 Hessian, K-FAC, EK-FAC --------------------------------------------------------------------

# -- 04 tokenwise attribution ---------------------------------------------------------------------
