"""Experts as layers of their own, where transformers keeps all of a block's in one tensor.

A hook sees what a layer is given, and a stack of matrices `(experts, out, in)` is no layer. Here
each expert is two linear layers over views of the same weights. Each is given all tokens, those
that are not sent to it as zeros, and counts for nothing there; so its Ds is exactly zero at them.
That costs (experts / experts for a token) times the work, which small models can bear.
"""
import re

import torch
from torch import nn

IN = ("gate_up_proj", "up_proj")
OUT = "down_proj"


class Experts(nn.Module):
    """Takes the place of a module that holds its experts in two tensors."""

    def __init__(self, stacked):
        super().__init__()
        first = next(name for name in IN if hasattr(stacked, name))
        for number in range(len(stacked.down_proj)):
            expert = nn.Module()
            for name in (first, OUT):
                setattr(expert, name, _layer(stacked, name, number))
            self.add_module(str(number), expert)
        self.first, self.count = first, len(stacked.down_proj)
        for name, _ in list(stacked.named_parameters(recurse=False)):
            delattr(stacked, name)
        self.shell = stacked  # knows what comes between the two layers

    def forward(self, hidden_states, *routing, **named):
        """Σ over the experts of weight × expert(x), for the experts that each token is sent to."""
        index, weights = (value.flatten(0, -2) for value in (*routing, *named.values()))
        x = hidden_states.flatten(0, -2)
        gated = getattr(self.shell, "has_gate", True)
        between, total = self.shell._apply_gate if gated else self.shell.act_fn, torch.zeros_like(x)
        for number in range(self.count):
            expert, sent = getattr(self, str(number)), index == number
            here = sent.any(-1, keepdim=True)
            inner = between(getattr(expert, self.first)(torch.where(here, x, 0.0)))
            result = getattr(expert, OUT)(torch.where(here, inner, 0.0))
            total = total + (result * (weights * sent).sum(-1, keepdim=True)).to(total.dtype)
        return total.view_as(hidden_states)


def _layer(stacked, name, number):
    """One expert's matrix as a linear layer that shares its memory with the stack."""
    weight = getattr(stacked, name).data[number]
    weight = weight.T if getattr(stacked, "is_transposed", False) else weight
    bias = getattr(stacked, f"{name}_bias", None)
    layer = nn.Linear(1, 1, bias=bias is not None, device="meta")
    layer.out_features, layer.in_features = weight.shape
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias.data[number])
    return layer


def spread(model, scope) -> None:
    """Makes layers of the experts that a scope names ("mlp" and "all": of all), where it can be
    done: the result has to be that of the stack, or the stack stays."""
    try:
        wanted = re.compile("" if scope in ("mlp", "all") else scope).search
    except re.error:  # told by `find_layers`
        return
    for place, module in list(model.named_modules()):
        if not _stacked(module):
            continue
        names = (f"{place}.{number}.{name}" for number in range(len(module.down_proj))
                 for name in (*IN, OUT))
        if any(map(wanted, names)):
            parent, _, last = place.rpartition(".")
            setattr(model.get_submodule(parent), last, _replaced(module))


def _stacked(module):
    sizes = {name: weight.dim() for name, weight in module.named_parameters(recurse=False)}
    return (sizes.get(OUT) == 3 and sum(sizes.get(name) == 3 for name in IN) == 1
            and hasattr(module, "_apply_gate") and not getattr(module, "has_post_expert_norm", 0)
            and set(sizes) <= {OUT, *IN, f"{OUT}_bias", *(f"{name}_bias" for name in IN)})


@torch.no_grad()
def _replaced(module):
    """The module's experts spread out, if they give what it gives; else the module itself."""
    stack = module.down_proj
    width = stack.shape[2 if getattr(module, "is_transposed", False) else 1]
    generator, count = torch.Generator().manual_seed(0), len(stack)
    x = torch.randn(6, width, generator=generator).to(stack)
    weights = torch.rand(6, min(2, count), generator=generator).to(stack)
    index = torch.rand(6, count, generator=generator).argsort(-1)[:, :weights.shape[1]]
    index = index.to(stack.device)
    before, held = module(x, index, weights), dict(module.named_parameters(recurse=False))
    spread_out = Experts(module)
    near = torch.allclose(spread_out(x, index, weights), before, rtol=0,
                          atol=(1e-4 if stack.dtype in (torch.float32, torch.float64) else 0.05)
                          * before.abs().max().item())
    if near:
        return spread_out
    for name, weight in held.items():
        module.register_parameter(name, weight)
    return module
