"""Fixtures for several test files, and the two layers of tests: `-m "not slow"` is the everyday one."""
import json
import os
import shutil

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: a thread for each worker, and for the kernels it starts
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest  # noqa: E402
from builders import HOSTILE, PROMPT, jsonl, made_up, save_model  # noqa: E402

from helpers.__main__ import main  # noqa: E402


def pytest_collection_modifyitems(items):
    """What runs a notebook or a browser is slow; the other slow tests say so themselves."""
    for item in items:
        if item.path.suffix == ".ipynb" or "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


@pytest.fixture(params=["gpt_neo", "gpt2", "llama"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def browser():
    """Chromium, driven by Playwright; for one module only, because its event loop would be in the way of others."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not found:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A folder with a small model, stories and queries; the tests only read it."""
    root = tmp_path_factory.mktemp("house")
    save_model(root / "model")
    jsonl(root / "stories.jsonl", [{"text": text, "id": f"s{n}"} for n, text in enumerate([*made_up(23), HOSTILE])])
    jsonl(root / "queries.jsonl", [{"prompt": PROMPT, "completion": "fox"}, {"prompt": "One day, it"},
                                   {"prompt": "He liked the", "completion": "windmill."}])
    return root


@pytest.fixture
def cli(house, capsys):
    """Runs main() in this process on the house, later arguments overruling; returns (exit code, stdout, stderr)."""
    def run(*arguments):
        capsys.readouterr()
        code = main(list(map(str, ["--model", house / "model", "--stories", house / "stories.jsonl", "--top", 3,
                                   "--device", "cpu", "--cache", "none", *arguments])))
        return code, *capsys.readouterr()
    return run


@pytest.fixture
def result(cli, tmp_path):
    """Runs the command line to its end and returns the JSON it wrote."""
    def run(*arguments):
        code, _, err = cli("--json", tmp_path / "out.json", *arguments)
        assert code == 0, err
        return json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    return run
