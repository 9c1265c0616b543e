"""The benchmark runs, names every row, and keeps what it measured before.

Its numbers are not judged here.
"""
import json
import math
import os
import sys

import pytest
import torch
from builders import ROOT

sys.path.insert(0, str(ROOT / "data"))
import record_benchmark  # noqa: E402

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(not os.environ.get("RUN_BENCHMARK"),
                                 reason="set RUN_BENCHMARK=1 to try the benchmark")]
ROWS = {"plain", "A and S", "eigenvectors", "Λ", "fit", "scores", "tokens", "index build",
        "index query", "kronfluence fit", "kronfluence scores", "kronfluence fused fit",
        "kronfluence fused scores", "one process", "two processes"}


@pytest.fixture
def measure(monkeypatch, capsys):
    """Runs the benchmark with these options in this process, which has loaded the libraries.

    Gives what it prints; `said` is what it says beside that.
    """
    def run(*options):
        arguments = ["record_benchmark.py", "--quick", "--threads", "1", *map(str, options)]
        monkeypatch.setattr(sys, "argv", arguments)
        record_benchmark.main()
        printed, run.said = capsys.readouterr()
        return printed

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


def test_a_peer_without_a_python_is_skipped_and_a_broken_one_too(measure, tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    measure("--only", "default", "--peer", f"bergson={broken}", "--json", tmp_path / "bench.json")
    assert "bergson: failed" in measure.said
    assert "dattri: skipped, no --peer dattri=PYTHON" in measure.said


def numbers(found):
    """All numbers in lists and dictionaries inside one another."""
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, int | float):
        return [found]
    return [number for part in found for number in numbers(part)]


def test_every_row_is_there_and_finite(measure, tmp_path):
    kept, figure = tmp_path / "bench.json", tmp_path / "growth.png"
    measure("--only", "default", "--json", kept)
    told = measure("--only", "growth", "--json", kept, "--png", figure)
    parts = json.loads(kept.read_text(encoding="utf-8"))
    assert set(parts) == {"default", "growth"} and "## default" in told
    assert figure.stat().st_size > 5000
    rows = parts["default"]["found"]["rows"]
    assert set(rows) == ROWS
    assert all({"seconds", "ratio", "above", "process"} <= set(row) for row in rows.values())
    # the same labels were drawn for both
    assert rows["kronfluence scores"]["pearson"] > 0.999
    for part in parts.values():
        assert all(math.isfinite(number) for number in numbers(part["found"]))
    growth = parts["growth"]["found"]
    assert all(growth[kind] for kind in ("stories", "width", "count"))
