"""The benchmark runs, names every row, and keeps what it measured before; its numbers are not judged here."""
import json
import math
import os
import sys

import pytest
import torch
from builders import ROOT

sys.path.insert(0, str(ROOT / "data"))
import record_benchmark  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not os.environ.get("RUN_BENCHMARK"), reason="set RUN_BENCHMARK=1 to try the benchmark")]


@pytest.fixture
def measure(monkeypatch, capsys):
    """Runs the benchmark with these options in this process, where libraries are loaded already; what it prints."""
    def run(*options):
        monkeypatch.setattr(sys, "argv", ["record_benchmark.py", "--quick", "--threads", "1", *map(str, options)])
        record_benchmark.main()
        return capsys.readouterr().out

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


def numbers(found):
    if isinstance(found, dict):
        found = list(found.values())
    return [found] if isinstance(found, (int, float)) else [x for part in found for x in numbers(part)]


def test_every_row_is_there_and_finite(measure, tmp_path):
    kept, figure = tmp_path / "bench.json", tmp_path / "growth.png"
    measure("--only", "default", "--json", kept)
    told = measure("--only", "growth", "--json", kept, "--png", figure)
    parts = json.loads(kept.read_text(encoding="utf-8"))
    assert set(parts) == {"default", "growth"} and "## default" in told and figure.stat().st_size > 5000
    rows = parts["default"]["found"]["rows"]
    assert set(rows) == {"plain", "A and S", "eigenvectors", "Λ", "fit", "scores", "tokens", "index build", "index query",
                         "kronfluence fit", "kronfluence scores", "kronfluence fused fit", "kronfluence fused scores",
                         "one process", "two processes"}
    assert all({"seconds", "ratio", "above", "process"} <= set(row) for row in rows.values())
    assert rows["kronfluence scores"]["pearson"] > 0.999  # the same labels were drawn for both
    for part in parts.values():
        assert all(math.isfinite(x) for x in numbers(part["found"]))
    growth = parts["growth"]["found"]
    assert all(growth[kind] for kind in ("stories", "width", "count"))
