"""Attention and GELU in one operation each, where transformers writes them out step by step."""
import torch
import torch.nn.functional as F
from transformers.activations import NewGELUActivation
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

from .head import shorter_way


class FusedAttention(GPTNeoSelfAttention):
    """The same numbers to rounding, without the T × T maps in memory.

    Under `plain_attention` it also has a forward mode and second derivatives. The model's own way
    is taken while training, which has dropout, with a cache of keys, and where padding is masked.
    """

    def _attn(self, query, key, value, attention_mask=None):
        """Of (B, heads, T, width), not divided by √width; local blocks see `window_size` tokens."""
        if self.training or key.shape[-2] != query.shape[-2] or _masks_padding(attention_mask):
            return super()._attn(query, key, value, attention_mask)
        length, width = query.shape[-2:]
        narrow = self.attention_type == "local" and length > self.config.window_size
        mask = self.bias[..., :length, :length] if narrow else None
        if width < 16:  # the CPU's kernel is a quarter faster when filled up with zeros
            query, key, value = (F.pad(x, (0, 16 - width)) for x in (query, key, value))
        output = F.scaled_dot_product_attention(query, key, value, mask, is_causal=not narrow,
                                                scale=1.0)
        return output[..., :width] if width < 16 else output, None


def _masks_padding(mask):
    """Whether the last position may not read all; `mask` is boolean, or added to the scores."""
    if mask is None:
        return False
    last = mask[..., -1, :]
    return not (last.all() if last.dtype == torch.bool else (last == 0).all())


def fuse(model) -> None:
    """Puts fused attention in place in a GPT-Neo (other families have their own), and in all models
    the tanh form of GELU in one operation instead of eight, and slices for all the logits."""
    if hasattr(model, "get_output_embeddings"):
        model.shorter_way = shorter_way
    for module in list(model.modules()):
        if type(module) is GPTNeoSelfAttention:
            module.__class__ = FusedAttention
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, torch.nn.GELU("tanh"))
