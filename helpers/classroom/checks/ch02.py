"""Checks of notebook 02, capturing gradients: against autograd."""
import torch

from .core import (Expected, Problem, Wrong, bytes_formed, call, check, compare_all, draws, judge,
                   numbers, settled)


def _stored(answer, bias, size, needs_gradient):
    """What the learner's hook stores of an input of this size, and what is expected."""
    draw, out, name, records = draws(len(size)), 7, "transformer.h.0", {}
    layer = torch.nn.utils.skip_init(
        torch.nn.Linear, size[-1], out, bias=bias, dtype=torch.float64)  # draws no random numbers
    for parameter in layer.parameters():
        parameter.data = draw(*parameter.shape)
    batches = draw(*size), draw(9, *size[1:])
    masks = [torch.arange(x[..., 0].numel()).view(x.shape[:-1]) % 3 != 1 for x in batches]
    if needs_gradient:  # as everything inside a network does, but not what the first layer reads
        batches = [x.requires_grad_() * 1 for x in batches]
    hook = call(lambda: answer(records, name))
    if not callable(hook):
        raise Wrong("return the hook itself, a function of (layer, args, output)")
    records["mask"] = masks[0].clone()
    _run_hooked(layer, hook, batches[0])
    value, a = records.get(name), batches[0].detach()
    if not isinstance(value, torch.Tensor):
        raise Wrong("after the forward pass records[name] holds no tensor")
    if value.grad_fn is not None:
        raise Wrong("what you store is tied to the graph, which then cannot be freed: detach it")
    value, ones = value.clone(), torch.ones_like(a[..., :1])
    records["mask"] = masks[1].clone()
    _run_hooked(layer, hook, batches[1], "a second batch, ")
    return value, _stored_rows(layer, a, ones, masks[0], out)


def _stored_rows(layer, a, ones, mask, out):
    """ā, 0 where the mask is False, and what else a hook may have stored of it."""
    real, every = mask[..., None], _first_output_grads(layer, a)
    mistakes = {"fillers are stored, too: all of ā is 0 where the mask is False": every,
                "the opposite: only fillers are stored": every * ~real}
    shapes = {"that is the layer's output: what it reads stands in args[0]": (*a.shape[:-1], out),
              "keep every row: a filler becomes 0, it does not go": every[mask].shape}
    if layer.bias is None:
        return Expected("ā without bias", every * real, mistakes, shapes | {
            "a layer without bias needs no 1: ask whether layer.bias is None":
                (*a.shape[:-1], a.shape[-1] + 1)})
    return Expected("ā", every * real, mistakes | {
        "the 1 of a filler is still 1: mask after the 1 is appended":
            torch.cat([a * real, ones], -1),
        "the 1 goes behind the inputs, as the last entry: [a; 1]":
            torch.cat([ones, a], -1) * real,
        "the last entry is 1, not 0": torch.cat([a, 0 * ones], -1) * real,
        "the last entry is 1, not the bias itself":
            torch.cat([a, layer.bias.detach()[0] * ones], -1) * real,
    }, shapes | {"the 1 is missing: with a bias ā is one entry longer than a": a.shape})


def _first_output_grads(layer, x):
    """∂s₀/∂[W b]₀ for every row that the layer reads, by autograd."""
    rows = []
    for row in x.flatten(0, -2):
        grads = torch.autograd.grad(layer(row)[0], list(layer.parameters()))
        rows.append(torch.cat([grads[0][0], *(grad[:1] for grad in grads[1:])]))
    return torch.stack(rows).view(*x.shape[:-1], -1)


def _run_hooked(layer, hook, x, which=""):
    """Runs the layer with the hook on it. Raises Wrong where the hook fails or meddles."""
    wanted = [tensor for tensor in (x, *layer.parameters()) if tensor.requires_grad]
    plain, returned = layer(x), []
    before = plain.detach().clone(), *torch.autograd.grad(plain.sin().sum(), wanted)

    def forward(*given):
        returned.append(hook(*given))
        return returned[-1]

    handle = layer.register_forward_hook(forward)
    try:
        with settled():
            output = layer(x)
    except Exception as problem:
        raise Wrong(f"your hook raised {type(problem).__name__} for {which}an input of shape "
                    f"{tuple(x.shape)}: {problem}") from None
    finally:
        handle.remove()
    try:
        after = output, *torch.autograd.grad(output.sin().sum(), wanted)
        works = all(map(torch.allclose, before, after))
    except (AttributeError, TypeError, RuntimeError):  # no tensor, no graph, or one overwritten
        works = False
    if not works:
        raise Wrong("your hook overwrites what it is given: the layer has to work as before"
                    if returned[-1] is None else
                    "what a hook returns replaces the layer's output: store, and return nothing")


@check
def make_hook(answer):
    """`answer(records, name) → hook`, against ∂s/∂[W b] by autograd; 0 at fillers."""
    for bias in (True, False):
        compare_all([_stored(answer, bias, size, needs_gradient)
                     for size in ((2, 5, 3), (6, 4)) for needs_gradient in (True, False)])
    return ("equal to ∂s₀/∂[W b]₀ by autograd at real rows, 0 at fillers, with and without bias; "
            "the layer works as before")


def _lengths(seed, B, T, out, width):
    """A problem of `ghost_norms`: each sequence alone, its gradient by autograd."""
    draw = draws(seed)
    inputs, weight, goal = draw(B, T, width), draw(out, width).requires_grad_(), draw(B, T, out)
    inputs[..., -1] = 1
    truth = torch.stack([
        torch.autograd.grad(((x @ weight.T).sin().cumsum(0) * y).sum(), weight)[0].norm()
        for x, y in zip(inputs, goal, strict=True)])
    s = (inputs @ weight.T).detach().requires_grad_()
    Ds = torch.autograd.grad((s.sin().cumsum(1) * goal).sum(), s)[0]
    lengths = Ds.norm(dim=-1) * inputs.norm(dim=-1)  # of each r_t
    return Problem((inputs, Ds), Expected("the lengths", truth, {
        "the root is missing: that is ‖Dθ‖²": truth**2,
        "the pairs t ≠ u are missing: r_t and r_u are seldom orthogonal":
            lengths.pow(2).sum(1).sqrt(),
        "the lengths of the r_t are added up: vectors that differ in direction are shorter":
            lengths.sum(1),
        "each Gram matrix is summed before they are multiplied: the two numbers of a pair meet":
            Ds.sum(1).norm(dim=-1) * inputs.sum(1).norm(dim=-1),
        "only one Gram matrix: that of Ds": Ds.sum(1).norm(dim=-1),
        "only one Gram matrix: that of ā": inputs.sum(1).norm(dim=-1),
        "the two Gram matrices are added: their entries are multiplied":
            (Ds.sum(1).pow(2).sum(-1) + inputs.sum(1).pow(2).sum(-1)).sqrt(),
        "divided by the number of tokens: L(z) is a sum": truth / T,
        "the 1 of ā is left out: the bias is part of Dθ":
            torch.linalg.matrix_norm(Ds.mT @ inputs[..., :-1]),
        "the length of the whole batch's gradient, repeated: one for each sequence":
            (Ds.mT @ inputs).sum(0).norm().expand(B),
    }, {
        "one number for the whole batch: keep the batch axis": (),
        "that is one number for each token: sum over both token axes": (B, T),
        "that is one number for each pair: sum over both token axes": (B, T, T),
        "that is Dθ itself": (B, out, width),
    }))


@check
def ghost_norms(answer):
    """`answer(inputs (B, T, in+1), output_grads (B, T, out)) → (B,)`, against autograd alone."""
    judge(answer, [_lengths(3, 3, 5, 4, 4), _lengths(4, 4, 3, 6, 2)])
    if bytes_formed(answer, *_lengths(5, 2, 3, 400, 600).arguments) >= 4 * 400 * 600:
        raise Wrong("the numbers are right, but a matrix of out·(in+1) was made: "
                    "use the two Gram matrices, token by token")
    return "equal to the length of autograd's gradient of each sequence alone; Dθ was never formed"


def _captured(seed):
    """A layer inside a small network; the tensors one might have captured around it, shuffled."""
    draw, size = draws(seed), ((3, 4, 6), (2, 7, 5))[seed % 2]
    x, target, order = draw(*size), draw(*size), draw(5).argsort().tolist()
    V, W = draw(size[2], size[2]), draw(size[2], size[2]).requires_grad_()
    a = (x @ V.T).tanh().requires_grad_()
    s = a @ W.T
    h = s.tanh()
    loss = (h.cumsum(1).sin() * target).sum()
    at_input, Ds, after, weight_grad = torch.autograd.grad(loss, [a, s, h, W])
    seen = {"Ds": Ds, "the gradient by the layer's *input* (grad_input)": at_input,
            "the gradient by what the activation writes, one module too late": after,
            "the layer's output itself, no gradient at all": s.detach(),
            "Ds of the *mean* loss": Ds / (size[0] * size[1])}
    names = [list(seen)[index] for index in order]
    return (a.detach(), [seen[name] for name in names], weight_grad), names


@check
def find_output_grad(answer):
    """`answer(a, candidates, weight_grad) → index`, in networks where the tensors are known."""
    indices, picked = [], []
    for arguments, names in map(_captured, range(8)):
        index = numbers(call(answer, *arguments), "return one index into the list of candidates")
        if index.numel() != 1:
            raise Wrong("return one index into the list of candidates")
        if float(index) not in range(-5, 5):
            raise Wrong(f"{float(index):g} is no index into the list of five candidates")
        indices.append(int(index))
        picked.append(names[int(index)])
    wrong = [name for name in picked if name != "Ds"]
    if wrong and len(set(indices)) == 1:
        raise Wrong(f"you picked candidate {indices[0]} always: their order changes")
    if wrong:
        network = picked.index(wrong[0]) + 1
        others = f" (network {network}), and others" if len(set(wrong)) > 1 else ""
        raise Wrong(f"in {len(wrong)} of 8 networks you picked {wrong[0]}{others}")
    return "Ds was found in eight networks, among five tensors of the same shape"
