"""GPT-Neo's fused attention, as `load_model` puts it in place, against the model's own."""
import copy

import pytest
import torch
from builders import VOCABULARY, random_ids, relative, save_model, tiny_model
from oracles import Hessian
from torch.func import grad, jvp
from transformers import AutoModelForCausalLM
from transformers.activations import NewGELUActivation
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

from helpers.capture import find_layers
from helpers.exact import GaussNewton, flatten, weights
from helpers.sources import fuse, load_model
from helpers.sources.attention import FusedAttention
from helpers.stories import batches, logits_of, padded, plain_attention, summed_loss
from helpers.terminal.kept import model_key

LENGTHS = [[2], [8, 7, 3], [9, 9], [30, 17, 8, 2]]  # the local window is 8
SINGLE = 1e-4  # both models in float32: relative, after tens of rounded steps


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("neo"))


@pytest.fixture(scope="module")
def pair(folder):
    """The model of a folder, loaded with fused attention and with its own."""
    return [load_model(str(folder), "cpu", fused=fused)[0] for fused in (True, False)]


@pytest.fixture
def kernel_calls(monkeypatch):
    """A list that grows by one whenever PyTorch's fused attention is called."""
    calls, real = [], torch.nn.functional.scaled_dot_product_attention

    def counted(*arguments, **options):
        calls.append(1)
        return real(*arguments, **options)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    return calls


def some_batch(lengths, vocabulary=VOCABULARY):
    generator = torch.Generator().manual_seed(sum(lengths))
    ids = [torch.randint(vocabulary, (length,), generator=generator).tolist() for length in lengths]
    return padded(ids, list(range(len(ids))))


def attentions(model):
    return [module for module in model.modules() if isinstance(module, GPTNeoSelfAttention)]


def parameters_of(model):
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def some_direction(model):
    generator = torch.Generator().manual_seed(5)
    return {name: 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            for name, parameter in model.named_parameters()}


def loss_of_parameters(model, batch):
    def loss(parameters):
        return summed_loss(logits_of(model, batch, parameters), batch.labels).sum()
    return loss


def joined(by_name):
    return torch.cat([part.flatten() for part in by_name.values()]).double()


# -- where it stands -------------------------------------------------------------------------------

def test_a_loaded_model_is_fused_unless_it_is_not_wanted(pair, folder):
    fused, own = pair
    assert {type(module) for module in attentions(fused)} == {FusedAttention}
    assert {type(module) for module in attentions(own)} == {GPTNeoSelfAttention}
    assert [module.attention_type for module in attentions(fused)] == ["global", "local"]
    assert fused.state_dict().keys() == own.state_dict().keys()
    assert model_key(fused) == model_key(own)  # the same weights and config: one model


def parts(model):
    """Name, class and attributes of all modules but the activations, and the head's slices."""
    return [(name, type(module), set(vars(module)) - {"shorter_way"})
            for name, module in model.named_modules() if not name.endswith(".act")]


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo"])
def test_gelu_in_one_operation_is_the_same_function(family):
    model, x = tiny_model(family), torch.linspace(-9, 9, 999, dtype=torch.float64)
    (own, *_), _ = activations(model), fuse(model)
    (fused, *_) = activations(model)
    assert type(own) is NewGELUActivation and type(fused) is torch.nn.GELU
    torch.testing.assert_close(fused(x), own(x), rtol=1e-9, atol=1e-12)


def activations(model):
    return [module for name, module in model.named_modules() if name.endswith(".act")]


def test_other_families_and_other_classes_are_left_alone():
    class Own(GPTNeoSelfAttention):
        pass

    model = tiny_model("gpt_neo")
    first = attentions(model)[0]
    first.__class__ = Own
    for _ in range(2):
        fuse(model)
        assert [type(module) for module in attentions(model)] == [Own, FusedAttention]
    for family in ("gpt2", "llama"):
        model = tiny_model(family)
        before = parts(model)
        fuse(model)
        assert parts(model) == before
    fuse(torch.nn.Sequential(torch.nn.Linear(2, 2)))


# -- the same numbers ------------------------------------------------------------------------------

@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-5), (torch.float64, 2e-6)])
def test_logits_and_gradients_are_those_of_the_written_out_one(
        lengths, dtype, tolerance, kernel_calls):
    own, batch, found = tiny_model("gpt_neo", dtype), some_batch(lengths), []
    fused = copy.deepcopy(own)
    fuse(fused)
    for model in (own, fused):
        logits = logits_of(model, batch)
        gradients = torch.autograd.grad(summed_loss(logits, batch.labels).sum(),
                                        list(model.parameters()))
        found.append((logits.detach()[batch.mask], gradients))
    assert len(kernel_calls) == 2  # once a layer, and only in the fused model
    (logits, gradients), (fused_logits, fused_gradients) = found
    torch.testing.assert_close(fused_logits, logits, rtol=tolerance,
                               atol=tolerance * logits.abs().max().item())
    for mine, expected in zip(fused_gradients, gradients, strict=True):
        room = 10 * tolerance * max(1, expected.abs().max().item())
        torch.testing.assert_close(mine, expected, rtol=10 * tolerance, atol=room)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_under_plain_attention_all_derivatives_are_those_of_the_written_out_one(lengths, pair):
    """Gradients, forward mode, and second derivatives in both ways that there are."""
    batch, found = some_batch(lengths, 400), []
    for model in pair:
        theta, direction = parameters_of(model), some_direction(model)
        loss = loss_of_parameters(model, batch)
        with plain_attention():
            logits, moved = jvp(lambda parameters, model=model: logits_of(model, batch, parameters),
                                (theta,), (direction,))
            slope, bent = jvp(grad(loss), (theta,), (direction,))
            bent_backwards = twice_backwards(loss, theta, direction)
        found.append([logits[batch.mask], moved[batch.mask], *map(joined, (
            slope, bent, bent_backwards))])
    for fused, own in zip(*found):
        assert own.norm() > 0 and relative(fused, own) < SINGLE


def twice_backwards(loss, theta, direction):
    """The Hessian times a direction by reverse mode over reverse mode."""
    theta = {name: part.clone().requires_grad_() for name, part in theta.items()}
    first = torch.autograd.grad(loss(theta), list(theta.values()), create_graph=True)
    slope = sum((part * direction[name]).sum() for name, part in zip(theta, first))
    second = torch.autograd.grad(slope, list(theta.values()), materialize_grads=True)
    return dict(zip(theta, second))


@pytest.mark.parametrize("lengths", LENGTHS)
def test_in_double_precision_they_are_finite_differences(lengths, folder):
    """To far below what GPT-Neo's own code can do, which computes attention in float32."""
    model, batch, step = load_model(str(folder), "cpu")[0].double(), some_batch(lengths, 400), 1e-5
    theta, direction = parameters_of(model), some_direction(model)
    loss = loss_of_parameters(model, batch)

    def at(shift):
        return {name: part + shift * direction[name] for name, part in theta.items()}

    def difference(function):
        return (function(at(step)) - function(at(-step))) / (2 * step)

    with plain_attention():
        _, moved = jvp(lambda parameters: logits_of(model, batch, parameters), (theta,),
                       (direction,))
        slopes, bent = jvp(grad(loss), (theta,), (direction,))
        backwards = twice_backwards(loss, theta, direction)
        expected = difference(lambda parameters: joined(grad(loss)(parameters)))
    with torch.no_grad():
        assert relative(moved[batch.mask], difference(
            lambda parameters: logits_of(model, batch, parameters)[batch.mask])) < 1e-7
        slope = sum((slopes[name] * direction[name]).sum() for name in theta)
        assert slope.item() == pytest.approx(difference(loss).item(), rel=1e-7)
    assert relative(joined(bent), expected) < 1e-7
    assert relative(joined(backwards), joined(bent)) < 1e-12


def test_kernels_and_plain_attention_agree_in_double_precision(folder):
    """Without `plain_attention` the same gradients come from PyTorch's own kernels."""
    model = load_model(str(folder), "cpu")[0].double()
    for lengths in LENGTHS:
        loss, theta = loss_of_parameters(model, some_batch(lengths, 400)), parameters_of(model)
        with plain_attention():
            plain = joined(grad(loss)(theta))
        assert relative(joined(grad(loss)(theta)), plain) < 1e-12


@pytest.mark.parametrize("kind", [GaussNewton, Hessian])
def test_exact_curvature_of_a_loaded_model_is_that_of_its_own_attention(kind, pair):
    """Also vectorised over directions, as `product` does it."""
    ids = [[token % 400 for token in range(start, 400, step)][:length]
           for start, step, length in ((3, 7, 20), (1, 11, 9), (50, 3, 14))]
    products = []
    for model in pair:
        layers = find_layers(model)
        theta = flatten(weights(layers))
        generator = torch.Generator().manual_seed(2)
        v = torch.randn(3, len(theta), generator=generator)
        products.append(kind(model, layers, lambda: batches(ids, 2), 0.1).product(v))
    assert relative(*products) < 10 * SINGLE


# -- where the model's own way is taken ------------------------------------------------------------

def test_generation_with_a_cache_of_keys_writes_the_same(pair, kernel_calls):
    """Through the window, with one prompt and with two of different length, padded on the left."""
    long, short = random_ids(2, (12, 13))
    for prompts in ([long], [long, short[:5]]):
        rows = [[0] * (len(long) - len(ids)) + ids for ids in prompts]
        mask = [[0] * (len(long) - len(ids)) + [1] * len(ids) for ids in prompts]
        written = []
        for model in pair:
            kernel_calls.clear()
            made = model.generate(
                input_ids=torch.tensor(rows), attention_mask=torch.tensor(mask), do_sample=False,
                use_cache=True, max_new_tokens=25, min_new_tokens=25, pad_token_id=0,
                output_logits=True, return_dict_in_generate=True)
            written.append((made.sequences, torch.stack(made.logits)))
            fused = isinstance(attentions(model)[0], FusedAttention) and len(prompts) == 1
            assert len(kernel_calls) == 2 * fused  # only the prompt itself, nothing in it masked
        (fused, its_logits), (own, expected) = written
        assert torch.equal(fused, own) and fused.shape == (len(prompts), 12 + 25)
        assert relative(its_logits, expected) < SINGLE


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_that_is_masked_is_not_read(side, pair, kernel_calls):
    ids = random_ids(4, (5, 25), seed=7)
    longest, rows, mask, places = max(map(len, ids)), [], [], []
    for story in ids:
        blank = longest - len(story)
        before, after = (blank, 0) if side == "left" else (0, blank)
        rows.append([7] * before + story + [7] * after)
        mask.append([0] * before + [1] * len(story) + [0] * after)
        places.append([0] * before + list(range(len(story))) + [0] * after)
    given = {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask),
             "position_ids": torch.tensor(places), "use_cache": False}
    found = []
    for model in pair:
        with torch.no_grad():
            found.append(model(**given).logits[torch.tensor(mask).bool()])
    assert kernel_calls == []
    torch.testing.assert_close(*found)
    with torch.no_grad():
        alone = [pair[0](input_ids=torch.tensor([story]), use_cache=False).logits[0]
                 for story in ids]
    assert len(kernel_calls) == 2 * len(ids)
    assert relative(found[0], torch.cat(alone)) < SINGLE


def test_a_mask_that_masks_nothing_changes_nothing(pair, kernel_calls):
    ids = torch.tensor(random_ids(1, (20, 21)))
    with torch.no_grad():
        with_mask, without = (pair[0](input_ids=ids, attention_mask=mask, use_cache=False).logits
                              for mask in (torch.ones_like(ids), None))
    assert torch.equal(with_mask, without) and len(kernel_calls) == 4


def test_training_is_the_models_own_with_its_dropout(tmp_path, kernel_calls):
    folder = save_model(tmp_path / "dropping", attention_dropout=0.4)
    ids, found = torch.tensor(random_ids(2, (20, 21))), []
    for fused in (True, False):
        model = load_model(str(folder), "cpu", fused=fused)[0].train()
        torch.manual_seed(3)
        kernel_calls.clear()  # a model is tried out when it is loaded
        logits = model(input_ids=ids, use_cache=False).logits
        gradients = torch.autograd.grad(logits.logsumexp(-1).sum(), list(model.parameters()),
                                        materialize_grads=True)
        assert kernel_calls == []
        found.append([logits, *gradients])
    for mine, own in zip(*found, strict=True):
        torch.testing.assert_close(mine, own, rtol=1e-4, atol=1e-5)
    model.eval()
    assert not torch.equal(model(input_ids=ids, use_cache=False).logits, found[1][0])


# -- copies ----------------------------------------------------------------------------------------

def test_copies_keep_it_and_other_precisions_too(pair, kernel_calls):
    fused, own = pair
    batch = some_batch([30, 17, 8, 2], 400)
    expected = logits_of(own, batch).detach()[batch.mask]
    for made, room in ((copy.deepcopy(fused), SINGLE), (copy.deepcopy(fused).double(), SINGLE),
                       (copy.deepcopy(fused).bfloat16(), 0.1)):
        kernel_calls.clear()
        logits = logits_of(made, batch).detach()[batch.mask]
        assert logits.dtype == next(made.parameters()).dtype and len(kernel_calls) == 2
        assert relative(logits.double(), expected.double()) < room
        for mine, theirs in zip(attentions(made), attentions(fused), strict=True):
            assert mine is not theirs and type(mine) is FusedAttention
    with torch.no_grad():
        copied = copy.deepcopy(fused)
        copied.transformer.wte.weight.mul_(2)
    assert not torch.equal(copied.transformer.wte.weight, fused.transformer.wte.weight)


def test_a_saved_model_is_a_plain_one(pair, tmp_path):
    pair[0].save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert {type(module) for module in attentions(again)} == {GPTNeoSelfAttention}
    assert all(map(torch.equal, again.state_dict().values(), pair[1].state_dict().values()))


def test_half_precision_has_kernels_within_its_rounding():
    """bfloat16 against float64: no worse than GPT-Neo's own by a factor of two."""
    batch, exact = some_batch([30, 17]), tiny_model("gpt_neo")
    truth = logits_of(exact, batch).detach()[batch.mask]
    errors = []
    for fused in (True, False):
        model = tiny_model("gpt_neo", torch.bfloat16)
        if fused:
            fuse(model)
        errors.append(relative(logits_of(model, batch).detach()[batch.mask].double(), truth))
    assert errors[0] < 2 * errors[1]
