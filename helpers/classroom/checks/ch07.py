"""The checks of notebook 07: which word?"""
import torch

from helpers.classroom.checks.core import Expected, Problem, check, draws, judge


def _wrong_weights(weights, mask, k):
    """What is plainly wrong with these weights."""
    zero, beyond = weights == 0, mask.cumsum(1) == mask.sum(1, keepdim=True)  # no token follows
    faults = {
        "weights are 0 and 1: yours hold other values": not ((weights == 1) | zero).all(),
        f"{zero.sum()} weights are 0 where k is {k}": zero.sum() != k,
        "padding was chosen: keep it out with −inf, a 0 there still beats what is negative":
            zero[~mask].any(),
        "a story's last token was chosen: it has no loss term": zero[beyond].any(),
        "k loss terms are left out, but not those with the largest influences": True}
    return next(message for message, found in faults.items() if found)


def _corpus(stories, k, padding):
    """A problem of `drop_tokens`: influences of the stories' tokens; the last has no loss term."""
    lengths = torch.tensor([[len(story)] for story in stories])
    mask = torch.arange(lengths.max()) < lengths
    values = torch.where(mask, 0.0, padding).masked_scatter(mask, torch.tensor(sum(stories, [])))
    places = [(value, i, t) for i, row in enumerate(values.tolist()) for t, value in enumerate(row)]
    terms = sorted((value, i, t) for value, i, t in places if t < lengths[i] - 1)
    in_each = [[term for term in terms if term[1] == i][-k:] for i in range(len(stories))]

    def without(chosen, shift=0):
        weights = torch.ones(values.shape)
        weights[[i for _, i, _ in chosen], [t + shift for _, _, t in chosen]] = 0
        return weights

    best, every = terms[-k:], without(terms)
    truth, at = without(best), "the term read at t, which predicts x_{t+1}, has its weight at t"
    return Problem((values, mask, k), Expected("the tensor of weights", truth, {
        "those are the k largest of each story, not of the corpus": without(sum(in_each, [])),
        f"shifted by one to the right: {at}": without(best, 1),
        f"shifted by one to the left: {at}": without(best, -1),
        "largest by magnitude: a large negative influence speaks against the query":
            without(sorted(terms, key=lambda term: abs(term[0]))[-k:]),
        "the k smallest: largest means most positive": without(terms[:k]),
        "0 and 1 are exchanged: a weight of 0 leaves the term out": 1 - truth,
        "0 at the positions without a target too: that stays 1": truth * (every == 0),
        "0 at the padding too: that stays 1": truth * mask,
        "0 also where there is no loss term: the threshold is for loss terms only":
            without([place for place in places if place >= best[0]]),
        "every weight is 1: if you set some to 0, it was in a copy": torch.ones(values.shape),
    }, fact=lambda weights: _wrong_weights(weights, mask, k)))


@check
def drop_tokens(answer):
    """`answer(values (N, T), mask (N, T), k) → weights (N, T)`, against sorting all loss terms."""
    stories = [[-0.6, -0.5, 1.9, -0.3, 0.8, -0.7, 5.0], [-0.4, -1.2, -3.0, -0.9, 4.0],
               [-0.8, -0.1, -0.2, -1.1, -1.3, 6.0], [-0.25, -0.35, -0.45, 3.0]]
    fewer = [[0.3, 1.2, 2.1, 0.4, -6.0], [0.2, 1.7, 0.9, 7.0], [-2.5, 0.5, 3.0]]
    judge(answer, [_corpus(stories, 3, padding=9.0), _corpus(fewer, 2, padding=-4.0)])
    return "0 at the 3 largest of 18 loss terms, 1 elsewhere; no padding, no story's last token"


def _redrawn(seed, count, size, likely):
    """A problem of `other_target`: slopes of −log p by differences, sums over every draw."""
    draw, half = draws(seed), 1e-5
    logits, moved = (2 * draw(count, size)).float(), draw(count, size).float()
    targets = torch.arange(count) * 7 % size
    targets[:likely] = logits.argmax(-1)[:likely]
    less, more = ((logits.double() + h * moved.double()).log_softmax(-1) for h in (-half, half))
    slopes, p, at = (less - more) / (2 * half), logits.double().softmax(-1), targets[:, None]
    own, chance, raw = (x.gather(1, at)[:, 0] for x in (slopes, p, -moved.double()))
    drawn, even = ((rest * slopes).sum(1) / rest.sum(1)
                   for rest in (x.scatter(1, at, 0) for x in (p, torch.ones_like(p))))
    truth = own - drawn
    return Problem((logits, moved, targets), Expected("the slope", truth, {
        "the sign is turned: the loss is −log p": -truth,
        "the true token is still in the draw: that is the slope of the target itself": own,
        "that is the expected slope of the draw alone: take it off the target's": drawn,
        "not renormalised: without the target the probabilities sum to 1 − p": own * (1 + chance),
        "divided by p: the draw has the rest, 1 − p": own / chance,
        "multiplied by 1 − p: divide": own * (1 - chance),
        "all others were drawn equally often: draw from the model": own - even,
        "moved is the slope of a logit; that of log p lacks its mean under p": raw / (1 - chance),
        "that is the slope of the target's logit, and the draw is missing": raw}))


@check
def other_target(answer):
    """`answer(logits (T, V), moved (T, V), targets (T,)) → (T,)`, against sums over all draws."""
    judge(answer, [_redrawn(71, 5, 6, 2), _redrawn(72, 4, 9, 1)])
    return "equal to sums over all 5 other tokens, with slopes from finite differences"


def _half_way(shares, part=0.5, last=-1):
    """The first step by which `part` of every column's sum is reached, by adding up; or `last`."""
    sums = [[sum(column[:k + 1]) for k in range(len(column))] for column in shares.T.tolist()]
    return torch.tensor([next((k for k, value in enumerate(column)
                               if value >= part * column[-1] and max(column) > 0), last)
                         for column in sums])


def _course(seed, steps, terms):
    """A problem of `when_learnt`: a falling rate, shares of both signs; one term has none > 0."""
    draw, rates = draws(seed), torch.linspace(1, 0.2, steps)
    shares = ((draw(steps, terms) + 0.3) * rates[:, None]).float() * 1e-3
    shares[:, terms // 2] = -shares[:, terms // 2].abs()
    equal = (shares / rates[:, None]).double()
    kept, truth = equal.clamp(min=0), _half_way(equal.clamp(min=0))
    return Problem((shares, rates), Expected("the step", truth, {
        "the shares are not divided by the rates": _half_way(shares.clamp(min=0)),
        "multiplied by the rates: divide": _half_way((shares * rates[:, None]).clamp(min=0)),
        "steps are counted from 0": truth + 1,
        "one step too early: by that step the half must be reached": truth - 1,
        "a term without any positive share is −1": _half_way(kept, last=0),
        "negative shares count nothing: clamp them first": _half_way(equal),
        "the size of negative shares counts nothing: clamp them": _half_way(equal.abs()),
        "that is the step with the largest share": torch.where(truth < 0, -1, kept.argmax(0)),
        "that is the first positive share": _half_way(kept, 1e-9),
        "that is where nearly all of it is reached, not half": _half_way(kept, 0.99)}))


@check
def when_learnt(answer):
    """`answer(shares (K, M), rates (K,)) → (M,)`, against adding up step by step."""
    judge(answer, [_course(73, 9, 12), _course(74, 7, 10)])
    return "equal to adding up step by step, for 12 terms and 9 steps; −1 without positive share"
