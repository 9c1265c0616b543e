"""The house: a book that imports only itself and a few libraries, wings, doors; its bounds."""
import ast
import sys

import pytest
from builders import ROOT

HELPERS = ROOT / "helpers"
BOOK = ("stories", "capture", "curvature", "exact", "influence", "search", "retrain", "measure")
LIBRARIES = {"torch", "transformers", "sklearn", "numpy", "scipy"}
# Beside the book, and no doors: they run before anything is installed, so outside every wing
BEFORE_ALL = {"preflight", "ready"}

MOST_FILES = 8
MOST_BOOK_LINES = 1_500
# of all Python in helpers: what there was when it was counted; the design wants 5,000
MOST_LINES = 10_400
MOST_COLUMNS = 100
MOST_FUNCTION_LINES = 40
MOST_DOOR_LINES = 10


def lines_of(path):
    return path.read_text(encoding="utf-8").splitlines()


def python_files():
    return sorted(HELPERS.rglob("*.py"))


def beside_the_book():
    """What lies directly in helpers and is neither a file of the book nor the package itself."""
    rooms = {path.stem: path for path in HELPERS.glob("*.py")}
    return {name: path for name, path in rooms.items()
            if name not in BOOK and not name.startswith("__")}


# -- what the book imports -------------------------------------------------------------------------

def imports(source):
    """(level, module, names) of every import, also of those inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [alias.name for alias in node.names]
        elif isinstance(node, ast.Call):
            function = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if function in ("import_module", "__import__"):
                yield 2, ast.unparse(node), []  # whatever it names


def foreign_imports(source, name):
    """Imports that the file `name` of the book may not have: wings, later files, others."""
    earlier, foreign = BOOK[:BOOK.index(name)], []
    for level, module, names in imports(source):
        if level == 0:
            package = module.split(".")[0]
            allowed = package in LIBRARIES or package in sys.stdlib_module_names
        elif level == 1:
            allowed = module in earlier or not module and set(names) <= set(earlier)
        else:
            allowed = False
        if not allowed:
            foreign.append("." * level + module or names)
    return foreign


@pytest.mark.parametrize("name", BOOK)
def test_the_book_imports_only_what_stands_before_it_and_libraries(name):
    source = (HELPERS / f"{name}.py").read_text(encoding="utf-8")
    assert foreign_imports(source, name) == []
    assert list(imports(source))  # or the test looks at nothing


@pytest.mark.parametrize("line", [
    "from .sources import load_model", "from .exact import flatten", "from .curvature import KFAC",
    "from . import terminal", "from . import stories, exact", "from .sources.files import DATA",
    "from .. import helpers", "import helpers.stories", "from helpers import stories",
    "import tqdm", "from datasets import Dataset", "import safetensors.torch",
    "def late():\n    from .terminal import fit", "import importlib\nimportlib.import_module('x')",
    "class Room:\n    def late(self):\n        import huggingface_hub"])
def test_an_import_that_the_book_may_not_have_is_found(line):
    assert foreign_imports(line, "curvature") != []
    allowed = "import json\nfrom .capture import shape\nfrom . import stories\nimport torch.nn"
    assert foreign_imports(allowed, "curvature") == []


# -- bounds ----------------------------------------------------------------------------------------

def test_the_book_has_its_files_and_no_more():
    assert len(BOOK) <= MOST_FILES and all((HELPERS / f"{name}.py").is_file() for name in BOOK)


def test_the_book_is_short():
    assert sum(len(lines_of(HELPERS / f"{name}.py")) for name in BOOK) <= MOST_BOOK_LINES


def test_all_of_helpers_grows_no_longer():
    assert sum(len(lines_of(path)) for path in python_files()) <= MOST_LINES


def test_beside_the_book_are_doors_only():
    """A door is an entrance of a few lines to a wing, for a command that is written down."""
    long = {name for name, path in beside_the_book().items()
            if len(lines_of(path)) > MOST_DOOR_LINES}
    assert long <= BEFORE_ALL, f"more than doors: {long - BEFORE_ALL}"


def test_no_line_is_too_long():
    long = [f"{path.relative_to(ROOT)}:{number}" for path in python_files()
            for number, line in enumerate(lines_of(path), 1) if len(line) > MOST_COLUMNS]
    assert long == []


def test_no_function_is_too_long():
    long = []
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if node.end_lineno - node.lineno + 1 > MOST_FUNCTION_LINES:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert long == []
