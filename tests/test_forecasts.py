"""What data/forecasts.py adds to the book for the record: a damping by weight, counts, the proximal
problem."""
import sys
from types import SimpleNamespace

import pytest
import torch
from builders import ROOT, relative
from transformers import GPT2Config, GPT2LMHeadModel

sys.path.insert(0, str(ROOT / "data"))
import forecasts  # noqa: E402

from helpers import exact, influence  # noqa: E402
from helpers.capture import find_layers  # noqa: E402
from helpers.curvature import EKFAC, Block  # noqa: E402
from helpers.stories import IGNORE, batches, padded  # noqa: E402

IDS = [[1, 5, 9, 7, 3, 2, 8], [4, 4, 6, 1, 7], [2, 9, 8, 7, 6, 5, 3, 1], [7, 1, 1, 2]]
MANY = 5 * IDS


def test_a_damping_by_weight_is_seen_in_the_eigenbasis_by_its_diagonal():
    draw = torch.Generator().manual_seed(0)
    q_a, q_s = (torch.linalg.qr(torch.randn(n, n, generator=draw).double())[0] for n in (4, 3))
    block = Block(q_a, q_s, torch.rand(3, 4, generator=draw).double())
    damping = torch.rand(3, 4, generator=draw)
    found = forecasts.path_damped({"w": block}, {"w": damping})["w"]
    basis = torch.kron(q_s, q_a)
    dense = basis.T @ torch.diag(damping.double().flatten()) @ basis
    assert torch.allclose(found.eigenvalues - block.eigenvalues, dense.diag().view(3, 4))


def test_answer_counts_are_a_derivative_of_log_frequency():
    questions = padded(IDS[:2], [0, 1])
    questions.labels[0, :4], questions.labels[1, :2] = IGNORE, IGNORE
    setting = SimpleNamespace(tokenizer=range(12), ids=IDS, questions=questions)
    found = forecasts.answer_counts(setting)

    def log_frequency(weights, labels):
        counts = torch.zeros(12, dtype=torch.float64)
        for weight, ids in zip(weights, IDS):
            for token in ids[1:]:
                counts[token] += weight
        return sum((counts[token] / counts.sum()).log() for token in labels if token != IGNORE)

    for row, labels in enumerate(questions.labels.tolist()):
        weights = torch.ones(len(IDS), dtype=torch.float64, requires_grad=True)
        slope, = torch.autograd.grad(log_frequency(weights, labels), weights)
        assert torch.allclose(found[row].double(), slope, atol=1e-6)


def test_the_strongest_terms_come_first_and_nothing_where_nothing_speaks(monkeypatch):
    monkeypatch.setattr(forecasts, "TOKEN_SHARE", 0.2)
    values = torch.zeros(1, 4, 8)
    values[0, 2, 5], values[0, 0, 1], values[0, 3, 6] = 2, 3, 9  # the last has no target
    found = forecasts.strongest(SimpleNamespace(ids=IDS), values)
    assert found.tolist() == [[1, 2 * 8 + 5, -1, -1]]


@pytest.fixture(scope="module")
def proximal():
    """The problem over twenty stories, in float64."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=12, n_positions=16, n_embd=8, n_layer=1, n_head=2,
                        bos_token_id=0, eos_token_id=0, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    model = GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():  # as small as it begins, the last normalisation would bend everything
        model.transformer.wpe.weight *= 40
    layers = find_layers(model)
    run = SimpleNamespace(model=model, layers=layers, corpus=SimpleNamespace(ids=MANY),
                          stream=lambda: batches(MANY, 8))
    blocks = EKFAC.fit(model, layers, lambda: batches(MANY, 8)).blocks
    return forecasts.Proximal(run, EKFAC(blocks, damping=0.1))


def test_the_proximal_gradient_is_that_of_what_is_minimised(proximal):
    run, start = proximal.run, proximal.start

    def value(theta):
        parameters = exact.as_parameters(exact.unflatten(theta, run.layers), run.layers)
        total = 0.05 * ((theta - start) ** 2).sum()
        for row, ids in enumerate(MANY):
            batch = padded([ids], [0])
            now, then = (influence.logits_of(run.model, batch, given)[0, :-1].log_softmax(-1)
                         for given in ({}, parameters))
            total = total + (now.exp() * (now - then)).sum() / len(MANY)
            if row == 2:
                total = total - then.gather(1, batch.labels[0, :-1, None]).sum() / len(MANY)
        return total

    theta = (start + 0.1 * torch.randn(len(start), dtype=start.dtype)).requires_grad_()
    found, gradient = proximal.value_and_gradient(theta, 2)
    slope, = torch.autograd.grad(value(theta), theta)
    assert abs(found - value(theta)) < 1e-9 and relative(gradient, slope) < 1e-9


def test_its_minimum_is_where_the_damped_inverse_points(proximal):
    """To first order, so with a small weight of the story: it is one of twenty."""
    run = proximal.run
    theta, left = proximal.minimum(2)
    g = exact.GaussNewton(run.model, run.layers, run.stream, proximal.curvature.damping)
    added = proximal.value_and_gradient(proximal.start, 2)[1]
    first, _ = exact.conjugate_gradients(g.damped_product, added, steps=200)
    assert left < 1e-4 and 1e-4 < relative(theta - proximal.start, -first) < 0.2
