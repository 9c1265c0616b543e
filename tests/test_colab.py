"""The set-up cell where nothing is prepared (Colab, no git, no network, no room), and the public
address."""
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
from builders import ROOT
from exercises import pasted, printed, run_all, source, unlike

from helpers import preflight, ready
from helpers.classroom import publish, student
from helpers.classroom.address import ADDRESS, BRANCH
from helpers.classroom.publish import LINE, rewritten, sound
from helpers.stories import InputError

NOTEBOOK = "01_influence_functions.ipynb"  # the fastest
STORED = json.loads((ROOT / "notebooks" / NOTEBOOK).read_text("utf-8"))
CELL = next(source(cell) for cell in STORED["cells"] if cell["cell_type"] == "code")
GITHUB = "https://github.com/owner/some.repo-1"
LIMIT = 600  # seconds for a process: against hanging only
needs_git = pytest.mark.skipif(not shutil.which("git"), reason="no git")
needs_pip = pytest.mark.skipif(
    not importlib.util.find_spec("pip"), reason="no pip in this environment"
)


def clean() -> dict:
    """This environment, but nothing is on the path of Python, pip finds nothing to install, and
    git speaks English."""
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PIP_FIND_LINKS")
    }
    return env | {
        "PIP_NO_INDEX": "1",
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "C.UTF-8",
        "LANGUAGE": "en",
    }


def terminal(*arguments, cwd, code=0, **env):
    """What `python arguments` wrote to stdout, or, where it should fail, to stderr."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=clean() | env,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def repository(root: Path, bare: Path) -> str:
    """The file:// address of a bare repository that holds what is in `root`."""
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "all"],
                    ["clone", "-q", "--bare", ".", str(bare)]):
        subprocess.run(git + command, cwd=root, check=True, capture_output=True)
    return bare.as_uri()


def cell_for(address, branch="main"):
    return LINE.sub(lambda _: f"ADDRESS, BRANCH = {address!r}, {branch!r}", CELL)


def sentence(cell, cwd, **env):
    """The one line with which the cell ends."""
    said = terminal("-c", cell, cwd=cwd, code=1, **env)
    assert said.startswith("The series is not here") and said.endswith("run this cell again.\n"), (
        said
    )
    assert said.count("\n") == 1, said
    return said


# -- Colab ---------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """(folder, notebook with all solutions pasted in, the same as it ran there).

    The folder has a blank in its name and holds somebody else's `helpers`. The kernel has imported
    google.colab at its start, as on Colab. The series is fetched from a public repository, where
    the command has published it.
    """
    root = tmp_path_factory.mktemp("colab")
    folder, startup, package = (root / name for name in (
        "my notebooks", "ipython/profile_default/startup", "packages/google/colab"))
    for path in (folder / "helpers", startup, package):
        path.mkdir(parents=True)
    (folder / "helpers" / "__init__.py").write_text("raise AssertionError(\"somebody else's\")\n")
    (package / "__init__.py").write_text("from . import output\n")
    (package / "output.py").write_text("def enable_custom_widget_manager(): raise AssertionError\n")
    (startup / "00.py").write_text("import google.colab\n")
    left_out = shutil.ignore_patterns(
        ".*", "__pycache__", "tests", "*.html", "*.partial", "grades", "slides"
    )
    series, bare = (
        shutil.copytree(ROOT, root / "series", ignore=left_out),
        root / "public server" / "series.git",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "ROOT", series)
        assert publish.main([bare.as_uri()]) == 0
    repository(series, bare)
    content = pasted(json.loads((series / "notebooks" / NOTEBOOK).read_text("utf-8")))
    content["cells"].append(
        nbformat.v4.new_code_cell(
            "import os, sys\n"
            "print(repr((torch.__version__, torch.__file__, os.getcwd(), str(ROOT),\n"
            "            'google.colab' in sys.modules)))"
        )
    )
    env = clean() | {"PYTHONPATH": str(root / "packages"), "IPYTHONDIR": str(root / "ipython")}
    return folder, content, run_all(content, folder, env=env)


@needs_git
@pytest.mark.slow
def test_run_all_of_a_bare_notebook_on_colab_with_all_solutions_pasted_in(colab):
    """It fetches the series and installs nothing.

    Every check passes, and every other text is as stored.
    """
    import torch
    folder, content, ran = colab
    first, *_, last = [cell for cell in ran.cells if cell.cell_type == "code"]
    assert "installing" not in printed(first)
    assert f"torch {metadata.version('torch')}\n" in printed(first) and "\ndevice: " in printed(
        first
    )
    here = str(folder), str(folder / "tokenwise-influence")
    assert printed(last).strip() == repr((torch.__version__, torch.__file__, *here, True))
    assert sorted(path.name for path in folder.iterdir()) == ["helpers", "tokenwise-influence"]
    assert not unlike(ran.cells[:-1], content["cells"][:-1], solved=True)


@needs_git
@pytest.mark.slow
def test_opened_again_it_fetches_nothing(colab):
    """Beside the fetched series and inside it, where there is no git any more."""
    folder, content, _ = colab
    cell = next(source(cell) for cell in content["cells"] if cell["cell_type"] == "code")
    twice = (f"cell = {cell!r}\nexec(cell)\nprint(ROOT)\nos.chdir(ROOT / 'notebooks')\n"
             "exec(cell)\nprint(ROOT)")
    said = terminal("-c", twice, cwd=folder, PATH=str(folder))
    assert said.splitlines().count(str(folder / "tokenwise-influence")) == 2


def test_what_fails_is_one_line_that_says_what_to_do(tmp_path):
    (tmp_path / "helpers").mkdir()
    (tmp_path / "tokenwise-influence").mkdir()
    (tmp_path / "tokenwise-influence" / "mine").write_text("mine")
    assert "no public address" in sentence(cell_for(None), tmp_path)
    said = sentence(cell_for(GITHUB), tmp_path, PATH=str(tmp_path))
    assert GITHUB in said and "git" in said and "not installed" in said
    if shutil.which("git"):
        assert "already exists" in sentence(cell_for(GITHUB), tmp_path)
        shutil.rmtree(tmp_path / "tokenwise-influence")
        for gone in ("http://127.0.0.1:9/x.git", (tmp_path / "gone").as_uri()):
            assert f"{gone} (fatal: " in sentence(cell_for(gone), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["helpers"]


@needs_git
def test_no_such_branch_and_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "file").touch()
    address, shut = repository(tmp_path / "series", tmp_path / "series.git"), tmp_path / "shut"
    shut.mkdir(mode=0o555)
    assert "no-such" in sentence(cell_for(address, "no-such"), shut.parent)
    if os.access(shut, os.W_OK):  # nothing but the kernel's own folders is closed to root
        shut = Path("/proc")
    if not shut.is_dir():
        pytest.skip("no folder here is closed to this user")
    assert "'tokenwise-influence'" in sentence(cell_for(address), shut)


@pytest.mark.slow
def test_a_notebook_shows_the_line_and_no_traceback(tmp_path):
    cell = nbformat.v4.new_code_cell(cell_for(None), metadata={"tags": ["raises-exception"]})
    ran = run_all(nbformat.v4.new_notebook(cells=[cell]), tmp_path, env=clean())
    (shown,) = [output for output in ran.cells[0].outputs if output.output_type == "error"]
    assert shown.ename == "SystemExit" and len("\n".join(shown.traceback).strip().splitlines()) <= 3


# -- packages ------------------------------------------------------------------------------------

def test_versions_in_range_start_nothing_and_torch_is_never_touched(monkeypatch):
    """The oldest and the newest versions allowed, without JupyterLab, as on Colab.

    Then each out of range.
    """
    ranges = {
        name: (oldest, beyond)
        for name, oldest, beyond in (
            re.fullmatch(r"([\w-]+)>=([\d.]+),<([\d.]+)", line).groups()
            for line in preflight.requirements()
        )
    }

    def below(version):
        """The last release before this one: 2.13.99 before 2.14."""
        *parts, last = map(int, version.split("."))
        return (
            ".".join(map(str, [*parts, last - 1, 99])) if last else below(".".join(map(str, parts)))
        )

    def version(name):
        if name not in here:
            raise metadata.PackageNotFoundError(name)
        return here[name]
    monkeypatch.setattr(preflight.importlib.metadata, "version", version)
    monkeypatch.setattr(
        ready.subprocess, "run", lambda *_, **__: pytest.fail("something was started")
    )
    names = ranges.keys() - ready.FRONT_END
    for here in (
        {name: ranges[name][0] for name in names},
        {name: below(ranges[name][1]) for name in names},
    ):
        here["torch"] += "+cu128"
        assert ready.unmet(preflight.requirements()) == {}
        ready.install()
        for name in names:
            for other in (below(ranges[name][0]), ranges[name][1]):
                with monkeypatch.context() as patch:
                    patch.setitem(here, name, other)
                    assert list(ready.unmet(preflight.requirements())) == [name]
        with monkeypatch.context() as patch:
            patch.setitem(here, "torch", "99.1+cu999")  # theirs
            ready.install()


def wheel(folder: Path, name: str, version: str, *needs: str) -> None:
    """A package with one module that knows its version."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": "\n".join(
            [
                "Metadata-Version: 2.1",
                f"Name: {name}",
                f"Version: {version}",
                *(f"Requires-Dist: {need}" for need in needs),
                "",
            ]
        ),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
                         "Tag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(
            f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
        )


class House:
    """A small series with requirements of its own, a fresh environment that sees this one's
    packages, and wheels."""

    def __init__(self, folder: Path):
        self.folder, self.wheels = folder, folder / "wheels"
        (folder / "helpers").mkdir()
        self.wheels.mkdir()
        for name in ("__init__.py", "preflight.py", "ready.py"):
            shutil.copy(ROOT / "helpers" / name, folder / "helpers" / name)
        venv.create(folder / "env", with_pip=False)
        paths = sysconfig.get_paths(
            vars={"base": str(folder / "env"), "platbase": str(folder / "env")}
        )
        self.python, self.packages = str(Path(paths["scripts"]) / "python"), Path(paths["purelib"])
        (self.packages / "these.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(self, *requirements, then="import small_thing; print(small_thing.VERSION)", before=""):
        """(exit code, stdout, stderr) of an installation of `requirements`."""
        (self.folder / "requirements.txt").write_text(
            "# comment\n" + "\n".join(requirements) + "\n"
        )
        code = f"{before}\nfrom helpers import ready\nready.install()\n{then}"
        env = clean() | {"PIP_FIND_LINKS": str(self.wheels)}
        done = subprocess.run(
            [self.python, "-c", code],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


@needs_pip
@pytest.mark.slow
def test_what_is_missing_is_installed_and_torch_is_left_alone(house):
    """A newer torch could be had, and the newest small_thing wants it: an older one is taken.

    Then all is there.
    """
    wheel(house.wheels, "small_thing", "2.0", "torch>=2")
    wheel(house.wheels, "small_thing", "2.1", "torch>=99")
    wheel(house.wheels, "torch", "99.0")
    code, out, error = house.run(
        "torch>=99",
        "small-thing>=2,<3",
        "tqdm>=4",
        "jupyterlab>=99",
        then="import small_thing; print(small_thing.VERSION); ready.install()",
    )
    note, installing, version, again = out.splitlines()
    assert (
        (code, error, version) == (0, "", "2.0")
        and metadata.version("torch") in note
        and again == note
    )
    assert installing.split()[1:] == ["small-thing>=2,<3"] and not list(
        house.packages.glob("torch*")
    )


@needs_pip
@pytest.mark.slow
def test_what_cannot_be_installed_is_one_line(house):
    wheel(house.wheels, "small_thing", "2.1", "torch>=99")
    wheel(house.wheels, "torch", "99.0")
    for line in ("small-thing>=2.1", "nothing-such>=1"):
        code, _, error = house.run(line)
        assert code == 1 and error.count("\n") == 1, error
        assert line.split(">")[0] in error and "run this cell again" in error, error
    (house.packages / "these.pth").unlink()
    assert "No module named pip" in house.run("small-thing>=2")[2]


@needs_pip
@pytest.mark.slow
def test_what_was_in_use_asks_for_a_restart(house):
    wheel(house.wheels, "small_thing", "2.0")
    (house.packages / "small_thing.py").write_text("VERSION = 'old'")
    code, _, error = house.run("small_thing>=2", before="import small_thing")
    assert (
        code == 1
        and error.count("\n") == 1
        and "small_thing" in error
        and "restart the kernel" in error
    )
    assert house.run("small_thing>=2") == (0, "2.0\n", "")


# -- the public address --------------------------------------------------------------------------

def test_every_file_says_what_the_one_place_says():
    assert not rewritten(ROOT, ADDRESS, BRANCH)
    assert publish.BLOCK.search((ROOT / "README.md").read_text("utf-8"))


@pytest.fixture
def copy(tmp_path):
    """What the command reads and writes."""
    for folder in ("helpers", "notebooks"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*")
            if path.is_file() and path.suffix != ".pyc"}


@pytest.fixture
def command(copy, monkeypatch, capsys):
    """Runs the command on the copy, in this process.

    What it wrote to stdout, or, where it should fail, to stderr.
    """
    monkeypatch.setattr(publish, "ROOT", copy)

    def run(*arguments, code=0):
        assert publish.main(list(arguments)) == code
        out, error = capsys.readouterr()
        return error if code else out
    return run


def test_set_checked_and_unset_by_the_command(copy, command):
    command("--unset")
    unset = contents(copy)
    assert "notebooks/01" in command(GITHUB + ".git/", "--branch", "v1.0") and not rewritten(
        copy, GITHUB, "v1.0"
    )
    names = sorted(path.name for path in (copy / "notebooks").glob("[0-9]*.ipynb"))
    links = [
        f"https://colab.research.google.com/github/owner/some.repo-1/blob/v1.0/notebooks/{name}"
        for name in names
    ]
    for name, link in zip(names, links):
        cells = json.loads((copy / "notebooks" / name).read_text("utf-8"))["cells"]
        assert re.findall(
            r"\[!\[Open in Colab\]\(https:[^)]+\.svg\)\]\((.+?)\) \*File → Save .+\Z",
            source(cells[0]),
        ) == [link]
        assert f'ADDRESS, BRANCH = "{GITHUB}", "v1.0"\n' in cells[1]["source"]
    readme = (copy / "README.md").read_text("utf-8")
    assert re.findall(r"\]\((https://colab[^)]+)\)", readme) == links
    assert f"git clone --depth 1 --branch v1.0 {GITHUB} " in readme

    published = contents(copy)
    assert "empty" in command("", code=2) and contents(copy) == published
    command("--unset")
    assert contents(copy) == unset


@pytest.mark.slow
def test_checked_from_a_terminal(copy, command):
    command(GITHUB)
    assert GITHUB in terminal("-m", "helpers.publish", "--check", cwd=copy)
    other = copy / "notebooks" / NOTEBOOK
    other.write_text(
        other.read_text("utf-8").replace(f'\\"{GITHUB}\\"', f'\\"{GITHUB}-older\\"'), "utf-8"
    )
    check = subprocess.run(
        [sys.executable, "-m", "helpers.publish", "--check"],
        cwd=copy,
        env=clean(),
        capture_output=True,
        text=True,
    )
    assert check.returncode == 1 and check.stdout.count("\n") == 1 and NOTEBOOK in check.stdout


def test_other_git_addresses_get_no_badge(copy):
    files = rewritten(copy, "https://codeberg.org/owner/repo.git", "main")
    assert len(files) == 2 + len(list((copy / "notebooks").glob("[0-9]*.ipynb")))
    for path, text in files.items():
        assert (
            "codeberg.org/owner/repo.git" in text
            and "[Open in Colab]" not in text
            or path.suffix == ".py"
        )
        assert path.suffix != ".ipynb" or "its set-up cell fetches the rest." in text


def test_a_students_copy_names_no_address_of_solutions(copy, command, tmp_path, monkeypatch):
    """Published copies would fetch the solutions otherwise.

    Given an address of their own, they fetch themselves.
    """
    command(GITHUB)
    for name in ("data", "requirements.txt", "LICENSE"):
        (copy / name).mkdir() if name == "data" else (copy / name).touch()
    monkeypatch.setattr(student, "ROOT", copy)
    out = tmp_path / "copies"
    assert student.main([str(out)]) == 0
    texts = [
        path.read_text("utf-8")
        for path in [*out.rglob("*.py"), *out.rglob("*.ipynb"), out / "README.md"]
    ]
    assert not any(GITHUB in text for text in texts)
    cells = json.loads((out / "notebooks" / NOTEBOOK).read_text("utf-8"))["cells"]
    assert "ADDRESS, BRANCH = None" in source(cells[1])
    row = source(cells[0]).splitlines()[-1]
    assert (
        row.startswith("**On Colab**: ")
        and "a ZIP file of `helpers`, `data`, `notebooks` and" in row
    )
    own = "https://github.com/teacher/copies"
    path = out / "notebooks" / NOTEBOOK
    assert (
        "[![Open in Colab]" in rewritten(out, own, "main")[path]
        and own in rewritten(out, own, "main")[path]
    )


@pytest.mark.parametrize(
    "given, kept",
    [
        (GITHUB, GITHUB),
        (GITHUB + "/", GITHUB),
        (GITHUB + ".git", GITHUB),
        ("file:///srv/a%20b/series.git", None),
        ("https://git.example.org:8443/~me/series.git", None),
        ("git@example.org:me/series.git", None),
        ("ssh://git@example.org/x", None),
    ],
)
def test_sound_addresses(given, kept):
    assert sound(given, "main") == (kept or given, "main")


@pytest.mark.parametrize(
    "given, branch, words",
    [
        ("https://github.com/owner", "main", "write https://github.com/"),
        ("github.com/owner/repo", "main", "write https"),
        ("https://github.com/owner/repo/tree/main", "main", "write https"),
        ("http://github.com/owner/repo", "main", "write https"),
        ("git@github.com:owner/repo.git", "main", "write https"),
        ("https://github.com/owner/..", "main", "write https"),
        ("https://me:secret@example.org/x", "main", "passwords"),
        ("file:///a b", "main", "no public address"),
        ("--upload-pack=touch x", "main", "no public address"),
        ("ext::sh -c x", "main", "no public address"),
        ("/srv/series", "main", "no public address"),
        ('https://example.org/"+x', "main", "no public address"),
        ("https://example.org/x\n", "main", "no public address"),
        (GITHUB, "feature/x", "no branch"),
        (GITHUB, "-x", "no branch"),
        (GITHUB, 'a"', "no branch"),
        (GITHUB, "", "no branch"),
    ],
)
def test_unsound_addresses_and_branches(given, branch, words):
    with pytest.raises(InputError, match=re.escape(words)):
        sound(given, branch)


def test_a_notebook_without_the_cell_is_told_and_nothing_written(copy, command):
    path = copy / "notebooks" / NOTEBOOK
    path.write_text(path.read_text("utf-8").replace("ADDRESS, BRANCH =", "ADDRESS ="), "utf-8")
    before = contents(copy)
    said = command(GITHUB, code=2)
    assert said.count("\n") == 1 and NOTEBOOK in said and "restore" in said
    assert contents(copy) == before and "one of the arguments" in command(code=2)
