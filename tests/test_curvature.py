"""Curvature against matrices built by autograd alone: exact blocks, loops, dense solves."""
import hashlib
from functools import partial

import pytest
import torch
from builders import (ROUNDING, VOCABULARY, autograd_gradient, language_model_fisher, random_ids,
                      relative, softmax_hessian, tiny_model)
from torch import nn
from transformers import AutoModelForCausalLM

from helpers.capture import Capture, find_layers, shape
from helpers.curvature import (EKFAC, KFAC, Identity, corrected, covariances, pseudo_gradients,
                               sampled_labels, second_moments)
from helpers.stories import Batch, InputError, batches
from helpers.terminal.kept import cache_key, load_blocks, model_key, save_blocks


def one_token_batch(inputs, targets, index):
    """A batch of plain vectors: one token each."""
    return Batch(index, inputs, torch.ones(len(inputs), 1, dtype=torch.bool), targets)


def given_output_gradient(model, layers, batch, seed, number):
    """Back-propagates the output gradient stored in `labels`: expectations can be enumerated."""
    with Capture(layers) as captured:
        model(batch.input_ids).backward(batch.labels)
    return captured


def enumerated(model, inputs, hessian_root):
    """Every (datum, column of a root of the output Hessian) as a sequence: an exact mean."""
    data, gradients = [], []
    for x in inputs:
        columns = hessian_root(model(x[None])[0].detach()).T
        data += [x] * len(columns)
        gradients += [column * len(columns) ** 0.5 for column in columns]
    return [one_token_batch(torch.stack(data), torch.stack(gradients), list(range(len(data))))]


def gauss_newton(model, layer, inputs, output_hessian):
    """(1/N) Σ Jᵀ H J of one layer by autograd on its weights, `(out·(in+1), out·(in+1))`."""
    total = 0
    for x in inputs:
        output = model(x[None])[0]
        jacobian = torch.stack([autograd_gradient(layer, one).flatten() for one in output])
        total = total + jacobian.T @ output_hessian(output.detach()) @ jacobian
    return total / len(inputs)


def softmax_root(logits):
    """Columns √p_y (p − e_y): their outer products sum to the Hessian of the cross-entropy."""
    p = logits.softmax(-1)
    return (p[:, None] - torch.eye(len(p), dtype=p.dtype)) * p.sqrt()


@pytest.mark.parametrize("method", [KFAC, EKFAC])
def test_one_datum_gives_the_exact_block(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)).double()
    inputs, layers = torch.randn(1, 4, dtype=torch.float64), find_layers(model)
    stream = partial(enumerated, model, inputs, softmax_root)
    matrix = method.fit(model, layers, stream, pseudo=given_output_gradient)
    for name, layer in layers.items():
        assert relative(matrix.dense(name),
                        gauss_newton(model, layer, inputs, softmax_hessian)) < 1e-9


@pytest.mark.parametrize("method", [KFAC, EKFAC])
def test_deep_linear_network_with_squared_loss_gives_the_exact_block(method):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 4), nn.Linear(4, 3)).double()
    inputs, layers = torch.randn(7, 4, dtype=torch.float64), find_layers(model)
    eye = torch.eye(3, dtype=torch.float64)
    stream = partial(enumerated, model, inputs, lambda output: eye)
    matrix = method.fit(model, layers, stream, pseudo=given_output_gradient)
    for name, layer in layers.items():
        assert relative(matrix.dense(name),
                        gauss_newton(model, layer, inputs, lambda output: eye)) < 1e-9


def test_ekfac_is_closer_than_kfac_to_the_exact_fisher_of_a_nonlinear_network():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(),
                          nn.Linear(5, 3)).double()
    inputs, layers = 2 * torch.randn(20, 4, dtype=torch.float64), find_layers(model)
    stream = partial(enumerated, model, inputs, softmax_root)
    matrices = [method.fit(model, layers, stream, pseudo=given_output_gradient)
                for method in (KFAC, EKFAC)]
    for name, layer in layers.items():
        exact = gauss_newton(model, layer, inputs, softmax_hessian)
        kfac, ekfac = (relative(matrix.dense(name), exact) for matrix in matrices)
        assert ekfac < kfac < 1
        # EK-FAC has the best diagonal in this basis: its error is what is off the diagonal
        block = matrices[1].blocks[name]
        basis = torch.kron(block.q_s, block.q_a)
        rotated = basis.T @ exact @ basis
        assert ekfac == pytest.approx(relative(torch.diag(rotated.diagonal()), rotated), rel=1e-6)


def repeated(ids, times):
    """The same sequences again and again under new row numbers, so that new labels are drawn."""
    return lambda: batches(ids * times, 64)


@pytest.mark.slow
def test_sampled_labels_converge_to_the_exact_fisher_and_data_labels_do_not():
    model, ids = tiny_model("gpt_neo"), random_ids(4, (4, 7))
    name = "transformer.h.1.mlp.c_proj"
    layers = {name: find_layers(model)[name]}
    exact = language_model_fisher(model, layers[name], ids)
    kfac = KFAC.fit(model, layers, repeated(ids, 1200))
    block = kfac.blocks[name]
    basis = torch.kron(block.q_s, block.q_a)
    target = torch.einsum("ij,ik,kj->j", basis, exact, basis).reshape(block.eigenvalues.shape)

    def error(times, labels="sampled"):
        pseudo = partial(pseudo_gradients, labels=labels)
        stream = repeated(ids, times)()
        sums = second_moments(model, layers, stream, kfac.blocks, pseudo, seed=5)
        found = corrected(kfac.blocks, sums)
        return relative(found[name].eigenvalues, target)

    assert error(1200) < 0.06
    assert error(1200) < 0.5 * error(50)
    assert error(1200, labels="data") > 0.3
    ekfac = EKFAC.fit(model, layers, repeated(ids, 1200))
    assert relative(ekfac.dense(name), exact) < relative(kfac.dense(name), exact)


def test_sampled_labels_follow_the_model_and_leave_padding_alone():
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(1, 20_000, 3)
    labels = torch.zeros(1, 20_000, dtype=torch.long)
    labels[:, 15_000:] = -100
    batch = Batch([7], labels, labels >= 0, labels)
    drawn = sampled_labels(logits, batch, seed=0)
    assert (drawn[:, 15_000:] == -100).all()
    shares = torch.bincount(drawn[0, :15_000], minlength=3) / 15_000
    assert (shares - logits[0, 0].softmax(0)).abs().max() < 0.015
    assert (sampled_labels(logits, batch, seed=1) != drawn).any()
    assert torch.equal(sampled_labels(logits, batch, seed=0), drawn)


def test_eigenvalue_correction_equals_a_loop_over_sequences(family):
    model, ids = tiny_model(family), random_ids(7)
    layers, pseudo = find_layers(model), partial(pseudo_gradients, labels="data")
    blocks = EKFAC.fit(model, layers, lambda: batches(ids, 3), pseudo=pseudo).blocks
    for name, layer in layers.items():
        total = 0
        for sequence in ids:
            logits = model(input_ids=torch.tensor([sequence])).logits[0, :-1]
            loss = -logits.log_softmax(-1).gather(1, torch.tensor(sequence[1:])[:, None]).sum()
            total = total + (blocks[name].q_s.T
                             @ autograd_gradient(layer, loss) @ blocks[name].q_a) ** 2
        expected = total / len(ids)
        torch.testing.assert_close(blocks[name].eigenvalues, expected, rtol=100 * ROUNDING[family],
                                   atol=100 * ROUNDING[family] * expected.max().item())


def test_covariances_equal_a_loop_over_tokens():
    model, ids = tiny_model("llama"), random_ids(6)
    layers, pseudo = find_layers(model), partial(pseudo_gradients, labels="data")
    sums = covariances(model, layers, batches(ids, 4), pseudo)
    assert sums["tokens"] == sum(map(len, ids)) and sums["sequences"] == len(ids)
    assert {part.dtype for part in sums.values()} == {torch.float64}
    totals = {name: [0, 0] for name in layers}
    for sequence in ids:
        (batch,) = batches([sequence], 1)
        for name, record in pseudo(model, layers, batch).items():
            for t in range(len(sequence)):
                totals[name][0] += torch.outer(record.inputs[0, t], record.inputs[0, t])
                totals[name][1] += torch.outer(record.output_grads[0, t], record.output_grads[0, t])
    for name in layers:
        for side, expected in zip("AS", totals[name], strict=True):
            assert relative(sums[f"{side}/{name}"], expected) < 100 * ROUNDING["llama"]


def test_kfac_counts_means_over_tokens_and_sequences(family):
    """A ⊗ S of one token, times tokens per sequence: the loop above makes the sums it divides."""
    model, ids = tiny_model(family), random_ids(6)
    layers, tokens = find_layers(model), sum(map(len, ids))
    sums = covariances(model, layers, batches(ids, 4))
    kfac = KFAC.fit(model, layers, lambda: batches(ids, 4))
    for name in layers:
        expected = torch.kron(sums[f"S/{name}"], sums[f"A/{name}"]) / tokens / len(ids)
        assert relative(kfac.dense(name), expected) < 1e-9


def test_one_damping_a_layer_is_taken_as_it_is():
    model, ids = tiny_model("gpt2"), random_ids(4)
    layers = find_layers(model)
    blocks = KFAC.fit(model, layers, lambda: batches(ids, 4)).blocks
    wanted = {name: 0.1 * (place + 1) for place, name in enumerate(layers)}
    assert KFAC(blocks, wanted).damping == wanted


def test_batch_composition_and_padding_change_nothing(family):
    model, ids = tiny_model(family), random_ids(9)
    layers = find_layers(model)
    alone, together = (EKFAC.fit(model, layers, partial(batches, ids, size)) for size in (1, 9))
    v = {name: torch.randn(2, *shape(layer), dtype=torch.float64) for name, layer in layers.items()}
    for name in layers:
        assert relative(alone.solve(v)[name], together.solve(v)[name]) < 100 * ROUNDING[family]


@pytest.mark.parametrize("method", [KFAC, EKFAC])
@pytest.mark.parametrize("damping", [None, 0.3])
def test_solve_and_matvec_equal_dense_algebra(method, damping):
    model, ids = tiny_model("gpt2"), random_ids(12)
    layers = find_layers(model)
    matrix = method.fit(model, layers, lambda: batches(ids, 4), damping)
    v = {name: torch.randn(3, *shape(layer), dtype=torch.float64) for name, layer in layers.items()}
    solved, back = matrix.solve(v), matrix.matvec(matrix.solve(v))
    for name in layers:
        identity = torch.eye(v[name][0].numel(), dtype=torch.float64)
        damped = matrix.dense(name) + matrix.damping[name] * identity
        expected = torch.linalg.solve(damped, v[name].flatten(1).T).T.reshape(v[name].shape)
        assert relative(solved[name], expected) < 1e-6 and relative(back[name], v[name]) < 1e-6
        squares = (v[name] * expected).flatten(1).sum(1)
        torch.testing.assert_close(matrix.norms(name, v[name]), squares, rtol=1e-6, atol=0)
        if damping is None:
            assert matrix.damping[name] == pytest.approx(
                0.1 * torch.diag(matrix.dense(name)).mean().item())


@pytest.mark.parametrize("method", [KFAC, EKFAC])
def test_functions_of_the_eigenvalues_are_functions_of_the_dense_matrix(method):
    model, ids = tiny_model("gpt2"), random_ids(6)
    layers = find_layers(model, "h.0.*c_proj")  # the attention's and the MLP's
    matrix = method.fit(model, layers, lambda: batches(ids, 4), damping=1.5)
    v = {name: torch.randn(2, *shape(layer), dtype=torch.float64) for name, layer in layers.items()}
    cubed = matrix.spectral(v, lambda values, damping: (values + damping) ** 3)
    faded = matrix.spectral(v, lambda values, damping: torch.exp(-values / damping))
    assert list(cubed) == list(faded) == list(layers)
    for name in layers:
        dense = matrix.dense(name)
        damped = dense + 1.5 * torch.eye(len(dense), dtype=torch.float64)
        for found, whole in ((cubed, torch.linalg.matrix_power(damped, 3)),
                             (faded, torch.matrix_exp(-dense / 1.5))):
            expected = (v[name].flatten(1) @ whole).view_as(v[name])
            assert relative(found[name], expected) < 1e-8


def test_identity_is_the_plain_gradient():
    layers = find_layers(tiny_model("gpt2"))
    v = {name: torch.randn(2, *shape(layer)) for name, layer in layers.items()}
    matrix = Identity(layers)
    assert all(torch.equal(matrix.solve(v)[name], v[name]) for name in layers)
    assert set(matrix.damping.values()) == {0.0}


def test_zero_damping_on_a_singular_block_and_nan_factors_are_refused():
    model = tiny_model("gpt2")
    blocks = KFAC.fit(model, find_layers(model), lambda: batches(random_ids(1), 1)).blocks
    with pytest.raises(InputError, match="damping above zero"):
        KFAC(blocks, 0.0)
    next(iter(blocks.values())).eigenvalues[0, 0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        KFAC(blocks)


def test_a_layer_that_no_token_reached_gets_the_mean_damping_of_all():
    """As an expert that none of the fitted stories was sent to."""
    model = tiny_model("gpt2")
    blocks = EKFAC.fit(model, find_layers(model), lambda: batches(random_ids(4), 2)).blocks
    silent = next(iter(blocks))
    blocks[silent].eigenvalues.zero_()
    matrix = EKFAC(blocks)
    means = [block.eigenvalues.mean().item() for block in blocks.values()]
    assert matrix.damping[silent] == pytest.approx(0.1 * sum(means) / len(means))
    v = torch.ones_like(blocks[silent].eigenvalues)
    assert torch.allclose(matrix.solve({silent: v})[silent], v / matrix.damping[silent])
    with pytest.raises(InputError, match="damping above zero"):
        EKFAC({silent: blocks[silent]})  # nothing to go by


def test_cache_round_trip_damage_and_key(tmp_path):
    model, ids = tiny_model("gpt_neo", torch.float32), random_ids(5)
    layers = find_layers(model)
    blocks = EKFAC.fit(model, layers, lambda: batches(ids, 4)).blocks
    path = tmp_path / "deep" / "factors.safetensors"
    assert load_blocks(path) is None
    save_blocks(blocks, path)
    stored = load_blocks(path)
    assert list(stored) == sorted(blocks) and [p.name for p in path.parent.iterdir()] == [path.name]
    for name in blocks:
        assert all(torch.equal(getattr(stored[name], part), value)
                   for part, value in vars(blocks[name]).items())
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    for damaged in (bytes(flipped), whole[: len(whole) // 2], b"", b"not a cache"):
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match="damaged"):
            assert load_blocks(path) is None
    key = cache_key(model, layers, ids, method="ekfac", seed=0)
    assert key == cache_key(model, layers, ids, method="ekfac", seed=0)
    assert key != cache_key(model, layers, ids[:-1], method="ekfac", seed=0)
    assert key != cache_key(model, layers, ids, method="ekfac", seed=1)
    with torch.no_grad():
        model.transformer.wte.weight[0, 0] += 1e-3
    assert key != cache_key(model, layers, ids, method="ekfac", seed=0)


@pytest.mark.parametrize("kind, setting, value", [
    ("gpt_neo", "activation_function", "relu"), ("gpt_neo", "window_size", 4),
    ("gpt2", "layer_norm_epsilon", 0.1),
    ("llama", "rope_parameters", {"rope_theta": 99.0, "rope_type": "default"})])
def test_the_same_weights_under_another_config_are_another_model(tmp_path, kind, setting, value):
    model = tiny_model(kind, torch.float32)
    keys = {model_key(model)}
    # loaded from another place, in another way: the same model
    for folder, attention in (("a", "eager"), ("b", None)):
        model.save_pretrained(tmp_path / folder)
        keys.add(model_key(AutoModelForCausalLM.from_pretrained(tmp_path / folder,
                                                                attn_implementation=attention)))
    assert len(keys) == 1
    setattr(model.config, setting, value)
    assert model_key(model) not in keys


@pytest.mark.parametrize("number, stream", [(0, "7/{row}"), (1, "7, second/{row}"),
                                            (2, "7, pass 2/{row}"), (3, "7, pass 3/{row}")])
def test_labels_come_from_the_streams_that_recorded_numbers_came_from(number, stream):
    (batch,) = batches(random_ids(3), 3)
    batch.index = [4, 0, 11]
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(*batch.labels.shape, VOCABULARY, generator=generator)
    drawn = sampled_labels(logits, batch, 7, number)
    for place, row in enumerate(batch.index):
        name = hashlib.blake2b(stream.format(row=row).encode(), digest_size=7)
        generator = torch.Generator().manual_seed(int.from_bytes(name.digest(), "big"))
        uniform = torch.rand(batch.labels.shape[1], generator=generator)
        for t, label in enumerate(batch.labels[place].tolist()):
            below = logits[place, t].softmax(-1).cumsum(-1) < uniform[t]
            assert drawn[place, t] == (below.sum() if label >= 0 else -100)


def test_labels_are_the_same_whatever_the_default_precision(monkeypatch):
    (batch,) = batches(random_ids(3), 3)
    logits = torch.randn(*batch.labels.shape, VOCABULARY,
                         generator=torch.Generator().manual_seed(5), dtype=torch.float32)
    labels = sampled_labels(logits, batch, 7)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert sampled_labels(logits, batch, 7).equal(labels)
    finally:
        torch.set_default_dtype(before)


def test_a_model_with_scalars_has_a_key():
    model, other = tiny_model("gpt2"), tiny_model("gpt2")
    keys = {model_key(model)}
    for value in (1.0, 2.0):
        model.register_buffer("scale", torch.tensor(value))
        keys.add(model_key(model))
    assert len(keys) == 3 and model_key(other) in keys
