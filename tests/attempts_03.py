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


def whole(answer):
    """An answer that takes Dθ, as one that takes ā and Ds."""
    return lambda a, Ds, Q_A, Q_S: answer(torch.einsum("nti,ntj->nij", Ds, a), Q_A, Q_S)


def eigenvalues_by_loops(a, Ds, Q_A, Q_S):
    total = 0
    for reads, gradients in zip(a, Ds, strict=True):
        D_theta = sum(torch.outer(s, x) for s, x in zip(gradients, reads, strict=True))
        total = total + (Q_S.T @ D_theta @ Q_A).pow(2)
    return total / len(a)


def eigenvalues_by_axes(gradients, Q_A, Q_S):
    m, n = gradients.shape[1:]
    return [[sum((Q_S[:, i] @ g @ Q_A[:, j]).item() ** 2 for g in gradients) / len(gradients)
             for j in range(n)] for i in range(m)]


def eigenvalues_in_place(a, Ds, Q_A, Q_S):
    a @= Q_A.clone()
    Ds @= Q_S.clone()
    rotated = Ds.transpose(1, 2).bmm(a)
    rotated *= rotated.clone()
    return rotated.mean(dim=0)


def eigenvalues_by_pairs(a, Ds, Q_A, Q_S):
    """All pairs of tokens, so that no Dθ is formed."""
    a, Ds = a @ Q_A, Ds @ Q_S
    return torch.einsum("nti,nsi,ntj,nsj->ij", Ds, Ds, a, a) / len(a)


RIGHT = {
    "ggn_product": [
        by_double_backward, by_divergence, by_differences_of_outputs, row_by_row, by_mean_gradient,
        by_functional_jvp, by_linearize,
        lambda *a: bent(*a, lambda p, u: (
            torch.diag_embed(p) - torch.einsum("nj,nk->njk", p, p)).matmul(u[..., None])[..., 0]),
    ],
    "kron_ihvp": [kron_by_columns, kron_by_numpy, kron_by_svd, kron_by_cg, kron_by_axes,
                  lambda A, S, V, damping: kron_by_columns(S, A, V.T, damping).T,
                  lambda A, S, V, c: kron(A.double(), S.double(), V.double(),
                                          divide=lambda x, s, a: x / (s[:, None] * a + c)).float()],
    "ekfac_eigenvalues": [
        eigenvalues_by_loops, whole(eigenvalues_by_axes), eigenvalues_in_place,
        eigenvalues_by_pairs,
        lambda a, Ds, Q_A, Q_S: torch.einsum(
            "ntk,ki,ntl,lj->nij", Ds, Q_S, a, Q_A).square().mean(0),
        lambda a, Ds, Q_A, Q_S: np.mean(
            (Q_S.numpy().T @ (Ds.numpy().swapaxes(1, 2) @ a.numpy()) @ Q_A.numpy()) ** 2, axis=0),
        lambda a, Ds, Q_A, Q_S: ((Ds.float() @ Q_S.float()).mT @ (a.float() @ Q_A.float())
                                 ).pow(2).sum(0) / len(a),
        whole(lambda g, Q_A, Q_S: (Q_S.T @ g @ Q_A).var(0, correction=0)
                     + (Q_S.T @ g @ Q_A).mean(0) ** 2),
    ],
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
        ("token by token", lambda a, Ds, Q_A, Q_S: torch.einsum(
            "nti,ntj->ij", (Ds @ Q_S) ** 2, (a @ Q_A) ** 2) / len(a)),
        ("products of different tokens", lambda a, Ds, Q_A, Q_S: torch.einsum(
            "nti,ntj->ij", (Ds @ Q_S) ** 2, (a @ Q_A) ** 2) / a[..., 0].numel()),
        ("K-FAC's product", lambda a, Ds, Q_A, Q_S: torch.outer(
            (Ds @ Q_S).square().mean((0, 1)), (a @ Q_A).square().mean((0, 1)))),
        ("sums over tokens were multiplied", lambda a, Ds, Q_A, Q_S: whole(
            lambda g, *Q: ((Q[1].T @ g @ Q[0]) ** 2).mean(0))(
                a.sum(1, keepdim=True), Ds.sum(1, keepdim=True), Q_A, Q_S)),
        ("tokens are averaged", lambda a, Ds, Q_A, Q_S: (
            (Q_S.T @ (Ds.mT @ a / a.shape[1]) @ Q_A) ** 2).mean(0)),
        ("a mean over tokens too", lambda a, Ds, Q_A, Q_S: (
            (Q_S.T @ (Ds.mT @ a) @ Q_A) ** 2).sum(0) / a[..., 0].numel()),
        ("raised", lambda a, Ds, Q_A, Q_S: ((Q_S.T @ (Ds @ a) @ Q_A) ** 2).mean(0)),
        ("averaged before squaring", whole(lambda g, Q_A, Q_S: (Q_S.T @ g @ Q_A).mean(0) ** 2)),
        ("a sum over sequences", whole(lambda g, Q_A, Q_S: ((Q_S.T @ g @ Q_A) ** 2).sum(0))),
        ("Q_S is not transposed", whole(lambda g, Q_A, Q_S: ((Q_S @ g @ Q_A) ** 2).mean(0))),
        ("rotated the wrong way", whole(lambda g, Q_A, Q_S: ((Q_S @ g @ Q_A.T) ** 2).mean(0))),
        ("not rotated", whole(lambda g, Q_A, Q_S: (g ** 2).mean(0))),
        ("square is missing", whole(lambda g, Q_A, Q_S: (Q_S.T @ g @ Q_A).mean(0))),
        ("not a variance", whole(lambda g, Q_A, Q_S: (Q_S.T @ g @ Q_A).var(0, correction=0))),
        ("Q_A is transposed", whole(lambda g, Q_A, Q_S: ((Q_S.T @ g @ Q_A.T) ** 2).mean(0))),
        ("absolute values", whole(lambda g, Q_A, Q_S: (Q_S.T @ g @ Q_A).abs().mean(0))),
        ("root", whole(lambda g, Q_A, Q_S: ((Q_S.T @ g @ Q_A) ** 2).mean(0).sqrt())),
        ("not a variance", whole(lambda g, Q_A, Q_S: (Q_S.T @ g @ Q_A).var(0))),
        ("a mean over everything", whole(lambda g, Q_A, Q_S: ((Q_S.T @ g @ Q_A) ** 2).mean())),
        ("sequence", whole(lambda g, Q_A, Q_S: (Q_S.T @ g @ Q_A) ** 2)),
        ("transposed", whole(lambda g, Q_A, Q_S: ((Q_S.T @ g @ Q_A) ** 2).mean(0).T)),
        ("shape", whole(lambda g, Q_A, Q_S: ((Q_S.T @ g @ Q_A) ** 2).mean(0).flatten())),
        ("squared before", whole(lambda g, Q_A, Q_S: Q_S.T @ (g ** 2).mean(0) @ Q_A)),
        ("right for 1 of 2", whole(lambda g, Q_A, Q_S: ((Q_S.T @ g @ Q_A) ** 2).sum(0) / 30)),
        ("N−1", whole(lambda g, Q_A, Q_S: ((Q_S.T @ g @ Q_A) ** 2).sum(0) / (len(g) - 1))),
        ("Q_S is missing", whole(lambda g, Q_A, Q_S: ((g @ Q_A) ** 2).mean(0))),
        ("Q_A is missing", whole(lambda g, Q_A, Q_S: ((Q_S.T @ g) ** 2).mean(0))),
        (None, whole(product_of_factors)),
        (None, whole(lambda g, Q_A, Q_S: (Q_S.T @ g @ Q_A).std(0))),
        ("fourth power", whole(lambda g, Q_A, Q_S: ((Q_S.T @ g @ Q_A) ** 4).mean(0))),
        ("raised", whole(lambda g, Q_A, Q_S: (Q_A.T @ g @ Q_S) ** 2)),
        (None, whole(eigenvalues_of_the_block)),
        ("first sequence", whole(lambda g, Q_A, Q_S: ((Q_S.T @ g[:1] @ Q_A) ** 2).mean(0))),
    ],
}
