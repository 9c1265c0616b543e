"""What `python -m helpers` keeps on disk: factors, an index; used, damaged, killed, shared."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import filelock
import pytest
import torch
from helpers import curvature
from helpers.sources.files import save_tensors
from helpers.terminal import kept
from safetensors.torch import load_file

from builders import (PROMPT, ROOT, close, command, jsonl, made_up, make_tokenizer, visible)

ASK = (PROMPT, "--completion", " fox")


def flipped(content):
    """The same bytes with one bit changed near the end."""
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


# -- the cache ------------------------------------------------------------------------------------

def test_cache_is_used_checked_and_repaired(cli, tmp_path):
    from transformers import AutoModelForCausalLM, LlamaConfig
    # the names of a Llama's layers are not in alphabetical order, those in a file are
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                         intermediate_size=24,
                         vocab_size=400, max_position_embeddings=64, initializer_range=0.3)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "llama")
    make_tokenizer().save_pretrained(tmp_path / "llama")
    cache = tmp_path / "deep" / "cache"

    def run(*arguments):
        code, _, err = cli(*ASK, "--model", tmp_path / "llama", "--cache", cache, "--json",
                           tmp_path / "a.json",
                           *arguments)
        assert code == 0, err
        return (tmp_path / "a.json").read_bytes(), err

    fresh, err = run()
    (file,) = visible(cache)
    assert "fitting" in err and run("--cache", "none")[0] == fresh
    again, err = run()
    assert again == fresh and "fitting" not in err
    whole = file.read_bytes()
    file.write_bytes(flipped(whole))
    again, err = run()
    assert again == fresh and file.read_bytes() == whole
    assert "note: the cached factors" in err and "fitting A" in err
    for change in (["--seed", 5], ["--limit", 9], ["--method", "kfac"], ["--scope", "gate_proj"],
                   ["--max-tokens", 9]):
        assert "fitting" in run(*change)[1], change
    assert "fitting" not in run()[1] and len(visible(cache)) == 6


def test_leftovers_are_harmless_and_old_ones_go(cli, tmp_path):
    for name in ("old", "new"):
        (tmp_path / f".tokenwise-{name}.partial").mkdir()
        (tmp_path / f".tokenwise-{name}.partial" / "ekfac.safetensors").write_bytes(b"half a fi")
    os.utime(tmp_path / ".tokenwise-old.partial", (time.time() - 7200,) * 2)
    assert cli(*ASK, "--cache", tmp_path)[0] == 0
    names = sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock")
    assert len(names) == 2 and names[0] == ".tokenwise-new.partial"
    assert names[1].endswith(".safetensors")


def test_what_is_kept_is_bounded_oldest_first_and_said(tmp_path, monkeypatch, capsys):
    ours = {"newest": f"ekfac-{'1' * 24}", "old": f"kfac-{'2' * 24}",
            "older": f"diagonal-{'3' * 24}",
            "oldest": f"ekfac-{'4' * 24}"}
    ours = {name: tmp_path / f"{stem}.safetensors" for name, stem in ours.items()}
    for n, path in enumerate(ours.values()):
        path.write_bytes(bytes(400_000))
        os.utime(path, (time.time() - 1000 * n,) * 2)
    foreign = ["notes.txt", "model.safetensors", "ekfac-mine.safetensors",
               f"my-ekfac-{'5' * 24}.safetensors"]
    foreign = [tmp_path / name for name in foreign]
    for path in foreign:  # neither counted nor removed
        path.write_bytes(bytes(3_000_000))
        os.utime(path, (0, 0))

    def left():
        return {name for name, path in ours.items() if path.exists()}

    def bounded(room, newest):
        monkeypatch.setattr(kept, "ROOM", room)
        kept.bound(tmp_path, ours[newest])
        return capsys.readouterr().err

    said = bounded(4 * 400_000, "newest")
    assert left() == set(ours)
    assert all(fact in said for fact in (str(tmp_path), "4 files", "2 MB", "at most 2",
                                         "delete the folder"))
    kept.touch(ours["oldest"])  # used now
    bounded(4 * 400_000 - 1, "newest")
    assert left() == {"newest", "old", "oldest"}
    said = bounded(1, "old")
    # what was just made stays, whatever its age and size
    assert "1 files, 0 MB" in said and left() == {"old"}
    assert all(path.exists() for path in foreign)


def test_the_bound_holds_for_the_command_line_and_a_use_keeps_factors_young(cli, tmp_path,
                                                                            monkeypatch):
    def run(seed):
        code, _, err = cli(*ASK, "--cache", tmp_path, "--seed", seed)
        assert code == 0, err
        return err

    first = run(1)
    (one,) = visible(tmp_path)
    size = one.stat().st_size
    assert f"kept in {tmp_path}: 1 files" in first and "delete the folder" in first
    run(2)
    (two,) = set(visible(tmp_path)) - {one}
    for path, age in ((one, 2000), (two, 1000)):
        os.utime(path, (time.time() - age,) * 2)
    assert "kept in" not in run(1)  # read, so the younger of the two
    monkeypatch.setattr(kept, "ROOM", int(2.5 * size))
    assert "2 files" in run(3) and one.exists() and not two.exists()


def test_files_that_another_run_removes_meanwhile_stop_nobody(tmp_path, monkeypatch):
    real, gone = Path.glob, f"ekfac-{'0' * 24}"

    def with_one_that_is_gone(self, pattern):
        return [self / pattern.replace("*", gone), *real(self, pattern)]

    monkeypatch.setattr(Path, "glob", with_one_that_is_gone)
    path = tmp_path / f"kfac-{'1' * 24}.safetensors"
    save_tensors({"x": torch.zeros(3)}, path)
    kept.bound(tmp_path, path)
    assert path.exists()


def test_a_cache_that_cannot_be_had_costs_what_is_kept_not_the_run(cli, on_small_disk, tmp_path):
    """A name too long to be read, a full disk, a file where the folder should be."""
    code, out, err = cli(*ASK, "--cache", tmp_path / ("x" * 300))
    assert code == 0 and out and "note: the factors were not cached" in err
    code, out, err = on_small_disk(*ASK, "--cache", tmp_path / "cache")
    assert code == 0 and out and "note: the factors were not cached" in err
    assert visible(tmp_path / "cache") == []
    (tmp_path / "file").write_text("x")
    code, _, err = on_small_disk(*ASK, "--cache", tmp_path / "file" / "cache")
    assert code == 0 and "note: the factors were not cached" in err


def changed(room, monkeypatch):
    """From now on the code of one room is another."""
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes",
                        lambda self: real(self) + b"#" * (self == ROOT / "helpers" / room))


@pytest.mark.parametrize("room", ["stories.py", "capture.py", "curvature.py",
                                  "sources/attention.py", "terminal/processes.py"])
def test_factors_of_other_code_have_another_name(room, monkeypatch):
    before = kept.code_version()
    assert before == kept.code_version() != kept.code_version(kept.INDEXING)
    changed(room, monkeypatch)
    assert kept.code_version() != before


def test_other_code_fits_anew(cli, tmp_path, monkeypatch):
    ask = (*ASK, "--cache", tmp_path, "--method", "kfac")
    assert "fitting" in cli(*ask)[2] and "fitting" not in cli(*ask)[2]
    changed("capture.py", monkeypatch)
    assert "fitting" in cli(*ask)[2] and len(visible(tmp_path)) == 2


# -- locks ----------------------------------------------------------------------------------------

def test_a_folder_where_no_lock_can_be_made_stops_nobody(tmp_path):
    if os.name != "posix":
        pytest.skip("permissions of POSIX")
    root, mine, seen = Path(tempfile.mkdtemp()), os.geteuid(), []
    root.chmod(0o555)
    try:
        if mine == 0:
            os.seteuid(65534)  # permissions do not hold root back
        for folder in (root, root / "deeper"):
            with kept.lock(folder / "x.safetensors"):
                seen.append(folder)
    finally:
        os.seteuid(mine)
        root.chmod(0o755)
        names = list(root.iterdir())
        root.rmdir()
    assert seen == [root, root / "deeper"] and names == []
    (tmp_path / "file").write_text("x")
    # an error of the block is its own
    with kept.lock(tmp_path / "file" / "x"), pytest.raises(ZeroDivisionError):
        raise ZeroDivisionError


def test_a_lock_is_free_again_after_the_block_and_after_an_error(tmp_path):
    path, other = tmp_path / "x.safetensors", filelock.FileLock(tmp_path / ".x.safetensors.lock")
    with kept.lock(path), pytest.raises(filelock.Timeout):
        other.acquire(timeout=0.1)
    with pytest.raises(ZeroDivisionError), kept.lock(path):
        raise ZeroDivisionError
    with other.acquire(timeout=0.1):
        pass


# -- interrupted ----------------------------------------------------------------------------------

def test_an_interrupted_fit_leaves_nothing_half_done_and_is_made_again(cli, tmp_path, monkeypatch):
    """24 stories in batches of 2: 12 passes for the covariances and 12 for Λ; Ctrl-C in each."""
    real, made, stop = curvature.backward_pass, [], None

    def counted(*arguments, **options):
        made.append(1)
        if len(made) == stop:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments, **options)

    def run(folder):
        made.clear()
        code, out, err = cli(*ASK, "--batch-size", 2, "--cache", tmp_path / folder,
                             "--json", tmp_path / f"{folder}.json")
        return code, out, err, len(made)

    monkeypatch.setattr(curvature, "backward_pass", counted)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for stop in (5, 20):
            code, out, err, count = run("interrupted")
            assert (code, out, count) == (130, "", stop)
            assert err.split("\n")[-2].startswith("error: interrupted")
            assert not (tmp_path / "interrupted.json").exists()
            assert visible(tmp_path / "interrupted") == []
            assert not list((tmp_path / "interrupted").glob(".tokenwise-*"))
    finally:
        signal.signal(signal.SIGINT, handler)

    stop = None
    assert run("undisturbed")[::3] == run("interrupted")[::3] == (0, 24)
    assert run("interrupted")[::3] == (0, 0)
    answers = [(tmp_path / f"{name}.json").read_bytes() for name in ("interrupted", "undisturbed")]
    assert answers[0] == answers[1]


def test_an_interrupt_while_a_bar_draws_itself_is_told_on_a_line_of_its_own(cli, monkeypatch):
    from tqdm.std import tqdm
    draw = tqdm.refresh

    def interrupted(bar, *arguments, **options):
        draw(bar, *arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(tqdm, "refresh", interrupted)
    code, out, err = cli(*ASK)
    lines = err.split("\n")
    assert (code, out, lines[-1]) == (130, "", "")
    assert "fitting A and S" in lines[-3] and lines[-2].startswith("error: interrupted")


# -- killed, and several at once ------------------------------------------------------------------

FORKED = """
import glob, json, os, signal, sys, time
from helpers import curvature
from helpers.sources import load_model
from helpers.terminal import index
from helpers.terminal.options import main
index.PART = 8
groups = json.loads(sys.argv[1])
load_model(sys.argv[2], "cpu")  # what it imports, all have


def child(job):
    calls = {}

    def counted(kind, function):
        def call(*arguments, **options):
            calls[kind] = calls.get(kind, 0) + 1
            if [kind, calls[kind]] == job["kill"]:
                os.kill(os.getpid(), signal.SIGKILL)
            if [kind, calls[kind]] == ["fit", 1]:
                wait_for(job["waiting"])
            with open(job["log"], "a") as log:
                log.write(kind + "\\n")
            return function(*arguments, **options)
        return call

    def wait_for(others):
        deadline = time.time() + 60
        while others["count"] > sum("waiting for it" in open(path).read()
                                    for path in glob.glob(others["logs"])):
            if time.time() > deadline:
                raise TimeoutError("the others never waited")
            time.sleep(0.05)

    curvature.backward_pass = counted("fit", curvature.backward_pass)
    index.backward_pass = counted("index", index.backward_pass)
    os.replace = counted("rename", os.replace)
    for number in (1, 2):
        os.dup2(os.open(f"{job['log']}.{number}", os.O_WRONLY | os.O_CREAT), number)
    code = 99
    try:
        code = main(job["arguments"])
        sys.stdout.flush()
    finally:
        os._exit(code)


codes = []
for together in groups:
    running = [os.fork() or child(job) for job in together]
    codes.append([os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) for one in running])
print(json.dumps(codes))
"""


class Jobs:
    """Runs of the command line in processes forked from one, which has the libraries; each counts
    what it does.

    `kill` [kind, n]: SIGKILL comes before the n-th call of that kind. `waiting`: the first pass of
    a fit begins only when so many runs have said that they wait.
    """

    def __init__(self, house, folder):
        self.house, self.folder = house, folder

    def job(self, name, *arguments, kill=None, waiting=0):
        line = command(self.house, *ASK, "--batch-size", 2, *arguments, "--json",
                       self.folder / f"{name}.json")
        return {"arguments": line[3:], "kill": kill, "log": str(self.folder / f"{name}.log"),
                "waiting": {"count": waiting, "logs": str(self.folder / "*.log.2")}}

    def run(self, *groups):
        """Exit codes of groups of jobs, one group after the other, those of a group at the same
        time."""
        done = subprocess.run([sys.executable, "-c", FORKED, json.dumps(groups),
                               self.house / "model"], cwd=ROOT,
                              # a fork has none of its parent's threads
                              env=os.environ | {"OMP_NUM_THREADS": "1"},
                              capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def count(self, name, kind):
        log = self.folder / f"{name}.log"
        return log.read_text().split().count(kind) if log.exists() else 0

    def said(self, name):
        return (self.folder / f"{name}.log.2").read_text()

    def answer(self, name):
        return (self.folder / f"{name}.json").read_bytes()


@pytest.fixture
def jobs(house, tmp_path):
    if os.name != "posix":
        pytest.skip("forks, and signals of POSIX")
    return Jobs(house, tmp_path)


@pytest.mark.slow
def test_a_run_killed_in_its_fit_loses_the_fit_and_one_killed_later_nothing_that_was_done(jobs):
    """24 stories in batches of 2: 12 passes for the covariances, 12 for Λ, then a file
    (renamed)."""
    kills = {"A and S": (["fit", 7], 24), "Λ": (["fit", 20], 24),
             "the factors": (["rename", 1], 24),
             "the answer": (["rename", 2], 0)}
    groups = [[jobs.job("undisturbed", "--cache", "none")]]
    for n, (kill, _) in enumerate(kills.values()):
        cache = jobs.folder / f"cache{n}"
        groups += [[jobs.job(f"killed{n}", "--cache", cache, kill=kill)],
                   [jobs.job(f"again{n}", "--cache", cache)]]
    assert jobs.run(*groups) == [[0], *[[-signal.SIGKILL], [0]] * len(kills)]
    assert jobs.count("undisturbed", "fit") == 24
    for n, (where, (_, left)) in enumerate(kills.items()):
        assert not (jobs.folder / f"killed{n}.json").exists(), where
        assert jobs.count(f"again{n}", "fit") == left, where
        assert jobs.answer(f"again{n}") == jobs.answer("undisturbed"), where
        (file,) = visible(jobs.folder / f"cache{n}")
        assert file.name.startswith("ekfac-") and ".partial" not in file.name, where


@pytest.mark.slow
def test_an_index_killed_anywhere_goes_on_behind_its_last_part(jobs):
    """24 stories: three parts of 4 passes each. Without a cache only head, parts and answer are
    renamed."""
    kills = {"the head": (["rename", 1], 12), "a part": (["rename", 3], 8),
             "the answer": (["rename", 5], 0)}
    groups = [[jobs.job("undisturbed", "--cache", "none", "--index", jobs.folder / "whole")]]
    for n, (kill, _) in enumerate(kills.values()):
        more = ("--cache", "none", "--index", jobs.folder / f"index{n}")
        groups += [[jobs.job(f"killed{n}", *more, kill=kill)], [jobs.job(f"again{n}", *more)]]
    assert jobs.run(*groups) == [[0], *[[-signal.SIGKILL], [0]] * len(kills)]
    assert (jobs.count("undisturbed", "index"), jobs.count("undisturbed", "fit")) == (12, 24)
    assert len(visible(jobs.folder / "whole")) == 4
    for n, (where, (_, left)) in enumerate(kills.items()):
        assert jobs.count(f"again{n}", "index") == left, where
        assert jobs.count(f"again{n}", "fit") == (24 if where == "the head" else 0), where
        assert jobs.answer(f"again{n}") == jobs.answer("undisturbed"), where
        head, *parts = visible(jobs.folder / f"index{n}")
        assert head.name == "head.safetensors" and len(parts) == 3, where
        assert sum(len(load_file(part)["digests"]) for part in parts) == 24, where


@pytest.mark.slow
def test_of_several_that_do_the_same_at_once_one_works_and_the_others_wait(jobs):
    """One asks for factors, two for an index with the same factors: whoever fits, somebody waits
    for each."""
    cache, index = ("--cache", jobs.folder / "cache"), ("--index", jobs.folder / "index")
    together = {"exact": cache, "one": (*cache, *index), "two": (*cache, *index)}
    assert jobs.run([jobs.job(name, *more, waiting=2)
                     for name, more in together.items()]) == [[0, 0, 0]]
    said = "".join(map(jobs.said, together))
    assert said.count("waiting for it") == 2 and "making ekfac-" in said and "making index" in said
    assert sum(jobs.count(name, "fit") for name in together) == 24  # fitted once, by one of them
    assert sum(jobs.count(name, "index") for name in together) == 12
    assert jobs.answer("one") == jobs.answer("two")
    exact, indexed = (json.loads(jobs.answer(name))["queries"][0] for name in ("exact", "one"))
    assert close(exact, indexed, 1e-3)
    assert len(visible(jobs.folder / "cache")) == 1 and len(visible(jobs.folder / "index")) == 4


# -- the index ------------------------------------------------------------------------------------

def test_an_index_gives_the_exact_answer_and_the_second_question_fits_nothing(house, cli, result,
                                                                              tmp_path):
    ask = ("--queries", house / "queries.jsonl")
    exact = result(*ask)
    code, out, err = cli(*ask, "--index", tmp_path / "index", "--json", tmp_path / "first.json")
    assert code == 0 and "adding 24 stories to the index" in err and "fitting" in err
    assert out.count("Stories that raise") == 3
    code, _, err = cli(*ask, "--index", tmp_path / "index", "--json", tmp_path / "second.json")
    assert code == 0 and "fitting" not in err and "indexing" not in err
    first, second = (json.loads((tmp_path / f"{name}.json").read_text())
                     for name in ("first", "second"))
    assert first == second
    assert {**first, "queries": 0} == {**exact, "queries": 0}
    for found, expected in zip(first["queries"], exact["queries"], strict=True):
        assert close(found, expected, 1e-3)


def test_an_index_and_what_does_not_go_with_it(refused, tmp_path):
    for other in (["--all-scores", tmp_path / "a.safetensors"], ["--prefilter", 3],
                  ["--method", "identity"]):
        message = refused(PROMPT, "--index", tmp_path / "index", *other)
        assert "--index" in message and str(other[0]) in message
        assert "leave one of them out" in message
    (tmp_path / "file").write_text("x")
    assert f"cannot write {tmp_path / 'file'}" in refused(PROMPT, "--index", tmp_path / "file")


def test_an_index_of_something_else_is_refused_from_a_terminal(cli, refused, tmp_path):
    ask = (*ASK, "--index", tmp_path / "index")
    assert cli(*ask)[0] == 0
    for change in (["--seed", 3], ["--scope", "all"], ["--damping", 0.5],
                   ["--precision", "bfloat16"]):
        message = refused(*ask, *change)
        assert str(tmp_path / "index") in message and "delete it" in message
    texts = [text.replace("Story", "Tale") for text in made_up(20, seed=8)]
    jsonl(tmp_path / "other.jsonl", [{"text": text} for text in texts])
    assert "holds other stories" in refused(*ask, "--stories", tmp_path / "other.jsonl")


def test_a_full_disk_for_the_index_is_one_line_and_leaves_nothing_half_written(on_small_disk,
                                                                               tmp_path):
    code, out, err = on_small_disk(PROMPT, "--index", tmp_path / "index")
    last = err.split("\n")[-2]
    assert code == 2 and out == "" and last.startswith("error: ") and "File too large" in last
    assert str(tmp_path / "index") in last and list((tmp_path / "index").iterdir()) == []
