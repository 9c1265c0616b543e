"""The checks of notebook 07: which word?"""
import torch

from helpers.classroom.checks.core import Expected, Problem, check, judge


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
