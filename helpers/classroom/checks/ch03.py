"""Checks of notebook 03: products with the Gauss–Newton matrix, Kronecker factors."""
import torch

from .core import Expected, Problem, Wrong, bytes_formed, check, draws, judge, largest_tensor


def _network(seed, images, width, hidden, classes):
    """A small tanh network as a function θ → logits (images, classes), and a θ."""
    draw = draws(seed)
    x, first = draw(images, width), hidden * (width + 1)

    def outputs(theta):
        W = theta[:first].view(hidden, width + 1)
        V = theta[first:].view(classes, hidden + 1)
        return torch.tanh(x.to(theta) @ W[:, :-1].T + W[:, -1]) @ V[:, :-1].T + V[:, -1]
    return outputs, 0.7 * draw(first + classes * (hidden + 1))


def _ggn(seed, *sizes):
    """A problem of `ggn_product`."""
    outputs, theta = _network(seed, *sizes)
    v = torch.linspace(-1, 1, len(theta), dtype=theta.dtype).cos() * theta.flip(0)
    J, h = torch.autograd.functional.jacobian(outputs, theta), outputs(theta)
    p, u = h.softmax(-1), J @ v

    def pull(bent):
        return torch.einsum("nkp,nk->p", J, bent) / len(h)

    def bend(p):
        return torch.einsum("nkl,nl->nk", torch.diag_embed(p) - p[:, :, None] * p[:, None], u)

    def likely(theta):
        return -outputs(theta).log_softmax(-1).gather(1, p.argmax(1, keepdim=True)).mean()

    mean_u = (p * u).sum(-1, keepdim=True)
    return Problem((outputs, theta, v), Expected("G v", pull(bend(p)), {
        "N times too large: G belongs to the mean loss": len(h) * pull(bend(p)),
        "a mean over the classes too: G is a mean over images": pull(bend(p)) / h.shape[1],
        "the bend is missing: this is JᵀJ v, the Gauss–Newton matrix of squared loss": pull(u),
        "the part −p pᵀ is missing: this bends with diag p alone": pull(p * u),
        "the bend is the diagonal p(1 − p) alone: p pᵀ mixes classes": pull(p * (1 - p) * u),
        "the part diag p is missing: this bends with −p pᵀ alone": -pull(p * mean_u),
        "the sum over classes ran over images too: sum(-1, keepdim=True)":
            pull(p * u - p * (p * u).sum()),
        "the sign of p pᵀ is turned: diag p minus p pᵀ": pull(p * u + p * mean_u),
        "pᵀu has to be multiplied by p once more: p pᵀu": pull(p * u - mean_u),
        "pᵀu lacks its weights: it is not the sum of u": pull(p * u - p * u.sum(-1, keepdim=True)),
        "logits where probabilities belong: take the softmax first": pull(bend(h)),
        "the softmax runs over the classes, not over the images": pull(bend(h.softmax(0))),
        "v is missing: push it forward, bend Jv, pull that back": pull(p),
        "this is a product with the Hessian of a loss, not with G: it differentiates J too":
            torch.autograd.functional.hvp(likely, theta, v)[1],
    }))


@check
def ggn_product(answer):
    """`answer(outputs, theta (P,), v (P,)) → Gv (P,)`, against autograd's Jacobian."""
    judge(answer, [_ggn(5, 12, 4, 5, 3), _ggn(15, 7, 3, 2, 4)])
    outputs, theta = _network(25, 20, 10, 48, 6)
    if largest_tensor(answer, outputs, theta, theta.flip(0)) >= 4 * 20 * 6 * len(theta):
        raise Wrong("the numbers are right, but a tensor as large as the Jacobian or G was formed: "
                    "torch.func.jvp and torch.func.vjp need none")
    return "equal to Jᵀ(diag p − p pᵀ)J v with J from autograd, entry by entry"


def _covariance(draw, size):
    """A symmetric matrix (size, size) with eigenvalues from 0.3 to 3, all different."""
    Q = torch.linalg.qr(draw(size, size)).Q
    return Q @ torch.logspace(-0.5, 0.5, size, dtype=Q.dtype).diag() @ Q.T


def _kron(seed, m, n, damping):
    """A problem of `kron_ihvp`."""
    draw = draws(seed)
    A, S, V = _covariance(draw, n), _covariance(draw, m), draw(m, n)

    def dense(matrix):
        damped = matrix + damping * torch.eye(m * n, dtype=V.dtype)
        return torch.linalg.solve(damped, V.flatten()).view_as(V)

    mistakes = _kron_mistakes(A, S, V, damping) | {
        "the order is turned: rows of V belong to S, columns to A": dense(torch.kron(A, S))}
    return Problem((A, S, V, damping), Expected(
        "(S ⊗ A + λI)⁻¹ V", dense(torch.kron(S, A)), mistakes,
        {"transposed: the rows belong to S, the columns to A": (n, m)}))


def _kron_mistakes(A, S, V, damping):
    (a, Q_A), (s, Q_S) = torch.linalg.eigh(A), torch.linalg.eigh(S)
    values, rotated = torch.outer(s, a), Q_S.T @ V @ Q_A
    damped = values + damping

    def back(inside):
        return Q_S @ inside @ Q_A.T

    def both(shift):  # (S + shift I)⁻¹ V (A + shift I)⁻¹
        return back(rotated / torch.outer(s + shift, a + shift))

    return {
        "the damping is missing: this is S⁻¹ V A⁻¹": both(0),
        "λ was added to A and to S: then their product has λ² and cross terms; add it to λ_S λ_A":
            both(damping),
        "√λ was added to A and to S: add λ to λ_S λ_A": both(damping ** 0.5),
        "λ² in place of λ": back(rotated / (values + damping ** 2)),
        "λ is added after the division: 1/(λ_Sλ_A + λ)": back(rotated / values + damping * rotated),
        "a root too many, √(λ_S λ_A + λ)": back(rotated / damped.sqrt()),
        "you multiplied by λ_S λ_A + λ where its inverse is needed": back(rotated * damped),
        "still in the eigenbasis: go back with Q_S … Q_Aᵀ": rotated / damped,
        "the way back is Q_S … Q_Aᵀ: it undoes the way in": Q_S @ (rotated / damped) @ Q_A,
        "Q and Qᵀ are swapped: eigenvectors are columns, so Q_Sᵀ V Q_A goes into the basis":
            Q_S.T @ ((Q_S @ V @ Q_A.T) / damped) @ Q_A,
        "eigenvalues are added where they are multiplied: S ⊗ A has λ_S · λ_A":
            back(rotated / (s[:, None] + a + damping)),
        "not rotated: the eigenvalues belong to the eigenvectors' axes": V / damped,
        "not rotated: the diagonals of S and A are not their eigenvalues":
            V / (torch.outer(S.diag(), A.diag()) + damping),
        "λ was added to S alone: add it to λ_S λ_A": back(rotated / torch.outer(s + damping, a)),
        "λ multiplies where it is added: λ_S λ_A + λ": back(rotated / values) / damping,
        "only S was inverted": Q_S @ ((Q_S.T @ V) / (s[:, None] + damping)),
        "divided by λ alone: the curvature is missing": V / damping,
    }


@check
def kron_ihvp(answer):
    """`answer(A (n, n), S (m, m), V (m, n), damping) → (m, n)`, against a dense solve."""
    judge(answer, [_kron(7, 3, 5, 0.3), _kron(17, 4, 2, 1.1)])
    large = _kron(27, 16, 24, 0.5).arguments
    if bytes_formed(answer, *large) >= 4 * (16 * 24) ** 2:
        raise Wrong("the numbers are right, but a matrix as large as S ⊗ A was formed: "
                    "the eigenvectors of A and of S are enough")
    return "equal to the dense solve with the 15 × 15 matrix S ⊗ A + λI"


def _eigenvalues(seed, count, m, n):
    """A problem of `ekfac_eigenvalues`: three tokens a sequence, the last one of some a filler."""
    draw = draws(seed)
    a, s = draw(count, 3, n) @ draw(n, n), draw(count, 3, m) @ draw(m, m) + 0.5
    s[::3, -1] = 0  # padding has no gradient, but ā is not 0 there
    gradients = s.mT @ a
    A, S = (x.flatten(0, 1).T @ x.flatten(0, 1) / (3 * count) for x in (a, s))
    Q_A, Q_S = torch.linalg.eigh(A)[1], torch.linalg.eigh(S)[1]
    basis, rows = torch.kron(Q_S, Q_A), gradients.flatten(1)
    truth = torch.diag(basis.T @ (rows.T @ rows / count) @ basis).view(m, n)
    mistakes = _eigenvalues_mistakes(a, s, Q_A, Q_S) | {
        "a sum over sequences where a mean belongs": truth * count,
        "divided by N−1: a second moment is a mean, over N": truth * count / (count - 1),
        "a mean over tokens too: Λ belongs to whole sequences": truth / 3,
        "the root was taken: Λ is the second moment itself": truth.sqrt()}
    return Problem((a, s, Q_A, Q_S), Expected("Λ", truth, mistakes, {
        "one matrix a sequence: take the mean over the sequences": gradients.shape,
        "a mean over everything: keep both axes of the layer": (),
        "transposed: the rows belong to S, the columns to A": (n, m)}))


def _eigenvalues_mistakes(a, s, Q_A, Q_S):
    gradients = s.mT @ a
    rotated = Q_S.T @ gradients @ Q_A
    by_token = (s @ Q_S)[..., :, None] * (a @ Q_A)[..., None, :]  # (N, T, m, n)

    def second(rotated):
        return (rotated ** 2).mean(0)

    return {
        "squared token by token: first the sum over tokens, Dθ, then the square":
            (by_token ** 2).sum(1).mean(0),
        "a mean over single tokens: this drops the products of different tokens":
            (by_token ** 2).mean((0, 1)),
        "this is K-FAC's product of eigenvalues, not what was measured":
            torch.outer((s @ Q_S).square().mean((0, 1)), (a @ Q_A).square().mean((0, 1))),
        "the sums over tokens were multiplied: Dθ is the sum of the products Ds_t ā_tᵀ":
            second((s @ Q_S).sum(1)[:, :, None] * (a @ Q_A).sum(1)[:, None]),
        "tokens are averaged: Dθ is their sum": second(rotated / a.shape[1]),
        "averaged before squaring: Λ is a second moment, first square, then mean":
            rotated.mean(0) ** 2,
        "the square is missing: this is the mean rotated gradient": rotated.mean(0),
        "absolute values where squares belong": rotated.abs().mean(0),
        "a fourth power where a square belongs": (rotated ** 4).mean(0),
        "Λ is a second moment, not a variance: the mean stays": rotated.var(0, correction=0),
        "Λ is a second moment, not a variance: var() takes the mean away": rotated.var(0),
        "rotated the wrong way: it is Q_Sᵀ Dθ Q_A": second(Q_S @ gradients @ Q_A.T),
        "Q_S is not transposed: Q_Sᵀ Dθ Q_A": second(Q_S @ gradients @ Q_A),
        "Q_A is transposed: Q_Sᵀ Dθ Q_A": second(Q_S.T @ gradients @ Q_A.T),
        "Q_S is missing: Q_Sᵀ Dθ Q_A": second(gradients @ Q_A),
        "Q_A is missing: Q_Sᵀ Dθ Q_A": second(Q_S.T @ gradients),
        "not rotated: this is the diagonal in the weights' own axes": second(gradients),
        "squared before it is rotated": Q_S.T @ second(gradients) @ Q_A,
        "the first sequence alone: Λ is a mean over all": rotated[0] ** 2,
    }


@check
def ekfac_eigenvalues(answer):
    """`answer(a (N, T, n), Ds (N, T, m), Q_A (n, n), Q_S (m, m)) → Λ (m, n)`, against a dense
    matrix."""
    judge(answer, [_eigenvalues(8, 30, 3, 4), _eigenvalues(18, 11, 5, 2)])
    return "equal to the diagonal of (Q_S ⊗ Q_A)ᵀ F (Q_S ⊗ Q_A) with the dense F"
