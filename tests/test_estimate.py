"""`--estimate`: time, memory and disk are told, nothing is computed, nothing written."""
import re
import time

import pytest
import torch
from builders import PROMPT, made_up, make_model, make_tokenizer, snapshot

from helpers.sources import track
from helpers.stories import Query, Story, tokenise
from helpers.terminal import Setting, fit, job
from helpers.terminal.answers import ask, exact_scores
from helpers.terminal.estimate import Live, estimate, pass_bytes


def setting_of(count, **changes):
    model, tokenizer = make_model(initializer_range=0.3, **changes), make_tokenizer()
    stories = [Story(str(n), text) for n, text in enumerate(made_up(count))]
    corpus = tokenise(stories, tokenizer, 64)
    return Setting(model, tokenizer, track(model).layers, corpus, quiet=True)


@pytest.fixture
def never(monkeypatch):
    """Nothing of the job itself may run."""
    def called(*_, **__):
        raise AssertionError("the job was begun")
    for step in ("fit", "ask", "exact_scores", "exact_token_scores", "open_index", "told",
                 "explain_indexed", "write"):
        monkeypatch.setattr(job, step, called)


@pytest.mark.parametrize("more, words", [
    ([], "fit scores factors"), (["--index", "{here}/index"], "fit index factors"),
    (["--method", "identity"], "scores"), (["--method", "kfac", "--prefilter", 5], "fit scores"),
    (["--all-scores", "{here}/a.safetensors", "--contexts", 2, "--against", " sea"], "scores")])
def test_it_prints_ends_well_and_writes_nothing(more, words, house, cli, tmp_path, never):
    before = snapshot(house, tmp_path)
    more = [str(word).format(here=tmp_path) for word in more]
    code, out, err = cli(PROMPT, "--completion", " fox", "--estimate", *more, "--json",
                         tmp_path / "a.json", "--cache", tmp_path / "cache")
    assert code == 0 and "error" not in err and snapshot(house, tmp_path) == before
    first, *lines = out.strip().split("\n")
    assert "24 stories" in first and "1 query" in first and "nothing cached" in first
    assert [line.split()[0] for line in lines] == ["time", "memory", "disk"]
    assert all(word in out for word in words.split()) and len(out) < 800
    assert re.search(r"time +\d+(\.\d)? s  = ", out) and re.search(r"memory +[\d.]+ [MG]B  = ", out)


def test_what_cannot_be_run_is_refused_as_without_it(house, refused):
    assert "goes neither with" in refused("--estimate", "--index", "i", "--prefilter", 3)


def test_only_a_sample_of_the_stories_is_run():
    setting, seen = setting_of(400), set()
    setting.model.register_forward_pre_hook(
        lambda _, __, given: seen.update(map(tuple, given["input_ids"].tolist())),
        with_kwargs=True)
    estimate(setting)
    assert 2 <= len(seen) < 60


def test_more_of_anything_takes_more():
    small, large = setting_of(100), setting_of(800)
    few, many = (estimate(setting, fit_limit=10**6) for setting in (small, large))
    for step in ("fit", "scores"):
        assert 3 < many.seconds[step] / few.seconds[step] < 20, step
    assert many.disk == few.disk and few.disk["factors"] > 0
    capped = estimate(large, fit_limit=100)
    assert capped.seconds["fit"] < many.seconds["fit"]
    asked = estimate(small, queries=500)
    assert sum(asked.memory.values()) > sum(few.memory.values())
    indexed = [estimate(setting, index=True) for setting in (small, large)]
    assert indexed[1].disk["index"] - indexed[0].disk["index"] == pytest.approx(
        700 * (sum(p.numel() for layer in small.layers.values() for p in layer.parameters()) // 2
               + 12), rel=0.01)


def test_it_is_right_within_a_factor_of_three():
    setting = setting_of(600, hidden_size=64)
    guess, times = estimate(setting), []
    for _ in range(2):  # the first is slower; whatever else this machine does is in both
        start = time.perf_counter()
        curvature = fit(setting)
        fitted = time.perf_counter()
        asked = ask(setting, [Query(PROMPT, " fox")], curvature)
        exact_scores(setting, asked)
        times.append((fitted - start, time.perf_counter() - fitted))
    fitting, scoring = map(min, zip(*times))
    assert fitting / 3 < guess.seconds["fit"] < fitting * 3
    assert scoring / 3 < guess.seconds["scores"] + guess.seconds["questions"] < scoring * 3
    assert str(guess).count("\n") == 3


def test_live_bytes_are_those_of_the_tensors_that_live_at_once():
    weight = torch.nn.Linear(1000, 1000, bias=False)
    with Live(weight) as live, torch.no_grad():
        x = torch.ones(250, 1000)
        weight.weight.T.sum()  # the model's own memory is no new one
        for _ in range(3):
            y = weight(x)
            y = y.view(-1)
    assert live.peak == pytest.approx(3e6, rel=0.01)  # x, and y beside the y before it
    assert live.now == pytest.approx(2e6, rel=0.01)
    del x, y


def test_memory_grows_with_the_batch(monkeypatch):
    setting = setting_of(40)
    setting.batch_size = 4
    small, rows = pass_bytes(setting)
    setting.batch_size = 16
    large, more = pass_bytes(setting)
    assert (rows, more) == (4, 16) and 3 < large / small < 4.5
