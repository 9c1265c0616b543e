"""The checks of notebook 10: your own model."""
import torch

from .core import Expected, Problem, Wrong, call, check, draws, judge, numbers


def _asked(ids, places):
    """The labels that ask for log p of the tokens at `places`, each after all before it."""
    log_p = torch.zeros(len(ids), max(ids) + 1, requires_grad=True)  # of a model, by position
    total = sum((log_p[t - 1, ids[t]] for t in places if t), log_p.sum() * 0)
    (entries,) = torch.autograd.grad(total, log_p)
    return torch.where(entries.any(1), entries.argmax(1), -100)


def _wrong_labels(ids, told):
    """{what was done: the labels that it gives} for a conversation with answers at `told`."""
    places, ends = range(len(ids)), [t for t in told if t + 1 not in told]  # ends of answers
    truth, shift = _asked(ids, told), "the label of t is x_{t+1}"

    def own(by, mask):  # x_{t+by} where t + mask belongs to an answer
        return torch.tensor([ids[t + by] if t + mask in told and 0 <= t + by < len(ids) else -100
                             for t in places])

    def ending(labels, wraps):
        return torch.cat([labels[:-1], torch.tensor([ids[0] if wraps else -100])])

    at_t = "the mask was read at t: position t predicts x_{t+1}, so ask about t+1"
    return {
        at_t: own(1, 0),
        f"{at_t}; and the last position predicts nothing": ending(own(1, 0), places[-1] in told),
        f"the labels are not shifted, as a Hugging Face model wants them: here {shift}": own(0, 0),
        f"the mask is shifted, the ids are not: {shift}": own(0, 1),
        f"the labels are shifted twice: {shift}": own(2, 2),
        f"the ids are shifted twice: {shift}": own(2, 1),
        f"the labels are shifted backwards: {shift}": own(-1, -1),
        "each answer's first token is missing: the position before it predicts it":
            _asked(ids, [t for t in told if t - 1 in told or not t]),
        "each answer's last token is missing: it is predicted, too":
            _asked(ids, [t for t in told if t not in ends]),
        "the loss falls on the prompts too: it is for what predicts an answer's token":
            _asked(ids, places),
        "the loss falls on the prompts, and not on the answers: the mask is turned round":
            _asked(ids, [t for t in places if t not in told]),
        "the first answer only: every answer is taught":
            _asked(ids, [t for t in told if t <= ends[0]]),
        "the last answer only: every answer is taught":
            _asked(ids, [t for t in told if t > ends[-2]]),
        "0 is a token's id: no target is −100": truth.clamp(min=0),
        "the last position wraps round to the first token: its label is −100":
            ending(truth, 0 in told),
        "the last position predicts nothing: its label is −100": ending(truth, True),
        "those are positions: a label is an id":
            torch.arange(1, len(ids) + 1).where(truth >= 0, -100),
        "every label is −100: nothing is taught": torch.full_like(truth, -100)}


def _conversation(ids, told):
    """A problem of `loss_labels`: entries of a log p table that the answers' log p asks for."""
    mask = torch.tensor([t in told for t in range(len(ids))])
    return Problem((torch.tensor(ids), mask), Expected(
        "the tensor of labels", _asked(ids, told), _wrong_labels(ids, told), {
            "those are the answers' tokens alone: return one label a position": (len(told),),
            "the last position needs a label, too: return one label a position": (len(ids) - 1,)},
        fact=lambda labels: (None if set(labels.tolist()) <= {-100, *ids} else
                             "a label is an id of the conversation, or −100 without a target")))


@check
def loss_labels(answer):
    """`answer(ids (T,), answer (T,)) → labels (T,)`, against log p of the answers' tokens."""
    problems = [_conversation([7, 3, 9, 4, 0, 8, 2, 5, 11, 6], [3, 4, 5, 8]),
                _conversation([6, 1, 8, 3, 5, 2, 9, 0, 4], [0, 1, 4, 5, 8]),
                _conversation([2, 9, 4, 7, 1, 8, 5, 3], [2, 3, 5, 6, 7])]
    labels = numbers(call(answer, *problems[0].arguments), "the tensor of labels")
    if labels.dtype == torch.bool:
        raise Wrong("labels are ids: that is a mask of True and False")
    judge(answer, problems)
    if labels.is_floating_point():
        raise Wrong("labels must be whole numbers, torch.long: the loss takes no other")
    return "Σ log p at your labels is log p of the answers' tokens, each after all before it"


def _wrong_lengths(r, D):
    """{what was done: what the scores are divided by}, (N,) or a scalar, for r (N, P), D = G+λI."""
    def form(matrix):  # rᵀ M r of every story
        return torch.einsum("np,pq,nq->n", r, matrix, r)

    inverse, need = torch.linalg.inv(D), "rᵀ(G+λI)⁻¹r needs the inverse"
    right, entries = form(inverse), "1 over every entry is not the inverse of a matrix"
    return {
        "the root is missing: divide by √(rᵀ(G+λI)⁻¹r)": right,
        "multiplied by the length: divide": 1 / right.sqrt(),
        "divided by the Euclidean length √(rᵀr): G+λI is missing": r.norm(dim=1),
        "divided by rᵀr: G+λI and the root are missing": r.pow(2).sum(1),
        f"that is √(rᵀ(G+λI)r): {need}": form(D).sqrt(),
        f"that is rᵀ(G+λI)r: {need}, and the root": form(D),
        f"{entries}: torch.linalg.solve": form(1 / D).sqrt(),
        f"{entries}, and the root is missing": form(1 / D),
        "the diagonal of G+λI only: solve with the whole matrix": (r**2 / D.diag()).sum(1).sqrt(),
        "the diagonal of (G+λI)⁻¹ only: take all of it": (r**2 * inverse.diag()).sum(1).sqrt(),
        "that is the length of (G+λI)⁻¹r: multiply it by r": (r @ inverse).norm(dim=1),
        "divided by N too: the scores have their 1/N": len(r) * right.sqrt(),
        "divided by the mean length: each story has its own": right.sqrt().mean(),
        "divided by the length of all gradients together: each story has its own":
            right.sum().sqrt(),
        "divided by the length of the summed gradient: each story has its own":
            (r.sum(0) @ inverse @ r.sum(0)).sqrt(),
        "those are the scores as they came": torch.ones_like(right)}


def _stories(seed, count, size, still):
    """A problem of `relatif`: lengths along the eigenvectors of G+λI; story `still` has none."""
    draw = draws(seed)
    axes = torch.linalg.qr(draw(size, size)).Q
    damped = axes @ torch.logspace(-0.7, 0.7, size, dtype=axes.dtype).diag() @ axes.T
    given = [x.float() for x in (draw(count), draw(count, size), damped)]
    given[0][still] = given[1][still] = 0
    scores, r, D = (x.double() for x in given)
    values, axes = torch.linalg.eigh(D)
    lengths = ((r @ axes) ** 2 / values).sum(1).sqrt()

    def divided(lengths):
        return torch.where(scores != 0, scores / lengths, 0)

    return Problem(tuple(given), Expected("the tensor of scores", divided(lengths), {
        "those are the lengths: divide the scores by them": lengths,
        **{message: divided(wrong) for message, wrong in _wrong_lengths(r, D).items()}
    }, {"every story met every other: rᵀ(G+λI)⁻¹r is of one story, shape (N,)": (count, count),
        "the products are still to be summed: one number a story, shape (N,)": (count, size),
        "leave no story out: one without a gradient gets 0": (count - 1,)}))


@check
def relatif(answer):
    """`answer(scores (N,), gradients (N, P), G+λI (P, P)) → (N,)`, against eigenvectors."""
    problems = [(_stories(127, 6, 4, 2), 2), (_stories(112, 5, 3, 4), 4)]
    for problem, still in problems:
        values = numbers(call(answer, *problem.arguments), "the tensor of scores")
        if values.shape == problem.expected.truth.shape and not values[still].isfinite():
            raise Wrong(f"{values[still]:g} for a story without a gradient, r = 0: it gets 0")
    judge(answer, [problem for problem, _ in problems])
    return "equal to lengths summed over the eigenvectors of G+λI; 0 for a story without gradient"


def _wrong_gradients(D, A, B, truth, other, scaling, right):
    """{what was done: the gradient by A that it gives} in a square layer, where all products fit.
    That by B is the transpose of that by A in the transposed layer."""
    s, own = scaling, "its own factor stands where the other belongs"
    return {
        f"the scaling is missing: scaling · {right}": truth / s,
        "the scaling is squared: it stands once in W₀ + scaling · BA": s * truth,
        "divided by the scaling: multiply": truth / s ** 2,
        "divided by the rank: the scaling, α/r, holds it": truth / len(A),
        "the two are exchanged: first by A, then by B": other,
        f"the other factor is not transposed: {right}": s * B @ D,
        f"D is transposed: {right}": s * B.T @ D.T,
        f"{own}: {right}": s * A.T @ D,
        f"{own}, and is not transposed: {right}": s * A @ D,
        f"the order is turned round: {right}": s * D @ B.T,
        f"the order is turned round and the other factor not transposed: {right}": s * D @ B,
        f"that is D, the gradient by the merged weight: the chain goes on, {right}": D,
        f"that is scaling · D: the chain goes on, {right}": s * D,
        "0 only where the other factor is 0, and here both are trained": 0 * truth}


def _adapted(seed, out, width, rank, scaling):
    """A problem of `lora_gradients`: a layer that runs A and B themselves, and one run merged."""
    draw = draws(seed)
    x, goal, A, B, W = (part.float().double() for part in (
        draw(7, width), draw(7, out), draw(rank, width), draw(out, rank), draw(out, width)))
    A, B, merged = (part.requires_grad_() for part in (A, B, W + scaling * B @ A))
    D, = torch.autograd.grad(((x @ merged.T).tanh() * goal).sum(), merged)
    beside = x @ W.T + scaling * (x @ A.T) @ B.T
    by_A, by_B = torch.autograd.grad((beside.tanh() * goal).sum(), (A, B))
    A, B = A.detach(), B.detach()
    wrong = [{}, {}] if not out == width == rank else [
        _wrong_gradients(D, A, B, by_A, by_B, scaling, "Bᵀ D"),
        {message: value.T for message, value in _wrong_gradients(
            D.T, B.T, A.T, by_B.T, by_A.T, scaling, "D Aᵀ").items()}]
    return Problem((D.float(), A.float(), B.float(), scaling), [
        Expected("the gradient by A", by_A, wrong[0]),
        Expected("the gradient by B", by_B, wrong[1])])


@check
def lora_gradients(answer):
    """`answer(D (out, in), A (r, in), B (out, r), scaling) → (by A, by B)`, against autograd."""
    judge(answer, [_adapted(103, 3, 3, 3, 2.5), _adapted(104, 4, 4, 4, 0.4)])
    judge(answer, [_adapted(105, 5, 4, 2, 2.0), _adapted(106, 3, 6, 1, 0.5)])
    return "equal to autograd through A and B themselves, in four layers of ranks 1 to 4"
