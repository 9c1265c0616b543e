"""Hooks: what goes into each tracked layer (ā) and the loss gradient by what comes out (Ds)."""
import re
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from .stories import Batch, InputError, content_weights, logits_of, token_losses

MLP_PARTS = {"mlp", "mlps", "mlp_block", "shared_mlp", "feed_forward", "ffn", "fc1", "fc2",
             "intermediate", "experts"}


def find_layers(model: nn.Module, scope: str = "mlp") -> dict[str, nn.Module]:
    """The linear layers to track, by name, in the model's own order.

    `scope`: "mlp" (the paper's choice), "all" (every linear layer but the output head), or a
    regular expression searched in the layer names. A plain `nn.Sequential` has no names to go by:
    there "mlp" means every linear layer. Raises InputError when nothing matches.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    linear = {name: module for name, module in model.named_modules()
              if isinstance(module, nn.Linear | Conv1D) and module is not head}
    if not scope:
        raise InputError("the scope is empty: give mlp, all or a regular expression for the "
                         "layers' names")
    wanted = in_mlp
    if scope != "mlp" or isinstance(model, nn.Sequential):
        try:
            wanted = re.compile("" if scope in ("all", "mlp") else scope).search
        except re.error as problem:
            raise InputError(f"scope {scope!r} is no regular expression ({problem}): give mlp, all "
                             "or one for the layers' names") from None
    found = {name: module for name, module in linear.items() if wanted(name)}
    if not found:
        seen = ", ".join(list(linear)[:6]) or "none"
        raise InputError(f"no layer matches scope {scope!r}; linear layers seen: {seen}"
                         f"{' …' if len(linear) > 6 else ''}; give --scope all, or a regular "
                         "expression for their names")
    return found


def in_mlp(name: str) -> bool:
    """Whether a module or parameter of this name belongs to an MLP."""
    parts = set(name.split("."))  # BERT calls its second layer the output, as that of its attention
    return bool(MLP_PARTS & parts) or ("output" in parts and "attention" not in parts)


def shape(layer: nn.Module) -> tuple[int, int]:
    """`(out, in+1)` of a layer's gradient, or `(out, in)` where it has no bias."""
    weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
    return weight.shape[0], weight.shape[1] + (layer.bias is not None)


@dataclass
class Captured:
    """One layer's record: `inputs` ā `(batch, token, in+1)`, `output_grads` Ds `(…, out)`."""
    inputs: torch.Tensor
    output_grads: torch.Tensor | None = None

    def gradients(self) -> torch.Tensor:
        """Dθ = Σ_t Ds_t ā_tᵀ for every sequence, `(batch, out, in+1)`."""
        return self.output_grads.transpose(1, 2) @ self.inputs


class Capture(dict):
    """`{layer: Captured}`, filled while a forward and a backward pass run inside the `with` block.

    The hooks are removed on the way out, also after an error. `size` is the batch's (B, T): a
    layer that is given one row a token, `(B·T, in)`, has its rows put back, and one that is given
    anything else raises InputError. Without it inputs `(batch, in)` are one token a sequence.
    """

    def __init__(self, layers: dict[str, nn.Module], size: tuple[int, int] | None = None):
        super().__init__()
        self.layers, self.size, self._handles = layers, size, []

    def __enter__(self):
        self.clear()
        self._handles = [layer.register_forward_hook(self._hook(name))
                         for name, layer in self.layers.items()]
        return self

    def __exit__(self, *_):
        for handle in self._handles:
            handle.remove()

    def _hook(self, name):
        def forward(layer, args, output):
            if name in self:
                raise InputError(f"layer {name!r} ran twice in one pass: leave shared layers out "
                                 "with --scope, and open a new Capture for each pass")
            if not isinstance(output, torch.Tensor):
                raise InputError(f"layer {name!r} gives more than one result: leave it out with "
                                 "--scope")
            inputs = self._by_token(name, args[0].detach())
            ones = [torch.ones_like(inputs[..., :1])] if layer.bias is not None else []
            # cat copies in any case: the model may overwrite what it has read
            record = self[name] = Captured(torch.cat([inputs, *ones], dim=-1))
            starts = not output.requires_grad  # all below is frozen: the graph starts here
            output.requires_grad_()

            def backward(grad):
                record.output_grads = self._by_token(name, grad.detach())
            output.register_hook(backward)
            return output.clone() if starts else None  # nothing may work in place on a leaf
        return forward

    def _by_token(self, name, values):
        """(batch, token, width); half precision in float32, since its products are summed."""
        if values.dtype in (torch.bfloat16, torch.float16):
            values = values.float()
        batch, tokens = self.size or (len(values), 1 if values.dim() == 2 else values.shape[1])
        if values.shape[:-1] not in ((batch, tokens), (batch * tokens,)):
            raise InputError(f"layer {name!r} is given {' × '.join(map(str, values.shape[:-1]))} "
                             f"positions, the batch has {batch} × {tokens}: leave it out with "
                             "--scope")
        return values.reshape(batch, tokens, -1)


@contextmanager
def frozen(model: nn.Module):
    """No gradients of parameters inside the block: only ā and Ds are needed, and weights cost."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        yield model
    finally:
        for parameter, flag in before:
            parameter.requires_grad_(flag)


def backward_pass(model, layers, batch: Batch, choose_labels=None) -> tuple[Capture, torch.Tensor]:
    """One forward and backward pass of the summed loss; returns `(captured, losses (batch,))`.

    The labels are the batch's, whose terms are weighted for a batch of target "content", or
    `choose_labels(logits)`, whose terms never are. No attention mask is needed:
    padding stands on the right, so causal attention never lets a real token read it, and it has
    no target, so no gradient reaches it: its Ds are exactly zero. Raises InputError for a layer
    that did not run, or whose output no gradient reached.
    """
    weighted = batch.target == "content" and not choose_labels
    shorter = getattr(model, "shorter_way", lambda *_: None)(model, layers, batch, choose_labels)
    with frozen(model), torch.enable_grad(), Capture(layers, batch.labels.shape) as captured:
        if shorter:  # the same from slices of the logits, see sources.head
            outputs, losses, gradients = shorter(weighted)
        else:
            logits = logits_of(model, batch)
            labels = choose_labels(logits.detach()) if choose_labels else batch.labels
            outputs = losses = token_losses(logits, labels)
            gradients = content_weights(losses) if weighted else torch.ones_like(losses)
        if outputs.requires_grad:  # else not one of the layers has a say: told below
            outputs.backward(gradients)
    for name in layers:
        if name not in captured or captured[name].output_grads is None:
            raise InputError(f"no gradient came back to the output of layer {name!r}: something "
                             "behind it works in place, or nothing uses it; leave it out with "
                             "--scope")
    return captured, losses.detach().sum(1)
