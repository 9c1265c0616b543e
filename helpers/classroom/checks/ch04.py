"""Checks of notebook 04: a query's labels, the tokenwise split, the other reading, content."""
import torch

from .core import Expected, Problem, Wrong, call, check, draws, judge, numbers


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
    truth = (r * P).sum((1, 2)) / count
    return Problem((a[:, :-1], Ds, P, count), Expected(
        "the influence by token", truth, _token_mistakes(a, Ds, P, count, r, truth), {
            "the story's total: keep one number a token": (),
            "every Ds_t met every ā_u: keep those of the same token, shape (T,)": (length, length),
            "still to be summed over in+1: one number a token, shape (T,)": (length, inner),
            "still to be summed over in, and without the bias: shape (T,)": (length, inner - 1),
            "summed over the tokens, shape (out,): keep one number a token": (outer,)}))


def _token_mistakes(a, Ds, P, count, r, truth):
    together, (length, inner) = "Ds_t belongs with ā_t of the same token", a.shape
    pairs = Ds @ P @ a.T / count  # of every Ds_t with every ā_u
    summed, none = pairs.sum(1), truth.new_zeros(1)
    return {
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
        "ā is missing but for its 1: Ds_tᵀ P ā_t": (Ds @ P)[:, :-1].sum(1) / count,
        "the bias is missing: P's last column belongs to the 1 of ā = [a; 1]":
            (r * P)[..., :-1].sum((1, 2)) / count,
        "the bias alone: P's other columns belong to a": r[..., -1] @ P[:, -1] / count,
        "the bias went in as a sum over all tokens: Ds_t of the token itself":
            ((r * P)[..., :-1].sum((1, 2)) + (Ds @ P[:, -1]).sum()) / count,
        "the story's total, shared out evenly": truth.mean().expand(length),
        "a running sum: each token alone, not added up": truth.cumsum(0),
        "a cosine: the influence is the product itself": torch.cosine_similarity(Ds @ P, a),
        "the products were squared": ((Ds @ P) * a).square().sum(1) / count,
    }


@check
def token_influence(answer):
    """`answer(a (T, in), output_grads (T, out), P (out, in+1), n_train) → (T,)` nats,
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


def _content(seed, vocabulary, chances):
    """A problem of `content_weights`: p of every position's token; negative without a target."""
    draw, chances = draws(seed), torch.tensor(chances, dtype=torch.float64)
    p, target, length = chances.abs(), chances > 0, len(chances)
    own = draw(length, vocabulary).argmax(1)
    hot = torch.nn.functional.one_hot(own, vocabulary).bool()
    others = draw(length, vocabulary).masked_fill(hot, -torch.inf).softmax(1)
    log_p, x = torch.where(hot, p[:, None], (1 - p)[:, None] * others).log(), p.log()
    odds, plain = (torch.autograd.functional.jacobian(loss, x).diag() for loss in (
        lambda x: -torch.log(x.exp() / (1 - x.exp())), torch.neg))  # by x = log p_t
    truth, labels = torch.where(p > 0.98, 50, odds / plain) * target, own.where(target, -100)
    return Problem((log_p, labels), Expected(
        "the tensor of weights", truth, _wrong_weights(log_p, labels, p, truth), {
            "one weight a position, shape (T,): take the label's log p": (length, vocabulary),
            "every label met every position: take row t's log p of label t": (length, length),
            "leave no position out: without a target its weight is 0": (int(target.sum()),),
            "one position is missing: label t belongs to row t already": (length - 1,),
            "one number for the story: return one weight a position": ()},
        fact=lambda values: ("label −100 says that there is no target: there the weight is 0"
                             if values[~target].any() else None)))


def _wrong_weights(log_p, labels, p, truth):
    """What some put in place of the weights."""
    def weights(columns):  # by the probability of another token than the label
        chosen = log_p.gather(1, columns.clamp(min=0)[:, None])[:, 0].exp()
        return (columns >= 0) / (1 - chosen).clamp(min=0.02)

    rest, none = 1 - p, labels.new_tensor([-100])
    return {message: value.where(labels >= 0, 0) for message, value in {
        "1 − p_t itself needs the floor: below 0.02 the weight is 1/0.02": 1 / rest,
        "p_t in place of 1 − p_t": 1 / p.clamp(min=0.02),
        "p_t in place of 1 − p_t, and no floor": 1 / p,
        "that is p_t: the weight is 1 over 1 − p_t": p,
        "that is 1 − p_t, a factor of the loss's gradient: divide it out": rest,
        "that is 1 − p_t with its floor: the weight is 1 over it": rest.clamp(min=0.02),
        "log p_t in place of p_t: p_t is exp(log p_t)": 1 / (1 - p.log()),
        "the loss −log p_t in place of 1 − p_t": 1 / (-p.log()).clamp(min=0.02),
        "p_t − 1 is negative, so the floor takes all: 1 − p_t": torch.full_like(p, 50),
        "the sign is turned: both losses fall where p_t grows": -truth,
        "the floor is added: take the larger of 1 − p_t and 0.02": 1 / (rest + 0.02),
        "the smaller of 1 − p_t and 0.02: take the larger": 1 / rest.clamp(max=0.02),
        "0.02 bounds 1 − p_t: the weight's own bound is 1/0.02": torch.full_like(p, 0.02),
        "below the floor the weight is 1/0.02, not 0": truth.where(p < 0.98, 0),
        "every weight is 1, which leaves the loss as it is": torch.ones_like(p),
        "the odds p_t/(1 − p_t): divide 1, not p_t": p * truth,
        "the log-odds loss: asked is what turns one gradient into the other": (rest / p).log(),
        "that is the slope by p_t: divide it by the slope 1/p_t of log p_t": truth / p,
        "the weighted loss terms: return the weights alone": -p.log() * truth,
        "divided by their mean: each weight stands for itself": truth / truth[labels >= 0].mean(),
        "that is p of the likeliest token: take the label's": weights(log_p.argmax(1)),
    }.items()} | {
        f"the labels were shifted {way}: label t is row t's own": weights(torch.cat(parts))
        for way, parts in (("once more", [labels[1:], none]), ("back", [none, labels[:-1]]))}


@check
def content_weights(answer):
    """`answer(log_p (T, V), labels (T,)) → (T,)`, against autograd of both losses by log p_t."""
    judge(answer, [_content(8, 104, [0.3, -0.6, 0.995, 0.004, 0.97, 0.75, -0.99, 0.5, -0.2]),
                   _content(18, 130, [0.999, 0.1, 0.85, 0.6, -0.3, 0.02, -0.7])])
    return "so weighted, −log p_t has the log-odds loss's gradient (autograd), capped at 50 fold"
