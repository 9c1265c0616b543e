"""LoRA adapters: written by hand, by `save_adapter` and by peft, each beside merged weights."""
import json
import re

import pytest
import torch
from builders import (ADVICE, PROMPT, autograd_gradient, complaint, loss_of, make_tokenizer,
                      query_loss, random_ids, tiny_model)
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from helpers.capture import backward_pass
from helpers.sources import add_lora, load_model, lora_layers, save_adapter, track
from helpers.stories import batches
from helpers.terminal import kept

MATRICES = {"gpt2": ("mlp.c_fc", "mlp.c_proj", "attn.c_attn"),
            "gpt_neo": ("mlp.c_fc", "attn.attention.k_proj"),
            "llama": ("mlp.up_proj", "mlp.down_proj", "self_attn.q_proj")}
IDS = random_ids(5)


def base_of(folder, family="gpt2"):
    """A base model and its tokenizer, with as many rows as that has entries."""
    model = tiny_model(family, torch.float32)
    model.resize_token_embeddings(400, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(0, 0.3, generator=torch.manual_seed(4))
    model.save_pretrained(folder / "base")
    make_tokenizer().save_pretrained(folder / "base")
    return model


def places(model, family):
    return [name for name, module in model.named_modules()
            if isinstance(module, nn.Linear | Conv1D) and name.endswith(MATRICES[family])]


def write(folder, tensors, **settings):
    """An adapter's folder; a setting that is None is left out."""
    config = {"peft_type": "LORA", "base_model_name_or_path": "../base", "r": 3,
              "lora_alpha": 6} | settings
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(
        json.dumps({key: value for key, value in config.items() if value is not None}))
    save_file({f"base_model.model.{name}": tensor for name, tensor in tensors.items()},
              folder / "adapter_model.safetensors")
    return folder


def drawn(model, names, rank=3, seed=1):
    """Random A and B for these layers."""
    torch.manual_seed(seed)
    tensors = {}
    for name in names:
        layer = model.get_submodule(name)
        out, into = layer.weight.T.shape if isinstance(layer, Conv1D) else layer.weight.shape
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, into) * 0.3
        tensors[f"{name}.lora_B.weight"] = torch.randn(out, rank) * 0.3
    return tensors


@torch.no_grad()
def merge(model, tensors, scaling):
    """W + s·BA; `scaling` a number, or a function of the layer's name."""
    for key in [key for key in tensors if key.endswith("lora_A.weight")]:
        name = key.removesuffix(".lora_A.weight")
        change = tensors[f"{name}.lora_B.weight"] @ tensors[key]
        change = change * (scaling(name) if callable(scaling) else scaling)
        layer = model.get_submodule(name)
        layer.weight += change.T if isinstance(layer, Conv1D) else change
    return model


def same(model, other):
    for ids in IDS:
        x = torch.tensor([ids])
        torch.testing.assert_close(model(x).logits, other(x).logits, rtol=1e-4, atol=1e-5)
    return True


def gradients_are_right(model):
    """What hooks capture of the default scope is autograd's, for every sequence of a batch."""
    tracked = track(model)
    for batch in batches(IDS, 3):
        captured, _ = backward_pass(model, tracked.layers, batch)
        model.requires_grad_(True)
        for row, place in enumerate(batch.index):
            loss = loss_of(model, IDS[place])
            for name, layer in tracked.layers.items():
                expected = autograd_gradient(layer, loss)
                assert expected.abs().max() > 0
                torch.testing.assert_close(captured[name].gradients()[row], expected, rtol=1e-3,
                                           atol=1e-4 * expected.abs().max().item())
    return True


# -- read ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("settings, scaling", [
    ({}, 2.0), ({"use_rslora": True}, 6 / 3 ** 0.5), ({"lora_alpha": 0.5, "r": 3}, 0.5 / 3),
    ({"lora_dropout": 0.5, "init_lora_weights": "gaussian"}, 2.0),
    ({"alpha_pattern": {"c_proj|down_proj|k_proj": 12}},
     lambda name: 4.0 if re.search("c_proj|down_proj|k_proj", name) else 2.0)])
def test_an_adapter_is_its_merged_weights_and_only_it_is_tracked(family, settings, scaling,
                                                                 tmp_path):
    base = base_of(tmp_path, family)
    names = places(base, family)
    tensors = drawn(base, names)
    model, _ = load_model(write(tmp_path / "adapter", tensors, **settings), "cpu")
    assert same(model, merge(base, tensors, scaling))
    tracked = track(model)
    assert list(tracked.layers) == [f"{name}.lora_{x}" for name in names for x in "AB"]
    assert tracked.parameters == sum(tensor.numel() for tensor in tensors.values())
    assert tracked.note is None and gradients_are_right(model)
    (one, *_) = [name for name in names if ".mlp." in name]
    assert set(track(model, "mlp").layers) > {f"{one}.base_layer", f"{one}.lora_A"}


def test_ranks_may_differ_and_b_may_have_a_bias(tmp_path):
    base = base_of(tmp_path)
    one, *others = places(base, "gpt2")
    tensors = drawn(base, [one], rank=5) | drawn(base, others)
    bias = torch.randn(base.get_submodule(one).weight.shape[1])
    model, _ = load_model(write(tmp_path / "adapter", tensors | {f"{one}.lora_B.bias": bias}),
                          "cpu")
    merge(base, tensors, lambda name: 6 / 5 if name == one else 2.0)
    base.get_submodule(one).bias.data += 6 / 5 * bias
    assert same(model, base) and gradients_are_right(model)


def test_what_else_was_trained_is_read_and_its_absence_told(tmp_path):
    base = base_of(tmp_path)
    names = places(base, "gpt2")
    tensors = drawn(base, names)
    head, bias = torch.randn(400, 12) * 0.3, torch.randn(48)
    more = {"lm_head.weight": head, f"{names[1]}.base_layer.bias": bias}
    model, _ = load_model(write(tmp_path / "adapter", tensors | more, bias="lora_only",
                                modules_to_save=["lm_head"]), "cpu")
    embedding = base.transformer.wte.weight.clone()
    merge(base, tensors, 2.0)
    base.lm_head.weight = nn.Parameter(head)  # tied in the base, and no longer
    base.get_submodule(names[1]).bias.data = bias
    assert same(model, base) and model.transformer.wte.weight.equal(embedding)
    tracked = track(model)
    assert list(tracked.layers) == list(lora_layers(model))
    assert f"{head.numel() + bias.numel():,} parameters" in tracked.note
    assert "scope 'trained'" in tracked.note and gradients_are_right(model)


def test_a_linear_layer_that_was_trained_whole_is_tracked(tmp_path):
    base = base_of(tmp_path)
    first, second = (f"transformer.h.{n}.mlp.c_fc" for n in (0, 1))
    tensors, whole = drawn(base, [first]), torch.randn(12, 48) * 0.3
    saved = {f"{second}.weight": whole, f"{second}.bias": torch.zeros(48)}
    model, _ = load_model(write(tmp_path / "adapter", tensors | saved,
                                modules_to_save=["h.1.mlp.c_fc", "c_fc"]), "cpu")
    assert list(track(model).layers) == [f"{first}.lora_A", f"{first}.lora_B", second]
    assert model.get_submodule(second).weight.equal(whole)


def test_entries_added_for_a_chat_enlarge_the_embedding(tmp_path):
    base = base_of(tmp_path)
    tensors = drawn(base, places(base, "gpt2"))
    rows = torch.cat([base.transformer.wte.weight.detach(), torch.ones(2, 12)])
    saved = {"transformer.wte.weight": rows, "lm_head.weight": rows.clone()}
    folder = write(tmp_path / "adapter", tensors | saved)
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<|user|>", "<|answer|>"])
    tokenizer.save_pretrained(folder)
    model, tokenizer = load_model(folder, "cpu")
    assert tokenizer("<|user|>")["input_ids"] == [353] and tokenizer.model_rows == 402
    assert model(torch.tensor([[1, 401]])).logits.shape[-1] == 402
    assert track(model).note is None  # saved, not trained


def test_the_base_is_found_beside_the_adapter_then_from_here(tmp_path, monkeypatch):
    base = base_of(tmp_path)
    tensors = drawn(base, places(base, "gpt2"))
    merge(base, tensors, 2.0)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for place in ("../base", str(tmp_path / "base")):
        folder = write(tmp_path / "adapter", tensors, base_model_name_or_path=place)
        assert same(load_model(folder, "cpu")[0], base)
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "adapter", tensors, base_model_name_or_path="base")
    assert same(load_model("adapter", "cpu")[0], base)


def test_adapters_that_differ_only_in_their_scaling_are_two_models(tmp_path):
    base = base_of(tmp_path)
    tensors = drawn(base, places(base, "gpt2"))
    keys = [kept.model_key(load_model(write(tmp_path / str(alpha), tensors, lora_alpha=alpha),
                                      "cpu")[0]) for alpha in (6, 12)]
    assert keys[0] != keys[1]


# -- refused -------------------------------------------------------------------------------------

WEIGHT = "transformer.h.0.mlp.c_fc.lora_A.weight"
REFUSED = {"kind LORA with use_dora": {"use_dora": True}, "kind IA3": {"peft_type": "IA3"},
           "init_lora_weights pissa": {"init_lora_weights": "pissa"},
           "does not say what it belongs to": {"base_model_name_or_path": ""},
           "cannot read the adapter": {"base_model_name_or_path": None},
           "no model folder": {"base_model_name_or_path": "../not/here"},
           "holds an adapter itself": {"base_model_name_or_path": "../adapter"}}


@pytest.mark.parametrize("reason, settings", REFUSED.items())
def test_another_kind_of_adapter_is_refused_in_one_line(reason, settings, tmp_path):
    base = base_of(tmp_path)
    folder = write(tmp_path / "adapter", drawn(base, places(base, "gpt2")), **settings)
    assert reason in refused(folder)


def refused(folder):
    """The line; the adapter's own complaint, or that of its base behind a colon."""
    with pytest.raises(Exception) as caught:
        load_model(folder, "cpu")
    message = str(caught.value)
    assert type(caught.value).__name__ == "InputError" and "\n" not in message
    assert len(message) < 500 and any(": " + word in message for word in ADVICE), message
    return message


@pytest.mark.parametrize("reason, change", [
    ("lacks", lambda tensors: tensors.pop(WEIGHT.replace("_A", "_B"))),
    ("does not fit its base model",
     lambda tensors: tensors.update({WEIGHT.replace("_A", "_B"): torch.zeros(7, 3)})),
    ("is no linear layer",
     lambda tensors: tensors.update({"transformer.ln_f.lora_A.weight": torch.zeros(3, 12)})),
    ("is no linear layer",
     lambda tensors: tensors.update({"transformer.h.7.mlp.lora_A.weight": torch.zeros(3, 12)})),
    ("holds transformer.wte.lora_embedding_A",
     lambda tensors: tensors.update({"transformer.wte.lora_embedding_A": torch.zeros(3, 9)})),
    ("holds no matrices", lambda tensors: tensors.clear()),
    ("NaN or infinity", lambda tensors: tensors.update({WEIGHT: torch.full((3, 12), torch.nan)}))])
def test_tensors_that_do_not_fit_are_refused_in_one_line(reason, change, tmp_path):
    base = base_of(tmp_path)
    tensors = drawn(base, places(base, "gpt2"))
    change(tensors)
    assert reason in refused(write(tmp_path / "adapter", tensors))


def test_files_that_are_missing_or_damaged_are_named(tmp_path):
    base_of(tmp_path)
    folder = write(tmp_path / "adapter", {})
    (folder / "adapter_model.safetensors").write_bytes(b"nothing")
    assert "cannot read the adapter" in refused(folder)
    (folder / "adapter_model.safetensors").unlink()
    assert "no adapter_model.safetensors" in refused(folder)


# -- made ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("family, targets", [("gpt2", ("c_fc", "c_proj")), ("llama", ("up_proj",)),
                                             ("gpt_neo", ("c_fc", "c_proj"))])
def test_new_adapters_change_nothing_until_they_are_trained(family, targets):
    model, other = tiny_model(family, torch.float32), tiny_model(family, torch.float32)
    plain = tiny_model(family, torch.float32)
    layers = add_lora(model, rank=2, alpha=8, targets=targets, seed=3)
    add_lora(other, rank=2, alpha=8, targets=targets, seed=3)
    assert same(model, plain) and model.state_dict().keys() == other.state_dict().keys()
    assert all(x.equal(y) for x, y in zip(model.state_dict().values(),
                                          other.state_dict().values()))
    wanting = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert wanting == {f"{name}.weight" for name in layers}
    assert list(track(model).layers) == list(layers)
    assert all(name.split(".")[-2] in targets for name in layers)
    assert "give other targets" in complaint(add_lora, model, targets=("nowhere",))


def test_a_saved_adapter_is_read_again(tmp_path, family):
    model = base_of(tmp_path, family)
    layers = add_lora(model, rank=2, alpha=3, targets=[name.rpartition(".")[2]
                                                       for name in MATRICES[family]])
    for number, layer in enumerate(layers.values()):
        layer.weight.data.normal_(0, 0.3, generator=torch.manual_seed(number))
    save_adapter(model, tmp_path / "adapter", "../base")
    again, _ = load_model(tmp_path / "adapter", "cpu")
    assert same(again, model) and gradients_are_right(again)
    assert list(track(again).layers) == list(layers)


def test_scope_trained_needs_an_adapter():
    message = complaint(track, tiny_model("gpt2", torch.float32), "trained")
    assert "this model has none" in message


# -- peft's own files ------------------------------------------------------------------------------

PEFT = {"plain": {}, "rank-stabilised": {"use_rslora": True},
        "patterns": {"rank_pattern": {"c_proj": 5}, "alpha_pattern": {"h.1.mlp.c_fc": 12}},
        "all linear": {"target_modules": "all-linear"}, "its bias": {"lora_bias": True},
        "biases": {"bias": "lora_only"}, "head": {"modules_to_save": ["lm_head"]},
        "some blocks": {"layers_to_transform": [1]}}


@pytest.mark.parametrize("kind", PEFT)
def test_what_peft_wrote_gives_what_peft_says(kind, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed, and not needed")
    base = base_of(tmp_path)
    config = peft.LoraConfig(**{"r": 3, "lora_alpha": 6, "target_modules": ["c_fc", "c_proj"],
                                "lora_dropout": 0.1, "fan_in_fan_out": True,
                                "task_type": "CAUSAL_LM"} | PEFT[kind])
    model = peft.get_peft_model(base, config)
    torch.manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.2
    model.eval().save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    written = json.loads(path.read_text()) | {"base_model_name_or_path": "../base"}
    path.write_text(json.dumps(written))
    loaded, _ = load_model(tmp_path / "adapter", "cpu")
    assert same(loaded, model) and gradients_are_right(loaded)


def test_peft_reads_what_was_saved(tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed, and not needed")
    model = base_of(tmp_path)
    for number, layer in enumerate(add_lora(model, rank=2, alpha=3).values()):
        layer.weight.data.normal_(0, 0.3, generator=torch.manual_seed(number))
    save_adapter(model, tmp_path / "adapter", tmp_path / "base")
    plain, _ = load_model(tmp_path / "base", "cpu", fused=False)
    assert same(peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval(), model)


# -- the job ---------------------------------------------------------------------------------------

def test_the_job_asks_an_adapted_model(house, result, tmp_path):
    model, tokenizer = load_model(house / "model", "cpu")
    for layer in add_lora(model, rank=2).values():
        layer.weight.data.normal_(0, 0.3, generator=torch.manual_seed(2))
    save_adapter(model, tmp_path / "adapter", house / "model")
    found = result(PROMPT, "--completion", " fox", "--method", "identity", "--model",
                   tmp_path / "adapter")
    layers = lora_layers(model)
    count = sum(layer.weight.numel() for layer in layers.values())
    assert found["tracked"] == {"layers": len(layers), "parameters": count, "note": None,
                                "of": sum(weight.numel() for weight in model.parameters())}
    query = tokenizer(f"{PROMPT} fox")["input_ids"]
    start = len(tokenizer(PROMPT)["input_ids"])
    weights = [layer.weight for layer in layers.values()]
    asked = torch.autograd.grad(query_loss(model, query, start), weights)
    for entry in found["queries"][0]["influences"]:
        ids = tokenizer(entry["text"])["input_ids"][:64]
        told = torch.autograd.grad(loss_of(model, ids), weights)
        expected = sum((a * b).sum() for a, b in zip(asked, told)).item() / found["n_train"]
        assert entry["influence"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
