"""The set-up cell where nothing is prepared (Colab, a bare notebook, no git, no network, no room), and the public address."""
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from datetime import datetime
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
from builders import ROOT
from exercises import source, tags
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from helpers import preflight, publish, ready, student
from helpers.address import ADDRESS, BRANCH
from helpers.publish import LINE, rewritten, sound
from helpers.stories import InputError

NOTEBOOK = "01_influence_functions.ipynb"  # the fastest
CELL = next(source(cell) for cell in json.loads((ROOT / "notebooks" / NOTEBOOK).read_text("utf-8"))["cells"] if cell["cell_type"] == "code")
GITHUB = "https://github.com/owner/some.repo-1"
MOST_SECONDS = 60
# What Colab had in June 2026: googlecolab/backend-info, pip-freeze.gpu.txt. It shows widgets of ipywidgets 7 only.
COLAB = {"torch": "2.11.0+cu128", "transformers": "5.9.0", "datasets": "4.0.0", "safetensors": "0.7.0", "filelock": "3.29.0",
         "scikit-learn": "1.6.1", "matplotlib": "3.10.0", "tqdm": "4.67.3", "ipywidgets": "7.7.1"}
needs_git = pytest.mark.skipif(not shutil.which("git"), reason="no git")


def series_in(folder: Path) -> Path:
    """A copy of the working tree, as it would be published."""
    left_out = shutil.ignore_patterns(".*", "__pycache__", "tests", "*.html", "*.partial", "grades", "slides")
    return shutil.copytree(ROOT, folder / "series", ignore=left_out)


def terminal(*arguments, cwd, code=0, **env):
    """What `python arguments` wrote to stdout, or, where it should fail, to stderr."""
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=clean() | env, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def clean() -> dict:
    """This environment, but nothing is on the path of Python, and pip finds nothing to install."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PIP_FIND_LINKS")}
    return env | {"PIP_NO_INDEX": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The file:// address of a bare repository that holds the working tree, published there by the command."""
    folder = tmp_path_factory.mktemp("public server")
    root, bare = series_in(folder), folder / "series.git"
    terminal("-m", "helpers.publish", bare.as_uri(), cwd=root)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "all"], ["clone", "-q", "--bare", ".", str(bare)]):
        subprocess.run(git + command, cwd=root, check=True, capture_output=True)
    return bare.as_uri()


def cell_for(address, branch="main"):
    return LINE.sub(lambda _: f"ADDRESS, BRANCH = {address!r}, {branch!r}", CELL)


def sentence(cell, cwd, **env):
    """The one line with which the cell ends."""
    said = terminal("-c", cell, cwd=cwd, code=1, **env)
    assert re.fullmatch(r"The series is not here, and [^\n]+\. Put its folder \(on Colab: its ZIP, unzipped\) beside this notebook, and run this cell again\.\n", said), said
    return said


# -- Colab -------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """(an empty folder, the environment of a kernel that has google.colab, imported from its start as on Colab)."""
    folder = tmp_path_factory.mktemp("colab")
    startup = folder / "ipython" / "profile_default" / "startup"
    for path in (folder / "packages" / "google" / "colab", startup, folder / "content"):
        path.mkdir(parents=True)
    (folder / "packages" / "google" / "colab" / "__init__.py").write_text("from . import output\n")
    (folder / "packages" / "google" / "colab" / "output.py").write_text("def enable_custom_widget_manager(): raise AssertionError\n")
    (startup / "00.py").write_text("import google.colab\n")
    return folder / "content", clean() | {"PYTHONPATH": str(folder / "packages"), "IPYTHONDIR": str(folder / "ipython")}


def run_all(content, folder, env):
    """The notebook, run from top to bottom. Raises CellExecutionError."""
    notebook = nbformat.reads(json.dumps(content), as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute(env=env)
    return notebook


def printed(cell):
    return "".join("".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")


@needs_git
def test_run_all_of_a_bare_notebook_on_colab(address, colab):
    folder, env = colab
    stored = json.loads((ROOT / "notebooks" / NOTEBOOK).read_text("utf-8"))
    set_up = next(cell for cell in stored["cells"] if cell["cell_type"] == "code")
    set_up["source"] = cell_for(address)
    last = "import os, sys\nprint(repr((torch.__version__, torch.__file__, os.getcwd(), str(ROOT), 'google.colab' in sys.modules)))"
    stored["cells"].append(nbformat.v4.new_code_cell(last))
    ran = run_all(stored, folder, env)

    cells = [cell for cell in ran.cells if cell.cell_type == "code"]
    times = [datetime.fromisoformat(cells[0].metadata.execution[key].replace("Z", "+00:00"))
             for key in ("iopub.execute_input", "shell.execute_reply")]
    seconds = (times[1] - times[0]).total_seconds()
    print(f"the set-up cell: {seconds:.1f} s\n{printed(cells[0])}")
    assert seconds < MOST_SECONDS and "installing" not in printed(cells[0])
    assert f"torch {metadata.version('torch')}\n" in printed(cells[0]) and "\ndevice: " in printed(cells[0])
    import torch
    assert printed(cells[-1]).strip() == repr((torch.__version__, torch.__file__, str(folder), str(folder / "tokenwise-influence"), True))
    assert [path.name for path in folder.iterdir()] == ["tokenwise-influence"]
    for cell, before in zip(ran.cells, stored["cells"][:-1]):
        if cell.cell_type == "code" and "nbval-ignore-output" not in tags(before):
            assert printed(cell) == printed(before)


@needs_git
def test_opened_again_it_fetches_nothing_and_a_foreign_helpers_folder_is_not_taken(address, tmp_path):
    """In a folder with a blank in its name; the second time without git."""
    folder = tmp_path / "my notebooks"
    (folder / "helpers").mkdir(parents=True)
    (folder / "helpers" / "__init__.py").write_text("raise AssertionError('somebody else's')")
    show = "\nprint(ROOT)"
    assert terminal("-c", cell_for(address) + show, cwd=folder).endswith(f"\n{folder / 'tokenwise-influence'}\n")
    (folder / "deeper").mkdir()
    for place in (folder, folder / "tokenwise-influence" / "notebooks"):
        assert f"\n{folder / 'tokenwise-influence'}\n" in terminal("-c", cell_for(address) + show, cwd=place, PATH=str(tmp_path))


def test_what_fails_is_one_line_that_says_what_to_do(tmp_path):
    (tmp_path / "helpers").mkdir()
    (tmp_path / "tokenwise-influence").mkdir()
    (tmp_path / "tokenwise-influence" / "mine").write_text("mine")
    assert "it has no public address." in sentence(cell_for(None), tmp_path)
    assert f"git, which would fetch it from {GITHUB}, is not installed" in sentence(cell_for(GITHUB), tmp_path, PATH=str(tmp_path))
    if shutil.which("git"):
        assert "already exists and is not an empty directory" in sentence(cell_for(GITHUB), tmp_path)
        shutil.rmtree(tmp_path / "tokenwise-influence")
        for gone in ("http://127.0.0.1:9/x.git", (tmp_path / "gone").as_uri()):
            assert f"git cannot fetch it from {gone} (fatal: " in sentence(cell_for(gone), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["helpers"]


@needs_git
def test_no_such_branch_and_a_folder_that_cannot_be_written(address, tmp_path):
    assert "Remote branch no-such not found" in sentence(cell_for(address, "no-such"), tmp_path)
    tmp_path.chmod(0o555)
    shut = "/proc" if os.access(tmp_path, os.W_OK) else tmp_path  # nothing but the kernel's own folders is closed to root
    if not os.path.isdir(shut):
        pytest.skip("no folder here is closed to this user")
    assert "could not create work tree dir" in sentence(cell_for(address), shut)


def test_a_notebook_shows_the_line_and_no_traceback(tmp_path):
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell_for(None))])
    with pytest.raises(CellExecutionError):
        run_all(content, tmp_path, clean())
    notebook = nbformat.from_dict(content)
    NotebookClient(notebook, allow_errors=True, resources={"metadata": {"path": str(tmp_path)}}).execute(env=clean())
    (shown,) = [output for output in notebook.cells[0].outputs if output.output_type == "error"]
    assert shown.ename == "SystemExit" and len("\n".join(shown.traceback).strip().splitlines()) <= 3


# -- packages ----------------------------------------------------------------------------------------

def test_on_colab_nothing_is_installed_and_pip_not_started(monkeypatch):
    def version(name):
        if name not in COLAB:
            raise metadata.PackageNotFoundError(name)
        return COLAB[name]
    monkeypatch.setattr(preflight.importlib.metadata, "version", version)
    monkeypatch.setattr(ready.subprocess, "run", lambda *_, **__: pytest.fail("something was started"))
    assert ready.unmet(preflight.requirements()) == {}
    ready.install()
    monkeypatch.setitem(COLAB, "torch", "99.1+cu999")  # too new, but theirs
    ready.install()
    assert set(ready.unmet([f"{name}>=99" for name in ("tqdm", "jupyterlab", "torch", "nothing")])) == {"tqdm", "nothing"}


def wheel(folder: Path, name: str, version: str, *needs: str) -> None:
    """A package with one module that knows its version."""
    info = f"{name}-{version}.dist-info"
    files = {f"{name}.py": f"VERSION = {version!r}\n",
             f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(f"Requires-Dist: {need}\n" for need in needs),
             f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]))


class House:
    """A small series with requirements of its own, a fresh environment that sees the packages of this one, and wheels."""

    def __init__(self, folder: Path):
        self.folder, self.wheels = folder, folder / "wheels"
        (folder / "helpers").mkdir()
        self.wheels.mkdir()
        for name in ("__init__.py", "preflight.py", "ready.py"):
            shutil.copy(ROOT / "helpers" / name, folder / "helpers" / name)
        venv.create(folder / "env", with_pip=False)
        paths = sysconfig.get_paths(vars={"base": str(folder / "env"), "platbase": str(folder / "env")})
        self.python, self.packages = str(Path(paths["scripts"]) / "python"), Path(paths["purelib"])
        (self.packages / "these.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(self, *requirements, then="import small_thing; print(small_thing.VERSION)", before=""):
        """(exit code, stdout, stderr) of an installation of `requirements`."""
        (self.folder / "requirements.txt").write_text("# comment\n" + "\n".join(requirements) + "\n")
        code = f"{before}\nfrom helpers import ready\nready.install()\n{then}"
        done = subprocess.run([self.python, "-c", code], cwd=self.folder, env=clean() | {"PIP_FIND_LINKS": str(self.wheels)},
                              capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


def test_what_is_missing_is_installed_and_torch_is_left_alone(house):
    """Here a newer torch could be had, and the newest small_thing wants it: an older one is taken."""
    wheel(house.wheels, "small_thing", "2.0", "torch>=2")
    wheel(house.wheels, "small_thing", "2.1", "torch>=99")
    wheel(house.wheels, "torch", "99.0")
    torch = f"{metadata.version('torch')}\n"
    then = "import small_thing, torch; print(small_thing.VERSION); print(torch.__version__)"
    lines = ("torch>=99", "small-thing>=2,<3", "tqdm>=4", "jupyterlab>=99")
    note = f"note: this series was not tested with torch {torch.strip()}, which is left as it is\n"
    assert house.run(*lines, then=then) == (0, note + "installing small-thing>=2,<3\n2.0\n" + torch, "")
    shutil.rmtree(house.wheels)
    assert house.run(*lines, then=then) == (0, note + "2.0\n" + torch, "")  # nothing is missing now
    assert not list(house.packages.glob("torch*"))


def test_what_cannot_be_installed_is_one_line(house):
    wheel(house.wheels, "small_thing", "2.1", "torch>=99")
    wheel(house.wheels, "torch", "99.0")
    for lines, word in ((["small-thing>=2.1"], "small-thing"), (["nothing-such>=1"], "a version that satisfies the requirement nothing-such>=1")):
        code, out, error = house.run(*lines)
        assert code == 1 and re.fullmatch(rf"pip could not install [^\n]*{word}[^\n]*then run this cell again\n", error), error
    (house.packages / "these.pth").unlink()
    assert "No module named pip" in house.run("small-thing>=2")[2]


def test_what_was_in_use_asks_for_a_restart(house):
    wheel(house.wheels, "small_thing", "2.0")
    (house.packages / "small_thing.py").write_text("VERSION = 'old'")
    code, _, error = house.run("small_thing>=2", before="import small_thing")
    assert code == 1 and error == "small_thing was in use while it was renewed: restart the kernel, then run all cells again\n"
    assert house.run("small_thing>=2") == (0, "2.0\n", "")


# -- the public address ------------------------------------------------------------------------------

def test_every_file_says_what_the_one_place_says():
    assert not rewritten(ROOT, ADDRESS, BRANCH)
    assert publish.BLOCK.search((ROOT / "README.md").read_text("utf-8"))


@pytest.fixture
def copy(tmp_path):
    """What the command reads and writes."""
    for folder in ("helpers", "notebooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def test_set_checked_and_unset_by_the_command(copy):
    command = lambda *arguments, code=0: terminal("-m", "helpers.publish", *arguments, cwd=copy, code=code)
    command("--unset")
    unset = contents(copy)
    assert "changed notebooks/01" in command(GITHUB + ".git/", "--branch", "v1.0")
    assert command("--check") == f"all files agree: {GITHUB}\n"
    names = sorted(path.name for path in (copy / "notebooks").glob("[0-9]*.ipynb"))
    links = [f"https://colab.research.google.com/github/owner/some.repo-1/blob/v1.0/notebooks/{name}" for name in names]
    for name, link in zip(names, links):
        cells = json.loads((copy / "notebooks" / name).read_text("utf-8"))["cells"]
        assert re.findall(r"\[!\[Open in Colab\]\(https:[^)]+\.svg\)\]\((.+)\)\Z", source(cells[0])) == [link]
        assert cells[1]["source"][4] == f'ADDRESS, BRANCH = "{GITHUB}", "v1.0"\n'
    readme = (copy / "README.md").read_text("utf-8")
    assert re.findall(r"\]\((https://colab[^)]+)\)", readme) == links and f"git clone --depth 1 --branch v1.0 {GITHUB} " in readme

    one = copy / "notebooks" / names[2]
    one.write_text(one.read_text("utf-8").replace(f'\\"{GITHUB}\\"', '\\"https://github.com/owner/older\\"'), "utf-8")
    done = subprocess.run([sys.executable, "-m", "helpers.publish", "--check"], cwd=copy, env=clean(), capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout.count("\n") == 1 and names[2] in done.stdout
    published = contents(copy)
    assert command("", code=2).startswith("error: an empty text is no public address") and contents(copy) == published
    command("--unset")
    assert contents(copy) == unset


def test_other_git_addresses_get_no_badge(copy):
    files = rewritten(copy, "https://codeberg.org/owner/repo.git", "main")
    assert len(files) == 2 + len(list((copy / "notebooks").glob("[0-9]*.ipynb")))
    for path, text in files.items():
        assert "codeberg.org/owner/repo.git" in text and "[Open in Colab]" not in text or path.suffix == ".py"
        assert path.suffix != ".ipynb" or "its set-up cell fetches the rest." in text


def test_a_students_copy_links_to_no_solutions(copy, monkeypatch):
    path = copy / "notebooks" / NOTEBOOK
    content = json.loads(rewritten(copy, GITHUB, "main")[path])
    monkeypatch.setattr(student, "ADDRESS", GITHUB)
    theirs = student.student_copy(content)["cells"]
    assert "colab-badge" in source(content["cells"][0]) and "colab-badge" not in source(theirs[0])
    assert source(theirs[0]).endswith("\n\n**On Colab**: upload this notebook to [Colab](https://colab.research.google.com); "
                                      "its set-up cell fetches the rest.")
    assert theirs[1] == content["cells"][1]


@pytest.mark.parametrize("given, kept", [
    (GITHUB, GITHUB), (GITHUB + "/", GITHUB), (GITHUB + ".git", GITHUB), ("file:///srv/a%20b/series.git", None),
    ("https://git.example.org:8443/~me/series.git", None), ("git@example.org:me/series.git", None), ("ssh://git@example.org/x", None)])
def test_sound_addresses(given, kept):
    assert sound(given, "main") == (kept or given, "main")


@pytest.mark.parametrize("given, branch, words", [
    ("https://github.com/owner", "main", "write https://github.com/OWNER/REPOSITORY"), ("github.com/owner/repo", "main", "write https"),
    ("https://github.com/owner/repo/tree/main", "main", "write https"), ("http://github.com/owner/repo", "main", "write https"),
    ("git@github.com:owner/repo.git", "main", "write https"), ("https://github.com/owner/..", "main", "write https"),
    ("https://me:secret@example.org/x", "main", "without blanks and passwords"), ("file:///a b", "main", "no public address"),
    ("--upload-pack=touch x", "main", "no public address"), ("ext::sh -c x", "main", "no public address"), ("/srv/series", "main", "no public"),
    ('https://example.org/"+x', "main", "no public address"), ("https://example.org/x\n", "main", "no public address"),
    (GITHUB, "feature/x", "no branch"), (GITHUB, "-x", "no branch"), (GITHUB, 'a"', "no branch"), (GITHUB, "", "no branch")])
def test_unsound_addresses_and_branches(given, branch, words):
    with pytest.raises(InputError, match=re.escape(words)):
        sound(given, branch)


def test_a_notebook_without_the_cell_is_told_and_nothing_written(copy):
    path = copy / "notebooks" / NOTEBOOK
    path.write_text(path.read_text("utf-8").replace("ADDRESS, BRANCH =", "ADDRESS ="), "utf-8")
    before = contents(copy)
    said = terminal("-m", "helpers.publish", GITHUB, cwd=copy, code=2)
    assert said == f"error: {NOTEBOOK} does not open with a text and the set-up cell: restore both from another notebook\n"
    assert contents(copy) == before and "one of the arguments" in terminal("-m", "helpers.publish", cwd=copy, code=2)
