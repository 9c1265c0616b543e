"""Two processes under torchrun give what one gives: stories, values to rounding, one table."""
import json
import os
import subprocess
import sys

import pytest
import torch
from builders import PROMPT, ROOT, command, jsonl, made_up, random_ids, tiny_model
from safetensors.torch import load_file

from helpers.capture import find_layers
from helpers.curvature import covariances
from helpers.stories import batches
from helpers.terminal import processes

pytestmark = pytest.mark.skipif(not torch.distributed.is_available() or os.name != "posix",
                                reason="needs torch.distributed")

SEVERAL = """
import contextlib, json, os, sys
import torch
from pathlib import Path
from helpers.terminal import index, processes
from helpers.terminal.options import main
index.PART = 8
jobs, out, shares = json.loads(sys.argv[1]), Path(sys.argv[2]), {}
leave, processes.stop = processes.stop, lambda: None  # the group stays for all the jobs
for name, arguments in jobs.items():
    path = out / f"{name}.{os.environ['RANK']}.out"
    with open(path, "w") as table, contextlib.redirect_stdout(table):
        assert main(arguments) == 0, name
for total in (0, 1, 2, 7):
    shares[total] = processes.share([10 * row for row in range(total)])
shares["sum"] = processes.total(torch.tensor([1.0 + processes.rank()])).tolist()
shares["first"] = processes.from_first(torch.tensor([5.0 + processes.rank()])).tolist()
mine = {"rank": processes.rank(), "values": [torch.ones(2).sum().item()]}
shares["everyones"] = processes.everyones(mine)
def sums(share):
    totals = processes.totals(share).items()
    return [[name, part.tolist(), str(part.dtype)] for name, part in totals]
def full():
    two = {"dtype": torch.float64}
    return {"b": torch.ones(2, 1, **two), "ä/Λ": torch.tensor(2.0 + processes.rank(), **two)}
shares["totals"] = [sums(full() if processes.rank() in having else {})
                    for having in ([0], [1], [0, 1], [])]
shares["who"] = [processes.rank(), processes.world()]
(out / f"shares.{processes.rank()}.json").write_text(json.dumps(shares))
processes.everyones(None)  # returns when all have come here
leave()
"""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def torchrun(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([*TORCHRUN, *map(str, arguments)], cwd=ROOT, env=environment,
                          capture_output=True, text=True,
                          timeout=300)


def same(found, expected, rel=1e-3):
    """The whole JSON is equal, numbers to rounding, which is measured on the largest of their kind.

    Two processes add float32 numbers in another order than one. What goes wrong between processes
    (a share that is lost or counted twice, other labels) changes values by percents.
    """
    assert found.keys() == expected.keys()
    for key in found.keys() - {"queries", "damping"}:
        assert found[key] == expected[key]
    assert found["damping"] == pytest.approx(expected["damping"], rel=rel)
    assert list(found["damping"]) == list(expected["damping"])
    for one, other in zip(found["queries"], expected["queries"], strict=True):
        assert (one["prompt"], one["completion"]) == (other["prompt"], other["completion"])
        assert one["log_prob"] == pytest.approx(other["log_prob"], rel=rel)
        scale = max(abs(e["influence"]) for e in other["influences"])
        for left, right in zip(one["influences"], other["influences"], strict=True):
            for key in ("rank", "index", "id", "text"):
                assert left[key] == right[key]
            assert left["influence"] == pytest.approx(right["influence"], rel=rel, abs=rel * scale)
            assert left["layers"] == pytest.approx(right["layers"], rel=rel, abs=rel * scale)
            most = max(abs(t["influence"]) for t in right["tokens"])
            for token, wanted in zip(left["tokens"], right["tokens"], strict=True):
                assert {**token, "influence": 0} == {**wanted, "influence": 0}
                assert token["influence"] == pytest.approx(wanted["influence"], rel=rel,
                                                           abs=rel * most)


@pytest.fixture(scope="module")
def two(house, tmp_path_factory):
    """The folder in which two processes did every job, one after the other."""
    out = tmp_path_factory.mktemp("two")
    jsonl(out / "one.jsonl", [{"text": made_up(1)[0]}])
    jobs = {"plain": [], "all": ["--all-scores", out / "all.safetensors"],
            "prefilter": ["--prefilter", "5"],
            "identity": ["--method", "identity"],
            "kfac": ["--method", "kfac", "--cache", out / "cache"],
            "again": ["--method", "kfac", "--cache", out / "cache"],
            "index": ["--index", out / "index"], "ask": ["--index", out / "index"],
            "single": ["--stories", out / "one.jsonl", "--top", "1"]}
    ask = ("--queries", house / "queries.jsonl", "--batch-size", 4)
    lines = {name: command(house, *ask, *more, "--json", out / f"{name}.json")[3:]
             for name, more in jobs.items()}
    (out / "several.py").write_text(SEVERAL, encoding="utf-8")
    done = torchrun(out / "several.py", json.dumps(lines), out)
    assert done.returncode == 0, done.stderr[-3000:]
    (out / "stderr").write_text(done.stderr)
    return out, jobs


def of(out, name):
    return json.loads((out / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("name",
                         ["plain", "all", "prefilter", "identity", "kfac", "again", "single"])
def test_two_processes_equal_one(name, two, house, result, tmp_path):
    out, jobs = two
    mine = [tmp_path / "all.safetensors" if name == "all" and "safetensors" in str(a) else a
            for a in jobs[name]]
    expected = result("--queries", house / "queries.jsonl", *mine, "--batch-size", 4, "--cache",
                      "none")
    same(of(out, name), expected)
    if name == "all":
        found, wanted = load_file(out / "all.safetensors"), load_file(tmp_path / "all.safetensors")
        assert found.keys() == wanted.keys()
        for key in wanted:
            torch.testing.assert_close(found[key], wanted[key], rtol=1e-3,
                                       atol=1e-3 * wanted[key].abs().max().item())
    tables = [(out / f"{name}.{rank}.out").read_text() for rank in (0, 1)]
    assert tables[0].count("Stories that raise") == len(expected["queries"]) and tables[1] == ""


@pytest.mark.slow
def test_factors_that_two_processes_kept_serve_both(two):
    out, _ = two
    assert [path.suffix for path in (out / "cache").glob("*")
            if not path.name.startswith(".")] == [".safetensors"]
    same(of(out, "again"), of(out, "kfac"))


@pytest.mark.slow
def test_an_index_that_two_processes_built_is_asked_by_one(two, house, result, capsys):
    out, _ = two
    ask = ("--queries", house / "queries.jsonl", "--batch-size", 4)
    expected = result(*ask)
    held = {path.name: path.read_bytes() for path in (out / "index").iterdir()}
    assert len(held) == 1 + 6  # head; two processes, three rounds of 8 stories
    alone = result(*ask, "--index", out / "index")
    # nothing was missing
    assert {path.name: path.read_bytes() for path in (out / "index").iterdir()} == held
    for found in (of(out, "index"), of(out, "ask"), alone):
        same(found, expected)


@pytest.mark.slow
def test_every_row_has_one_process(two):
    shares = [json.loads((two[0] / f"shares.{rank}.json").read_text()) for rank in (0, 1)]
    for total in (0, 1, 2, 7):
        mine, theirs = shares[0][str(total)], shares[1][str(total)]
        assert sorted(mine + theirs) == [10 * row for row in range(total)]
        assert 0 <= len(mine) - len(theirs) <= 1
        assert mine == sorted(mine) and theirs == sorted(theirs)
    for rank, share in enumerate(shares):
        assert (share["sum"], share["first"]) == ([3.0], [5.0])
        assert share["everyones"] == [{"rank": 0, "values": [2.0]}, {"rank": 1, "values": [2.0]}]
        assert share["who"] == [rank, 2]
        assert share["totals"] == [[["b", ones, "torch.float64"], ["ä/Λ", value, "torch.float64"]]
                                   for ones, value in
                                   (([[1.0], [1.0]], 2.0), ([[1.0], [1.0]], 3.0),
                                    ([[2.0], [2.0]], 5.0))] + [[]]


@pytest.mark.slow
def test_the_module_itself_under_torchrun_prints_one_table(house, result, tmp_path):
    asked = command(house, PROMPT, "--completion", " fox", "--json", tmp_path / "two.json")
    done = torchrun("-m", "helpers", *asked[3:])
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Stories that raise") == 1
    same(json.loads((tmp_path / "two.json").read_text()), result(PROMPT, "--completion", " fox"))


@pytest.mark.slow
def test_a_mistake_under_torchrun_is_told_and_ends(house, tmp_path):
    asked = command(house, PROMPT, "--completion", " fox", "--top", 25, "--json",
                    tmp_path / "a.json")
    done = torchrun("-m", "helpers", *asked[3:])
    assert done.returncode != 0 and done.stdout == "" and not (tmp_path / "a.json").exists()
    assert "error: --top 25" in done.stderr and "give at most 24" in done.stderr


def test_one_process_alone_gets_back_what_it_gave():
    assert (processes.world(), processes.rank()) == (1, 0)
    tensor, rows = torch.tensor([2.0, -1.0]), [3, 1, 2]
    for function in (processes.total, processes.from_first):
        assert function(tensor) is tensor and tensor.tolist() == [2.0, -1.0]
    assert processes.share(rows) == rows and processes.everyones(None) == [None]
    assert processes.everyones(True) == [True] and processes.everyones(False) == [False]
    sums = processes.totals({"b": tensor, "a": 2 * tensor})
    assert list(sums) == ["b", "a"]  # the layers' own order
    assert [part.tolist() for part in sums.values()] == [[2.0, -1.0], [4.0, -2.0]]
    assert processes.totals({}) == {}
    processes.start("cpu")  # no torchrun, no group
    assert not torch.distributed.is_initialized()
    processes.stop()


def test_sums_of_two_shares_add_up_to_the_whole():
    """Without a group: what `totals` adds across processes."""
    model = tiny_model("gpt2")
    layers, stream = find_layers(model), list(batches(random_ids(10), 2))
    whole, *split = (covariances(model, layers, part)
                     for part in (stream, stream[::2], stream[1::2]))
    assert whole.keys() == split[0].keys() == split[1].keys()
    for name, expected in whole.items():
        assert expected.dtype == torch.float64
        torch.testing.assert_close(split[0][name] + split[1][name], expected)
