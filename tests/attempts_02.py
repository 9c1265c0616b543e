"""Notebook 02: right answers by other ways than the solution; wrong ones, with words of the message
each must get."""
from functools import partial

import numpy as np
import torch


def hook(records, name, value=lambda layer, a, output: a, one=True, back=None):
    """A forward hook that stores `value`, with the 1 (True: with a bias) before or behind it."""
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


def hook_by_padding(records, name):
    def forward(layer, args, output):
        a = args[0].detach().clone()
        records[name] = a if layer.bias is None else torch.nn.functional.pad(a, (0, 1), value=1.0)
    return forward


def hook_by_filling(records, name):
    @torch.no_grad()
    def forward(layer, args, output):
        (a,) = args
        wide = a.new_ones(*a.shape[:-1], a.shape[-1] + (layer.bias is not None))
        wide[..., :a.shape[-1]] = a
        records[name] = wide
    return forward


def hook_by_numpy(records, name):
    def forward(layer, args, output):
        a = args[0].detach().numpy()
        if layer.bias is not None:
            a = np.concatenate([a, np.ones(a.shape[:-1] + (1,))], axis=-1)
        records.update({name: torch.from_numpy(a.copy())})
    return forward


def store(records, name, layer, args, output):
    a = args[0].data.float()
    ones = torch.ones(list(a.shape[:-1]) + [1])
    records[name] = torch.cat((a, ones), dim=a.dim() - 1) if layer.bias is not None else a


class Hook:
    def __init__(self, records, name):
        self.records, self.name = records, name

    def __call__(self, layer, args, output):
        a = args[0].detach()
        one = [] if layer.bias is None else [torch.ones_like(a)[..., :1]]
        self.records[self.name] = torch.cat([a, *one], -1)


def hook_that_keeps_the_first(records, name):
    def forward(layer, args, output):
        Hook({}, name)  # nothing of use, as in many a draft
        if name not in records:
            Hook(records, name)(layer, args, output)
    return forward


def hook_doing(records, name, harm):
    """The right hook, but for one harm done to what it is given."""
    def forward(layer, args, output):
        Hook(records, name)(layer, args, output)
        return harm(layer, args[0], output)
    return forward


def with_ones(layer, a):
    return a if layer.bias is None else torch.cat([a, torch.ones_like(a[..., :1])], -1)


def hook_storing(records, name, value):
    def forward(layer, args, output):
        records[name] = value(layer, args[0].detach())
    return forward


def hook_once(records, name):
    def forward(layer, args, output):
        assert name not in records
        Hook(records, name)(layer, args, output)
    return forward


def hook_appending(records, name):
    def forward(layer, args, output):
        records.setdefault(name, []).append(args[0].detach())
    return forward


def hook_of_the_backward_pass(records, name):
    def forward(layer, args, output):
        args[0].register_hook(lambda gradient: None)
        Hook(records, name)(layer, args, output)
    return forward


def hook_detaching_too_late(records, name):
    def forward(layer, args, output):
        a = args[0]
        if layer.bias is not None:
            a = torch.cat([a, torch.ones_like(a[..., :1])], -1)
        records[name] = a
        records[name].detach()
    return forward


def hook_asking_the_bias(records, name):
    def forward(layer, args, output):
        a = args[0].detach()
        records[name] = torch.cat([a, torch.ones_like(a[..., :1])], -1) if layer.bias else a
    return forward


def gradients_in_a_loop(inputs, output_grads, mask):
    rows = []
    for a, Ds, real in zip(inputs, output_grads, mask, strict=True):
        total = torch.zeros(Ds.shape[1], a.shape[1], dtype=a.dtype)
        for t in range(len(a)):
            if real[t]:
                total += torch.outer(Ds[t], a[t])
        rows.append(total)
    return torch.stack(rows)


def gradients_in_place(inputs, output_grads, mask):
    output_grads[~mask] = 0
    return torch.bmm(output_grads.transpose(1, 2), inputs)


def gradients_by_autograd(inputs, output_grads, mask):
    weight = torch.zeros(len(inputs), output_grads.shape[2], inputs.shape[2], dtype=inputs.dtype)
    weight.requires_grad_()
    s = inputs @ weight.mT
    return torch.autograd.grad((s * output_grads)[mask].sum(), weight)[0]


def gradients_of_the_front(inputs, output_grads, mask):
    """Right where the padding comes last."""
    stories = zip(inputs, output_grads, mask.sum(1).tolist(), strict=True)
    return torch.stack([Ds[:count].T @ a[:count] for a, Ds, count in stories])


def masked(Ds, mask):
    return Ds * mask[..., None]


def scores_token_by_token(inputs, output_grads, P):
    rows = []
    for a, Ds in zip(inputs, output_grads, strict=True):
        rows.append([(P * torch.outer(Ds[t], a[t])).sum().item() for t in range(len(a))])
    return rows


def scores_by_numpy(inputs, output_grads, P):
    return np.einsum("bti,bti->bt", output_grads.numpy() @ P.numpy(), inputs.numpy())


def scores_in_plain_python(inputs, output_grads, P):
    a, Ds, P = inputs.tolist(), output_grads.tolist(), P.tolist()
    entries = [(o, i) for o in range(len(P)) for i in range(len(P[0]))]
    return [[sum(Ds[b][t][o] * P[o][i] * a[b][t][i] for o, i in entries)
             for t in range(len(a[b]))] for b in range(len(a))]


def scores_by_matrices(form):
    """Every r_t is made by `form(Ds, a)`, then its product with P."""
    def scores(inputs, output_grads, P):
        return (form(output_grads, inputs) * P).sum((-2, -1))
    return scores


def scores_by_broadcasting_numpy(inputs, output_grads, P):
    a, Ds = inputs.numpy(), output_grads.numpy()
    return (Ds[..., :, None] * a[..., None, :] * P.numpy()).sum((-2, -1))


def conv_by_outer_products(a, output_grads):
    B, T, width = a.shape
    weight = torch.zeros(B, width, output_grads.shape[-1])
    bias = torch.zeros(B, output_grads.shape[-1])
    for b in range(B):
        for t in range(T):
            weight[b] += torch.outer(a[b, t], output_grads[b, t])
            bias[b] += output_grads[b, t]
    return weight, bias


def conv_by_autograd(a, output_grads):
    def pushed(weight, bias):
        return torch.einsum("bto,bto->", torch.baddbmm(bias[:, None], a, weight), output_grads)
    width, out = a.shape[-1], output_grads.shape[-1]
    zeros = a.new_zeros(len(a), width, out), a.new_zeros(len(a), out)
    return torch.func.grad(pushed, argnums=(0, 1))(*zeros)


def conv_by_the_one(a, output_grads):
    whole = torch.cat([a, torch.ones_like(a[..., :1])], -1).mT @ output_grads
    return [whole[:, :-1], whole[:, -1]]


def conv_zeroing(a, output_grads):
    result = output_grads.mT @ a, output_grads.sum(1)
    a.zero_(), output_grads.zero_()
    return result


def sums(candidates, a):
    return torch.stack([Ds.flatten(0, 1).T @ a.flatten(0, 1) for Ds in candidates])


def index_by_projection(a, candidates, weight_grad):
    """Of the cosines near 1, the one whose factor is 1."""
    square = weight_grad.pow(2).sum()
    factors = [(total * weight_grad).sum() / square for total in sums(candidates, a)]
    cosines = [cosine(total, weight_grad) for total in sums(candidates, a)]
    return int(np.argmin([abs(factors[i] - 1) + 1 - cosines[i] for i in range(len(candidates))]))


def index_by_closeness(a, candidates, weight_grad):
    for index, total in enumerate(sums(candidates, a)):
        if torch.allclose(total, weight_grad, rtol=1e-4, atol=1e-6):
            return index


def index_in_loops(a, candidates, weight_grad):
    errors = []
    for Ds in candidates:
        total = sum(torch.outer(Ds[b, t], a[b, t])
                    for b in range(len(a)) for t in range(a.shape[1]))
        errors.append(((total - weight_grad) ** 2).sum().item())
    return errors.index(min(errors))


def index_in_place(a, candidates, weight_grad):
    errors = torch.zeros(len(candidates))
    for index, Ds in enumerate(candidates):
        total = Ds.mul_(1).float().flatten(0, 1).T.mm(a.flatten(0, 1).float())
        errors[index] = total.sub_(weight_grad).norm()
    return errors.argmin()


RIGHT = {
    "make_hook": [
        hook_by_padding, hook_by_filling, hook_by_numpy, Hook, hook_that_keeps_the_first,
        lambda records, name: partial(store, records, name),
        lambda records, name: lambda layer, args, output: records.__setitem__(name, torch.hstack([
            args[0].detach().reshape(-1, layer.in_features),
            torch.ones(args[0].numel() // layer.in_features, int(layer.bias is not None)),
        ]).view(*args[0].shape[:-1], -1)),
        lambda r, n: hook_doing(
            r, n, lambda layer, a, output: (torch.set_grad_enabled(False), None)[1]),
    ],
    "story_gradients": [
        gradients_in_a_loop, gradients_in_place, gradients_by_autograd,
        lambda a, Ds, mask: [Ds[b, real].T @ a[b, real] for b, real in enumerate(mask)],
        lambda a, Ds, mask: np.einsum("bto,bti,bt->boi", Ds.numpy(), a.numpy(), mask.numpy()),
        lambda a, Ds, mask: (Ds.mT.float() @ a.masked_fill(~mask[..., None], 0).float()).tolist(),
        lambda a, Ds, mask: (a.mT @ torch.where(mask[:, :, None], Ds, 0.0)).transpose(1, 2),
        lambda a, Ds, mask: (masked(Ds, mask)[..., None] * masked(a, mask)[:, :, None]).sum(1),
        lambda a, Ds, mask: Ds.mT @ torch.diag_embed(mask.double()) @ a,
    ],
    "token_scores": [
        scores_token_by_token, scores_by_numpy, scores_in_plain_python,
        lambda a, Ds, P: (a @ P.T * Ds).sum(-1),
        lambda a, Ds, P: torch.einsum("bto,oi,bti->bt", Ds, P, a),
        lambda a, Ds, P: [torch.einsum("to,ti,oi->t", Ds[b], a[b], P) for b in range(len(a))],
        lambda a, Ds, P: (Ds @ P @ a.mT).diagonal(dim1=1, dim2=2),
        lambda a, Ds, P: torch.vmap(torch.vmap(lambda x, gradient: gradient @ P @ x))(a, Ds),
        lambda a, Ds, P: ((Ds.float() @ P.float())[..., None, :] @ a.float()[..., None])[..., 0, 0],
        lambda a, Ds, P: a.mul_(Ds.matmul(P)).sum(dim=2),
    ],
    "conv1d_gradient": [
        conv_by_outer_products, conv_by_autograd, conv_by_the_one,
        lambda a, Ds: (a.mT @ Ds, Ds.sum(dim=1)),
        lambda a, Ds: [np.einsum("bti,bto->bio", a.numpy(), Ds.numpy()), Ds.numpy().sum(1)],
        lambda a, Ds: (torch.bmm(Ds.float().mT, a.float()).mT, torch.einsum("bto->bo", Ds.float())),
        lambda a, Ds: ([x.T @ y for x, y in zip(a, Ds, strict=True)], [y.sum(0) for y in Ds]),
    ],
    "find_output_grad": [
        index_by_projection, index_by_closeness, index_in_loops, index_in_place,
        lambda a, candidates, w: (sums(candidates, a) - w).abs().amax((1, 2)).argmin(),
        lambda a, candidates, w: float(index_in_loops(a, candidates, w)),
        lambda a, candidates, w: index_in_loops(a, candidates, w) - 5,
        lambda a, candidates, w: np.argmin([np.linalg.norm(x - w) for x in sums(candidates, a)]),
        lambda a, candidates, w: (sums(candidates, a) - w).flatten(1).norm(dim=1).topk(
            1, largest=False).indices,
    ],
}

MASKED = "zero where the mask is False"
WRONG = {
    "make_hook": [
        ("the 1 is missing", lambda records, name: hook(records, name, detached, one=False)),
        ("no 1", lambda records, name: hook(records, name, detached, one="always")),
        ("last entry", lambda records, name: hook(records, name, detached, one="first")),
        ("layer's output: what it reads",
         lambda r, n: hook(r, n, lambda layer, a, output: output.detach(), one=False)),
        ("detach", lambda records, name: hook(records, name)),
        ("replaces the layer's output",
         lambda r, n: hook(r, n, detached, back=lambda stored: stored)),
        ("return the hook itself", lambda records, name: records),
        ("holds no tensor", lambda records, name: lambda layer, args, output: None),
        ("your hook raised AttributeError",
         lambda r, n: lambda layer, args, output: r.update({n: args.detach()})),
        ("the 1 is missing", lambda r, n: hook_storing(r, n, lambda layer, a: a)),
        (None,
         lambda r, n: hook_storing(r, n, lambda layer, a: torch.cat([a, 0 * a[..., :1]], -1))),
        ("your hook raised IndexError", lambda r, n: hook_storing(
            r, n, lambda layer, a: torch.cat([a, a[:, :, :1] ** 0], -1))),
        ("your hook raised RuntimeError", lambda r, n: hook_storing(
            r, n, lambda layer, a: torch.cat([a, torch.ones(a.shape[0], a.shape[1], 1)], -1))),
        ("your hook raised", lambda r, n: hook_storing(
            r, n, lambda layer, a: torch.cat([a, torch.ones_like(a[..., :1])], dim=1))),
        ("your hook raised", lambda r, n: hook_storing(
            r, n, lambda layer, a: torch.cat([a, torch.ones_like(a[..., :1])], dim=2))),
        ("your hook raised RuntimeError", hook_asking_the_bias),
        ("second", hook_once),
        ("your hook raised", hook_of_the_backward_pass),
        ("holds no tensor", hook_appending),
        ("holds no tensor", lambda r, n: Hook(r, "layer")),
        ("holds no tensor", lambda r, n: Hook({}, n)),
        ("holds no tensor", lambda r, n: Hook(dict(r), n)),
        ("detach", hook_detaching_too_late),
        ("overwrites",
         lambda r, n: hook_doing(r, n, lambda layer, a, output: (a.data.zero_(), None)[1])),
        ("layer's output", lambda r, n: hook_doing(r, n, lambda layer, a, output: output * 1.5)),
        ("layer's output", lambda r, n: hook_doing(r, n, lambda layer, a, output: output.detach())),
        ("overwrites",
         lambda r, n: hook_doing(r, n, lambda layer, a, output: (output.data.mul_(2), None)[1])),
        ("overwrites", lambda r, n: hook_doing(
            r, n, lambda layer, a, output: (layer.weight.data.zero_(), None)[1])),
        ("shape", lambda r, n: hook_storing(
            r, n, lambda layer, a: with_ones(layer, a).mean(0))),
        ("shape", lambda r, n: hook_storing(
            r, n, lambda layer, a: with_ones(layer, a).flatten(0, -2))),
        ("bias itself", lambda r, n: hook_storing(
            r, n, lambda layer, a: a if layer.bias is None else torch.cat(
                [a, layer.bias.detach()[:1].expand_as(a[..., :1])], -1))),
        (None, lambda r, n: hook_storing(r, n, lambda layer, a: layer.weight.detach())),
        ("return the hook itself", lambda r, n: Hook(r, n)(
            torch.nn.Linear(2, 2), (torch.ones(1, 2),), None) or r[n]),
        ("your hook raised TypeError", lambda r, n: lambda args, output: None),
    ],
    "story_gradients": [
        (MASKED, lambda a, Ds, mask: Ds.transpose(1, 2) @ a),
        ("number of real tokens",
         lambda a, Ds, mask: (Ds * mask[..., None]).mT @ a / mask.sum(1)[:, None, None]),
        ("number of positions",
         lambda a, Ds, mask: torch.einsum("bto,bti->btoi", Ds * mask[..., None], a).mean(1)),
        ("transposed", lambda a, Ds, mask: a.mT @ (Ds * mask[..., None])),
        ("sequences are summed",
         lambda a, Ds, mask: torch.einsum("bto,bti->oi", Ds * mask[..., None], a)),
        ("one matrix for each token",
         lambda a, Ds, mask: torch.einsum("bto,bti->btoi", Ds * mask[..., None], a)),
        ("before they are multiplied: a token", lambda a, Ds, mask: torch.einsum("bto,bui->boi", *(
            x * mask[..., None] for x in (Ds, a)))),
        ("padding included", lambda a, Ds, mask: torch.einsum("bto,bui->boi", Ds, a)),
        ("opposite", lambda a, Ds, mask: masked(Ds, ~mask).mT @ a),
        ("for 1 of 2", gradients_of_the_front),
        ("first sequence", lambda a, Ds, mask: (Ds * mask[0][:, None]).mT @ a),
        ("shape", lambda a, Ds, mask: (masked(Ds, mask).mT @ a).sum(0, keepdim=True)),
        ("batch axis", lambda a, Ds, mask: (masked(Ds, mask).mT @ a).mean(0)),
        ("absolute", lambda a, Ds, mask: (masked(Ds, mask).mT @ a).abs()),
        ("sign", lambda a, Ds, mask: -masked(Ds, mask).mT @ a),
        ("shape", lambda a, Ds, mask: masked(Ds, mask).mT @ a[..., :-1]),
        (None, lambda a, Ds, mask: masked(Ds, mask).mT @ a / mask.sum()),
        ("raised", lambda a, Ds, mask: (Ds * mask).mT @ a),
        ("sequences are summed", lambda a, Ds, mask: Ds[mask].mT @ a[mask]),
        ("raised", lambda a, Ds, mask: Ds @ a),
        (None, lambda a, Ds, mask: (mask.fill_(True), Ds.mT @ a)[1]),
        (None, lambda a, Ds, mask: masked(Ds.flip(1), mask).mT @ a),
        (None, lambda a, Ds, mask: masked(Ds, mask).mT ** 2 @ a ** 2),
        ("transposed",
         lambda a, Ds, mask: (masked(Ds, mask).mT @ a).reshape(len(a), a.shape[2], -1)),
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
        ("batch·token·out·in",
         lambda a, Ds, P: (Ds[..., None] * a[..., None, :] * P).sum((-2, -1))),
        ("batch·token·out·in",
         scores_by_matrices(lambda Ds, a: torch.einsum("bto,bti->btoi", Ds, a))),
        ("batch·token·out·in",
         scores_by_matrices(lambda Ds, a: torch.vmap(torch.vmap(torch.outer))(Ds, a))),
        ("batch·token·out·in",
         lambda a, Ds, P: torch.einsum("bto,bti->btoi", Ds, a).flatten(2) @ P.flatten()),
        ("batch·token·out·in", lambda a, Ds, P: torch.func.vmap(torch.kron)(
            Ds.flatten(0, 1), a.flatten(0, 1)).view(*a.shape[:2], -1) @ P.flatten()),
        ("batch·token·out·in", scores_by_broadcasting_numpy),
        ("sign", lambda a, Ds, P: -(Ds @ P * a).sum(-1)),
        ("absolute", lambda a, Ds, P: (Ds @ P * a).sum(-1).abs()),
        ("absolute", lambda a, Ds, P: (Ds @ P * a).abs().sum(-1)),
        ("summed over the batch", lambda a, Ds, P: (Ds @ P * a).sum(-1).sum(0)),
        ("shape", lambda a, Ds, P: Ds @ P * a),
        ("shape", lambda a, Ds, P: (Ds @ P * a).sum(-1, keepdim=True)),
        ("inputs are summed", lambda a, Ds, P: (Ds @ P @ a.mT).sum(-1)),
        ("running", lambda a, Ds, P: (Ds @ P * a).sum(-1).cumsum(1)),
        ("the 1", lambda a, Ds, P: (Ds @ P[:, :-1] * a[..., :-1]).sum(-1)),
        ("times 2", lambda a, Ds, P: 2 * (Ds @ P * a).sum(-1)),
        (None, lambda a, Ds, P: (Ds @ P * a).sum(-1) ** 2),
        ("P is transposed", lambda a, Ds, P: (Ds @ P.T * a).sum(-1)),
        ("raised", lambda a, Ds, P: Ds * P * a),
        ("shape", lambda a, Ds, P: (Ds @ P * a).sum()),
        ("P is missing", lambda a, Ds, P: Ds.sum(-1) * a.sum(-1)),
        (None, lambda a, Ds, P: (P.zero_(), torch.zeros(a.shape[:2]))[1]),
    ],
    "conv1d_gradient": [
        ("transposed", lambda a, Ds: conv(a, Ds, turn=True)),
        ("return the gradient, not the step", lambda a, Ds: tuple(-part for part in conv(a, Ds))),
        ("divided by the number of tokens: the gradient", lambda a, Ds: conv(a, Ds, mean=True)),
        ("keep the batch axis, one",
         lambda a, Ds: (torch.einsum("bti,bto->io", a, Ds), Ds.sum((0, 1)))),
        ("in the bias: keep the batch axis",
         lambda a, Ds: conv(a, Ds, bias=lambda a, Ds: Ds.sum((0, 1)))),
        ("bias gradient is the sum of Ds_t over the tokens",
         lambda a, Ds: conv(a, Ds, bias=lambda a, Ds: Ds)),
        ("bias gradient is divided", lambda a, Ds: conv(a, Ds, bias=lambda a, Ds: Ds.mean(1))),
        ("not of what the layer reads", lambda a, Ds: conv(a, Ds, bias=lambda a, Ds: a.sum(1))),
        ("return 2 things", lambda a, Ds: a.mT @ Ds),
        ("transposed", conv_zeroing),
        (None, lambda a, Ds: ((a.mT @ Ds).reshape(len(a), Ds.shape[2], a.shape[2]), Ds.sum(1))),
        ("keep the batch axis", lambda a, Ds: ((a.mT @ Ds).sum(0), Ds.sum((0, 1)))),
        ("shape", lambda a, Ds: ((a.mT @ Ds).sum(0, keepdim=True), Ds.sum((0, 1)))),
        ("one matrix for each token", lambda a, Ds: (a[..., None] * Ds[..., None, :], Ds.sum(1))),
        ("bias's gradient has shape", lambda a, Ds: (a.mT @ Ds, Ds.sum(2))),
        ("the 1 does not depend",
         lambda a, Ds: (a.mT @ Ds, torch.full_like(Ds[:, 0], Ds.shape[1]))),
        ("the 1 of ā", lambda a, Ds: (torch.cat([a, a[..., :1] ** 0], -1).mT @ Ds, Ds.sum(1))),
        ("order", lambda a, Ds: (Ds.sum(1), a.mT @ Ds)),
        ("summed before", lambda a, Ds: (a.sum(1)[:, :, None] * Ds.sum(1)[:, None], Ds.sum(1))),
        ("sign", lambda a, Ds: (a.mT @ Ds, -Ds.sum(1))),
        ("sign", lambda a, Ds: (-a.mT @ Ds, Ds.sum(1))),
        ("absolute", lambda a, Ds: ((a.mT @ Ds).abs(), Ds.sum(1))),
        ("return 2", lambda a, Ds: (a.mT @ Ds,)),
        ("return 2", lambda a, Ds: torch.cat([a.mT @ Ds, Ds.sum(1, keepdim=True)], 1)),
        (None, lambda a, Ds: (a.mT @ Ds, Ds[:, -1])),
        (None, lambda a, Ds: (a.mT @ a, Ds.sum(1))),
        ("raised", lambda a, Ds: (a @ Ds, Ds.sum(1))),
        ("keep the batch axis", lambda a, Ds: (a.flatten(0, 1).T @ Ds.flatten(0, 1), Ds.sum(1))),
        ("bias", lambda a, Ds: (a.mT @ Ds, Ds.sum(1, keepdim=True))),
    ],
    "find_output_grad": [
        ("you picked", lambda a, candidates, weight_grad: 0),
        ("*mean* loss", lambda a, candidates, w: nearest(a, candidates, w, cosine, max)),
        ("no gradient at all",
         lambda a, candidates, w: max(range(5), key=lambda at: candidates[at].norm())),
        ("you picked", lambda a, candidates, w: nearest(
            a, candidates, w, lambda one, other: (one - other).norm(), max)),
        ("return one index", lambda a, candidates, w: candidates[0]),
        ("no index", lambda a, candidates, w: float("nan")),
        ("always", lambda a, candidates, w: len(candidates) - 1),
        ("you picked",
         lambda a, candidates, w: nearest(a, candidates, w.T, lambda x, y: (x - y).norm())),
        ("you picked",
         lambda a, candidates, w: nearest(a, candidates, w, lambda x, y: (x + y).norm())),
        ("you picked",
         lambda a, candidates, w: min(range(5), key=lambda at: (candidates[at] - a).norm())),
        ("you picked",
         lambda a, candidates, w: min(range(5), key=lambda at: candidates[at].norm())),
        ("you picked", lambda a, candidates, w: (index_in_loops(a, candidates, w) + 1) % 5),
        (None, lambda a, candidates, w: index_in_loops(a, candidates, w) + 1),
        ("you picked", lambda a, candidates, w: nearest(
            a, candidates, w / a[..., 0].numel(), lambda x, y: (x - y).norm())),
        ("return one index",
         lambda a, candidates, w: [(x - w).norm() for x in sums(candidates, a)]),
        ("return one index", lambda a, candidates, w: sums(candidates, a)[0]),
        ("no index",
         lambda a, candidates, w: min((x - w).norm() for x in sums(candidates, a)) + 0.5),
        ("return one index", lambda a, candidates, w: (index_in_loops(a, candidates, w), 0.0)),
        ("return one index", lambda a, candidates, w: "the second"),
        ("no index", lambda a, candidates, w: 5),
        ("you picked", lambda a, candidates, w: nearest(
            a, candidates, w, lambda x, y: (x.sum() - 2 * y.sum()).abs())),
        ("you picked", lambda a, candidates, w: nearest(
            a, candidates, w, lambda x, y: -(x * y).sum())),
        ("raised", lambda a, candidates, w: candidates.index(w)),
        ("you picked",
         lambda a, candidates, w: index_in_loops(a, candidates, w) if len(a) == 3 else 0),
    ],
}
