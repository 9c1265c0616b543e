"""Training as a function of the data's weights: torch's Adam, finite differences, dense matrices;
BM25."""
import copy
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from builders import ROOT, baselines, relative
from transformers import GPT2Config, GPT2LMHeadModel

from helpers import retrain
from helpers.capture import find_layers
from helpers.curvature import KFAC, Block
from helpers.stories import IGNORE, InputError, batches, padded

IDS = [[1, 5, 9, 7, 3, 2, 8], [4, 4, 6, 1, 7], [2, 9, 8, 7, 6, 5, 3, 1], [7, 1, 1, 2],
       [3, 8, 9, 9, 4, 2],
       [6, 5, 2, 8, 1]]
RECIPE = retrain.Recipe(epochs=3, batch_size=2, rate=1e-2, epsilon=1e-6)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=12, n_positions=16, n_embd=8, n_layer=2, n_head=2,
                        bos_token_id=0, eos_token_id=0,
                        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    return GPT2LMHeadModel(config).double().eval()


@pytest.fixture(scope="module")
def questions():
    batch, = batches([[1, 5, 9, 7], [4, 6, 1, 7]], 2)
    batch.labels[:, :2] = IGNORE
    return batch


def test_training_is_torchs_adam(model):
    """With a vanishing epsilon the place of epsilon does not matter."""
    other = copy.deepcopy(model)
    recipe = retrain.Recipe(epochs=2, batch_size=2, rate=1e-2, epsilon=1e-30)
    order = recipe.order(len(IDS), seed=4)
    optimizer = torch.optim.Adam(other.parameters(), lr=recipe.rate, betas=recipe.betas, eps=1e-15)
    mean_targets = sum(len(ids) - 1 for ids in IDS) / len(IDS)
    for step, rows in enumerate(order):
        warm, decayed = min(1, (step + 1) / (0.1 * len(order))), 1 - step / len(order)
        optimizer.param_groups[0]["lr"] = recipe.rate * warm * decayed
        optimizer.zero_grad()
        for row in rows:
            ids = torch.tensor([IDS[row]])
            logits = other(ids).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
            (loss / (recipe.batch_size * mean_targets)).backward()
        optimizer.step()
    ours = retrain.train(model, IDS, recipe, seed=4).theta
    theirs = torch.cat([parameter.detach().flatten() for parameter in other.parameters()])
    # a parameter whose gradient is pure rounding (the key bias) moves by its sign: no two programs
    # agree there
    assert ((ours - theirs).abs() > 1e-5).float().mean() < 0.02
    assert (ours - retrain.start(model).theta).abs().max() > 1e-2


def test_metagradient_against_finite_differences(model, questions):
    states = retrain.trajectory(model, IDS, RECIPE, 3)
    exact = retrain.metagradient(model, IDS, RECIPE, 3, states, questions)
    assert exact.shape == (2, 6, 8)

    def outcome(weights):
        return retrain.log_probs(model, questions,
                                 retrain.train(model, IDS, RECIPE, 3, weights).theta).detach()

    step, base = 1e-5, torch.ones(6, 8, dtype=torch.float64)
    for row, t in ((0, 2), (2, 6), (3, 0), (5, 3)):
        moved = torch.zeros_like(base)
        moved[row, t] = step
        slope = (outcome(base + moved) - outcome(base - moved)) / (2 * step)
        assert torch.allclose(exact[:, row, t], slope, rtol=1e-2,
                              atol=1e-4 * exact.abs().max().item())
    whole = torch.zeros(6, 1, dtype=torch.float64)
    whole[1] = step
    slope = (outcome(base + whole) - outcome(base - whole)) / (2 * step)
    assert torch.allclose(exact[:, 1].sum(-1), slope, rtol=1e-2,
                          atol=1e-4 * exact.abs().max().item())


def test_metagradient_is_zero_where_there_is_no_target(model, questions):
    states = retrain.trajectory(model, IDS, RECIPE, 3)
    exact = retrain.metagradient(model, IDS, RECIPE, 3, states, questions)
    for row, ids in enumerate(IDS):
        assert (exact[:, row, len(ids) - 1:] == 0).all()
        assert (exact[:, row, :len(ids) - 1] != 0).all()


def test_a_story_of_weight_0_is_a_story_that_is_not_there(model):
    """Also for the others in its batch: with weights by position every story is run."""
    weights = torch.tensor([1, 0, 1, 0, 1, 2], dtype=torch.float64)
    by_position = weights[:, None].repeat(1, 8)
    # not all 0: the story is run, but has no target there
    by_position[1, 7] = by_position[3, 7] = 1e-30
    one, other = (retrain.train(model, IDS, RECIPE, 1, w).theta for w in (weights, by_position))
    assert (one - other).abs().max() < 1e-6
    assert (one - retrain.train(model, IDS, RECIPE, 1).theta).abs().max() > 1e-3


def test_every_epoch_reads_every_story_once_and_seeds_differ():
    recipe = retrain.Recipe(epochs=3, batch_size=4)
    order = recipe.order(10, seed=2)
    assert [len(rows) for rows in order] == [4, 4, 2] * 3
    for epoch in range(3):
        assert sorted(sum(order[3 * epoch:3 * epoch + 3], [])) == list(range(10))
    assert order == recipe.order(10, seed=2) != recipe.order(10, seed=3)


def test_the_last_state_of_the_trajectory_is_what_training_gives(model):
    weights = torch.tensor([1, 0, 1, 0, 1, 2], dtype=torch.float64)
    states = retrain.trajectory(model, IDS, RECIPE, 1, weights)
    assert len(states) == 1 + len(RECIPE.order(len(IDS), 1))
    assert torch.equal(states[0].theta, retrain.start(model).theta)
    last = retrain.train(model, IDS, RECIPE, 1, weights)
    assert all(map(torch.equal, states[-1].parts(), last.parts()))


def test_training_that_goes_astray_says_so(model):
    with pytest.raises(InputError, match="lower the rate"):
        retrain.train(model, IDS, retrain.Recipe(epochs=2, batch_size=2, rate=1e200))


def test_the_model_keeps_its_parameters(model):
    before = retrain.start(model).theta.clone()
    retrain.train(model, IDS, RECIPE)
    assert torch.equal(before, retrain.start(model).theta)


# -- without unrolling ----------------------------------------------------------------------------

@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def somewhere(request):
    """A model, parameters θ that are not its own, and a copy of it that holds them."""
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=12, n_positions=16, n_embd=8, n_layer=2, n_head=2,
                        bos_token_id=0, eos_token_id=0, initializer_range=0.3,
                        tie_word_embeddings=request.param)
    model = GPT2LMHeadModel(config).double().eval()
    theta = retrain.start(model).theta
    theta = theta + 0.1 * torch.randn(theta.shape, dtype=theta.dtype)
    return model, theta, holding(copy.deepcopy(model), theta)


def holding(model, theta):
    torch.nn.utils.vector_to_parameters(theta, model.parameters())
    return model


def by_parameters(value, model):
    """The gradient of a number by every parameter of the model, `(P,)`."""
    parts = torch.autograd.grad(value, list(model.parameters()), retain_graph=True,
                                materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def terms(model, ids):
    """The loss terms of one story, without the helpers."""
    logits = model(torch.tensor([ids])).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")


def test_slopes_of_loss_terms_against_differences_and_a_backward_pass_each(somewhere):
    model, theta, other = somewhere
    ids, step = IDS + IDS[:3], 1e-5  # more than a batch
    asked = torch.stack([by_parameters(terms(other, [1, 5, 9, 7])[1:].sum(), other),
                         by_parameters(terms(other, [4, 6, 1, 7])[2], other)])
    directions = torch.cat([asked, torch.randn(1, len(theta), dtype=torch.float64)])
    slopes = retrain.term_slopes(model, ids, theta, directions)
    assert slopes.shape == (3, 9, 8) and slopes.dtype == torch.float64
    below, above = (holding(copy.deepcopy(other), theta + sign * step * directions[2])
                    for sign in (-1, 1))
    for row, story in enumerate(ids):
        last, losses = len(story) - 1, terms(other, story)
        assert (slopes[:, row, last:] == 0).all() and (slopes[:, row, :last] != 0).all()
        difference = (terms(above, story) - terms(below, story)).detach() / (2 * step)
        torch.testing.assert_close(slopes[2, row, :last], difference, rtol=1e-4, atol=1e-5)
        each = torch.stack([by_parameters(loss, other) for loss in losses])
        assert relative(slopes[:, row, :last], directions @ each.T) < 1e-8
        whole = directions @ by_parameters(losses.sum(), other)
        assert relative(slopes[:, row].sum(-1), whole) < 1e-8


def test_path_damping_is_one_over_the_time_that_adam_takes():
    """With √v̂ constant it is m √v̂ / Σ η: 1/(ηT) for gradient descent."""
    recipe, steps = retrain.Recipe(rate=0.02, epsilon=1e-30), 40
    roots = torch.rand(5, dtype=torch.float64) + 0.5
    states = [retrain.State(roots, roots, roots**2 * (1 - recipe.betas[1] ** k))
              for k in range(steps + 1)]
    rates = [0.02 * min(1, (k + 1) / 4) * (40 - k) / 40 for k in range(steps)]
    mean_targets = sum(len(story) - 1 for story in IDS) / len(IDS)
    for part in (slice(None), slice(10, 25), slice(30, None)):
        expected = mean_targets * roots / sum(rates[part])
        torch.testing.assert_close(retrain.path_damping(states, IDS, recipe, part), expected)


def test_a_training_of_few_steps_is_like_a_damping():
    """Under the loss ½ σ θ² + c θ training moves θ by −c (1 − e^{−σ/λ})/σ, damping by −c/(σ+λ).

    The first is never the smaller and at most 1.3 times the second; at both ends they agree.
    """
    sigma, steps = torch.logspace(-3, 3, 61, dtype=torch.float64), 4000
    # an epsilon that drowns the gradients makes Adam gradient descent
    recipe = retrain.Recipe(rate=10.0, betas=(0, 0.99), epsilon=1e8)
    nothing = torch.zeros_like(sigma)
    states, mean_targets = [retrain.State(nothing, nothing, nothing)], recipe.divisor(IDS) / 32
    for step in range(steps):
        gradient = (sigma * states[-1].theta + 1) / mean_targets
        states.append(retrain.adam(states[-1], gradient, step, steps, recipe))
    damping, moved = retrain.path_damping(states, IDS, recipe), -states[-1].theta
    assert sigma[0] < 0.01 * damping.min() and sigma[-1] > 100 * damping.max()
    ratio = moved * (sigma + damping)
    assert ratio.min() > 0.999 and 1.25 < ratio.max() < 1.31
    assert ratio[0] < 1.01 and ratio[-1] < 1.01
    exact = (1 - (-sigma / damping).exp()) / sigma
    torch.testing.assert_close(moved, exact, rtol=0.02, atol=0)


def test_places_of_layers_are_those_of_their_parameters(somewhere):
    """Values laid out as θ and read at the places are the layers' own weights, biases last."""
    model, theta, other = somewhere
    head = {"lm_head": other.lm_head}
    places = retrain.layer_places(other, find_layers(other, "all") | head)
    for name, layer in (find_layers(other, "all") | head).items():
        transposed = name != "lm_head"  # GPT-2's own layers hold (in, out)
        weight = layer.weight.T if transposed else layer.weight
        found = theta[places[name]]
        assert torch.equal(found[:, :weight.shape[1]], weight)
        if transposed:
            assert torch.equal(found[:, -1], layer.bias)
    tied = torch.equal(places["lm_head"], torch.arange(places["lm_head"].numel()).view_as(
        places["lm_head"]))
    assert tied == model.config.tie_word_embeddings  # the embedding comes first in θ


def test_one_segment_is_the_integral_of_a_decay():
    """∫ e^{−Gt} dt over the time 1/λ, from one exponential of a block matrix (Van Loan 1978)."""
    draw = torch.Generator().manual_seed(3)
    q_a, q_s = (torch.linalg.qr(torch.randn(n, n, generator=draw).double())[0] for n in (4, 3))
    eigenvalues = torch.rand(3, 4, generator=draw).double()
    eigenvalues[1, 2] = 0  # as of a unit that is always off
    curvature = KFAC({"w": Block(q_a, q_s, eigenvalues)}, damping=0.3)
    gradient = torch.randn(2, 3, 4, generator=draw).double()
    (found,) = baselines().segments([curvature], {"w": gradient})
    dense, eye = curvature.dense("w"), torch.eye(12).double()
    block = torch.cat([torch.cat([-dense, eye], 1), torch.zeros(12, 24).double()])
    integral = torch.matrix_exp(block / 0.3)[:12, 12:]
    assert relative(found["w"], (gradient.flatten(1) @ integral).view_as(gradient)) < 1e-8


def test_segments_against_the_derivative_through_a_training_in_three_parts():
    """Of matrices W under losses ½ |R (W a − y)|², each segment with data and an R of its own."""
    draw = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=draw, dtype=torch.float64)

    def slope(w, inputs, wanted, root):
        return root.T @ root @ (w @ inputs.T - wanted.T) @ inputs / len(inputs)

    parts, time = [(normal(20, 4) @ normal(4, 4), normal(20, 3), normal(3, 3))
                   for _ in range(3)], 0.03
    examples, asked = [(normal(1, 4), normal(1, 3)) for _ in range(12)], normal(3, 4)

    def trained(example=None, weight=0.0):
        w, means = torch.zeros(3, 4, dtype=torch.float64), []
        for (inputs, wanted, root), steps in zip(parts, (300, 200, 100)):
            seen = []
            for _ in range(steps):
                seen.append(w)
                extra = weight * slope(w, *example, root) if example else 0
                w = w - time / steps * (slope(w, inputs, wanted, root) + extra)
            means.append(sum(seen) / steps)
        return w, means

    exact = torch.stack([-((trained(example, 1e-4)[0] - trained(example, -1e-4)[0]) * asked).sum()
                         / 2e-4 for example in examples])
    curvatures, (_, means) = [], trained()
    for inputs, _, root in parts:
        values_a, q_a = torch.linalg.eigh(inputs.T @ inputs / len(inputs))
        values_s, q_s = torch.linalg.eigh(root.T @ root)
        outer = torch.outer(values_s, values_a).clamp(min=0)
        curvatures.append(KFAC({"w": Block(q_a, q_s, outer)}, damping=1 / time))

    def forecast(vectors):
        return torch.stack([sum((vector["w"] * slope(mean, *example, root)).sum()
                                for vector, mean, (_, _, root) in zip(vectors, means, parts))
                            for example in examples])

    assert relative(forecast(baselines().segments(curvatures, {"w": asked})), exact) < 0.03
    turned = baselines().segments(curvatures[::-1], {"w": asked})[::-1]
    assert relative(forecast(turned), exact) > 0.2  # the order of the segments matters


def test_loss_covariance_is_that_of_the_derivatives_through_training(model, questions):
    """With small changes of the weights, f and every loss change as their gradients say."""
    loss_covariance = baselines().loss_covariance
    recipe, draws, spread = replace(RECIPE, epsilon=1e-2), 10, 1e-3  # smooth
    found = loss_covariance(model, IDS, recipe, questions, draws, spread)
    again = loss_covariance(model, IDS, recipe, questions, draws, spread)
    assert torch.equal(found, again)
    states, whole = retrain.trajectory(model, IDS, recipe, 0), padded(IDS, list(range(len(IDS))))
    of_answers, of_losses = (retrain.metagradient(model, IDS, recipe, 0, states, batch).sum(-1)
                             for batch in (questions, whole))
    draw = torch.Generator().manual_seed(0)
    signs = torch.stack([torch.randint(2, (len(IDS),), generator=draw) * 2 - 1
                         for _ in range(draws)]).double()
    changes = spread * (signs - signs.mean(0))
    # `of_losses` are derivatives of log-probabilities: minus those of the losses
    expected = of_answers @ changes.T @ changes @ of_losses.T / (draws - 1)
    assert relative(found, expected) < 0.02
    wide = loss_covariance(model, IDS, recipe, questions, 40)
    for row, exact in zip(wide, of_answers):
        assert torch.corrcoef(torch.stack([row, exact]))[0, 1] > 0.6


# -- words ----------------------------------------------------------------------------------------

def test_bm25_against_the_formula_word_by_word():
    texts = ["The cat sat.", "The dog sat on the cat", "A bird", "the the the end of the bird"]
    found = baselines().bm25_scores(["the cat", "bird bird"], texts, k1=1.5, b=0.75)
    words = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
    mean = sum(sum(count.values()) for count in words) / len(texts)
    for query, asked in enumerate((["the", "cat"], ["bird"])):
        for row, count in enumerate(words):
            value = 0
            for word in asked:
                holding = sum(word in other for other in words)
                idf = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
                length = 0.25 + 0.75 * sum(count.values()) / mean
                value += idf * count[word] * 2.5 / (count[word] + 1.5 * length)
            assert found[query, row] == pytest.approx(value)


# -- the recorder ---------------------------------------------------------------------------------

LINE = '{"job": ["fine", 0, ["half", 1]], "outcome": [-1.5, -2.5]}'


def test_a_line_that_a_kill_cut_off_is_no_finished_job(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "data")
    recorder, path = import_module("record_retrainings"), tmp_path / "jobs.jsonl"
    assert recorder.done_already(path) == {}
    path.write_text(f"{LINE}\n{LINE.replace('1]', '2]')[:-9]}\n\n")
    assert recorder.done_already(path) == {'["fine", 0, ["half", 1]]': [-1.5, -2.5]}


RECORDER = """
import json, os, signal, sys, time
from pathlib import Path
sys.path.insert(0, "data")
import record_retrainings as recorder
kept, whole, half = Path(sys.argv[1]), recorder.Setting, sys.argv[2:]


def small(base):
    setting = whole(base)
    setting.ids = setting.ids[:12]
    return setting


def cut_off(job, work=recorder.work):
    while '"outcome"' not in kept.read_text() and job[2][1] > 0:
        time.sleep(0.05)
    if half and job[2][1] > 0:
        # all processes of this run, as soon as the first job's line is there
        os.killpg(os.getpgrp(), signal.SIGKILL)
    return work(job)


# a spawned worker would load all libraries once more
fork = recorder.multiprocessing.get_context("fork")
recorder.multiprocessing.get_context = lambda kind: fork
recorder.Setting, recorder.work = small, cut_off
if __name__ == "__main__":
    listed = [("fine", 0, ("half", s)) for s in range(3)]
    print(json.dumps(recorder.run_jobs("small", listed, {}, kept, 1)))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_recorded_retrainings_survive_kill_9(tmp_path):
    """Killed after its first line, with a half-written second one, the recorder goes on."""
    script, kept = tmp_path / "record.py", tmp_path / "jobs.jsonl"
    script.write_text(RECORDER)

    def record(*more):
        return subprocess.run([sys.executable, str(script), str(kept), *more], cwd=ROOT,
                              capture_output=True, text=True,
                              env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True,
                              timeout=300)

    assert record("killed").returncode == -signal.SIGKILL
    first = kept.read_text().strip()
    assert first.count("outcome") == 1
    kept.write_text(f"{first}\n{LINE[:-9]}")
    done = record()
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 3
    assert kept.read_text().count(first) == 1, "a finished job was run again"
    assert kept.read_text().count('"outcome"') == 3 + 1  # with the one that was cut off
