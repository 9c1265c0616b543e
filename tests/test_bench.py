"""The benchmark runs, names every row, and keeps what it measured before; its numbers are not judged here."""
import json
import math
import os
import subprocess
import sys

from conftest import ROOT


def bench(*options):
    command = [sys.executable, str(ROOT / "tests" / "bench.py"), "--quick", "--threads", "1", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def numbers(found):
    if isinstance(found, dict):
        found = list(found.values())
    return [found] if isinstance(found, (int, float)) else [x for part in found for x in numbers(part)]


def test_every_row_is_there_and_finite(tmp_path):
    kept, figure = tmp_path / "bench.json", tmp_path / "growth.png"
    bench("--only", "default", "--json", str(kept))
    told = bench("--only", "growth", "--json", str(kept), "--png", str(figure))
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
