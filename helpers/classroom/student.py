"""Copies of the series for students: without solutions, everything else in place and running."""
import ast
import builtins
import json
import shutil
from functools import partial
from pathlib import Path

from ..terminal.command import Parser, command
from .notebooks import ROOT, Statement, checked, load_series, source, statements
from .publish import rewritten

HIDDEN = ".*", "__pycache__", "*.partial"
NOT_FOR_STUDENTS = "TEACHING.md", "*.ipynb", "*.html"  # of notebooks/
IMPORT = """\
sys.path.append(str(ROOT / "notebooks"))  # where {module}.py is, on Colab, too
from {module} import {names}  # used below"""
ANSWERS = '''\
"""Solutions of notebook {number} that its later cells use: write your own before you read these."""
{imports}


{code}
'''


def student_copy(name: str, content: dict) -> tuple[dict, str | None]:
    """The notebook `name` without its solutions; and the text of its answers file, if it needs one.

    Where later cells use what a solution cell defines, a cell in its place imports that. The stored
    outputs stay, because they are those of the untouched copy; the counts of execution are
    numbered anew. Raises InputError where a solution leans on what another cell computes.
    """
    cells, handed_out, wanted, module = [], [], set(), f"answers_{name[:2]}"
    for cell in reversed(content["cells"]):
        code = statements(source(cell)) if cell["cell_type"] == "code" else []
        if is_solution(cell):
            used = sorted(wanted & names_of(code, "defines"))
            if not used:
                continue
            handed_out.insert(0, cell)
            cell = import_cell(cell, IMPORT.format(module=module, names=", ".join(used)))
        wanted |= names_of(code, "uses")
        cells.insert(0, dict(cell))
    for count, cell in enumerate((cell for cell in cells if cell["cell_type"] == "code"), 1):
        cell["execution_count"] = count
        cell["outputs"] = [output | {"execution_count": count} if "execution_count" in output else
                           output for output in cell["outputs"]]
    return content | {"cells": cells}, answers(name, content, handed_out) if handed_out else None


def is_solution(cell: dict) -> bool:
    return "solution" in cell["metadata"].get("tags", [])


def names_of(code: list[Statement], kind: str) -> set[str]:
    """All names that these statements define, or use."""
    return set().union(*(getattr(statement, kind) for statement in code))


def import_cell(cell: dict, text: str) -> dict:
    """What stands in a solution cell's place, and is not folded as that is."""
    metadata = {"tags": ["answer-import"], "slideshow": cell["metadata"].get("slideshow", {})}
    return cell | {"source": text.splitlines(keepends=True), "outputs": [], "metadata": metadata}


def answers(name: str, content: dict, solutions: list[dict]) -> str:
    """Solution cells as a Python file, with the imports that they need. Raises InputError."""
    from ..stories import InputError
    code = [as_written(cell) for cell in solutions]
    own = statements("\n".join(code))
    imports = {defined: ast.unparse(statement.node)
               for cell in content["cells"] if cell["cell_type"] == "code"
               for statement in statements(source(cell)) for defined in statement.defines
               if isinstance(statement.node, (ast.Import, ast.ImportFrom))}
    free = names_of(own, "uses") - names_of(own, "defines") - set(dir(builtins))
    if free - imports.keys():
        raise InputError(f"a solution of {name} uses {', '.join(sorted(free - imports.keys()))}, "
                         "which another cell computes: give it to the function as an argument")
    return ANSWERS.format(number=name[:2], code="\n\n\n".join(code),
                          imports="\n".join(sorted({imports[needed] for needed in free})))


def as_written(cell: dict) -> str:
    """A solution's code, comments included, without its title and the call of its check."""
    lines = source(cell).splitlines()
    for statement in reversed(statements(source(cell))):
        if checked(statement.node):
            del lines[statement.node.lineno - 1:statement.node.end_lineno]
    return "\n".join(line for line in lines if not line.startswith("# @title")).strip()


# -- the folder of copies -------------------------------------------------------------------------

def write_copies(out: Path) -> int:
    """Fills the new or empty folder `out` with the series for students; returns how many notebooks.
    Either everything is written or nothing. Raises InputError, also where a disk is full."""
    from ..sources.files import check_new, whole_folder
    from ..stories import InputError
    series = load_series(ROOT)
    if not any(is_solution(cell) for content in series.values() for cell in content["cells"]):
        raise InputError("the notebooks here have no solutions: start from the series itself, not "
                         "from a student copy")
    check_new(out)
    with whole_folder(out) as made:
        copy_series(made, series)
    return len(series)


def copy_series(out: Path, series: dict[str, dict]) -> None:
    """The copies and all that they need, wherever `out` is moved: answers, pictures, helpers, data.

    They name no address: that of the series, where it has one, leads to the solutions. Whoever
    publishes the copies gives them their own. Raises InputError and OSError.
    """
    for folder in ("helpers", "data", "notebooks"):
        left_out = HIDDEN + (NOT_FOR_STUDENTS if folder == "notebooks" else ())
        shutil.copytree(ROOT / folder, out / folder, ignore=shutil.ignore_patterns(*left_out))
    for name in ("requirements.txt", "LICENSE"):
        shutil.copy(ROOT / name, out / name)
    shutil.copy(Path(__file__).with_name("readme_of_copies.md"), out / "README.md")
    texts = {}
    for name, content in series.items():
        content, solutions = student_copy(name, content)
        texts[name] = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        texts[f"answers_{name[:2]}.py"] = solutions
    for name, text in texts.items():
        if text:
            (out / "notebooks" / name).write_text(text, encoding="utf-8")
    for path, text in rewritten(out, None, "main").items():
        path.write_text(text, encoding="utf-8")


def run(argv) -> None:
    """Raises Usage and InputError."""
    parser = Parser(prog="python -m helpers.student", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT",
                        help="a new or an empty folder for the copies")
    out = parser.parse_args(argv).out
    count = write_copies(out)
    print(f"{count} notebooks without solutions, and all that they need, are in {out}: hand out "
          "the whole folder")


main = partial(command, run, "helpers.student")
