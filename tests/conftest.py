"""Fixtures for several test files, and two layers of tests: `-m "not slow"` is the everyday one."""
import json
import os
import shutil
from functools import partial

# before torch is imported: a thread for each worker, and for the kernels it starts
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest  # noqa: E402
from builders import HOSTILE, PROMPT, jsonl, made_up, save_model, snapshot  # noqa: E402
from printed import Printed  # noqa: E402

from helpers.terminal.options import main  # noqa: E402


def pytest_collection_modifyitems(items):
    """What runs a notebook or a browser is slow (the others say so themselves).

    A cell may print what rounding explains.
    """
    for item in items:
        notebook = item.path.suffix == ".ipynb"
        if notebook or "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
        if notebook:
            item.sanitize = partial(rounded, item.sanitize)


def rounded(sanitize, output):
    output = sanitize(output)
    return Printed(output) if isinstance(output, str) else output


@pytest.fixture(params=["gpt_neo", "gpt2", "llama"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def browser():
    """Chromium, driven by Playwright.

    For one module only, because its event loop would be in the way of others.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                 None)
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
    jsonl(root / "stories.jsonl",
          [{"text": text, "id": f"s{n}"} for n, text in enumerate([*made_up(23), HOSTILE])])
    jsonl(root / "queries.jsonl",
          [{"prompt": PROMPT, "completion": " fox"}, {"prompt": "One day, it"},
                                   {"prompt": "He liked the", "completion": " windmill."}])
    return root


@pytest.fixture
def cli(house, capsys):
    """Runs main() in this process on the house, later arguments overruling.

    Returns (exit code, stdout, stderr).
    """
    def run(*arguments):
        capsys.readouterr()
        code = main(list(
            map(str, ["--model", house / "model", "--stories", house / "stories.jsonl", "--top", 3,
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


@pytest.fixture
def refused(cli, house, tmp_path):
    """The error line of a run that must fail with code 2, print no more and change no file."""
    def run(*arguments):
        before = snapshot(house, tmp_path)
        code, out, err = cli(*arguments)
        lines = [line for line in err.split("\n") if line.startswith("error: ")]
        assert code == 2 and out == "" and "Traceback" not in err, err
        assert len(lines) == 1 and err.endswith(lines[0] + "\n"), err
        assert snapshot(house, tmp_path) == before
        return lines[0]
    return run


@pytest.fixture
def on_small_disk(cli):
    """The command line while files of this process cannot grow beyond 1 KB.

    That is the system's own error, in mid-write. Only during the call: the limit would stop
    pytest's own report as well when that goes to a file.
    """
    resource = pytest.importorskip("resource")

    def limited(*arguments):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            return cli(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    return limited
