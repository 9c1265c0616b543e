"""Which layers of a model can be tracked, tried out before they are used.

A hook sees whatever its layer is given. Some models flatten sequences and tokens, send a token only
to some layers, run a layer more than once, or use its weights without calling it. So every layer is
tried on two short sequences: its rows have to be those of the tokens, and its gradient that of
autograd on the weights themselves.
"""
import re
from dataclasses import dataclass

import torch
from torch import nn

from ..capture import Capture, find_layers, frozen, in_mlp
from ..exact import joined
from ..stories import InputError, logits_of, padded, sequence_loss
from .adapters import lora_layers
from .experts import spread

SIZE = (2, 3)  # sequences and tokens of the trial; different, so that axes are not confused
TOKENS = SIZE[0] * SIZE[1]
# scopes that name no layer: what cannot be tracked is left out, and said
KEYWORDS = ("mlp", "all", "trained")


@dataclass
class Tracked:
    """The tracked layers, and how much of the model they are: `parameters` of `total`. `note` says
    what of the scope is left out."""
    layers: dict[str, nn.Module]
    parameters: int
    total: int
    note: str | None = None

    def summary(self) -> dict:
        """As the JSON has it."""
        return {"layers": len(self.layers), "parameters": self.parameters, "of": self.total,
                "note": self.note}


def track(model, scope=None) -> Tracked:
    """The layers of `find_layers` that a trial shows to be tracked rightly.

    `scope` is None, "mlp", "all", "trained" (an adapter's own layers) or a regular expression; None
    means "trained" where there is an adapter, else "mlp". Experts kept in one tensor become layers
    first, in place. Layers that text does not run through are none of them. Of the words those
    layers that fail are left out, with a note; for a regular expression that matches one, or when
    none is left, raises InputError with a scope that works.
    """
    if scope is None:
        scope = "trained" if lora_layers(model) else "mlp"
    try:
        if scope != "trained":
            spread(model, scope)
        wanted = trained(model) if scope == "trained" else find_layers(model, scope)
    except InputError as problem:
        if scope != "mlp":
            raise
        reason = str(problem).rpartition("; give")[0]
        raise InputError(f"{reason}: give --scope {working_scope(model)}") from None
    faults, idle = try_out(model, wanted)
    layers = {name: layer for name, layer in wanted.items()
              if name not in faults and name not in idle}
    if faults and (scope not in KEYWORDS or not layers):
        name, reason = next(iter(faults.items()))
        raise InputError(f"layer {name!r} {reason}, so its influence cannot be told by tokens: "
                         f"give --scope {working_scope(model)}")
    if not layers:
        raise InputError(f"text runs through no layer of scope {scope!r}: give --scope "
                         f"{working_scope(model)}")
    return share(model, layers, _left_out(model, scope, layers, faults))


def trained(model) -> dict[str, nn.Module]:
    """The linear layers that an adapter's training changed. Raises InputError without adapter."""
    layers, too = lora_layers(model), getattr(model, "trained_too", ())
    if not layers:
        raise InputError("scope 'trained' names the layers of an adapter, and this model has none: "
                         "give --scope mlp")
    return {name: layer for name, layer in find_layers(model, "all").items()
            if name in layers or f"{name}.weight" in too}


def share(model, layers, note=None) -> Tracked:
    """What these layers are of the model, without a trial."""
    parameters = [weight.numel() for layer in layers.values() for weight in layer.parameters()]
    total = sum(weight.numel() for weight in model.parameters())
    return Tracked(layers, sum(parameters), total, note)


# -- the trial -----------------------------------------------------------------------------------

def try_out(model, layers) -> tuple[dict[str, str], list[str]]:
    """`({layer: why it cannot be tracked}, [layers that text does not run through])`."""
    ids = _ids(model)
    first, faults = _inputs(model, layers, ids), {}
    for name, calls in first.items():
        if len(calls) > 1:
            faults[name] = f"runs {len(calls)} times in one pass"
        elif calls and calls[0] is None:
            faults[name] = "gives more than one result"
        elif calls and calls[0].shape[:-1] not in (SIZE, (TOKENS,)):
            positions = " × ".join(map(str, calls[0].shape[:-1]))
            faults[name] = f"is given {positions} positions for {SIZE[0]} × {SIZE[1]} tokens"
    called = {name: layers[name] for name in layers if first[name] and name not in faults}
    faults |= _misplaced(model, called, ids, first)
    sound = {name: layer for name, layer in called.items() if name not in faults}
    faults |= _other_gradients(model, sound, ids)
    silent = [name for name in layers if not first[name]]
    used = _used(model, {name: layers[name].weight for name in silent})
    faults |= dict.fromkeys(used, "is never called, though its weights are used")
    # experts of which some saw no token here
    kinds = {_kind(name) for name in silent} & {_kind(name) for name in layers if first[name]}
    routed = [name for name in layers if _kind(name) in kinds and name not in faults]
    faults |= dict.fromkeys(routed, "is one of several of which only some were given tokens")
    return faults, [name for name in silent if name not in faults]


def _kind(name):
    """A layer's name without its numbers."""
    return re.sub(r"\d+", "#", name)


def _ids(model):
    """Token ids for the trial, none of them one with a meaning of its own (padding, an image …)."""
    config = model.config.get_text_config()
    settings = {**model.config.to_dict(), **config.to_dict()}
    special = {value for key, value in settings.items()
               if key.endswith(("_id", "_index")) and isinstance(value, int)}
    ordinary = [token for token in reversed(range(config.vocab_size)) if token not in special]
    ordinary = ordinary[:2 * TOKENS]
    if len(ordinary) <= TOKENS:
        ordinary = list(range(config.vocab_size))
    return torch.tensor([ordinary[place % len(ordinary)] for place in range(TOKENS + 1)])


def _batch(model, ids):
    sequences = ids.view(-1, SIZE[1]).tolist()
    return padded(sequences, list(range(len(sequences)))).to(model.device)


@torch.no_grad()
def _inputs(model, layers, ids):
    """What each call of each layer was given: `{layer: [tensor, or None for several results]}`."""
    seen, handles = {name: [] for name in layers}, []
    for name, layer in layers.items():
        def look(_, args, output, calls=seen[name]):
            plain = isinstance(output, torch.Tensor)
            calls.append(args[0].float().clone() if plain else None)
        handles.append(layer.register_forward_hook(look))
    try:
        logits_of(model, _batch(model, ids[:-1]))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _misplaced(model, layers, ids, first):
    """Layers whose row for sequence b and token t does not follow token t alone. It may follow
    earlier tokens of its sequence, too, but no later one and no other sequence's."""
    faults = {}
    for place in range(TOKENS):
        changed = ids.clone()
        changed[place] = ids[-1]
        b, t = divmod(place, SIZE[1])
        for name, calls in _inputs(model, layers, changed).items():
            (before,) = first[name]
            if len(calls) != 1 or calls[0].shape != before.shape:
                faults[name] = "is given only some of the tokens"
                continue
            if not torch.isfinite(before).all():  # told where the scores are, with what to do
                continue
            difference = (calls[0] - before).abs().reshape(*SIZE, -1).amax(-1)
            moved = difference > 1e-5 * before.abs().max()
            here = torch.stack([calls[0], before]).reshape(2, *SIZE, -1)[:, b, t]
            own = moved[b, t].item() or not here.any()  # zeros: not sent to this expert
            moved[b, t:] = False  # what has read the changed token may move
            if moved.any() or not own:
                faults[name] = "is given rows in another order than that of the tokens"
    return faults


def _other_gradients(model, layers, ids):
    """Layers whose captured gradient of some sequence is not that of autograd on the weight."""
    batch = _batch(model, ids[:-1])
    with frozen(model), torch.enable_grad(), Capture(layers, SIZE) as captured:
        loss = sequence_loss(model, batch).sum()
        if loss.requires_grad:
            loss.backward()
    faults = {name: "gets no gradient back from what follows it"
              for name in layers if captured[name].output_grads is None}
    for row, gradients in enumerate(_autograd(model, layers, ids)):
        for name in layers:
            if name not in faults:
                mine = captured[name].gradients()[row]
                if not _alike(mine, gradients[name]):
                    faults[name] = ("has weights that are used elsewhere too, or does more than "
                                    "multiply by them")
    return faults


def _autograd(model, layers, ids):
    """For each sequence, alone: `{layer: gradient (out, in+1)}`, 0 without a part in it."""
    parameters = [parameter for layer in layers.values()
                  for parameter in layer.parameters(recurse=False)]
    with frozen(model), torch.enable_grad():
        for parameter in parameters:
            parameter.requires_grad_(True)
        for row in ids[:-1].view(SIZE):
            gradients = _gradients(sequence_loss(model, _batch(model, row)).sum(), parameters)
            by_parameter = {parameter: torch.zeros_like(parameter) if gradient is None else gradient
                            for parameter, gradient in zip(parameters, gradients)}
            yield {name: joined(layer, by_parameter.get) for name, layer in layers.items()}


def _gradients(loss, parameters):
    """The gradient by each parameter, None where the loss does not depend on it."""
    if not loss.requires_grad or not parameters:
        return [None] * len(parameters)
    return torch.autograd.grad(loss, parameters, allow_unused=True)


def _alike(captured, gradient):
    """Whether they are the same, as far as the precision of the weights goes."""
    if not torch.isfinite(gradient).all():  # told where the scores are, with what to do
        return True
    allowed = rounding(gradient.dtype) * gradient.abs().max()
    return bool((captured - gradient).abs().max() <= allowed)


def rounding(dtype) -> float:
    """The share by which two ways of the same sum may differ in this precision."""
    return 1e-3 if dtype in (torch.float32, torch.float64) else 0.1


# -- what is left out, and what to do ------------------------------------------------------------

def _left_out(model, scope, layers, faults):
    """One sentence on matrices of the scope that are not tracked, though text runs through them."""
    tracked = {id(layer.weight) for layer in layers.values()}
    named = {name: weight for name, weight in _named(model, scope).items()
             if id(weight) not in tracked}
    runs = _used(model, named)
    used = [name for name in named if name in runs or name.removesuffix(".weight") in faults]
    if not used:
        return None
    missing = sum(named[name].numel() for name in used)
    first = used[0].removesuffix(".weight")
    reason = faults.get(first, "is no linear layer of its own")
    more = f", and {len(used) - 1} more" if len(used) > 1 else ""
    return (f"{missing:,} parameters that belong to scope {scope!r} are not tracked: {first} "
            f"{reason}{more}; their part is missing from every influence")


def _named(model, scope):
    """Matrices (and stacks of matrices) that a scope means, linear layer or not."""
    if scope == "trained":
        too = getattr(model, "trained_too", ())
        return {name: weight for name, weight in model.named_parameters()
                if ".lora_" in name or name in too}
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = model.get_output_embeddings()
    tables |= {id(head.weight)} if head is not None else set()
    matrices = {name: weight for name, weight in model.named_parameters()
                if weight.dim() > 1 and id(weight) not in tables}
    if scope == "all":
        return matrices
    return {name: weight for name, weight in matrices.items()
            if (in_mlp(name) if scope == "mlp" else re.search(scope, name))}


def _used(model, weights):
    """Names of the weights by which the loss of a short text has a gradient."""
    with frozen(model), torch.enable_grad():
        for weight in weights.values():
            weight.requires_grad_(True)
        loss = sequence_loss(model, _batch(model, _ids(model)[:SIZE[1]])).sum()
        gradients = _gradients(loss, list(weights.values()))
    return [name for name, gradient in zip(weights, gradients) if gradient is not None]


def working_scope(model) -> str:
    """A regular expression, quoted, that names only layers which can be tracked. Raises InputError
    when there are none."""
    try:
        linear = find_layers(model, "all")
    except InputError:
        linear = {}
    faults, idle = try_out(model, linear) if linear else ({}, [])
    sound = [name for name in linear if name not in faults and name not in idle]
    if not sound:
        raise InputError(f"no layer of this model ({model.config.model_type}) can be tracked: "
                         "choose a model whose linear layers are each given one row a token, such "
                         "as GPT-2, GPT-Neo or Llama")
    if not faults:
        return "all"
    kinds = dict.fromkeys(re.split(r"\.\d+\.", name)[-1] for name in sound)
    clean = [kind for kind in kinds if not any(re.search(kind, name) for name in faults)]
    return f"'{'|'.join(clean) or f'^{sound[0]}$'}'"
