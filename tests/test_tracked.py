"""Layers are tried before they are tracked.

Each way in which a hook can see the wrong thing is built into a small GPT-2.
"""
import re

import pytest
import torch
from builders import autograd_gradient, complaint, loss_of, tiny_model
from torch import nn

from helpers.capture import backward_pass, find_layers
from helpers.sources import share, track
from helpers.stories import batches


class Mlp(nn.Module):
    """Two linear layers, the second run in some way of its own."""

    def __init__(self, second=None, biased=True):
        super().__init__()
        self.first, self.second = nn.Linear(12, 20), second or nn.Linear(20, 12, bias=biased)
        nn.init.normal_(self.second.weight, std=0.3)

    def forward(self, x):
        return self.run(torch.tanh(self.first(x)))

    def run(self, x):
        return self.second(x)


class Flat(Mlp):
    def run(self, x):
        return self.second(x.flatten(0, 1)).view(*x.shape[:2], -1)


class TimeFirst(Mlp):
    def run(self, x):
        return self.second(x.transpose(0, 1)).transpose(0, 1)


class FlatTimeFirst(Mlp):
    def run(self, x):
        rows = self.second(x.transpose(0, 1).flatten(0, 1))
        return rows.view(x.shape[1], x.shape[0], -1).transpose(0, 1)


class Turned(Mlp):
    """Tokens in reverse, then back: the shape says nothing."""
    def run(self, x):
        return self.second(x.flip(1)).flip(1)


class Twice(Mlp):
    def run(self, x):
        return self.second(torch.tanh(x)) + self.second(x)


class Tripled(Mlp):
    def run(self, x):
        return self.second(torch.cat([x, 2 * x, 3 * x], 1)).unflatten(1, (3, -1)).sum(1)


class Routed(Mlp):
    """An expert that sees the tokens whose first feature is positive."""
    def run(self, x):
        rows = x.flatten(0, 1)
        chosen = rows[:, 0] > 0
        out = torch.zeros(len(rows), 12, dtype=x.dtype)
        out[chosen] = self.second(rows[chosen])
        return out.view(*x.shape[:2], -1)


class Experts(Mlp):
    """The last of three experts is for tokens that do not come here."""
    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(20, 12) for _ in range(3))

    def run(self, x):
        return self.second(x) + self.experts[0](x) + self.experts[1](x)


class BiasTwice(Mlp):
    def run(self, x):
        return self.second(x) + torch.tanh(self.second.bias)


class PastItsForward(Mlp):
    def run(self, x):
        return nn.functional.linear(x, self.second.weight, self.second.bias)


class UsedTwice(Mlp):
    def run(self, x):
        return self.second(x) + 0.5 * nn.functional.linear(torch.sin(x), self.second.weight)


class Pair(nn.Linear):
    def forward(self, x):
        return super().forward(x), x.sum()


class Several(Mlp):
    def __init__(self):
        super().__init__(Pair(20, 12))

    def run(self, x):
        return self.second(x)[0]


class Normed(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, self.weight / self.weight.norm(), self.bias)


class NotLinear(Mlp):
    def __init__(self):
        super().__init__(Normed(20, 12))


class InPlace(Mlp):
    def run(self, x):
        return self.second(x).relu_()


class Stacked(Mlp):
    """Weights that are no linear layer: experts in one tensor."""
    def __init__(self):
        super().__init__()
        self.experts = nn.Parameter(torch.randn(2, 12, 20) * 0.3)

    def run(self, x):
        return self.second(x) + (x @ self.experts.transpose(1, 2)[:, None]).sum(0)


def model_with(kind):
    model = tiny_model("gpt2", torch.float32)
    torch.manual_seed(1)
    model.transformer.h[1].mlp = kind()
    return model.eval()


@pytest.mark.parametrize("kind", [Mlp, Flat])
def test_what_can_be_put_back_is(kind):
    model = model_with(kind)
    tracked = track(model)
    assert list(tracked.layers) == ["transformer.h.0.mlp.c_fc", "transformer.h.0.mlp.c_proj",
                                    "transformer.h.1.mlp.first",
                                    "transformer.h.1.mlp.second"] and tracked.note is None
    ids = [[3, 8, 1, 14, 9], [5, 2, 7]]
    (batch,) = batches(ids, 2)
    captured, _ = backward_pass(model, tracked.layers, batch)
    second = model.transformer.h[1].mlp.second
    for row, place in enumerate(batch.index):
        expected = autograd_gradient(second, loss_of(model, ids[place]))
        found = captured["transformer.h.1.mlp.second"].gradients()[row]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


FAULTS = {TimeFirst: "3 × 2 positions", FlatTimeFirst: "another order", Turned: "another order",
          Twice: "runs 2 times", Tripled: "2 × 9 positions",
          Routed: "positions|only some", PastItsForward: "never called",
          UsedTwice: "used elsewhere",
          BiasTwice: "used elsewhere", Several: "more than one result",
          NotLinear: "more than multiply", InPlace: "no gradient back"}


@pytest.mark.parametrize("kind, reason", FAULTS.items())
def test_what_cannot_is_left_out_or_refused_with_a_scope_that_works(kind, reason):
    model, name = model_with(kind), "transformer.h.1.mlp.second"
    tracked = track(model)
    assert name not in tracked.layers and len(tracked.layers) == 3
    assert re.search(reason, tracked.note) and name in tracked.note
    assert "240 parameters" in tracked.note
    message = complaint(track, model, "mlp.*(second|c_fc)")
    assert re.search(reason, message) and name in message
    scope = message.rpartition("--scope ")[2].strip("'")
    again = track(model, scope)
    assert again.layers and name not in again.layers and again.note is None
    (batch,) = batches([[3, 8, 1], [5, 2, 7]], 2)
    backward_pass(model, again.layers, batch)


def test_weights_that_are_no_layer_are_counted_and_said():
    model = model_with(Stacked)
    for scope in ("mlp", "all", r"h\.1\.mlp"):
        note = track(model, scope).note
        assert "480 parameters" in note and "transformer.h.1.mlp.experts is no linear layer" in note
    assert track(model, "c_proj").note is None


def test_an_expert_that_saw_no_token_of_the_trial_is_no_idle_layer():
    tracked = track(model_with(Experts))
    assert not any("experts" in name for name in tracked.layers)
    assert "transformer.h.1.mlp.second" in tracked.layers
    assert "experts.0 is one of several of which only some" in tracked.note
    assert "720 parameters" in tracked.note


def test_what_text_does_not_run_through_is_no_layer_and_no_loss():
    model = tiny_model("gpt2", torch.float32)
    model.vision = Mlp()
    model.vision.mlp = nn.Linear(3, 3)
    assert "vision.mlp" in find_layers(model)
    tracked = track(model)
    assert len(tracked.layers) == 4 and tracked.note is None
    assert "text runs through no layer" in complaint(track, model, "vision")


def test_a_model_without_mlp_names_a_scope_that_works():
    import transformers
    config = transformers.MambaConfig(vocab_size=31, hidden_size=16, state_size=4,
                                      num_hidden_layers=2, initializer_range=0.3)
    model = transformers.MambaForCausalLM(config).eval()
    scope = complaint(track, model).rpartition("--scope ")[2].strip("'")
    assert len(track(model, scope).layers) == 6


def test_the_share_is_that_of_all_parameters(family):
    model = tiny_model(family, torch.float32)
    tracked = track(model)
    weights = [p for name, p in model.named_parameters() if ".mlp." in name]
    assert tracked.parameters == sum(p.numel() for p in weights)
    assert tracked.total == sum(p.numel() for p in model.parameters())
    assert tracked.summary() == share(model, tracked.layers).summary()
    assert list(tracked.layers) == list(find_layers(model))


def test_the_trial_leaves_the_model_as_it_was():
    model = tiny_model("gpt_neo", torch.float32)
    next(model.parameters()).requires_grad_(False)
    before = [(p.clone(), p.requires_grad, p.grad) for p in model.parameters()]
    track(model, "all")
    for p, (value, wants, grad) in zip(model.parameters(), before):
        assert p.equal(value) and p.requires_grad == wants and p.grad is grad
    assert not any(module._forward_hooks for module in model.modules())
