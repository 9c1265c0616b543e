"""The head in slices against autograd on the plain model, and the cases it must leave alone."""
import copy
from dataclasses import replace

import pytest
import torch
import transformers
from builders import (ROUNDING, VOCABULARY, autograd_gradient, loss_of, make_model, random_ids,
                      relative, tiny_model)

from helpers.capture import backward_pass, find_layers
from helpers.curvature import pseudo_gradients, sampled_labels
from helpers.sources import fuse, head
from helpers.stories import IGNORE, batches, logits_of


@pytest.fixture(params=[1, 3 * VOCABULARY, 2 ** 21], autouse=True)
def slices(request, monkeypatch):
    """One position at a time, three, all."""
    monkeypatch.setattr(head, "SLICE", request.param)


def twins(family, dtype=torch.float64):
    """A model, and a copy whose head goes in slices; attention is fused in both."""
    short = tiny_model(family).to(dtype)
    fuse(short)
    model = copy.deepcopy(short)
    del model.shorter_way
    return model, short


def holes(batch):
    """Some real tokens of the batch without a target."""
    labels = batch.labels.clone()
    labels[:, 1::3] = IGNORE
    return replace(batch, labels=labels)


def same(plain, short, batch, choose=(None, None), bound=1e-10):
    """Both passes; that of the second never forms the logits of the whole batch."""
    found = [backward_pass(model, find_layers(model), batch, chosen)
             for model, chosen in zip((plain, short), choose)]
    torch.testing.assert_close(found[0][1].double(), found[1][1].double(), rtol=bound, atol=bound)
    for name, record in found[0][0].items():
        assert record.output_grads.abs().max() > 0
        assert relative(found[1][0][name].output_grads, record.output_grads) < bound
        assert found[1][0][name].output_grads[~batch.mask].abs().max() == 0
    return found


def test_gradients_equal_autograd(family):
    (plain, short), ids = twins(family), random_ids(5)
    layers = find_layers(short)
    (batch,) = batches(ids, 8)
    captured, losses = backward_pass(short, layers, batch)
    assert head.PLAIN[short]
    for at, row in enumerate(batch.index):
        assert losses[at].item() == pytest.approx(loss_of(plain, ids[row]).item(), rel=1e-5)
        for name, layer in find_layers(plain).items():
            expected = autograd_gradient(layer, loss_of(plain, ids[row]))
            torch.testing.assert_close(captured[name].gradients()[at], expected, atol=1e-5,
                                       rtol=ROUNDING[family])


@pytest.mark.parametrize("target", ["influence", "content"])
def test_the_same_as_from_all_logits(family, target):
    plain, short = twins(family)
    for batch in batches(random_ids(7), 4):
        for one in (batch, holes(batch)):
            same(plain, short, replace(one, target=target))


def test_the_same_labels_are_drawn(family):
    plain, short = twins(family)
    for batch in batches(random_ids(7), 4):
        labels = sampled_labels(logits_of(plain, batch).detach(), batch, 5, 1)
        expected, _ = backward_pass(plain, find_layers(plain), replace(batch, labels=labels))
        found = pseudo_gradients(short, find_layers(short), replace(batch, target="content"), 5, 1)
        for name, record in expected.items():
            assert relative(found[name].output_grads, record.output_grads) < 1e-10


def test_half_precision_is_that_of_all_logits():
    plain, short = twins("gpt2", torch.bfloat16)
    (batch,) = batches(random_ids(5), 8)
    found = same(plain, short, batch, bound=0.03)
    assert {record.output_grads.dtype for record in found[1][0].values()} == {torch.float32}


def small(kind, **more):
    """A tiny model of a family that does something to its logits behind the head."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=20, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
        pad_token_id=0, bos_token_id=0, eos_token_id=0, **more)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return model.double().eval()


@pytest.mark.parametrize("kind, more", [
    ("Cohere", {"logit_scale": 0.5}), ("Granite", {"logits_scaling": 3.0}),
    ("Gemma2", {"head_dim": 8, "final_logit_softcapping": 30.0})])
def test_scaled_and_capped_logits_go_the_long_way(kind, more):
    plain = small(kind, **more)
    short = copy.deepcopy(plain)
    fuse(short)
    (batch,) = batches(random_ids(4), 8)
    same(plain, short, batch)
    assert not head.PLAIN[short]


def test_a_bias_of_the_head_counts():
    plain, _ = twins("gpt2")
    plain.lm_head = torch.nn.Linear(12, VOCABULARY, dtype=torch.float64)
    short = copy.deepcopy(plain)
    fuse(short)
    (batch,) = batches(random_ids(4), 8)
    same(plain, short, batch)
    assert head.PLAIN[short]


def test_a_tracked_head_and_labels_of_one_s_own_go_the_long_way():
    _, short = twins("llama")
    (batch,) = batches(random_ids(4), 8)
    layers = find_layers(short)
    assert head.shorter_way(short, layers, batch)
    assert not head.shorter_way(short, {**layers, "lm_head": short.lm_head}, batch)
    assert not head.shorter_way(short, layers, batch, lambda logits: batch.labels)
    captured, _ = backward_pass(short, {**layers, "lm_head": short.lm_head}, batch)
    assert captured["lm_head"].output_grads.shape[-1] == VOCABULARY


def test_never_all_logits_at_once(slices):
    from test_capture import Largest
    short = make_model()
    fuse(short)
    (batch,) = batches(random_ids(30, (12, 15)), 64)
    known = [*short.parameters(), batch.input_ids]
    layers = find_layers(short)
    backward_pass(short, layers, batch)  # the trial apart
    with Largest(known) as seen:
        backward_pass(short, layers, batch)
    whole = batch.labels.numel() * 400
    assert 0 < seen.numbers and (seen.numbers < whole or head.SLICE > whole)
