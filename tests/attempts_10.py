"""Notebook 10: right answers by many ways, wrong ones with words of the message each must get."""
import numpy as np
import torch


def labels(ids, answer, shift=1, mask=1, fill=-100, seen=torch.clone):
    """x_{t+shift} where t + mask belongs to an answer, with one thing done as somebody might."""
    ids, chosen, length = ids.tolist(), seen(answer).tolist(), len(ids)
    return torch.tensor([
        ids[t + shift] if 0 <= t + mask < length and 0 <= t + shift < length and chosen[t + mask]
        else fill for t in range(length)])


def labels_by_append(ids, answer):
    found = []
    for token, told in zip(ids.tolist()[1:], answer.tolist()[1:]):
        found.append(token if told else -100)
    return [*found, -100]


def labels_by_roll(ids, answer):
    rolled = ids.roll(-1).masked_fill(~answer.roll(-1), -100)
    rolled[-1] = -100
    return rolled


def labels_in_place(ids, answer):
    ids[~answer] = -100
    ids[:-1] = ids[1:].clone()
    ids[-1] = -100
    return ids


def labels_in_numpy(ids, answer):
    found, places = np.full(len(ids), -100), np.flatnonzero(answer.numpy()[1:])
    found[places] = ids.numpy()[places + 1]
    return found


def labels_by_padding(ids, answer):
    masked = torch.where(answer, ids, -100)
    return torch.nn.functional.pad(masked[1:], (0, 1), value=-100)


def runs(answer):
    """The number of the answer that each token belongs to, from 1."""
    begins = answer & ~torch.cat([answer.new_zeros(1), answer[:-1]])
    return begins.cumsum(0)


def without_first(answer):
    return answer & torch.cat([answer.new_ones(1), answer[:-1]])


def without_last(answer):
    return answer & torch.cat([answer[1:], answer.new_zeros(1)])


def first_only(answer):
    return answer & (runs(answer) == 1)


def last_only(answer):
    return answer & (runs(answer) == runs(answer).max())


def wrapped(ids, answer):
    return torch.where(answer.roll(-1), ids.roll(-1), -100)


def ends_in(ids, answer):
    found = labels(ids, answer)
    found[-1] = ids[0]
    return found


def one_slice(ids, answer):
    places, found = answer.nonzero()[:, 0], torch.full_like(ids, -100)
    start, stop = max(int(places[0]), 1), int(places[-1]) + 1
    found[start - 1:stop - 1] = ids[start:stop]
    return found


def positions(ids, answer):
    return torch.where(labels(ids, answer) < 0, -100, torch.arange(len(ids)) + 1)


def relatif(scores, gradients, damped, solved=None, root=torch.sqrt, clean=torch.nan_to_num):
    """The scores with one thing done as somebody might do it."""
    solve = solved or (lambda r, D: torch.linalg.solve(D, r.T).T)
    return clean(scores / root((gradients * solve(gradients, damped)).sum(1)))


def relatif_by_loop(scores, gradients, damped):
    found, inverse = [], torch.linalg.inv(damped.double())
    for score, r in zip(scores.tolist(), gradients.double()):
        square = (r @ inverse @ r).item()
        found.append(score / square ** 0.5 if square > 0 else 0)
    return found


def relatif_by_cholesky(scores, gradients, damped):
    thin = torch.linalg.solve_triangular(torch.linalg.cholesky(damped), gradients.T, upper=False)
    return scores / thin.norm(dim=0).clamp(min=1e-12)


def relatif_in_numpy(scores, gradients, damped):
    scores, r, D = scores.numpy(), gradients.numpy(), damped.numpy()
    lengths = np.sqrt(np.einsum("np,pq,nq->n", r, np.linalg.inv(D), r))
    return np.divide(scores, lengths, out=np.zeros_like(scores), where=lengths > 0)


def relatif_by_diagonal(scores, gradients, damped):
    lengths = (gradients @ torch.linalg.solve(damped, gradients.T)).diag().sqrt()
    return scores / (lengths + 1e-12)


def relatif_in_place(scores, gradients, damped):
    keep = gradients.abs().sum(1) > 0
    gradients = gradients[keep]
    scores[keep] /= (gradients * (gradients @ damped.inverse())).sum(1).sqrt()
    scores[~keep] = 0
    return scores


def divided(length):
    """An answer that divides by `length(gradients, damped, scores)`, 0 where that fails."""
    def answer(scores, gradients, damped):
        return (scores / length(gradients, damped, scores)).nan_to_num(0, 0, 0)
    return answer


def squares(r, D):
    return (r * torch.linalg.solve(D, r.T).T).sum(1)


def lora(D, A, B, scaling, by_A=None, by_B=None, factor=None):
    """Both gradients with one thing done as somebody might do it."""
    s = scaling if factor is None else factor(scaling, len(A))
    return (s * (by_A(D, A, B) if by_A else B.T @ D), s * (by_B(D, A, B) if by_B else D @ A.T))


def lora_by_autograd(D, A, B, scaling):
    A, B = A.requires_grad_(), B.requires_grad_()
    return torch.autograd.grad((scaling * B @ A * D).sum(), (A, B))


def lora_by_loops(D, A, B, scaling):
    (out, width), rank = D.shape, len(A)
    by_A = [[scaling * sum(B[o, k].item() * D[o, i].item() for o in range(out))
             for i in range(width)] for k in range(rank)]
    by_B = [[scaling * sum(D[o, i].item() * A[k, i].item() for i in range(width))
             for k in range(rank)] for o in range(out)]
    return by_A, by_B


def lora_in_numpy(D, A, B, scaling):
    D, A, B = D.numpy(), A.numpy(), B.numpy()
    return [scaling * B.T.dot(D), scaling * D.dot(A.T)]


def lora_in_place(D, A, B, scaling):
    D *= scaling
    by_A = B.T @ D
    return by_A, D.mm(A.T)


def lora_by_einsum(D, A, B, scaling):
    return (torch.einsum("oi,or->ri", D, B).mul(scaling),
            torch.einsum("oi,ri->or", D, A).mul(scaling))


def lora_by_vjp(D, A, B, scaling):
    _, pull = torch.func.vjp(lambda A, B: scaling * B @ A, A, B)
    return pull(D)


def lora_by_transposes(D, A, B, scaling):
    return scaling * (D.T @ B).T, scaling * (A @ D.T).T


RIGHT = {
    "loss_labels": [
        labels, labels_by_append, labels_by_roll, labels_in_place, labels_in_numpy,
        labels_by_padding,
        lambda ids, answer: labels(ids, answer).int(),
        lambda ids, answer: torch.cat([ids[1:].masked_fill(~answer[1:], -100), ids[:1] * 0 - 100]),
    ],
    "relatif": [
        relatif, relatif_by_loop, relatif_by_cholesky, relatif_in_numpy, relatif_by_diagonal,
        relatif_in_place,
        lambda s, r, D: relatif(s.double(), r.double(), D.double()),
        lambda s, r, D: s * squares(r, D).clamp(min=1e-20).rsqrt(),
    ],
    "lora_gradients": [
        lora, lora_by_autograd, lora_by_loops, lora_in_numpy, lora_in_place, lora_by_einsum,
        lora_by_vjp, lora_by_transposes, lambda *given: list(lora(*given)),
    ],
}

WRONG = {
    "loss_labels": [
        ("the mask was read at t", lambda ids, answer: labels(ids, answer, mask=0)),
        ("the last position predicts nothing",
         lambda ids, answer: torch.where(answer, ids.roll(-1), -100)),
        ("not shifted", lambda ids, answer: labels(ids, answer, shift=0, mask=0)),
        ("the mask is shifted, the ids are not", lambda ids, answer: labels(ids, answer, shift=0)),
        ("0 is a token's id", lambda ids, answer: labels(ids, answer, fill=0)),
        ("−100 without a target", lambda ids, answer: labels(ids, answer, fill=-1)),
        ("−100 without a target", lambda ids, answer: labels(ids, answer, fill=100)),
        ("first token is missing", lambda ids, answer: labels(ids, answer, seen=without_first)),
        ("last token is missing", lambda ids, answer: labels(ids, answer, seen=without_last)),
        ("the loss falls on the prompts too",
         lambda ids, answer: labels(ids, answer, seen=torch.ones_like)),
        ("turned round", lambda ids, answer: labels(ids, answer, seen=torch.logical_not)),
        ("wraps round", wrapped),
        ("its label is −100", ends_in),
        ("the labels are shifted twice", lambda ids, answer: labels(ids, answer, 2, 2)),
        ("the ids are shifted twice", lambda ids, answer: labels(ids, answer, 2, 1)),
        ("backwards", lambda ids, answer: labels(ids, answer, -1, -1)),
        ("the first answer only", lambda ids, answer: labels(ids, answer, seen=first_only)),
        ("the last answer only", lambda ids, answer: labels(ids, answer, seen=last_only)),
        ("entries are right", one_slice),
        ("those are positions", positions),
        ("every label is −100", lambda ids, answer: torch.full_like(ids, -100)),
        ("a mask of True and False", lambda ids, answer: labels(ids, answer) >= 0),
        ("whole numbers", lambda ids, answer: labels(ids, answer).float()),
        ("answers' tokens alone", lambda ids, answer: ids[answer]),
        ("last position needs", lambda ids, answer: labels(ids, answer)[:-1]),
        ("entries are right", lambda ids, answer: labels(ids, answer) * answer.long()),
        ("not finite", lambda ids, answer: torch.where(answer, ids, torch.nan)),
        ("has shape", lambda ids, answer: labels(ids, answer)[None]),
        ("your function raised", lambda ids, answer: torch.where(answer[1:], ids, -100)),
        ("the loss falls on the prompts too",
         lambda ids, answer: torch.cat([ids[1:], torch.tensor([-100])])),
    ],
    "relatif": [
        ("the root is missing", lambda *given: relatif(*given, root=torch.clone)),
        ("the Euclidean length", divided(lambda r, D, s: r.norm(dim=1))),
        ("divided by rᵀr", divided(lambda r, D, s: r.pow(2).sum(1))),
        ("√(rᵀ(G+λI)r)", lambda *given: relatif(*given, lambda r, D: r @ D)),
        ("and the root", lambda *given: relatif(*given, lambda r, D: r @ D, torch.clone)),
        ("1 over every entry", lambda *given: relatif(*given, lambda r, D: r @ (1 / D))),
        ("and the root is missing",
         lambda *given: relatif(*given, lambda r, D: r @ D ** -1, torch.clone)),
        ("nan for a story without a gradient", lambda *given: relatif(*given, clean=torch.clone)),
        ("inf for a story without a gradient",
         lambda scores, *given: relatif(scores + 1e-6, *given, clean=torch.clone)),
        ("divided by N too", lambda *given: relatif(*given) / len(given[0])),
        ("times 6, 5", lambda *given: relatif(*given) * len(given[0])),
        ("divided by the mean length", divided(lambda r, D, s: squares(r, D).sqrt().mean())),
        ("all gradients together", divided(lambda r, D, s: squares(r, D).sum().sqrt())),
        ("the summed gradient", divided(lambda r, D, s: squares(r.sum(0)[None], D).sqrt())),
        ("the diagonal of G+λI only", lambda *given: relatif(*given, lambda r, D: r / D.diag())),
        ("the diagonal of (G+λI)⁻¹ only",
         lambda *given: relatif(*given, lambda r, D: r * D.inverse().diag())),
        ("the length of (G+λI)⁻¹r", divided(lambda r, D, s: (r @ D.inverse()).norm(dim=1))),
        ("multiplied by the length", lambda s, r, D: s * squares(r, D).sqrt()),
        ("those are the lengths", lambda s, r, D: squares(r, D).sqrt()),
        ("the scores as they came", lambda s, r, D: s),
        ("absolute values", lambda *given: relatif(*given).abs()),
        ("every sign is turned", lambda *given: -relatif(*given)),
        ("every story met every other", lambda s, r, D: s / (r @ D.inverse() @ r.T).sqrt()),
        ("still to be summed", lambda s, r, D: s[:, None] / (r * (r @ D.inverse())).abs().sqrt()),
        ("leave no story out",
         lambda *given: relatif(*given)[given[1].abs().sum(1) > 0]),
        ("has shape", lambda *given: relatif(*given)[:, None]),
        ("has shape", lambda *given: relatif(*given).sum()),
        (None, lambda s, r, D: relatif(s, r, D + 0.5 * torch.eye(len(D)))),
        (None, lambda *given: relatif(*given, root=lambda square: square ** 0.25)),
        ("your function raised", lambda s, r, D: relatif(s, r, D, lambda r, D: D @ r)),
    ],
    "lora_gradients": [
        ("the scaling is missing", lambda *given: lora(*given, factor=lambda s, r: 1)),
        ("the scaling is squared", lambda *given: lora(*given, factor=lambda s, r: s ** 2)),
        ("divided by the scaling", lambda *given: lora(*given, factor=lambda s, r: 1 / s)),
        ("divided by the rank", lambda *given: lora(*given, factor=lambda s, r: s / r)),
        ("the two are exchanged", lambda *given: lora(*given)[::-1]),
        ("by A is transposed", lambda *given: [part.T for part in lora(*given)]),
        ("by B is transposed", lambda *given: (lora(*given)[0], lora(*given)[1].T)),
        ("missing: scaling · Bᵀ D", lambda D, A, B, s: (B.T @ D, s * D @ A.T)),
        ("missing: scaling · D Aᵀ", lambda D, A, B, s: (s * B.T @ D, D @ A.T)),
        ("not transposed: D Aᵀ", lambda *given: lora(*given, by_B=lambda D, A, B: D @ A)),
        ("not transposed: Bᵀ D", lambda *given: lora(*given, by_A=lambda D, A, B: B @ D)),
        ("D is transposed: D Aᵀ", lambda *given: lora(*given, by_B=lambda D, A, B: D.T @ A.T)),
        ("D is transposed: Bᵀ D", lambda *given: lora(*given, by_A=lambda D, A, B: B.T @ D.T)),
        ("stands where the other belongs: Bᵀ D",
         lambda *given: lora(*given, by_A=lambda D, A, B: A.T @ D)),
        ("stands where the other belongs: D Aᵀ",
         lambda *given: lora(*given, by_B=lambda D, A, B: D @ B.T)),
        ("not transposed: Bᵀ D", lambda *given: lora(*given, by_A=lambda D, A, B: A @ D)),
        ("not transposed: D Aᵀ", lambda *given: lora(*given, by_B=lambda D, A, B: D @ B)),
        ("the order is turned round: Bᵀ D",
         lambda *given: lora(*given, by_A=lambda D, A, B: D @ B.T)),
        ("the order is turned round: D Aᵀ",
         lambda *given: lora(*given, by_B=lambda D, A, B: A.T @ D)),
        ("the order is turned round and", lambda *given: lora(*given, by_B=lambda D, A, B: A @ D)),
        ("both are trained", lambda D, A, B, s: (torch.zeros_like(A), s * D @ A.T)),
        ("both are trained", lambda D, A, B, s: (s * B.T @ D, torch.zeros_like(B))),
        ("the gradient by the merged weight", lambda D, A, B, s: (D, D)),
        ("scaling · D", lambda D, A, B, s: (s * D, s * D)),
        ("every sign is turned", lambda *given: lora(*given, factor=lambda s, r: -s)),
        ("return 2 things", lambda *given: lora(*given)[0]),
        ("return 2 things", lambda *given: [*lora(*given), given[0]]),
        ("your function raised",
         lambda *given: lora(*given, by_A=lambda D, A, B: B.T @ D[:, :-1] @ A)),
        (None, lambda D, A, B, s: (s * torch.linalg.pinv(B) @ D, s * D @ torch.linalg.pinv(A))),
    ],
}
