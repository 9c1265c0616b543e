"""ā and Ds against autograd on the weights themselves, which uses no hooks."""
from types import SimpleNamespace

import pytest
import torch
from builders import ROUNDING, VOCABULARY, autograd_gradient, loss_of, random_ids, tiny_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.capture import Capture, backward_pass, find_layers, shape
from helpers.stories import InputError, batches, vector_batch


def test_sequence_gradients_equal_autograd(family):
    model, ids = tiny_model(family), random_ids(5)
    layers = find_layers(model)
    (batch,) = batches(ids, 8)
    captured, losses = backward_pass(model, layers, batch)
    for at, row in enumerate(batch.index):
        loss = loss_of(model, ids[row])
        assert losses[at].item() == pytest.approx(loss.item(), rel=ROUNDING[family])
        for name, layer in layers.items():
            expected = autograd_gradient(layer, loss_of(model, ids[row]))
            assert captured[name].gradients()[at].shape == shape(layer) == expected.shape
            torch.testing.assert_close(captured[name].gradients()[at], expected,
                                       rtol=ROUNDING[family], atol=ROUNDING[family])


def test_token_gradients_sum_to_the_sequence_gradient_and_differ_between_tokens():
    model, ids = tiny_model("gpt_neo"), random_ids(1, (10, 11))
    (batch,) = batches(ids, 1)
    captured, _ = backward_pass(model, find_layers(model), batch)
    for _, record in captured.items():
        tokens = record.output_grads[0, :, :, None] * record.inputs[0, :, None, :]
        torch.testing.assert_close(tokens.sum(0), record.gradients()[0])
        assert torch.linalg.matrix_rank(tokens[3]) == 1


def test_padding_has_exactly_zero_output_gradient(family):
    model, ids = tiny_model(family), random_ids(6)
    (batch,) = batches(ids, 8)
    assert not batch.mask.all()
    captured, _ = backward_pass(model, find_layers(model), batch)
    for _, record in captured.items():
        assert record.output_grads[~batch.mask].abs().max() == 0
        assert record.output_grads[batch.mask].abs().max() > 0


class Largest(TorchDispatchMode):
    """The most numbers of a tensor made inside the block, views of `known` ones apart."""

    def __init__(self, known):
        super().__init__()
        self.known, self.numbers = {one.untyped_storage().data_ptr() for one in known}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else [result]:
            if isinstance(one, torch.Tensor):
                held = one.untyped_storage()
                if held.data_ptr() not in self.known:
                    self.numbers = max(self.numbers, held.nbytes() // one.element_size())
        return result


def test_no_gradient_of_a_weight_is_formed_where_only_the_ends_are_wanted():
    model = nn.Sequential(nn.Linear(64, 96), nn.Tanh(), nn.Linear(96, 10))
    batch = vector_batch(torch.randn(2, 1, 64), torch.tensor([3, 7]))
    known = [*model.parameters(), batch.input_ids]
    with Largest(known) as plain:
        torch.nn.functional.cross_entropy(
            model(torch.randn(2, 64)), torch.tensor([3, 7]), reduction="sum").backward()
    with Largest(known) as ends:
        backward_pass(model, find_layers(model), batch)
    assert plain.numbers >= 64 * 96 > 10 * ends.numbers > 0


def test_layers_found_by_family_and_scope(family):
    model = tiny_model(family)
    per_block = 3 if family == "llama" else 2
    assert len(find_layers(model)) == 2 * per_block
    assert len(find_layers(model, "all")) > 2 * per_block
    assert not any("head" in name for name in find_layers(model, "all"))
    assert len(find_layers(model, r"\.0\.")) >= per_block


def test_sequential_model_tracks_all_its_linear_layers():
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2, bias=False))
    layers = find_layers(model)
    assert [shape(layer) for layer in layers.values()] == [(3, 5), (2, 3)]
    x = torch.randn(6, 4)
    with Capture(layers) as captured:
        model(x).sum().backward()
    torch.testing.assert_close(captured["0"].gradients().sum(0)[:, :-1], model[0].weight.grad)
    torch.testing.assert_close(captured["0"].gradients().sum(0)[:, -1], model[0].bias.grad)


def test_no_layer_found_says_which_were_seen():
    model = nn.Module()
    model.projection = nn.Linear(2, 2)
    with pytest.raises(InputError, match="projection.*--scope"):
        find_layers(model)
    with pytest.raises(InputError, match="regular expression"):
        find_layers(model, "(")


def test_hooks_leave_and_parameters_thaw_even_after_an_error():
    model = tiny_model("gpt_neo")
    layers = find_layers(model)
    (batch,) = batches(random_ids(2), 2)

    def broken(logits):
        raise ValueError("stop here")

    with pytest.raises(ValueError, match="stop here"):
        backward_pass(model, layers, batch, broken)
    assert all(not layer._forward_hooks for layer in layers.values())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_layer_that_runs_twice_is_refused():
    layer = nn.Linear(3, 3)
    with Capture({"shared": layer}), pytest.raises(InputError, match="twice.*--scope"):
        layer(layer(torch.randn(2, 3)))


def test_an_in_place_operation_that_cuts_the_hook_off_is_refused():
    """With a token axis a linear layer's output is a view; written over, it loses its hook."""
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.first, self.mlp = nn.Embedding(VOCABULARY,
                                                            4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.act, self.head = nn.ReLU(inplace=True), nn.Linear(4, VOCABULARY)

        def forward(self, input_ids, use_cache=False):
            return SimpleNamespace(
                logits=self.head(self.act(self.mlp(self.first(self.table(input_ids))))))

    model = Model()
    (batch,) = batches(random_ids(2))
    layers = {"first": model.first, "mlp": model.mlp}
    with pytest.raises(InputError, match="'mlp'.*in place"):
        backward_pass(model, layers, batch)
    model.act.inplace = False
    assert backward_pass(model, layers, batch)[0]["mlp"].output_grads is not None


def test_layers_that_never_ran_are_refused():
    model = tiny_model("gpt_neo")
    model.idle = nn.Linear(3, 3)
    (batch,) = batches(random_ids(2))
    for layers in ({"idle": model.idle, **find_layers(model)}, {"idle": model.idle}):
        with pytest.raises(InputError, match="'idle'.*--scope"):
            backward_pass(model, layers, batch)


def test_an_in_place_operation_on_the_first_layer_changes_no_gradient():
    torch.manual_seed(0)
    batch, found = vector_batch(torch.randn(6, 4), torch.tensor([0, 1, 0, 1, 1, 0])), []
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))
    for inplace in (False, True):
        model[1].inplace = model[3].inplace = inplace
        found.append(backward_pass(model, find_layers(model), batch)[0])
    for name, record in found[0].items():
        assert record.output_grads.abs().max() > 0
        torch.testing.assert_close(found[1][name].gradients(), record.gradients(), rtol=0, atol=0)


def test_inputs_stay_what_they_were_when_the_model_overwrites_them():
    layer, x = nn.Linear(3, 3, bias=False), torch.randn(2, 5, 3)
    before = x.clone()
    with Capture({"layer": layer}) as captured:
        layer(x)
        x.add_(1)
    torch.testing.assert_close(captured["layer"].inputs, before, rtol=0, atol=0)


def test_rows_of_a_flattened_layer_are_put_back_and_others_refused():
    layer, x = nn.Linear(3, 2), torch.randn(2, 5, 3)
    found = []
    for given in (x, x.flatten(0, 1)):
        with Capture({"layer": layer}, (2, 5)) as captured:
            layer(given).square().sum().backward()
        assert captured["layer"].inputs.shape == (2, 5, 4)
        assert captured["layer"].output_grads.shape == (2, 5, 2)
        found.append(captured["layer"].gradients())
    torch.testing.assert_close(*found)
    for given in (torch.randn(9, 3), torch.randn(5, 2, 3), torch.randn(2, 15, 3),
                  torch.randn(2, 5, 1, 3)):
        with Capture({"layer": layer},
                     (2, 5)), pytest.raises(InputError, match="'layer'.*positions.*2 × 5.*--scope"):
            layer(given)


def test_a_layer_with_more_than_one_result_is_refused():
    class Router(nn.Linear):
        def forward(self, x):
            return super().forward(x), None

    layer = Router(3, 2)
    with Capture({"router": layer}), pytest.raises(InputError,
                                                   match="'router'.*more than one result.*--scope"):
        layer(torch.randn(2, 3))
