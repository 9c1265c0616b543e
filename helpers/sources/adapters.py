"""LoRA adapters, as peft writes them: two thin matrices beside a layer, and only they are trained.

An adapted layer gives base(x) + scaling · B(A(x)) (Hu et al. 2021). A and B are linear layers like
others, so hooks see them, and their gradients are those by A and by B.
"""
import json
import os
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..capture import shape
from ..stories import InputError
from .files import first_line, save_tensors, save_text

PREFIX = "base_model.model."  # before every name in peft's files
MERGE = ("merge it in peft (model.merge_and_unload().save_pretrained(FOLDER)) and give that "
         "folder; then all of the model is tracked")
# settings that change what a layer computes, so that it is no longer base(x) + scaling · B(A(x))
OTHERS = ("use_dora", "use_qalora", "use_bdlora", "layer_replication", "alora_invocation_tokens",
          "arrow_config", "monteclora_config", "kasa_config", "trainable_token_indices",
          "target_parameters")
STARTS = (None, True, False, "gaussian", "eva", "orthogonal")  # others change the base's weights


class LoRA(nn.Module):
    """base(x) + scaling · B(A(x)), of a linear layer `base`."""

    def __init__(self, base, rank, scaling, bias=False):
        super().__init__()
        out_width, in_width = shape(base)
        in_width -= base.bias is not None
        options = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.base_layer = base
        self.lora_A = nn.Linear(in_width, rank, bias=False, **options)
        self.lora_B = nn.Linear(rank, out_width, bias=bias, **options)
        # in the state: what names a model by its weights has to know it
        self.register_buffer("scaling", torch.tensor(float(scaling), device=base.weight.device))

    def forward(self, x):
        return self.base_layer(x) + self.scaling.to(x.dtype) * self.lora_B(self.lora_A(x))

    @property
    def weight(self):
        """The base's; some models look at it for its device or precision."""
        return self.base_layer.weight

    @property
    def bias(self):
        return self.base_layer.bias


def add_lora(model, rank=4, alpha=8, targets=("c_fc", "c_proj"), seed=0) -> dict[str, nn.Module]:
    """Puts untrained adapters beside the layers of these last names, and freezes all else.

    B begins at zero, so the model says what it said. Returns `lora_layers`. Raises InputError.
    """
    names = [name for name, module in model.named_modules()
             if isinstance(module, nn.Linear | Conv1D) and name.rpartition(".")[2] in targets]
    if not names:
        raise InputError(f"no linear layer is called {' or '.join(targets)}: give other targets")
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        layer = _adapt(model, name, rank, alpha / rank)
        drawn = torch.randn(layer.lora_A.weight.shape, generator=generator)
        layer.lora_A.weight.data.copy_(drawn / drawn.shape[1] ** 0.5)
        layer.lora_B.weight.data.zero_()
    return lora_layers(model)


def _adapt(model, name, rank, scaling, bias=False) -> LoRA:
    """Replaces the layer `name` by an adapted one."""
    parent, _, last = name.rpartition(".")
    layer = LoRA(model.get_submodule(name), rank, scaling, bias)
    setattr(model.get_submodule(parent), last, layer)
    return layer


def lora_layers(model) -> dict[str, nn.Module]:
    """The matrices A and B of the adapted layers by name, in the model's order; {} without any."""
    return {f"{name}.{matrix}": getattr(module, matrix) for name, module in model.named_modules()
            if isinstance(module, LoRA) for matrix in ("lora_A", "lora_B")}


# -- files ---------------------------------------------------------------------------------------

def save_adapter(model, folder, base) -> None:
    """Writes the adapters of `add_lora` as a folder that peft reads, too. `base`: the model that
    they belong to, a Hub id or a folder, absolute or as seen from this one."""
    folder, adapted = Path(folder), {name: module for name, module in model.named_modules()
                                     if isinstance(module, LoRA)}
    first = next(iter(adapted.values()))
    rank = first.lora_A.out_features
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base),
              "r": rank, "lora_alpha": first.scaling.item() * rank, "lora_dropout": 0.0,
              "bias": "none", "target_modules": list(adapted), "inference_mode": True,
              "fan_in_fan_out": isinstance(first.base_layer, Conv1D)}
    folder.mkdir(parents=True, exist_ok=True)
    save_text(json.dumps(config, indent=1) + "\n", folder / "adapter_config.json")
    save_tensors({f"{PREFIX}{name}.weight": layer.weight.detach().cpu().contiguous()
                  for name, layer in lora_layers(model).items()},
                 folder / "adapter_model.safetensors")


def read_adapter(folder, name) -> tuple[dict, dict]:
    """`(settings, tensors)` of an adapter's folder; the tensors' names are those of a model that
    `apply` has adapted. Raises InputError for what is no plain LoRA adapter."""
    if not os.path.isfile(folder / "adapter_model.safetensors"):
        raise InputError(f"{name} has no adapter_model.safetensors: give a folder written by "
                         "peft's save_pretrained")
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        kind, base = config["peft_type"], config["base_model_name_or_path"]
        tensors = load_file(folder / "adapter_model.safetensors")
    except Exception as error:  # no JSON, no dictionary, damaged …
        raise InputError(f"cannot read the adapter {name} ({first_line(error)}): check or replace "
                         "adapter_config.json and adapter_model.safetensors") from error
    odd = [setting for setting in OTHERS if config.get(setting)]
    if config.get("init_lora_weights") not in STARTS:
        odd.append(f"init_lora_weights {config['init_lora_weights']}")
    if kind != "LORA" or odd:
        kind = " with ".join([str(kind), *odd[:1]])
        raise InputError(f"the adapter {name} is of the kind {kind}, only plain LORA is "
                         f"read here: {MERGE}")
    if not base or not isinstance(base, str):
        raise InputError(f"the adapter {name} does not say what it belongs to: write "
                         "base_model_name_or_path into its adapter_config.json")
    return config, {key.removeprefix(PREFIX): tensor.float() for key, tensor in tensors.items()}


def apply(model, config, tensors, name) -> None:
    """Adapts a model as the files say; what was trained beside A and B, such as a head, is listed
    in `model.trained_too`. Raises InputError."""
    _resize(model, tensors)
    for key in [key for key in tensors if key.endswith(".lora_A.weight")]:
        place = key.removesuffix(".lora_A.weight")
        rank = len(tensors[key])
        alpha = _of_pattern(config.get("alpha_pattern"), place, config.get("lora_alpha", 8))
        scaling = alpha / (rank ** 0.5 if config.get("use_rslora") else rank)
        try:
            if not isinstance(model.get_submodule(place), nn.Linear | Conv1D):
                raise AttributeError
        except AttributeError:
            raise InputError(f"the adapter {name} changes {place}, which is no linear layer of its "
                             f"base model: check base_model_name_or_path, or {MERGE}") from None
        _adapt(model, place, rank, scaling, f"{place}.lora_B.bias" in tensors)
    missing = [key for key in model.state_dict()
               if re.search(r"\.lora_[AB]\.", key) and key not in tensors]
    try:  # assigned, not copied: a head that was trained is tied to the embedding no more
        unknown = model.load_state_dict(tensors, strict=False, assign=True).unexpected_keys
    except RuntimeError as error:  # names the sizes from its second line on
        raise InputError(f"the adapter {name} does not fit its base model "
                         f"({first_line(str(error).partition(':')[2])}): check "
                         "base_model_name_or_path") from None
    if missing or unknown or not lora_layers(model):
        wrong = f"lacks {missing[0]}" if missing else f"holds {(*unknown, 'no matrices')[0]}"
        raise InputError(f"the adapter {name} {wrong}, so it is no plain LoRA adapter: {MERGE}")
    saved = set(config.get("modules_to_save") or [])  # embeddings are also saved untrained
    model.trained_too = [key for key in tensors if ".lora_" not in key and (
        key.endswith(".bias") or saved & set(key.split(".")))]


def _resize(model, tensors):
    """As many rows in the embedding as the adapter has for it: entries of its own, for a chat."""
    embedding = model.get_input_embeddings().weight
    name = next(name for name, weight in model.named_parameters() if weight is embedding)
    rows = len(tensors.get(name, embedding))
    if rows != len(embedding):
        model.resize_token_embeddings(rows, mean_resizing=False)


def _of_pattern(patterns, place, usual):
    """The value of the first pattern that the end of a layer's name matches."""
    return next((value for pattern, value in (patterns or {}).items()
                 if re.match(rf"(.*\.)?({pattern})$", place)), usual)
