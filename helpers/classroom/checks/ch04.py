"""Checks of notebook 04: a query's labels, the tokenwise split, the other reading, RelatIF."""
import torch

from .core import Expected, Problem, Wrong, bytes_formed, call, check, draws, judge, numbers


def _labels(ids, start):
    """A problem of `completion_labels`: entries of a log p table that the difference asks for."""
    length = len(ids)
    log_p = torch.zeros(length, max(ids) + 1, requires_grad=True)  # of a model, by position

    def sequence(end):  # log p(x_1 … x_end | x_1)
        return sum((log_p[t, ids[t + 1]] for t in range(end - 1)), log_p.sum() * 0)

    def asked(start, end):
        (entries,) = torch.autograd.grad(sequence(end) - sequence(start), log_p)
        return torch.where(entries.any(1), entries.argmax(1), -100)

    def own(kept, shift=0):
        return torch.tensor([ids[t + shift] if t in kept and t + shift < length else -100
                             for t in range(length)])

    truth, last = asked(start, length), torch.arange(length) == length - 1
    return Problem((ids, start), Expected("the tensor of labels", truth, {
        "the labels are not shifted: position t predicts x_{t+1}": own(range(start, length)),
        "the labels are not shifted, and the prompt is asked about too": torch.tensor(ids),
        "the labels are shifted twice: t predicts x_{t+1}": own(range(start - 2, length), 2),
        "the labels are shifted backwards: t predicts x_{t+1}": own(range(start + 1, length), -1),
        "the completion's first token is missing: it is predicted at position start − 1":
            asked(start + 1, length),
        "the prompt is asked about too: mask what predicts the prompt's own tokens":
            asked(1, length),
        "one position too many: the prompt's last token is given": asked(max(start - 1, 1), length),
        "the completion's last token is missing: the slice ended early": asked(start, length - 1),
        "the completion's last token only: ask for all of them": asked(length - 1, length),
        "the completion's first token only: ask for all of them": asked(start, start + 1),
        "the prompt is asked about, and the completion is not": asked(1, start),
        "those are the prompt's tokens, and not shifted": own(range(start)),
        "the last position predicts nothing: its label is −100": truth.where(~last, ids[0]),
        "those are positions: a label is an id": truth.where(truth < 0, torch.arange(length) + 1),
    }, {"those are the completion's tokens alone: return one label a position": (length - start,),
        "the last position needs a label, too: return one label a position": (length - 1,)}))


@check
def completion_labels(answer):
    """`answer(ids, start) → labels (T,)`, against log p(prompt and completion) − log p(prompt)."""
    first, *others = [_labels([3, 1, 4, 1, 5, 2, 6], 4), _labels([7, 0, 2, 9, 0, 4, 4, 8, 0], 2),
                      _labels([2, 5, 0, 3, 1], 4)]
    labels = numbers(call(answer, *first.arguments), "the tensor of labels")
    if labels.dtype == torch.bool:
        raise Wrong("labels must be whole numbers, token ids: that is a mask of True and False")
    if labels.dim() == 1 and not set(labels.tolist()) <= {-100, *first.arguments[0]}:
        raise Wrong("a label is a token id, or −100 where there is no target")
    judge(answer, [first, *others])
    if labels.is_floating_point():
        raise Wrong("labels must be whole numbers: give them dtype torch.long, "
                    "as the loss takes no other")
    return "Σ log p at your labels is log p(prompt and completion) − log p(prompt)"


def _tokens(seed, length, inner, outer, count):
    """A problem of `token_influence`: every token has its own copy of the weights."""
    draw = draws(seed)
    a, P, mix = draw(length, inner), draw(outer, inner), draw(length, length)
    a[:, -1] = 1
    copies = draw(outer, inner).expand(length, -1, -1).clone().requires_grad_()
    written = torch.einsum("toi,ti->to", copies, a)
    loss = (mix.tril() @ written).tanh().sum()  # later tokens read earlier ones
    r, Ds = torch.autograd.grad(loss, (copies, written))
    truth, together = (r * P).sum((1, 2)) / count, "Ds_t belongs with ā_t of the same token"
    pairs = Ds @ P @ a.T / count  # of every Ds_t with every ā_u
    summed, none = pairs.sum(1), truth.new_zeros(1)
    return Problem((a, Ds, P, count), Expected("the influence by token", truth, {
        f"the activations were summed over all tokens: {together}": summed,
        f"the activations were summed over all tokens, the values rescaled: {together}":
            summed * truth.sum() / summed.sum(),
        f"the activations were averaged over all tokens: {together}": pairs.mean(1),
        f"the output gradients were summed over all tokens: {together}": pairs.sum(0),
        f"the output gradients were averaged over all tokens: {together}": pairs.mean(0),
        f"ā is one token behind: {together}": torch.cat([pairs.diag(-1), none]),
        f"Ds is one token behind: {together}": torch.cat([none, pairs.diag(1)]),
        "the factor 1/N is missing: one copy is ε = 1/N": count * truth,
        "times N: one copy is ε = 1/N": count ** 2 * truth,
        "divided by N twice": truth / count,
        "divided by the story's tokens: N counts the training stories": count * truth / length,
        "the sign is turned: ∇L_q = −∇f has brought its minus already": -truth,
        "a mean over in+1: the product of P and r_t is a sum": truth / inner,
        "that is each token's gradient norm: the query (P) is missing":
            r.flatten(1).norm(dim=1) / count,
        "ā is missing: Ds_tᵀ P ā_t": (Ds @ P).sum(1) / count,
        "the last column was left out: ā carries a 1 for the bias":
            (r * P)[..., :-1].sum((1, 2)) / count,
        "the story's total, shared out evenly": truth.mean().expand(length),
        "a running sum: each token alone, not added up": truth.cumsum(0),
        "a cosine: the influence is the product itself": torch.cosine_similarity(Ds @ P, a),
        "the products were squared": ((Ds @ P) * a).square().sum(1) / count,
    }, {"the story's total: keep one number a token": (),
        "every Ds_t met every ā_u: keep those of the same token, shape (T,)": (length, length),
        "still to be summed over in+1: one number a token, shape (T,)": (length, inner),
        "summed over the tokens, shape (out,): keep one number a token": (outer,)}))


@check
def token_influence(answer):
    """`answer(inputs (T, in+1), output_grads (T, out), P (out, in+1), n_train) → (T,)` nats,
    against autograd by token."""
    judge(answer, [_tokens(6, 6, 4, 3, 50), _tokens(16, 9, 3, 5, 13)])
    return "equal to autograd with a copy of the weights for every token"


def _profile(story, values):
    """A problem of `on_predicted`."""
    values, read, told = torch.tensor(values, dtype=torch.float64), story.split(), {}
    for place, predicted in enumerate(read[1:]):  # what the word at this place was to predict
        told[predicted] = values[place]
    none, to_first = values[:1] * 0, "to the first token, which nothing predicts: put 0 there"
    truth = torch.stack([told.get(word, none[0]) for word in read])
    return Problem((values,), Expected("the moved profile", truth, {
        "nothing was moved: this is still align=\"input\"": values,
        "nothing was moved, and the first value is lost": torch.cat([none, values[1:]]),
        "nothing was moved, and the last value is lost": torch.cat([values[:-1], none]),
        "moved to the left: a value goes to the next token": torch.cat([values[1:], none]),
        "moved to the left, and around": values.roll(-1),
        "moved by two places: position t predicts x_{t+1}": torch.cat([none, none, values[:-2]]),
        f"the last value came round {to_first}": values.roll(1),
        f"the first value was kept, and goes {to_first}": torch.cat([values[:1], values[:-1]]),
        f"the mean goes {to_first}": torch.cat([values.mean()[None], values[:-1]]),
        f"1 goes {to_first}": torch.cat([none + 1, values[:-1]]),
        "moved by two places, and around": values.roll(2),
        "the profile is turned round": values.flip(0),
        "a running sum: each value alone, not added up": truth.cumsum(0),
        "differences of neighbours: move the values themselves": torch.cat([none, values.diff()]),
    }, {"the last position falls away: as many values as tokens": (len(read) - 1,),
        "one value too many: as many values as tokens": (len(read) + 1,)}))


@check
def on_predicted(answer):
    """`answer(values (T,)) → (T,)`, against a list of words read and told."""
    judge(answer, [
        _profile("Tom hid in the barn", [0.1, -0.4, 2.0, 0.3, -0.2]),
        _profile("a red fox saw my old dog run", [-0.7, 0.2, -0.1, 0.5, -3.0, 0.4, 0.9, -0.6]),
    ])
    return "every value stands on the token it taught, and the first token has none"


def _relatif(seed, count, m, n, damping):
    """A problem of `relatif`."""
    draw = draws(seed)
    Q_A, Q_S = (torch.linalg.qr(draw(size, size)).Q for size in (n, m))
    Lambda, r, scores = 2 * draw(m, n).square() + 0.05, draw(count, m, n), draw(count)
    basis, flat = torch.kron(Q_S, Q_A), r.flatten(1)
    G = basis @ (Lambda.flatten() + damping).diag() @ basis.T
    ihvps = torch.linalg.solve(G, flat.T).T
    squares = (flat * ihvps).sum(1)
    mistakes = _wrong_squares(r, Q_A, Q_S, Lambda, damping)
    return Problem((scores, r, Q_A, Q_S, Lambda, damping), Expected(
        "the normalised score", scores / squares.sqrt(),
        {message: scores / wrong.sqrt() for message, wrong in mistakes.items()} | {
            "the square root is missing: divide by √(rᵀ(G+λI)⁻¹r)": scores / squares,
            "the root is taken twice": scores / squares ** 0.25,
            "the whole quotient is squared": scores ** 2 / squares,
            "divided by the gradient's plain length, as the cosine does: the curvature is missing":
                scores / flat.norm(dim=1),
            "divided by the length of the iHVP, which asks for the change of the weights":
                scores / ihvps.norm(dim=1),
            "multiplied where it should be divided: a story that moves everything must lose rank":
                scores * squares.sqrt(),
            "all stories were summed: each has its own length": scores / squares.sum().sqrt(),
            "the scores are missing: that is the length": squares.sqrt(),
            "the scores are missing: that is 1 over the length": squares.rsqrt(),
        }, {"one number a story, shape (B,): sum over both axes of the layer": (count, n),
            "every score met every length: each story has its own, shape (B,)": (count, count)}))


def _wrong_squares(r, Q_A, Q_S, Lambda, damping):
    """What some put in place of rᵀ(G+λI)⁻¹r, for each story."""
    rotated, damped = Q_S.T @ r @ Q_A, Lambda + damping

    def over(rotated, divisor=damped):
        return (rotated ** 2 / divisor).sum((1, 2))

    return {
        "you multiplied by Λ + λ where its inverse is needed": over(rotated, 1 / damped),
        "into the eigenbasis it is Q_Sᵀ r Q_A: the eigenvectors stand in columns":
            over(Q_S @ r @ Q_A.T),
        "Q_S is not transposed: into the eigenbasis it is Q_Sᵀ r Q_A": over(Q_S @ r @ Q_A),
        "Q_A is transposed: into the eigenbasis it is Q_Sᵀ r Q_A": over(Q_S.T @ r @ Q_A.T),
        "not rotated: Λ belongs to the eigenvectors' axes": over(r),
        "the damping is missing: divide by Λ + λ": over(rotated, Lambda),
        "the damping is added after the sum: divide by Λ + λ": over(rotated, Lambda) + damping,
        "the damping is added after the root: divide by Λ + λ":
            (over(rotated, Lambda).sqrt() + damping) ** 2,
        "λ² in place of λ": over(rotated, Lambda + damping ** 2),
        "divided by √(Λ + λ): the root is taken of the sum alone": over(rotated, damped.sqrt()),
        "the square is missing: rotated² / (Λ + λ)": (rotated / damped).sum((1, 2)).abs(),
        "a mean over the layer's axes: rᵀ(G+λI)⁻¹r is a sum": over(rotated) / Lambda.numel(),
    }


@check
def relatif(answer):
    """`answer(scores (B,), gradients (B, out, in+1), Q_A, Q_S, Lambda, damping) → (B,)`, against a
    dense solve."""
    judge(answer, [_relatif(7, 5, 3, 4, 0.2), _relatif(17, 7, 4, 2, 0.9)])
    if bytes_formed(answer, *_relatif(27, 4, 16, 24, 0.5).arguments) >= 4 * (16 * 24) ** 2:
        raise Wrong("the numbers are right, but a matrix as large as G was formed: "
                    "in the eigenbasis it is diagonal")
    return "equal to the dense computation with (G+λI)⁻¹"
