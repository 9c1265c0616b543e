"""Notebook 03: right answers by other ways, wrong ones with words that each must be told."""
import numpy as np
import torch
from torch.func import grad, jacrev, jvp, vjp


def bent(outputs, theta, v, bend, mean=True, weights=lambda h: h.softmax(-1)):
    """J v by forward mode, `bend(p, Jv)`, back by reverse mode."""
    h, moved = torch.func.jvp(outputs, (theta,), (v,))
    pulled = torch.func.vjp(outputs, theta)[1](bend(weights(h), moved))[0]
    return pulled / len(h) if mean else pulled


def right(p, moved):
    return p * moved - p * (p * moved).sum(-1, keepdim=True)


def loss_hvp(outputs, theta, v):
    """The Hessian of the loss on the model's best guesses: what one gets without thinking of G."""
    guess = outputs(theta).argmax(1, keepdim=True)


    def loss(theta):
        return -outputs(theta).log_softmax(-1).gather(1, guess).mean()
    return jvp(grad(loss), (theta,), (v,))[1]


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
    S, A = S + damping * torch.eye(len(S)), A + damping * torch.eye(len(A))
    return torch.linalg.inv(S) @ V @ torch.linalg.inv(A)


def dense_in_the_other_order(A, S, V, damping):
    matrix = torch.kron(A, S)
    return torch.linalg.solve(matrix + damping * torch.eye(len(matrix)), V.flatten()).view_as(V)


def loop(matvec, v, steps, beta=lambda new, old: (new @ new) / (old @ old), sign=-1, give="x"):
    x, r, d = torch.zeros_like(v), v, v
    for _ in range(steps):
        pushed = matvec(d)
        alpha = (r @ r) / (d @ pushed)
        x, new = x + alpha * d, r + sign * alpha * pushed
        d, r = new + beta(new, r) * d, new
    return {"x": x, "r": r}[give]



# -- right, by other ways -------------------------------------------------------------------------

def by_double_backward(outputs, theta, v):
    theta = theta.clone().requires_grad_()
    with torch.enable_grad():
        h = outputs(theta)
        u = torch.zeros_like(h, requires_grad=True)
        (pulled,) = torch.autograd.grad(h, theta, u, create_graph=True)
        (moved,) = torch.autograd.grad(pulled, u, v, retain_graph=True)
        p = h.detach().softmax(1)
        bend = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        return torch.autograd.grad(h, theta, (bend @ moved[:, :, None])[:, :, 0] / h.shape[0])[0]


def by_divergence(outputs, theta, v):
    p = outputs(theta).detach().softmax(-1)

    def divergence(theta):
        return -(p * outputs(theta).log_softmax(-1)).sum(-1).mean()
    return jvp(grad(divergence), (theta,), (v,))[1]


def by_differences_of_outputs(outputs, theta, v):
    with torch.no_grad():
        moved = (outputs(theta + 1e-5 * v) - outputs(theta - 1e-5 * v)) / 2e-5
    h, pull = vjp(outputs, theta)
    e = torch.exp(h - h.max(dim=1, keepdim=True).values)
    p = e / e.sum(dim=1, keepdim=True)
    return pull(p * (moved - (p * moved).sum(1)[:, None]))[0] / h.shape[0]


def row_by_row(outputs, theta, v):
    """One gradient at a time, N·C of them; no Jacobian is ever stored."""
    theta = theta.clone().requires_grad_()
    h, result = outputs(theta), torch.zeros_like(v)
    for row in h:
        rows = [torch.autograd.grad(logit, theta, retain_graph=True)[0] for logit in row]
        p, moved = row.detach().softmax(0), torch.stack([g @ v for g in rows])
        bent = p * moved - p * (p @ moved)
        for g, b in zip(rows, bent, strict=True):
            result += b * g
    return result / len(h)


def by_mean_gradient(outputs, theta, v):
    h, moved = jvp(outputs, (theta,), (v,))
    p = torch.nn.functional.softmax(h, dim=1)
    bent = torch.einsum("nk,nk->nk", p, moved) - torch.einsum("nk,nj,nj->nk", p, p, moved)
    return grad(lambda theta: (outputs(theta) * bent.detach()).sum(1).mean())(theta)


def by_functional_jvp(outputs, theta, v):
    h, moved = torch.autograd.functional.jvp(outputs, theta, v)
    p = h.softmax(-1)
    bent = (p * moved - p * (p * moved).sum(-1, keepdim=True)) / p.size(0)
    return torch.autograd.functional.vjp(outputs, theta, bent)[1]


def by_linearize(outputs, theta, v):
    h, push = torch.func.linearize(outputs, theta)
    return vjp(outputs, theta)[1](right(h.softmax(-1), push(v)) / len(h))[0]


def fisher_by_loops(gradients, p, labels):
    F = torch.zeros(gradients.shape[2], gradients.shape[2], dtype=gradients.dtype)
    for i in range(gradients.shape[0]):
        for c in range(gradients.shape[1]):
            F += p[i, c] * torch.outer(gradients[i, c], gradients[i, c])
    return F / gradients.shape[0]


def fisher_by_scaled_rows(gradients, p, labels):
    gradients *= p.sqrt()[..., None]  # in place
    rows = gradients.flatten(0, 1)
    return rows.T @ rows / len(p)


def fisher_by_numpy(gradients, p, labels):
    g, p = gradients.numpy(), p.numpy()
    return np.mean([(g[i].T * p[i]) @ g[i] for i in range(len(p))], axis=0)


def kron_by_columns(A, S, V, damping):
    """In the eigenbasis of A alone: one dense solve with S a column."""
    a, Q = torch.linalg.eigh(A)
    eye = torch.eye(S.shape[0], dtype=S.dtype)
    columns = [torch.linalg.solve(a[j] * S + damping * eye, V @ Q[:, j]) for j in range(len(a))]
    return torch.stack(columns, 1) @ Q.T


def kron_by_numpy(A, S, V, damping):
    a, Q_A = np.linalg.eigh(A.numpy())
    s, Q_S = np.linalg.eigh(S.numpy())
    return Q_S @ (Q_S.T @ V.numpy() @ Q_A / (np.outer(s, a) + damping)) @ Q_A.T


def kron_by_svd(A, S, V, damping):
    Q_A, a, _ = torch.linalg.svd(A)
    Q_S, s, _ = torch.linalg.svd(S)
    inside = torch.einsum("ki,kl,lj->ij", Q_S, V, Q_A)
    inside /= s[:, None] * a[None, :] + damping
    return torch.einsum("ik,kl,jl->ij", Q_S, inside, Q_A)


def kron_by_cg(A, S, V, damping):
    x, r, d = torch.zeros_like(V), V.clone(), V.clone()
    for _ in range(2 * V.numel()):
        if r.norm() < 1e-10 * V.norm():
            break
        pushed, old = S @ d @ A + damping * d, (r * r).sum()
        alpha = old / (d * pushed).sum()
        x, r = x + alpha * d, r - alpha * pushed
        d = r + (r * r).sum() / old * d
    return x


def kron_by_axes(A, S, V, damping):
    """One eigenvector pair at a time."""
    (a, Q_A), (s, Q_S) = torch.linalg.eigh(A), torch.linalg.eigh(S)
    x = torch.zeros_like(V)
    for i in range(len(s)):
        for j in range(len(a)):
            u, w = Q_S[:, i], Q_A[:, j]
            x = x + (u @ V @ w) / (s[i] * a[j] + damping) * torch.outer(u, w)
    return x


def eigenvalues_by_loops(gradients, Q_A, Q_S):
    total = 0
    for g in gradients:
        total = total + (Q_S.T @ g @ Q_A).pow(2)
    return total / len(gradients)


def eigenvalues_by_axes(gradients, Q_A, Q_S):
    m, n = gradients.shape[1:]
    return [[sum((Q_S[:, i] @ g @ Q_A[:, j]).item() ** 2 for g in gradients) / len(gradients)
             for j in range(n)] for i in range(m)]


def eigenvalues_in_place(gradients, Q_A, Q_S):
    gradients = gradients.transpose(1, 2)
    rotated = (Q_A.T @ gradients @ Q_S).transpose(1, 2)
    rotated *= rotated.clone()
    return rotated.mean(dim=0)


def cg_in_place(matvec, v, steps):
    x, r, d = torch.zeros_like(v), v.clone(), v.clone()
    rr = torch.dot(r, r)
    for _ in range(steps):
        pushed = matvec(d)
        alpha = rr / torch.dot(d, pushed)
        x += alpha * d
        r -= alpha * pushed
        fresh = torch.dot(r, r)
        d *= fresh / rr
        d += r
        rr = fresh
    return x


def cg_by_numpy(matvec, v, steps):
    v = v.numpy()
    x, r, d = np.zeros_like(v), v.copy(), v.copy()
    for _ in range(steps):
        pushed = np.asarray(matvec(torch.from_numpy(d)))
        alpha = r @ r / (d @ pushed)
        x, new = x + alpha * d, r - alpha * pushed
        d, r = new + new @ new / (r @ r) * d, new
    return x


def cg_true_residual(matvec, v, steps):
    x, r, d = 0 * v, v, v
    for _ in range(steps):
        pushed = matvec(d)
        x = x + (r @ d) / (d @ pushed) * d
        r = v - matvec(x)
        d = r - (r @ pushed) / (d @ pushed) * d  # conjugate to the last direction
    return x


def cg_polak_ribiere(matvec, v, steps):
    x, r, d = torch.zeros_like(v), v, v
    for _ in range(steps):
        alpha = r.dot(r) / d.dot(matvec(d))
        x = x + alpha * d
        new = r - alpha * matvec(d)
        d = new + new.dot(new - r) / r.dot(r) * d
        r = new
    return x


def cg_by_krylov(matvec, v, steps):
    basis = [v / v.norm()]
    for _ in range(steps - 1):
        u = matvec(basis[-1])
        for _ in range(2):
            for b in basis:
                u = u - (u @ b) * b
        basis.append(u / u.norm())
    B = torch.stack(basis, 1)
    MB = torch.stack([matvec(b) for b in basis], 1)
    return B @ torch.linalg.solve(B.T @ MB, B.T @ v)


def cg_by_scipy(matvec, v, steps):
    from scipy.sparse.linalg import LinearOperator
    from scipy.sparse.linalg import cg as scipy_cg
    operator = LinearOperator((len(v), len(v)), matvec=matvec, dtype=np.float64)
    return scipy_cg(operator, v.numpy(), rtol=0, atol=0, maxiter=steps)[0]


def cg_single(matvec, v, steps):
    """The vectors in float32, the products in float64."""
    v = v.float()
    return cg_in_place(lambda d: matvec(d.double()).float(), v, steps)


RIGHT = {
    "ggn_product": [
        by_double_backward, by_divergence, by_differences_of_outputs, row_by_row, by_mean_gradient,
        by_functional_jvp, by_linearize,
        lambda *a: bent(*a, lambda p, u: (
            torch.diag_embed(p) - torch.einsum("nj,nk->njk", p, p)).matmul(u[..., None])[..., 0]),
    ],
    "exact_fisher": [
        fisher_by_loops, fisher_by_scaled_rows, fisher_by_numpy,
        lambda g, p, labels: (g.transpose(1, 2) @ (p[:, :, None] * g)).mean(0),
        lambda g, p, labels: torch.einsum(
            "nc,ncp,ncq->npq", p.float(), g.float(), g.float()).mean(0),
        lambda g, p, labels: sum(torch.einsum("n,np,nq->pq", weights, rows, rows) for weights, rows
                                 in zip(p.T, g.transpose(0, 1), strict=True)) / len(g),
        lambda g, p, labels: np.einsum("nc,ncp,ncq->pq", p, g, g) / g.shape[0],
    ],
    "kron_ihvp": [kron_by_columns, kron_by_numpy, kron_by_svd, kron_by_cg, kron_by_axes,
                  lambda A, S, V, damping: kron_by_columns(S, A, V.T, damping).T,
                  lambda A, S, V, c: kron(A.double(), S.double(), V.double(),
                                          divide=lambda x, s, a: x / (s[:, None] * a + c)).float()],
    "ekfac_eigenvalues": [
        eigenvalues_by_loops, eigenvalues_by_axes, eigenvalues_in_place,
        lambda g, Q_A, Q_S: torch.einsum("ki,nkl,lj->nij", Q_S, g, Q_A).square().mean(0),
        lambda g, Q_A, Q_S: np.mean((Q_S.numpy().T @ g.numpy() @ Q_A.numpy()) ** 2, axis=0),
        lambda g, Q_A, Q_S: ((g.float() @ Q_A.float()).mT @ Q_S.float()).mT.pow(2).sum(0) / len(g),
        lambda g, Q_A, Q_S: (Q_S.T @ g @ Q_A).var(0, correction=0) + (Q_S.T @ g @ Q_A).mean(0) ** 2,
    ],
    "cg": [cg_in_place, cg_by_numpy, cg_true_residual, cg_polak_ribiere, cg_by_krylov, cg_single,
           cg_by_scipy, loop],
}


# -- wrong ----------------------------------------------------------------------------------------

def dense_kron(A, S, V, damping, numpy=False):
    """Right, but by the large matrix."""
    if numpy:
        large = np.kron(S.numpy(), A.numpy())
        damped = large + damping * np.eye(len(large))
        return np.linalg.solve(damped, V.numpy().ravel()).reshape(V.shape)
    large = torch.kron(S.contiguous(), A.contiguous())
    damped = large + damping * torch.eye(len(large), dtype=V.dtype)
    return torch.linalg.solve(damped, V.reshape(-1)).reshape(V.shape)


def by_jacobian(outputs, theta, v, dense_G=False, jacobian=jacrev):
    """Right, but by the matrix that the card forbids."""
    J, p = jacobian(outputs)(theta), outputs(theta).softmax(-1)
    if dense_G:
        bend = torch.diag_embed(p) - p[..., None] * p[:, None]
        return torch.einsum("nkp,nkl,nlq->pq", J, bend, J) @ v / len(p)
    moved = J @ v
    return torch.einsum("nkp,nk->p", J, right(p, moved)) / len(p)


def only_first_image(outputs, theta, v):
    return bent(lambda t: outputs(t)[:1], theta, v, right)


def product_of_factors(gradients, Q_A, Q_S):
    """Eigenvalues as K-FAC has them: of outer-product form."""
    a = (gradients @ Q_A).square().sum(1).mean(0)
    s = (Q_S.T @ gradients).square().sum(2).mean(0)
    return torch.outer(s, a) / gradients.square().sum((1, 2)).mean()


def eigenvalues_of_the_block(gradients, Q_A, Q_S):
    """Q_A and Q_S ignored."""
    rows = gradients.flatten(1)
    return torch.linalg.eigvalsh(rows.T @ rows / len(rows)).view(gradients.shape[1:])


def sgd(matvec, v, steps):
    x = torch.zeros_like(v)
    for _ in range(steps):
        x = x + 0.1 * (v - matvec(x))
    return x


def stale_alpha(matvec, v, steps):
    x, r, d = torch.zeros_like(v), v, v
    alpha = (r @ r) / (d @ matvec(d))
    for _ in range(steps):
        x, old = x + alpha * d, r @ r
        r = r - alpha * matvec(d)
        d = r + (r @ r) / old * d
    return x


def aliased(matvec, v, steps):
    """`r` and `d` are one tensor, changed in place."""
    x, r = torch.zeros_like(v), v.clone()
    d = r
    for _ in range(steps):
        pushed, old = matvec(d), r @ r
        alpha = old / (d @ pushed)
        x += alpha * d
        r -= alpha * pushed
        d = r + (r @ r) / old * d
    return x


def one_direction(matvec, v, steps, alpha=None, minus=False, start=0):
    alpha = alpha or (lambda r, d, pushed: (r @ r) / (d @ pushed))
    x, r, d = start * v, v, v
    for _ in range(steps):
        pushed = matvec(d)
        step = alpha(r, d, pushed)
        x, new = x + step * d, r - step * pushed
        beta = (new @ new) / (r @ r)
        d, r = (new - beta * d if minus else new + beta * d), new
    return x


WRONG = {
    "ggn_product": [
        ("bend is missing", lambda *a: bent(*a, lambda p, u: u)),
        ("−p pᵀ is missing", lambda *a: bent(*a, lambda p, u: p * u)),
        ("N times too large", lambda *a: bent(*a, right, mean=False)),
        ("ran over images too", lambda *a: bent(*a, lambda p, u: p * u - p * (p * u).sum())),
        ("Hessian of a loss", loss_hvp),
        ("raised", lambda outputs, theta, v: torch.func.jvp(outputs, theta, v)),
        ("Jacobian", by_jacobian),
        ("Jacobian", lambda *a: by_jacobian(*a, dense_G=True)),
        ("Jacobian", lambda *a: by_jacobian(*a, jacobian=torch.func.jacfwd)),
        ("Jacobian", lambda *a: by_jacobian(
            *a, jacobian=lambda f: lambda theta: torch.autograd.functional.jacobian(f, theta))),
        ("sign of p pᵀ is turned",
         lambda *a: bent(*a, lambda p, u: p * u + p * (p * u).sum(-1, keepdim=True))),
        ("diag p is missing", lambda *a: bent(*a, lambda p, u: -p * (p * u).sum(-1, keepdim=True))),
        ("mixes classes", lambda *a: bent(*a, lambda p, u: p * (1 - p) * u)),
        (None, lambda *a: bent(*a, lambda p, u: p * (u - u.mean(-1, keepdim=True)))),
        ("p once more", lambda *a: bent(*a, lambda p, u: p * u - (p * u).sum(-1, keepdim=True))),
        (None, lambda *a: bent(*a, lambda p, u: p * u - p * u.sum(-1, keepdim=True))),
        ("softmax", lambda *a: bent(*a, right, weights=lambda h: h)),
        ("every sign is turned", lambda *a: -bent(*a, right)),
        ("classes",
         lambda outputs, theta, v: bent(outputs, theta, v, right) / outputs(theta).shape[1]),
        ("over the classes", lambda *a: bent(*a, right, weights=lambda h: h.softmax(0))),
        ("shape", lambda outputs, theta, v: right(
            outputs(theta).softmax(-1), jvp(outputs, (theta,), (v,))[1])),
        (None, only_first_image),
        ("shape", lambda outputs, theta, v: jvp(outputs, (theta,), (v,))),
        ("right for 1 of 2 inputs", lambda *a: bent(*a, right, mean=False) / 12),
        ("signs are lost", lambda *a: bent(*a, right).abs()),
        ("v is missing", lambda *a: bent(*a, lambda p, u: p)),
        (None, lambda outputs, theta, v: (lambda g: g * (g @ v))(
            grad(lambda t: -outputs(t).log_softmax(-1)[:, 0].mean())(theta))),
        ("raised", lambda outputs, theta, v: vjp(outputs, theta)[1](v)[0]),
    ],
    "exact_fisher": [
        ("empirical Fisher", empirical),
        ("weighs the same", lambda g, p, labels: fisher(g, torch.ones_like(p) / p.shape[1])),
        ("without the weights", lambda g, p, labels: fisher(g, torch.ones_like(p))),
        ("mean gradient", mean_first),
        ("p is squared", lambda g, p, labels: fisher(g, p ** 2)),
        ("N times too large", lambda g, p, labels: fisher(g, p) * len(p)),
        ("most likely label", lambda g, p, labels: empirical(g, p, p.argmax(1))),
        ("labels too", lambda g, p, labels: fisher(g, p) / p.shape[1]),
        ("every entry is the right one times", lambda g, p, labels: fisher(g, p) / len(p)),
        (None, lambda g, p, labels: fisher(g, 1 - p)),
        ("diagonal alone",
         lambda g, p, labels: torch.einsum("nc,ncp->p", p, g ** 2).diag() / len(p)),
        ("right for 1 of 2 inputs", lambda g, p, labels: fisher(g, p) / 12 * len(p)),
        ("log p", lambda g, p, labels: fisher(g, p.log())),
        ("√p", lambda g, p, labels: fisher(g, p.sqrt())),
        ("one matrix for each", lambda g, p, labels: torch.einsum("nc,ncp,ncq->npq", p, g, g)),
        ("shape", lambda g, p, labels: torch.einsum("nc,ncp,ncp->p", p, g, g) / len(p)),
        ("outer products are",
         lambda g, p, labels: torch.einsum("nc,ncp,mcp->nm", p, g, g) / len(p)),
        (None, lambda g, p, labels: fisher(g[:1], p[:1])),
        ("first label", lambda g, p, labels: empirical(g, p, torch.zeros_like(labels))),
        ("every sign is turned", lambda g, p, labels: -fisher(g, p)),
        ("mean gradient was taken away",
         lambda g, p, labels: fisher(g - g.mean(1, keepdim=True), p)),
        ("labels of the data", lambda g, p, labels: fisher(
            g, torch.nn.functional.one_hot(labels, p.shape[1]) * p)),
        ("p(1 − p)", lambda g, p, labels: fisher(g, p * (1 - p))),
        ("signs are lost", lambda g, p, labels: fisher(g.abs(), p)),
        ("outer product", lambda g, p, labels: (lambda flat: flat.T @ flat / len(flat))(g.sum(1))),
        ("raised", lambda g, p, labels: p @ g.T @ g / len(p)),
    ],
    "kron_ihvp": [
        ("damping is missing",
         lambda A, S, V, damping: torch.linalg.solve(S, V) @ torch.linalg.inv(A)),
        ("λ was added to A and to S", damped_factors),
        ("√λ was added", lambda A, S, V, damping: damped_factors(A, S, V, damping ** 0.5)),
        ("you multiplied",
         lambda A, S, V, c: kron(A, S, V, divide=lambda x, s, a: x * (torch.outer(s, a) + c))),
        ("still in the eigenbasis", lambda A, S, V, c: kron(
            A, S, V, divide=lambda x, s, a: x / (torch.outer(s, a) + c), back=False)),
        ("swapped",
         lambda *a: kron(*a[:3], divide=lambda x, s, t: x / (torch.outer(s, t) + a[3]), swap=True)),
        ("added where they are multiplied", lambda A, S, V, c: kron(
            A, S, V, divide=lambda x, s, a: x / (s[:, None] + a + c))),
        ("order is turned", dense_in_the_other_order),
        ("raised",
         lambda A, S, V, c: kron(A, S, V, divide=lambda x, s, a: x / (torch.outer(a, s) + c))),
        ("was formed", dense_kron),
        ("was formed", lambda *a: dense_kron(*a, numpy=True)),
        ("was formed", lambda A, S, V, c: (lambda Q, d: (Q @ ((Q.T @ V.flatten()) / d)).view_as(V))(
            torch.kron(torch.linalg.eigh(S)[1].contiguous(), torch.linalg.eigh(A)[1].contiguous()),
            torch.outer(torch.linalg.eigh(S)[0], torch.linalg.eigh(A)[0]).flatten() + c)),
        ("every sign is turned",
         lambda *a: -kron(*a[:3], divide=lambda x, s, t: x / (torch.outer(s, t) + a[3]))),
        ("λ is added",
         lambda A, S, V, c: kron(A, S, V, divide=lambda x, s, a: x / torch.outer(s, a) + c * x)),
        ("to S alone", lambda A, S, V, c: torch.linalg.solve(
            S + c * torch.eye(len(S), dtype=S.dtype), V) @ torch.linalg.inv(A)),
        ("λ multiplies", lambda A, S, V, c: torch.linalg.solve(S, V) @ torch.linalg.inv(A) / c),
        (None, lambda A, S, V, c: kron(
            A, S, V, divide=lambda x, s, a: x / (torch.outer(s, a.flip(0)) + c))),
        ("divided by λ", lambda A, S, V, c: V / c),
        ("√",
         lambda *a: kron(*a[:3], divide=lambda x, s, t: x / (torch.outer(s, t) + a[3]).sqrt())),
        ("λ²",
         lambda A, S, V, c: kron(A, S, V, divide=lambda x, s, a: x / (torch.outer(s, a) + c ** 2))),
        ("damping is missing",
         lambda A, S, V, c: kron(A, S, V, divide=lambda x, s, a: x / torch.outer(s, a))),
        ("right for 1 of 2",
         lambda A, S, V, c: kron(A, S, V, divide=lambda x, s, a: x / (torch.outer(s, a) + 0.3))),
        ("not rotated", lambda A, S, V, c: V / (torch.outer(S.diag(), A.diag()) + c)),
        ("not rotated",
         lambda A, S, V, c: V / (torch.outer(*map(torch.linalg.eigvalsh, (S, A))) + c)),
        ("shape",
         lambda *a: kron(*a[:3], divide=lambda x, s, t: x / (torch.outer(s, t) + a[3])).flatten()),
        ("transposed",
         lambda A, S, V, c: kron(A, S, V, divide=lambda x, s, a: x / (torch.outer(s, a) + c)).T),
        ("only",
         lambda A, S, V, c: torch.linalg.solve(S + c * torch.eye(len(S), dtype=S.dtype), V)),
        ("way back", lambda A, S, V, c: (lambda s, Q_S, a, Q_A: Q_S @ (
            (Q_S.T @ V @ Q_A) / (torch.outer(s, a) + c)) @ Q_A)(
                *torch.linalg.eigh(S), *torch.linalg.eigh(A))),
        ("raised",
         lambda A, S, V, c: torch.linalg.solve(A + c * torch.eye(len(A), dtype=A.dtype), V)),
        ("complex", lambda A, S, V, c: (lambda s, Q_S, a, Q_A: Q_S @ (
            (Q_S.inverse() @ V.to(Q_S) @ Q_A) / (torch.outer(s, a) + c)) @ Q_A.inverse())(
            *torch.linalg.eig(S), *torch.linalg.eig(A))),
    ],
    "ekfac_eigenvalues": [
        ("averaged before squaring", lambda g, Q_A, Q_S: (Q_S.T @ g @ Q_A).mean(0) ** 2),
        ("a sum over sequences", lambda g, Q_A, Q_S: ((Q_S.T @ g @ Q_A) ** 2).sum(0)),
        ("Q_S is not transposed", lambda g, Q_A, Q_S: ((Q_S @ g @ Q_A) ** 2).mean(0)),
        ("rotated the wrong way", lambda g, Q_A, Q_S: ((Q_S @ g @ Q_A.T) ** 2).mean(0)),
        ("not rotated", lambda g, Q_A, Q_S: (g ** 2).mean(0)),
        ("square is missing", lambda g, Q_A, Q_S: (Q_S.T @ g @ Q_A).mean(0)),
        ("not a variance", lambda g, Q_A, Q_S: (Q_S.T @ g @ Q_A).var(0, correction=0)),
        ("Q_A is transposed", lambda g, Q_A, Q_S: ((Q_S.T @ g @ Q_A.T) ** 2).mean(0)),
        ("absolute values", lambda g, Q_A, Q_S: (Q_S.T @ g @ Q_A).abs().mean(0)),
        ("root", lambda g, Q_A, Q_S: ((Q_S.T @ g @ Q_A) ** 2).mean(0).sqrt()),
        ("not a variance", lambda g, Q_A, Q_S: (Q_S.T @ g @ Q_A).var(0)),
        ("a mean over everything", lambda g, Q_A, Q_S: ((Q_S.T @ g @ Q_A) ** 2).mean()),
        ("sequence", lambda g, Q_A, Q_S: (Q_S.T @ g @ Q_A) ** 2),
        ("transposed", lambda g, Q_A, Q_S: ((Q_S.T @ g @ Q_A) ** 2).mean(0).T),
        ("shape", lambda g, Q_A, Q_S: ((Q_S.T @ g @ Q_A) ** 2).mean(0).flatten()),
        ("squared before", lambda g, Q_A, Q_S: Q_S.T @ (g ** 2).mean(0) @ Q_A),
        ("right for 1 of 2", lambda g, Q_A, Q_S: ((Q_S.T @ g @ Q_A) ** 2).sum(0) / 30),
        ("N−1", lambda g, Q_A, Q_S: ((Q_S.T @ g @ Q_A) ** 2).sum(0) / (len(g) - 1)),
        ("Q_S is missing", lambda g, Q_A, Q_S: ((g @ Q_A) ** 2).mean(0)),
        ("Q_A is missing", lambda g, Q_A, Q_S: ((Q_S.T @ g) ** 2).mean(0)),
        (None, product_of_factors),
        (None, lambda g, Q_A, Q_S: (Q_S.T @ g @ Q_A).std(0)),
        ("fourth power", lambda g, Q_A, Q_S: ((Q_S.T @ g @ Q_A) ** 4).mean(0)),
        ("raised", lambda g, Q_A, Q_S: (Q_A.T @ g @ Q_S) ** 2),
        (None, eigenvalues_of_the_block),
        ("first sequence", lambda g, Q_A, Q_S: ((Q_S.T @ g[:1] @ Q_A) ** 2).mean(0)),
    ],
    "cg": [
        ("steepest descent", lambda *a: loop(*a, beta=lambda new, old: 0.0)),
        ("upside down", lambda *a: loop(*a, beta=lambda new, old: (old @ old) / (new @ new))),
        ("β = 1", lambda *a: loop(*a, beta=lambda new, old: 1.0)),
        ("the residual v − Mx", lambda *a: loop(*a, give="r")),
        ("wrong way", lambda *a: loop(*a, sign=1)),
        ("one step too many", lambda matvec, v, steps: loop(matvec, v, steps + 1)),
        ("lacks a square", lambda *a: loop(*a, beta=lambda new, old: new.norm() / old.norm())),
        ("inside the loop", lambda matvec, v, steps: loop(matvec, v, 1)),
        (None, lambda matvec, v, steps: loop(matvec, v / v.norm(), steps)),
        ("one step too few", lambda matvec, v, steps: loop(matvec, v, steps - 1)),
        ("the full solution", lambda matvec, v, steps: loop(matvec, v, len(v))),
        ("right for 1 of 3 inputs", lambda matvec, v, steps: loop(matvec, v, 4)),
        (None, sgd),
        ("α", stale_alpha),
        (None, aliased),
        ("subtracted", lambda *a: one_direction(*a, minus=True)),
        ("α", lambda *a: one_direction(*a, alpha=lambda r, d, pushed: (d @ d) / (d @ pushed))),
        ("α", lambda *a: one_direction(*a, alpha=lambda r, d, pushed: (r @ r) / (pushed @ pushed))),
        ("not finite", lambda *a: one_direction(*a, alpha=lambda r, d, p: (d @ p) / (r @ r))),
        ("start", lambda *a: one_direction(*a, start=1)),
        ("every sign is turned", lambda *a: -loop(*a)),
        ("this is v", lambda matvec, v, steps: v),
        ("product", lambda matvec, v, steps: matvec(v)),
        ("not divided", lambda *a: loop(*a, beta=lambda new, old: new @ new)),
        ("made of r_new·r",
         lambda *a: loop(*a, beta=lambda new, old: (new @ old) / (old @ old))),
        ("raised", lambda matvec, v, steps: torch.linalg.solve(matvec, v)),
        ("return the last alone",
         lambda matvec, v, steps: torch.stack([loop(matvec, v, k + 1) for k in range(steps)])),
    ],
}
