"""Checks of notebook 02, capturing gradients: against autograd and finite differences."""
import tracemalloc

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .core import Expected, Problem, Wrong, call, check, compare_all, draws, judge, numbers, settled


def _stored(answer, bias, size, needs_gradient):
    """What the learner's hook stores of an input of this size, and what is expected."""
    draw, out, name, records = draws(len(size)), 7, "transformer.h.0", {}
    layer = torch.nn.utils.skip_init(
        torch.nn.Linear, size[-1], out, bias=bias, dtype=torch.float64)  # draws no random numbers
    for parameter in layer.parameters():
        parameter.data = draw(*parameter.shape)
    batches = draw(*size), draw(9, *size[1:])
    if needs_gradient:  # as everything inside a network does, but not what the first layer reads
        batches = [x.requires_grad_() * 1 for x in batches]
    hook = call(lambda: answer(records, name))
    if not callable(hook):
        raise Wrong("return the hook itself, a function of (layer, args, output)")
    _run_hooked(layer, hook, batches[0])
    value, a = records.get(name), batches[0].detach()
    if not isinstance(value, torch.Tensor):
        raise Wrong("after the forward pass records[name] holds no tensor")
    if value.grad_fn is not None:
        raise Wrong("what you store is tied to the graph, which then cannot be freed: detach it")
    value, ones = value.clone(), torch.ones_like(a[..., :1])
    _run_hooked(layer, hook, batches[1], "a second batch, ")
    output = {"that is the layer's output: what it reads stands in args[0]": (*size[:-1], out)}
    if not bias:
        return value, Expected("ā without bias", _first_output_grads(layer, a), {}, output | {
            "a layer without bias needs no 1: ask whether layer.bias is None":
                (*size[:-1], size[-1] + 1)})
    return value, Expected("ā", _first_output_grads(layer, a), {
        "the 1 goes behind the inputs, as the last entry: [a; 1]": torch.cat([ones, a], -1),
        "the last entry is 1, not 0": torch.cat([a, 0 * ones], -1),
        "the last entry is 1, not the bias itself":
            torch.cat([a, layer.bias.detach()[0] * ones], -1),
    }, output | {"the 1 is missing: with a bias ā is one entry longer than a": size})


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
    """`answer(records, name) → hook`, against ∂s/∂[W b] by autograd."""
    for bias in (True, False):
        compare_all([_stored(answer, bias, size, needs_gradient)
                     for size in ((2, 5, 3), (6, 4)) for needs_gradient in (True, False)])
    return "equal to ∂s₀/∂[W b]₀ by autograd, with and without bias; the layer works as before"


def _sequences(seed, mask, width, out):
    """A problem of `story_gradients`: one linear layer, cross-entropy over its outputs."""
    draw, mask = draws(seed), torch.tensor(mask, dtype=torch.bool)
    inputs, weight = draw(*mask.shape, width), draw(out, width).requires_grad_()
    inputs[..., -1] = 1
    labels = draw(*mask.shape, out).argmax(-1)
    truth = []
    for x, y, real in zip(inputs, labels, mask, strict=True):  # each sequence alone, unpadded
        loss = torch.nn.functional.cross_entropy(x[real] @ weight.T, y[real], reduction="sum")
        truth.append(torch.autograd.grad(loss, weight)[0])
    truth = torch.stack(truth)
    Ds = ((inputs @ weight.T).softmax(-1) - torch.nn.functional.one_hot(labels, out)).detach()
    masked, average = Ds * mask[..., None], "L(z) is a sum, and so is its gradient"
    summed = "Ds and ā are each summed before they are multiplied: a token's Ds meets its own ā"
    return Problem((inputs, Ds, mask), Expected("Dθ", truth, {
        "padding is counted: set Ds to zero where the mask is False": Ds.mT @ inputs,
        "the opposite: only padding is counted": Ds.mT @ inputs - truth,
        "the mask of the first sequence was used for all": (Ds * mask[0][:, None]).mT @ inputs,
        f"divided by the number of real tokens: {average}": truth / mask.sum(1)[:, None, None],
        f"divided by the number of positions: {average}": truth / mask.shape[1],
        summed: masked.sum(1)[:, :, None] * (inputs * mask[..., None]).sum(1)[:, None, :],
        summed + "; padding included": Ds.sum(1)[:, :, None] * inputs.sum(1)[:, None, :],
    }, {
        "transposed: the rows belong to the outputs, (batch, out, in+1)": truth.mT.shape,
        "the sequences are summed: keep the batch axis, one gradient for each": truth.shape[1:],
        "that is r_t, one matrix for each token: sum it over the real tokens":
            (*mask.shape, *truth.shape[1:]),
    }))


@check
def story_gradients(answer):
    """`answer(inputs (B, T, in+1), output_grads (B, T, out), mask (B, T)) → (B, out, in+1)`,
    against autograd alone."""
    behind = [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]
    between = [0, 0, 1, 1, 1], [0, 1, 0, 1, 1]
    judge(answer, [_sequences(3, behind, 3, 4), _sequences(4, between, 6, 3)])
    return "equal to autograd on each sequence alone, without its padding"


def _scored(seed, B, T, out, width):
    """A problem of `token_scores`: the loss moves as P moves the weights at one token only."""
    draw = draws(seed)
    W, P, mixing, inputs = draw(out, width), draw(out, width), draw(T, T), draw(B, T, width)
    inputs[..., -1] = 1

    def loss(s):  # one number a sequence; each token's output matters to the later ones
        return torch.einsum("bto,ut->buo", s, mixing.tril() / T).tanh().logsumexp(-1).sum(-1)

    s, step = (inputs @ W.T).requires_grad_(), 1e-5
    Ds = torch.autograd.grad(loss(s).sum(), s)[0]
    up, down = ([loss(s.detach() + sign * step * token[:, None] * (inputs @ P.T))
                 for token in torch.eye(T, dtype=W.dtype)] for sign in (1, -1))
    truth = (torch.stack(up, 1) - torch.stack(down, 1)) / (2 * step)

    def score(Ds, P, a):
        return torch.einsum("bto,oi,bti->bt", Ds, P, a)

    everywhere, absent = torch.ones(T, T, dtype=W.dtype), "P is missing: this is "
    mistakes = {
        "the inputs are summed over all positions: only ā_t belongs to token t":
            score(Ds, P, everywhere @ inputs),
        "the Ds are summed over all positions: only Ds_t belongs to token t":
            score(everywhere @ Ds, P, inputs),
        absent + "the sum of Ds_t times the sum of ā_t": score(Ds, torch.ones_like(P), inputs),
        "divided by the number of tokens: scores add up, they are not averaged": truth / T,
        "averaged over in+1: the product of P and r_t is a sum": truth / width,
        "that is a running sum over the tokens: each one alone": truth.cumsum(1),
        "the 1 of ā is left out: P has a column for it":
            score(Ds, P, inputs * (1 - torch.eye(width)[-1])),
        "absolute values were added up: the signs belong to the sum":
            (Ds @ P * inputs).abs().sum(-1),
    }
    if out == width:
        mistakes |= {"P is transposed: its rows belong to the outputs": score(Ds, P.T, inputs),
                     absent + "Ds_t · ā_t": (Ds * inputs).sum(-1)}
    return Problem((inputs, Ds, P), Expected("the tensor of scores", truth, mistakes, {
        "summed over the tokens: that is the sequence's score, keep one number a token": (B,),
        "summed over the batch: keep one row a sequence": (T,),
        "every Ds_t met every ā_u: a token's Ds belongs to its own ā": (B, T, T)}))


class _LargestTensor(TorchDispatchMode):
    """Remembers the most numbers that any tensor made inside the block has held in memory."""
    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            held = result.untyped_storage().nbytes() // result.element_size()
            self.numbers = max(self.numbers, held)
        return result


def _largest(answer, problem):
    """The most numbers of any tensor that the answer makes, or of all its arrays and lists.

    The lower of two runs: a notebook's other threads take memory, too.
    """
    with _LargestTensor() as largest:
        call(answer, *problem.arguments)
    return max(largest.numbers, min(_traced(answer, problem) for _ in range(2)) // 8)


def _traced(answer, problem):
    """The bytes of NumPy and of Python that one call holds at its peak."""
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        call(answer, *problem.arguments)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@check
def token_scores(answer):
    """`answer(inputs (B, T, in+1), output_grads (B, T, out), P (out, in+1)) → (B, T)`, against
    finite differences."""
    judge(answer, [_scored(5, 2, 6, 4, 4)])  # where a wrong P raises no error
    judge(answer, [_scored(6, 3, 4, 2, 5), _scored(7, 2, 5, 6, 3)])
    if _largest(answer, _scored(8, B=2, T=6, out=20, width=25)) >= 2 * 6 * 20 * 25:
        raise Wrong("the numbers are right, but a tensor of batch·token·out·in was made: "
                    "multiply Ds by P first, then by ā")
    return "equal to finite differences, weights moved at one token only; r_t was never formed"


def _conv1d(seed, B, T, width, out):
    """A problem of `conv1d_gradient`: each sequence alone through transformers' own layer."""
    from transformers.pytorch_utils import Conv1D
    draw = draws(seed)
    with torch.random.fork_rng(devices=[]):  # for it draws its first weights
        layer = Conv1D(out, width).double()
    layer.weight.data, layer.bias.data = draw(width, out), draw(out)
    a, target, gradients = draw(B, T, width), draw(B, T, out), []
    for rows, goal in zip(a, target, strict=True):
        loss = (layer(rows).sin() * goal).sum()
        gradients.append(torch.autograd.grad(loss, [layer.weight, layer.bias]))
    weight, bias = map(torch.stack, zip(*gradients, strict=True))
    Ds = layer(a).detach().cos() * target
    mistakes = {
        "divided by the number of tokens: the gradient is a sum": weight / T,
        "a and Ds are each summed before they are multiplied: a token's Ds belongs to its own a":
            a.sum(1)[:, :, None] * Ds.sum(1)[:, None],
        "the sign is turned: return the gradient, not the step": -weight,
    }
    if width == out:
        mistakes["transposed: Conv1D's weight is (in, out), its rows belong to inputs"] = weight.mT
    return Problem((a, Ds), [Expected("the weight's gradient", weight, mistakes, {
        "the sequences are summed: keep the batch axis, one gradient for each": (width, out),
        "that is one matrix for each token: sum them": (B, T, width, out),
        "the first is the bias's gradient: return the weight's and the bias's, in this order":
            (B, out),
        "the 1 of ā has come along: the bias has a tensor of its own": (B, width + 1, out),
    }), Expected("the bias's gradient", bias, {
        "the bias gradient is divided by the number of tokens: it is a sum": bias / T,
        "the bias gradient is the sum of Ds_t, not of what the layer reads": a.sum(1),
        "the bias gradient is the sum of Ds_t over tokens: the 1 does not depend on them":
            torch.full_like(bias, T),
    }, {
        "the sequences are summed in the bias: keep the batch axis": (out,),
        "the bias gradient is the sum of Ds_t over the tokens": (B, T, out),
    })])


@check
def conv1d_gradient(answer):
    """`answer(a (B, T, in), output_grads (B, T, out)) → (B, in, out), (B, out)`, by autograd."""
    judge(answer, [_conv1d(6, 3, 4, 5, 5)])  # square, so that no shape warns
    judge(answer, [_conv1d(7, 3, 5, 2, 4), _conv1d(8, 4, 2, 6, 3)])
    return "weight and bias equal autograd on each sequence alone, in Conv1D's own layout"


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
