"""`python -m helpers.preflight`: what it finds, what it says about what is wrong, and that it
needs nothing to run."""
import re
import shutil
import subprocess
import sys
import threading

import pytest
from builders import ROOT

from helpers import preflight
from helpers.preflight import Todo, numbers, satisfies


def lines(python=(sys.executable,), root=ROOT):
    done = subprocess.run(
        [*python, "-m", "helpers.preflight"], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.stderr == ""
    assert all(re.match(r"(ok  |todo) \S", line) for line in done.stdout.splitlines())
    return done.returncode, done.stdout


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A copy of what the preflight reads, to be damaged."""
    (tmp_path / "helpers").mkdir()
    for name in ("__init__.py", "preflight.py"):
        shutil.copy(ROOT / "helpers" / name, tmp_path / "helpers" / name)
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    shutil.copytree(
        ROOT / "data", tmp_path / "data", ignore=shutil.ignore_patterns(".*", "*.py", "__pycache__")
    )
    monkeypatch.setattr(preflight, "ROOT", tmp_path)
    return tmp_path


def test_this_machine_is_ready(monkeypatch):
    """Where the tests run, everything is there; memory and disk may be short at the moment."""
    code, out = lines()
    todo = [
        line
        for line in out.splitlines()
        if line.startswith("todo") and not re.match("todo (memory|disk):", line)
    ]
    assert not todo and (code == 0) == ("todo" not in out)
    for part in (
        "Python 3",
        "torch 2",
        "device: ",
        "memory: ",
        "disk: ",
        "network: ",
        "data/stories.jsonl",
        "data/retrainings.safetensors",
        "kernel python3",
    ):
        assert part in out


def test_runs_with_nothing_installed():
    code, out = lines((sys.executable, "-S"))  # no site-packages
    assert code == 1 and "ok   Python" in out and "ok   data/model/model.safetensors" in out
    assert re.search("todo torch .*install -r requirements.txt", out)
    assert re.search("todo Jupyter .*kernel python3", out)


def test_missing_damaged_and_foreign_data_are_told(elsewhere):
    (elsewhere / "data" / "stories.jsonl").write_text("other")
    (elsewhere / "data" / "small" / "model.safetensors").unlink()
    record = elsewhere / "data" / "retrainings.safetensors"
    record.write_bytes(record.read_bytes()[:-1])
    code, out = lines((sys.executable, "-S"), elsewhere)
    assert code == 1
    for file, wrong in (("stories.jsonl", "not the file"), ("small/model.safetensors", "missing"),
                        ("retrainings.safetensors", "not the file")):
        assert re.search(f"todo data/{file} .*{wrong}.*restore", out)
    (elsewhere / "data" / "README.md").unlink()
    assert (
        "todo requirements.txt or data/README.md is missing"
        in lines((sys.executable, "-S"), elsewhere)[1]
    )


def test_versions():
    assert numbers("2.13.0+cpu") == (2, 13) and numbers("5.0.0rc1") == (5,) and numbers("odd") == ()
    assert (
        satisfies("2.4", ">=2.4,<2.14")
        and satisfies("2.13.9", ">=2.4,<2.14")
        and satisfies("6.0", ">=3,<7")
    )
    assert (
        not satisfies("2.14.0", ">=2.4,<2.14")
        and not satisfies("2.10", "<2.9")
        and not satisfies("4.0", ">4")
    )
    with pytest.raises(Todo, match="pytest .*>=999: run: python -m pip"):
        preflight.package("pytest>=999")()
    with pytest.raises(Todo, match="no-such-package .*run: python -m pip"):
        preflight.package("no-such-package")()


def test_widgets_that_the_front_end_cannot_show(monkeypatch):
    """JupyterLab 4 needs ipywidgets 8; Colab, without JupyterLab, has 7."""
    here = {"jupyterlab": "4.2.0", "ipywidgets": "7.7.1"}
    monkeypatch.setattr(preflight, "installed", here.get)
    with pytest.raises(Todo, match="ipywidgets 7.7.1 .*JupyterLab 4.2.0.*pip install"):
        preflight.widgets()
    here["jupyterlab"] = None
    assert preflight.widgets()
    here |= {"jupyterlab": "4.2.0", "ipywidgets": "8.0.0"}
    assert preflight.widgets()


def test_short_of_memory_disk_or_python(monkeypatch):
    monkeypatch.setattr(preflight, "free_memory", lambda: 1.5)
    with pytest.raises(Todo, match="1.5 GB .*close"):
        preflight.memory()
    monkeypatch.setattr(preflight, "free_memory", lambda: None)
    assert "does not say" in preflight.memory()
    monkeypatch.setattr(preflight, "DISK", 10**9)
    with pytest.raises(Todo, match="make room"):
        preflight.disk()
    monkeypatch.setattr(preflight, "PYTHON", (99, 0))
    with pytest.raises(Todo, match="install 99.0"):
        preflight.python()


def test_without_a_network_nothing_is_to_do_and_nobody_waits(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "no Hub" in preflight.network()
    hung_up, ended = threading.Event(), []
    monkeypatch.setattr(
        preflight.urllib.request, "urlopen", lambda *_, **__: ended.append(hung_up.wait(60))
    )
    monkeypatch.setattr(preflight, "PATIENCE", 0.1)
    assert "no Hub" in preflight.network() and not ended  # the request still hangs
    hung_up.set()


def test_another_pythons_kernel_is_told(monkeypatch):
    from jupyter_client.kernelspec import KernelSpecManager
    spec = type("Spec", (), {"argv": ["/nowhere/bin/python"]})
    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", lambda *_: spec)
    with pytest.raises(Todo, match="nowhere.*run: python -m ipykernel install"):
        preflight.kernel()
