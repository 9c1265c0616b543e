"""In whatever form a model lies on disk, a story's gradient is autograd's on the plain weights.

The oracle reads the files by transformers alone. It knows nothing of hooks, adapters or experts
spread out: of an adapter it differentiates the merged weights W + s·BA by the chain rule, of
experts the tensor they are kept in.
"""
import json

import pytest
import torch
import transformers
from builders import make_model, make_tokenizer, save_pickled
from families import layer_of
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from helpers.capture import backward_pass
from helpers.sources import add_lora, load_model, save_adapter, track
from helpers.stories import padded

TEXTS = ("He liked the windmill.", "One day, it rained. They laughed by the sea.")
SMALL = dict(vocab_size=400, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
             initializer_range=0.3, bos_token_id=0, eos_token_id=0)
ALPHA = 6


def llama(**changes):
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL | changes)).eval()


def mixtral(folder):
    torch.manual_seed(0)
    config = transformers.MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2)
    model = transformers.MixtralForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.3)
    model.save_pretrained(folder)


def neo():
    return make_model(initializer_range=0.3)


def adapted(folder):
    neo().save_pretrained(folder / "base")
    model = neo()
    for layer in add_lora(model, rank=3, alpha=ALPHA).values():
        layer.weight.data.normal_(0, 0.3)
    save_adapter(model, folder, "base")


FORMS = {
    "float32": lambda folder: neo().save_pretrained(folder),
    "bf16 file": lambda folder: neo().bfloat16().save_pretrained(folder),
    "float16 file": lambda folder: llama().half().save_pretrained(folder),
    "sharded": lambda folder: llama().save_pretrained(folder, max_shard_size="20KB"),
    "sharded in bf16": lambda folder: llama().bfloat16().save_pretrained(folder,
                                                                         max_shard_size="10KB"),
    "pickled": lambda folder: save_pickled(neo(), folder),
    "tied head": lambda folder: llama(tie_word_embeddings=True).save_pretrained(folder),
    "untied head": lambda folder: llama(tie_word_embeddings=False).save_pretrained(folder),
    "adapter": adapted, "experts": mixtral,
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_of_a_story_is_that_of_autograd(form, precision, tmp_path):
    FORMS[form](tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert form in ("adapter", "pickled") or len(list(tmp_path.glob("*.safetensors"))) == 1 \
        or "sharded" in form and len(list(tmp_path.glob("*.safetensors"))) > 2
    model, tokenizer = load_model(tmp_path, "cpu", precision)
    assert {weight.dtype for weight in model.parameters()} == {getattr(torch, precision)}
    tracked = track(model)
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    captured, losses = backward_pass(model, tracked.layers, padded(ids, [0, 1]))
    for row in (0, 1):
        loss, expected = truth(tmp_path, form, list(tracked.layers), ids[row])
        exact = 1e-4 if precision == "float32" else 0.1
        assert losses[row].item() == pytest.approx(loss, rel=exact)
        for name, gradient in expected.items():
            found = captured[name].gradients()[row]
            off = (found - gradient).norm() / gradient.norm()
            assert gradient.norm() > 0 or not found.any()
            assert not gradient.norm() > 0 or off < (1e-4 if precision == "float32" else 0.3), name
    assert ("down_proj" in "".join(tracked.layers)) == (form not in
                                                        ("float32", "bf16 file", "pickled",
                                                         "adapter"))


def truth(folder, form, names, ids):
    """(L(z), {layer: gradient (out, in+1)}) of one story, from the files."""
    place = folder / "base" if form == "adapter" else folder
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
    matrices = adapter_of(folder) if form == "adapter" else {}
    scale = ALPHA / 3
    for name, (a, b) in matrices.items():
        model.get_submodule(name).weight.data += scale * b @ a
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
    loss = -logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None]).sum()
    loss.backward()
    gradients = {}
    for name, (a, b) in matrices.items():
        weight = model.get_submodule(name).weight.grad
        gradients |= {f"{name}.lora_A": scale * b.T @ weight,
                      f"{name}.lora_B": scale * weight @ a.T}
    for name in [name for name in names if not matrices]:
        layer = layer_of(model, name)
        parts = [part.grad for part in (layer.weight, layer.bias) if part is not None]
        if hasattr(layer, "number"):
            parts = [part[layer.number] for part in parts]
        turned = isinstance(layer, Conv1D)
        gradients[name] = torch.cat([parts[0].T if turned else parts[0],
                                     *(part[:, None] for part in parts[1:])], 1)
    assert sorted(gradients) == sorted(names)
    return loss.item(), gradients


def adapter_of(folder):
    """{layer: (A, B)} of an adapter's file."""
    tensors = load_file(folder / "adapter_model.safetensors")
    target = json.loads((folder / "adapter_config.json").read_text())["target_modules"]
    return {name: tuple(tensors[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
            for name in target}
