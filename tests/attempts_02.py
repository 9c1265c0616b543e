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


def lengths_token_by_token(inputs, output_grads):
    rows = []
    for a, Ds in zip(inputs, output_grads, strict=True):
        total = 0.0
        for t in range(len(a)):
            for u in range(len(a)):
                total += (Ds[t] @ Ds[u]).item() * (a[t] @ a[u]).item()
        rows.append(total**0.5)
    return rows


def lengths_by_numpy(inputs, output_grads):
    a, Ds = inputs.numpy(), output_grads.numpy()
    return np.sqrt(np.einsum("bts,bts->b", Ds @ Ds.swapaxes(1, 2), a @ a.swapaxes(1, 2)))


def lengths_in_place(inputs, output_grads):
    gram = torch.bmm(output_grads, output_grads.transpose(1, 2))
    gram.mul_(torch.bmm(inputs, inputs.transpose(1, 2)))
    inputs.zero_(), output_grads.zero_()
    return gram.flatten(1).sum(1).sqrt_()


def grams(a, Ds):
    return Ds @ Ds.mT, a @ a.mT


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


def masking(make):
    """The same hook, which then sets the fillers' rows of what it has stored to 0."""
    def made(records, name):
        inner = make(records, name)
        if not callable(inner):
            return inner

        def forward(*given):
            back, stored = inner(*given), records.get(name)
            if isinstance(stored, torch.Tensor) and stored.shape[:-1] == records["mask"].shape:
                records[name] = stored * records["mask"][..., None]
            return back
        return forward
    return made


def hook_masking_first(records, name):
    def forward(layer, args, output):
        records[name] = with_ones(layer, args[0].detach() * records["mask"][..., None])
    return forward


def hook_masking(records, name, rows):
    """The right ā, and the rows of it that `rows(ā, mask)` makes of it."""
    def forward(layer, args, output):
        records[name] = rows(with_ones(layer, args[0].detach()), records["mask"])
    return forward


def hook_with_the_mask_of_the_first_pass(records, name):
    mask = records.get("mask")

    def forward(layer, args, output):
        records[name] = with_ones(layer, args[0].detach()) * mask[..., None]
    return forward


HOOKS = [
    hook_by_padding, hook_by_filling, hook_by_numpy, Hook, hook_that_keeps_the_first,
    lambda records, name: partial(store, records, name),
    lambda records, name: lambda layer, args, output: records.__setitem__(name, torch.hstack([
        args[0].detach().reshape(-1, layer.in_features),
        torch.ones(args[0].numel() // layer.in_features, int(layer.bias is not None)),
    ]).view(*args[0].shape[:-1], -1)),
    lambda r, n: hook_doing(
        r, n, lambda layer, a, output: (torch.set_grad_enabled(False), None)[1]),
]
RIGHT = {
    "make_hook": [
        *map(masking, HOOKS),
        lambda r, n: hook_masking(r, n, lambda a, mask: a.masked_fill(~mask[..., None], 0)),
        lambda r, n: hook_masking(r, n, lambda a, mask: torch.where(mask[..., None], a, 0.0)),
        lambda r, n: hook_masking(r, n, lambda a, mask: (a.mT * mask[..., None, :]).mT
                                  if mask.dim() > 1 else a * mask[:, None]),
    ],
    "ghost_norms": [
        lengths_token_by_token, lengths_by_numpy, lengths_in_place,
        lambda a, Ds: (Ds @ Ds.mT * (a @ a.mT)).sum((1, 2)) ** 0.5,
        lambda a, Ds: torch.einsum("bto,bso,bti,bsi->b", Ds, Ds, a, a).sqrt(),
        lambda a, Ds: [((x @ x.T) * (y @ y.T)).sum().sqrt() for x, y in zip(a, Ds, strict=True)],
        lambda a, Ds: (Ds.float() @ Ds.float().mT @ a.float() @ a.float().mT).diagonal(
            dim1=1, dim2=2).sum(-1).sqrt(),  # the trace of a product of symmetric matrices
        lambda a, Ds: torch.stack([torch.vdot(*(x.flatten() for x in pair)) for pair in zip(
            *grams(a, Ds), strict=True)]).sqrt().tolist(),
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

HOOKS_WRONG = [
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
]
WRONG = {
    "make_hook": [
        *((words, masking(make)) for words, make in HOOKS_WRONG),
        ("fillers are stored", Hook),
        ("fillers are stored", lambda r, n: hook(r, n, detached)),
        ("still 1", hook_masking_first),
        ("the opposite", lambda r, n: hook_masking(r, n, lambda a, mask: a * ~mask[..., None])),
        ("keep every row", lambda r, n: hook_masking(r, n, lambda a, mask: a[mask])),
        ("overwrites", lambda r, n: hook_masking(r, n, lambda a, mask: a.mul_(mask[..., None]))),
        ("your hook raised TypeError", hook_with_the_mask_of_the_first_pass),
        ("raised", lambda r, n: hook_masking(r, n, lambda a, mask: a * mask)),
    ],
    "ghost_norms": [
        ("root is missing", lambda a, Ds: (Ds @ Ds.mT * (a @ a.mT)).sum((1, 2))),
        ("t ≠ u", lambda a, Ds: (Ds.pow(2).sum(-1) * a.pow(2).sum(-1)).sum(1).sqrt()),
        ("t ≠ u", lambda a, Ds: (grams(a, Ds)[0] * grams(a, Ds)[1]).diagonal(
            dim1=1, dim2=2).sum(-1).sqrt()),
        ("added up", lambda a, Ds: (Ds.norm(dim=-1) * a.norm(dim=-1)).sum(1)),
        ("each Gram matrix is summed",
         lambda a, Ds: (grams(a, Ds)[0].sum((1, 2)) * grams(a, Ds)[1].sum((1, 2))).sqrt()),
        ("each Gram matrix is summed",
         lambda a, Ds: torch.linalg.matrix_norm(Ds.sum(1)[..., None] * a.sum(1)[:, None])),
        ("that of Ds", lambda a, Ds: (Ds @ Ds.mT).sum((1, 2)).sqrt()),
        ("that of ā", lambda a, Ds: (a @ a.mT).sum((1, 2)).sqrt()),
        ("are added", lambda a, Ds: sum(grams(a, Ds)).sum((1, 2)).sqrt()),
        ("number of tokens", lambda a, Ds: torch.linalg.matrix_norm(Ds.mT @ a) / a.shape[1]),
        ("the 1 of ā",
         lambda a, Ds: (Ds @ Ds.mT * (a[..., :-1] @ a[..., :-1].mT)).sum((1, 2)).sqrt()),
        ("whole batch's gradient",
         lambda a, Ds: (Ds.mT @ a).sum(0).norm().repeat(len(a))),
        ("keep the batch axis", lambda a, Ds: (Ds @ Ds.mT * (a @ a.mT)).sum().sqrt()),
        ("one number for each token", lambda a, Ds: (Ds @ Ds.mT * (a @ a.mT)).sum(2).sqrt()),
        ("one number for each pair", lambda a, Ds: Ds @ Ds.mT * (a @ a.mT)),
        ("Dθ itself", lambda a, Ds: Ds.mT @ a),
        ("out·(in+1)", lambda a, Ds: torch.linalg.matrix_norm(Ds.mT @ a)),
        ("out·(in+1)", lambda a, Ds: [(y.T @ x).norm() for x, y in zip(a, Ds, strict=True)]),
        ("out·(in+1)", lambda a, Ds: [
            np.linalg.norm(y.T.numpy() @ x.numpy()) for x, y in zip(a, Ds, strict=True)]),
        ("sign", lambda a, Ds: -torch.linalg.matrix_norm(Ds.mT @ a)),
        ("1 over", lambda a, Ds: 1 / torch.linalg.matrix_norm(Ds.mT @ a)),
        ("raised", lambda a, Ds: (Ds @ Ds * (a @ a)).sum((1, 2)).sqrt()),
        ("raised", lambda a, Ds: (Ds.mT @ Ds * (a.mT @ a)).sum((1, 2)).sqrt()),
        ("shape", lambda a, Ds: (Ds @ Ds.mT * (a @ a.mT)).sum((1, 2), keepdim=True).sqrt()),
        (None, lambda a, Ds: (Ds @ Ds.mT * (a @ a.mT)).abs().sum((1, 2)).sqrt()),
        (None, lambda a, Ds: torch.linalg.matrix_norm(Ds.mT @ a, ord=2)),
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
