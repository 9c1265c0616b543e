"""Notebook 02: what learners really answer, and the words by which the check must name it."""
import torch


def hook(records, name, value=lambda layer, a, output: a, one=True, back=None):
    """A forward hook that stores `value`, with the 1 (True: where there is a bias) before or behind it."""
    def forward(layer, args, output):
        stored = value(layer, args[0], output)
        ones = torch.ones_like(stored[..., :1])
        if one == "first" and layer.bias is not None:
            stored = torch.cat([ones, stored], -1)
        elif one == "always" or one is True and layer.bias is not None:
            stored = torch.cat([stored, ones], -1)
        records[name] = stored
        return back and back(stored)
    return forward


def detached(layer, a, output):
    return a.detach()


def summed(a, Ds, P, order, a_all=False, Ds_all=False):
    a = a.sum(1, keepdim=True).expand_as(a) if a_all else a
    Ds = Ds.sum(1, keepdim=True).expand_as(Ds) if Ds_all else Ds
    return torch.einsum(order, Ds, P, a)


def conv(a, Ds, turn=False, mean=False, bias=lambda a, Ds: Ds.sum(1)):
    weight = a.transpose(1, 2) @ Ds
    return (weight.transpose(1, 2) if turn else weight) / (a.shape[1] if mean else 1), bias(a, Ds)


def nearest(a, candidates, weight_grad, distance, best=min):
    """The candidate whose Σ Ds ā is nearest to the weight's gradient, by some distance."""
    found = [torch.einsum("bto,bti->oi", Ds, a) for Ds in candidates]
    return best(range(len(found)), key=lambda at: distance(found[at], weight_grad))


def cosine(one, other):
    return torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0)


MASKED = "zero where the mask is False"
WRONG = {
    "make_hook": [
        ("the 1 is missing", lambda records, name: hook(records, name, detached, one=False)),
        ("no 1", lambda records, name: hook(records, name, detached, one="always")),
        ("last entry", lambda records, name: hook(records, name, detached, one="first")),
        ("layer's output: what it reads", lambda r, n: hook(r, n, lambda layer, a, output: output.detach(), one=False)),
        ("detach", lambda records, name: hook(records, name)),
        ("replaces the layer's output", lambda r, n: hook(r, n, detached, back=lambda stored: stored)),
        ("return the hook itself", lambda records, name: records),
        ("holds no tensor", lambda records, name: lambda layer, args, output: None),
        ("your hook raised AttributeError", lambda r, n: lambda layer, args, output: r.update({n: args.detach()})),
    ],
    "story_gradients": [
        (MASKED, lambda a, Ds, mask: Ds.transpose(1, 2) @ a),
        ("number of real tokens", lambda a, Ds, mask: (Ds * mask[..., None]).mT @ a / mask.sum(1)[:, None, None]),
        ("number of positions", lambda a, Ds, mask: torch.einsum("bto,bti->btoi", Ds * mask[..., None], a).mean(1)),
        ("transposed", lambda a, Ds, mask: a.mT @ (Ds * mask[..., None])),
        ("sequences are summed", lambda a, Ds, mask: torch.einsum("bto,bti->oi", Ds * mask[..., None], a)),
        ("one matrix for each token", lambda a, Ds, mask: torch.einsum("bto,bti->btoi", Ds * mask[..., None], a)),
        ("before they are multiplied: a token", lambda a, Ds, mask: torch.einsum("bto,bui->boi", *(
            x * mask[..., None] for x in (Ds, a)))),
        ("a tensor, not a list", lambda a, Ds, mask: [one[real].T @ two[real] for one, two, real in zip(Ds, a, mask)]),
        ("padding included", lambda a, Ds, mask: torch.einsum("bto,bui->boi", Ds, a)),
    ],
    "token_scores": [
        ("inputs are summed", lambda a, Ds, P: summed(a, Ds, P, "bto,oi,bti->bt", a_all=True)),
        ("Ds are summed", lambda a, Ds, P: summed(a, Ds, P, "bto,oi,bti->bt", Ds_all=True)),
        ("P is transposed", lambda a, Ds, P: summed(a, Ds, P, "bto,io,bti->bt")),
        ("averaged over in+1", lambda a, Ds, P: summed(a, Ds, P, "bto,oi,bti->bt") / a.shape[-1]),
        ("sequence's score", lambda a, Ds, P: summed(a, Ds, P, "bto,oi,bti->b")),
        ("every Ds_t met every", lambda a, Ds, P: Ds @ P @ a.mT),
        ("P is missing", lambda a, Ds, P: (Ds * a).sum(-1)),
        ("not averaged", lambda a, Ds, P: summed(a, Ds, P, "bto,oi,bti->bt") / a.shape[1]),
        ("batch·token·out·in", lambda a, Ds, P: (Ds[..., None] * a[..., None, :] * P).sum((-2, -1))),
    ],
    "conv1d_gradient": [
        ("transposed", lambda a, Ds: conv(a, Ds, turn=True)),
        ("return the gradient, not the step", lambda a, Ds: tuple(-part for part in conv(a, Ds))),
        ("divided by the number of tokens: the gradient", lambda a, Ds: conv(a, Ds, mean=True)),
        ("keep the batch axis, one", lambda a, Ds: (torch.einsum("bti,bto->io", a, Ds), Ds.sum((0, 1)))),
        ("in the bias: keep the batch axis", lambda a, Ds: conv(a, Ds, bias=lambda a, Ds: Ds.sum((0, 1)))),
        ("bias gradient is the sum of Ds_t over the tokens", lambda a, Ds: conv(a, Ds, bias=lambda a, Ds: Ds)),
        ("bias gradient is divided", lambda a, Ds: conv(a, Ds, bias=lambda a, Ds: Ds.mean(1))),
        ("not of what the layer reads", lambda a, Ds: conv(a, Ds, bias=lambda a, Ds: a.sum(1))),
        ("return two tensors", lambda a, Ds: a.mT @ Ds),
    ],
    "find_output_grad": [
        ("you picked", lambda a, candidates, weight_grad: 0),
        ("*mean* loss", lambda a, candidates, w: nearest(a, candidates, w, cosine, max)),
        ("no gradient at all", lambda a, candidates, w: max(range(5), key=lambda at: candidates[at].norm())),
        ("you picked", lambda a, candidates, w: nearest(
            a, candidates, w, lambda one, other: (one - other).norm(), max)),
        ("return one index", lambda a, candidates, w: candidates[0]),
        ("no index", lambda a, candidates, w: float("nan")),
    ],
}
