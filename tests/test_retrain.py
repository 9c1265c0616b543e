"""Training as a function of the data's weights: torch's Adam, finite differences; BM25."""
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from importlib import import_module

import pytest
import torch
from builders import ROOT
from transformers import GPT2Config, GPT2LMHeadModel

from helpers import retrain, search
from helpers.stories import IGNORE, InputError, batches

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
    import copy
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


# -- words ----------------------------------------------------------------------------------------

def test_bm25_against_the_formula_word_by_word():
    texts = ["The cat sat.", "The dog sat on the cat", "A bird", "the the the end of the bird"]
    found = search.bm25_scores(["the cat", "bird bird"], texts, k1=1.5, b=0.75)
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


def small():
    setting = whole()
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
    print(json.dumps(recorder.run_jobs(listed, {}, kept, 1)))
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
