"""Copies of the series for students: the solutions removed, everything else in its place, and still running."""
import ast
import base64
import json
import os
import re
import shutil
import sys
import textwrap
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

from ..__main__ import Parser, Usage
from .address import ADDRESS, badge_row, with_row

ROOT = Path(__file__).resolve().parents[2]
TEACHERS = {"TEACHING.md"}  # of notebooks/, what is not for students
PACKED = '''# @title Solution, packed: later cells use it
import base64, zlib

exec(zlib.decompress(base64.b64decode("""
{}
""")))'''
README = """# Influence functions: your copies

The notebooks are in `notebooks/`, to be read in the order of their numbers. You need Python 3.10 or newer:

```bash
python3 -m venv .venv && .venv/bin/pip install -r requirements.txt
.venv/bin/python -m helpers.preflight && .venv/bin/jupyter lab notebooks
```

Write your answers where the cells say `...`, in the functions whose names begin with `my_`, and keep these names; the
cell below each tells you how far you are. An answer may use imports, functions, classes and constants of any cell.
Hand in the notebooks. *Run All* works at any time, with or without your answers: where later cells need the solution
of an exercise, they use a packed one.
"""


def source(cell) -> str:
    return "".join(cell["source"])


def is_solution(cell) -> bool:
    return "solution" in cell["metadata"].get("tags", [])


def exercises(content: dict) -> list[str]:
    """Names of a notebook's exercises, in order: those whose cell calls `checks.<name>(my_<name>)`."""
    code = "\n".join(source(cell) for cell in content["cells"] if cell["cell_type"] == "code")
    return list(dict.fromkeys(re.findall(r"\bchecks\.(\w+)\(my_\1\)", code)))


def student_copy(content: dict) -> dict:
    """The notebook without its solution cells; where later cells use one's names, a packed cell stays in its place.

    Packed is not secret, but nobody meets it by scrolling. The stored outputs stay, because they are those
    of the untouched copy; the counts of execution are numbered anew. Its first cell links to no notebook on
    Colab: that would be the one with solutions.
    """
    kept, later = [], ""
    for cell in reversed(content["cells"]):
        code = definitions(cell) if is_solution(cell) else source(cell)
        if not is_solution(cell):
            kept.append(dict(cell))
        elif any(re.search(rf"\b{name}\b", later) for name in bound(code)):
            kept.append(packed(cell, code))
        else:
            continue
        later += "\n" + code if cell["cell_type"] == "code" else ""
    kept.reverse()
    kept[0]["source"] = with_row(source(kept[0]), badge_row(None, ADDRESS)).splitlines(keepends=True)
    for count, cell in enumerate((cell for cell in kept if cell["cell_type"] == "code"), 1):
        number(cell, count)
    return content | {"cells": kept}


def definitions(cell) -> str:
    """What a solution cell defines: its code without comments and without the call of its check."""
    nodes = ast.parse(source(cell)).body
    return "\n".join(ast.unparse(node) for node in nodes if not ast.unparse(node).startswith("checks."))


def bound(code: str) -> set[str]:
    """Names that the code's top level gives: functions, classes, variables."""
    nodes = ast.parse(code).body
    stored = (part.id for node in nodes if isinstance(node, ast.Assign) for part in ast.walk(node)
              if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))
    return {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))} | set(stored)


def packed(cell, code: str) -> dict:
    """A folded cell that defines the same without showing it."""
    text = base64.b64encode(zlib.compress(code.encode(), 9)).decode()
    lines = PACKED.format("\n".join(textwrap.wrap(text, 100))).splitlines(keepends=True)
    metadata = {key: value for key, value in cell["metadata"].items() if key != "tags"} | {"tags": ["packed-solution"]}
    return cell | {"source": lines, "outputs": [], "metadata": metadata}


def number(cell: dict, count: int) -> None:
    """Makes this the `count`-th code cell that ran."""
    cell["execution_count"] = count
    cell["outputs"] = [output | {"execution_count": count} if "execution_count" in output else output
                       for output in cell["outputs"]]


def write_copies(out: Path) -> list[str]:
    """Fills the new or empty folder `out` with the series as students get it; returns the notebooks' names.

    Either everything is written or nothing. Raises InputError, also where a disk is full.
    """
    from ..stories import InputError
    out = out.resolve()
    notebooks = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))}
    if not any(is_solution(cell) for content in notebooks.values() for cell in content["cells"]):
        raise InputError("the notebooks here have no solutions: start from the series itself, not from a student copy")
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out.name} is there and not empty: name a new or an empty folder")
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out.parent, prefix=".tokenwise-", suffix=".partial") as folder:
            made = Path(folder) / "series"
            copy_series(made, notebooks)
            if out.exists():
                out.rmdir()
            os.replace(made, out)
    except OSError as problem:
        raise InputError(f"cannot write {out} ({problem.strerror or problem}): name a folder where you may write, "
                         "with room on its disk") from None
    return list(notebooks)


def copy_series(out: Path, notebooks: dict[str, dict]) -> None:
    """The copies, their pictures, helpers, data and requirements: all that the notebooks need, wherever `out` is moved."""
    ignore = shutil.ignore_patterns(".*", "__pycache__", "*.partial")
    for folder in ("helpers", "data"):
        shutil.copytree(ROOT / folder, out / folder, ignore=ignore)
    shutil.copytree(ROOT / "notebooks", out / "notebooks", ignore=shutil.ignore_patterns(".*", "*.ipynb", "*.html", *TEACHERS))
    for name in ("requirements.txt", "LICENSE"):
        shutil.copy(ROOT / name, out / name)
    (out / "README.md").write_text(README, encoding="utf-8")
    for name, content in notebooks.items():
        text = json.dumps(student_copy(content), indent=1, ensure_ascii=False)
        (out / "notebooks" / name).write_text(text + "\n", encoding="utf-8")


def build_parser():
    parser = Parser(prog="python -m helpers.student", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="a new or an empty folder for the copies")
    return parser


def run(argv) -> None:
    """Raises Usage and InputError."""
    out = build_parser().parse_args(argv).out
    names = write_copies(out)
    print(f"{len(names)} notebooks without solutions, and all that they need, are in {out}: hand out the whole folder")


def main(argv=None, run=run, name="student") -> int:
    """Runs a tool of the classroom; returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        run(argv)
        return 0
    except Usage as problem:
        code, message = 2, f"{problem} (see python -m helpers.{name} --help)"
    except KeyboardInterrupt:
        code, message = 130, "interrupted, and nothing half-written was left; the same command starts again"
    except Exception as problem:
        from ..stories import InputError
        if not isinstance(problem, InputError):
            raise
        code, message = 2, str(problem)
    print(f"error: {message}", file=sys.stderr)
    return code
