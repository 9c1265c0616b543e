"""Notebook 03: what learners write, and the words with which the check must name it."""
import torch


def bent(outputs, theta, v, bend, mean=True):
    """J v by forward mode, `bend(p, Jv)`, back by reverse mode."""
    h, moved = torch.func.jvp(outputs, (theta,), (v,))
    pulled = torch.func.vjp(outputs, theta)[1](bend(h.softmax(-1), moved))[0]
    return pulled / len(h) if mean else pulled


def right(p, moved):
    return p * moved - p * (p * moved).sum(-1, keepdim=True)


def loss_hvp(outputs, theta, v):
    """The Hessian of the loss on the model's own best guesses: what one gets without thinking of G."""
    guess = outputs(theta).argmax(1, keepdim=True)
    loss = lambda t: -outputs(t).log_softmax(-1).gather(1, guess).mean()
    return torch.func.jvp(torch.func.grad(loss), (theta,), (v,))[1]


def fisher(gradients, weights):
    return torch.einsum("nc,ncp,ncq->pq", weights, gradients, gradients) / len(weights)


def empirical(gradients, p, labels):
    rows = gradients[torch.arange(len(labels)), labels]
    return rows.T @ rows / len(rows)


def mean_first(gradients, p, labels):
    mean = (p[..., None] * gradients).sum(1)
    return mean.T @ mean / len(mean)


def kron(A, S, V, into=None, divide=None, back=True, swap=False):
    (a, Q_A), (s, Q_S) = torch.linalg.eigh(A), torch.linalg.eigh(S)
    if swap:
        Q_A, Q_S = Q_A.T, Q_S.T
    inside = divide(Q_S.T @ V @ Q_A, s, a)
    return Q_S @ inside @ Q_A.T if back else inside


def damped_factors(A, S, V, damping):
    eye = lambda matrix: damping * torch.eye(len(matrix), dtype=matrix.dtype)
    return torch.linalg.inv(S + eye(S)) @ V @ torch.linalg.inv(A + eye(A))


def dense_in_the_other_order(A, S, V, damping):
    matrix = torch.kron(A, S)
    return torch.linalg.solve(matrix + damping * torch.eye(len(matrix), dtype=matrix.dtype), V.flatten()).view_as(V)


def loop(matvec, v, steps, beta=lambda new, old: (new @ new) / (old @ old), sign=-1, give="x"):
    x, r, d = torch.zeros_like(v), v, v
    for _ in range(steps):
        pushed = matvec(d)
        alpha = (r @ r) / (d @ pushed)
        x, new = x + alpha * d, r + sign * alpha * pushed
        d, r = new + beta(new, r) * d, new
    return {"x": x, "r": r}[give]


WRONG = {
    "ggn_product": [
        ("bend is missing", lambda *a: bent(*a, lambda p, u: u)),
        ("−p pᵀ is missing", lambda *a: bent(*a, lambda p, u: p * u)),
        ("N times too large", lambda *a: bent(*a, right, mean=False)),
        ("ran over images too", lambda *a: bent(*a, lambda p, u: p * u - p * (p * u).sum())),
        ("Hessian of a loss", loss_hvp),
        ("raised", lambda outputs, theta, v: torch.func.jvp(outputs, theta, v)),
    ],
    "exact_fisher": [
        ("empirical Fisher", empirical),
        ("weighs the same", lambda g, p, labels: fisher(g, torch.ones_like(p) / p.shape[1])),
        ("without the weights", lambda g, p, labels: fisher(g, torch.ones_like(p))),
        ("mean gradient", mean_first),
        ("p is squared", lambda g, p, labels: fisher(g, p ** 2)),
        ("N times too large", lambda g, p, labels: fisher(g, p) * len(p)),
        ("most likely label", lambda g, p, labels: empirical(g, p, p.argmax(1))),
    ],
    "kron_ihvp": [
        ("damping is missing", lambda A, S, V, damping: torch.linalg.solve(S, V) @ torch.linalg.inv(A)),
        ("λ was added to A and to S", damped_factors),
        ("√λ was added", lambda A, S, V, damping: damped_factors(A, S, V, damping ** 0.5)),
        ("you multiplied", lambda A, S, V, c: kron(A, S, V, divide=lambda x, s, a: x * (torch.outer(s, a) + c))),
        ("still in the eigenbasis", lambda A, S, V, c: kron(
            A, S, V, divide=lambda x, s, a: x / (torch.outer(s, a) + c), back=False)),
        ("swapped", lambda A, S, V, c: kron(A, S, V, divide=lambda x, s, a: x / (torch.outer(s, a) + c), swap=True)),
        ("added where they are multiplied", lambda A, S, V, c: kron(
            A, S, V, divide=lambda x, s, a: x / (s[:, None] + a + c))),
        ("order is turned", dense_in_the_other_order),
        ("raised", lambda A, S, V, c: kron(A, S, V, divide=lambda x, s, a: x / (torch.outer(a, s) + c))),
    ],
    "ekfac_eigenvalues": [
        ("averaged before squaring", lambda g, Q_A, Q_S: (Q_S.T @ g @ Q_A).mean(0) ** 2),
        ("a sum over sequences", lambda g, Q_A, Q_S: ((Q_S.T @ g @ Q_A) ** 2).sum(0)),
        ("Q_S is not transposed", lambda g, Q_A, Q_S: ((Q_S @ g @ Q_A) ** 2).mean(0)),
        ("rotated the wrong way", lambda g, Q_A, Q_S: ((Q_S @ g @ Q_A.T) ** 2).mean(0)),
        ("not rotated", lambda g, Q_A, Q_S: (g ** 2).mean(0)),
        ("square is missing", lambda g, Q_A, Q_S: (Q_S.T @ g @ Q_A).mean(0)),
        ("not a variance", lambda g, Q_A, Q_S: (Q_S.T @ g @ Q_A).var(0, correction=0)),
    ],
    "cg": [
        ("steepest descent", lambda *a: loop(*a, beta=lambda new, old: 0.0)),
        ("upside down", lambda *a: loop(*a, beta=lambda new, old: (old @ old) / (new @ new))),
        ("β = 1", lambda *a: loop(*a, beta=lambda new, old: 1.0)),
        ("the residual v − Mx", lambda *a: loop(*a, give="r")),
        ("wrong way", lambda *a: loop(*a, sign=1)),
        ("one step too many", lambda matvec, v, steps: loop(matvec, v, steps + 1)),
        ("lacks a square", lambda *a: loop(*a, beta=lambda new, old: new.norm() / old.norm())),
    ],
}
