"""Hooks: what goes into each tracked layer (ā) and the loss gradient by what comes out (Ds)."""
import re
from contextlib import contextmanager
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn
from transformers.pytorch_utils import Conv1D

from .stories import IGNORE, Batch, InputError, content_weights, logits_of, token_losses

SLICE = 2 ** 21  # logits held at once: what a processor's cache can hold
PLAIN = WeakKeyDictionary()  # by model, whether its logits are its output head's own
MLP_PARTS = {"mlp", "mlps", "mlp_block", "shared_mlp", "feed_forward", "ffn", "fc1", "fc2",
             "intermediate"}


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
    `choose_labels(logits)`, or drawn from the model by uniform numbers `(B, T)` in its place; these
    terms are never weighted. No attention mask is needed:
    padding stands on the right, so causal attention never lets a real token read it, and it has
    no target, so no gradient reaches it: its Ds are exactly zero. Raises InputError for a layer
    that did not run, or whose output no gradient reached.
    """
    head = None if callable(choose_labels) else plain_head(model, layers, batch)
    weighted = batch.target == "content" and choose_labels is None
    with frozen(model), torch.enable_grad(), Capture(layers, batch.labels.shape) as captured:
        if head is not None:
            outputs = hidden_states(model, batch)
            losses, gradients = through_head(head, outputs.detach(), batch, choose_labels, weighted)
        else:
            logits, labels = logits_of(model, batch), batch.labels
            if callable(choose_labels):
                labels = choose_labels(logits.detach())
            elif choose_labels is not None:
                labels = drawn_labels(logits.detach(), batch, choose_labels)
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


# -- the output head, a slice at a time ----------------------------------------------------------

def plain_head(model, layers, batch: Batch) -> nn.Linear | None:
    """The output head, where a trial on the batch's first row shows that nothing comes behind it
    (some models scale or cap their logits); None where it is tracked itself."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if type(head) is not nn.Linear or model.base_model is model or head in layers.values():
        return None
    if model not in PLAIN:
        row = replace(batch, input_ids=batch.input_ids[:1])
        with torch.no_grad():
            hidden = hidden_states(model, row)
            PLAIN[model] = (hidden.shape[-1] == head.in_features and torch.equal(
                head(hidden).float(), logits_of(model, row).float()))
    return head if PLAIN[model] else None


def hidden_states(model, batch: Batch) -> torch.Tensor:
    """What the output head reads, `(B, T, hidden)`."""
    return model.base_model(input_ids=batch.input_ids, use_cache=False)[0]


def through_head(head, hidden, batch: Batch, uniforms=None, weighted=False):
    """Losses `(B, T)` and their sum's gradient by `hidden`, (p − onehot) W, of positions with a
    target. There is never more than a slice of the logits: all would be most of the memory."""
    losses, gradients = torch.zeros_like(batch.labels, dtype=hidden.dtype), torch.zeros_like(hidden)
    places = (batch.labels != IGNORE).nonzero()
    for b, t in (part.T for part in places.split(max(1, SLICE // head.out_features))):
        logits = F.linear(hidden[b, t], head.weight, head.bias)
        log_p = (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)
        p = log_p.exp()
        labels = batch.labels[b, t] if uniforms is None else picked(p, uniforms[b, t])
        losses[b, t] = term = -log_p.gather(1, labels[:, None])[:, 0]
        p.scatter_add_(1, labels[:, None], -torch.ones_like(p[:, :1]))
        if weighted:
            p *= content_weights(term)[:, None]
        gradients[b, t] = p.to(hidden.dtype) @ head.weight
    return losses, gradients


def picked(p: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """For each row of `p (n, vocabulary)` the label at which its running sum passes its uniform
    number's share of the whole."""
    cumulative = p.float().cumsum(-1)
    labels = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:])[:, 0]
    return labels.clamp(max=p.shape[-1] - 1)


def drawn_labels(logits, batch: Batch, uniforms) -> torch.Tensor:
    """Labels picked by `uniforms (B, T)` at every real target, −100 elsewhere."""
    # in turn: with a large vocabulary each is megabytes
    drawn = [picked(row.float().softmax(-1), numbers) for row, numbers in zip(logits, uniforms)]
    return torch.where(batch.labels == IGNORE, IGNORE, torch.stack(drawn))
