"""Notebooks as files, and their cells as Python: what each statement defines and uses."""
import ast
import copy
import json
import symtable
from pathlib import Path
from typing import NamedTuple

from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).resolve().parents[2]
LARGEST = 50 * 2**20  # bytes of one notebook
SIGNATURES = {
    b"PK\x03\x04": "unpack it, it is a ZIP archive",
    b"\x1f\x8b": "unpack it, it is a gzip archive",
    b"%PDF": "it is a PDF file, hand in the .ipynb file itself",
    b"<": "it is a web page (HTML), hand in the .ipynb file itself",
}


class Cell(NamedTuple):
    """One cell of a notebook; `kind` is "code", "markdown" or "raw"."""
    kind: str
    text: str


class Statement(NamedTuple):
    """A statement at a cell's top level, the global names that it defines, and those it needs."""
    node: ast.stmt
    defines: set
    uses: set


# -- files ----------------------------------------------------------------------------------------

def source(cell: dict) -> str:
    return "".join(cell["source"])


def load_series(root: Path = ROOT) -> dict[str, dict]:
    """{file name: content} of the notebooks of the series in `root`, by their numbers."""
    paths = sorted((root / "notebooks").glob("[0-9]*.ipynb"))
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def read_cells(path: Path) -> tuple[list[Cell], str]:
    """The cells of a file that was handed in, and what is odd about it, in words. Raises ValueError
    with what it is, where it is no notebook; OSError where it cannot be read."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
        limit = f"{LARGEST // 2**20} MB"
        raise ValueError(f"{path.name} is a link, no plain file, or larger than {limit}")
    data = path.read_bytes()
    text, odd = decoded(data)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{path.name} is no notebook: {no_json(data, text)}") from None
    try:
        if "worksheets" in content:
            odd.append("saved in the old format 3")
            cells = [cell for sheet in content["worksheets"] for cell in sheet["cells"]]
        else:
            cells = content["cells"]
        cells = [as_cell(cell) for cell in cells if isinstance(cell, dict)]
    except (TypeError, KeyError):
        raise ValueError(f"{path.name} is no notebook: it has no cells") from None
    if path.suffix != ".ipynb":
        odd.append("its name should end in .ipynb")
    return cells, "; ".join(odd)


def decoded(data: bytes) -> tuple[str, list[str]]:
    """The text, and what is odd about its encoding: notebooks are written in UTF-8."""
    encoding = json.detect_encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        encoding, text = "latin-1", data.decode("latin-1")
    return text, [] if encoding == "utf-8" else [f"encoded in {encoding.upper()}, not UTF-8"]


def no_json(data: bytes, text: str) -> str:
    """What a file is that holds no JSON."""
    for start, advice in SIGNATURES.items():
        if data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(start):
            return advice
    try:
        kinds = set(map(type, ast.parse(text).body))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        kinds = set()
    if kinds & {ast.FunctionDef, ast.Import, ast.ImportFrom, ast.Assign}:
        return "it is Python source, hand in the .ipynb file itself"
    return "the file is no valid JSON" if text.strip() else "the file is empty"


def as_cell(cell: dict) -> Cell:
    text = cell.get("source", cell.get("input", ""))  # `input` in code cells of format 3
    lines = text if isinstance(text, list) else [text]
    return Cell(str(cell.get("cell_type")), "".join(map(str, lines)))


# -- cells as Python ------------------------------------------------------------------------------

def statements(text: str) -> list[Statement]:
    """The statements of a code cell as IPython reads it; what speaks to IPython becomes `pass`.
    Raises SyntaxError."""
    try:
        nodes = ast.parse(TransformerManager().transform_cell(text)).body
        match nodes:
            case [ast.Expr(ast.Call(ast.Attribute(_, "run_cell_magic"), [*_, ast.Constant(body)]))]:
                return statements(body)  # of %%time and its like
        nodes = [simple for node in nodes for simple in split(WithoutMagics().visit(node))]
        return [Statement(node, *names(node)) for node in nodes]
    except (ValueError, RecursionError, MemoryError, RuntimeError) as problem:
        raise SyntaxError(str(problem) or "too deeply nested") from None


class WithoutMagics(ast.NodeTransformer):
    """Replaces statements that IPython made of `%magic`, `!command` and `name?`, at any depth."""

    def visit_Expr(self, node):
        nodes = ast.walk(node.value)
        made = any(isinstance(inner, ast.Name) and inner.id == "get_ipython" for inner in nodes)
        return ast.copy_location(ast.Pass(), node) if made else node

    visit_Assign = visit_Expr


def split(node: ast.stmt) -> list[ast.stmt]:
    """An import as one statement for each thing, so that one that fails costs no other."""
    if not isinstance(node, (ast.Import, ast.ImportFrom)):
        return [node]
    imports = []
    for alias in node.names:
        imports.append(copy.copy(node))
        imports[-1].names = [alias]
    return imports


def names(node: ast.stmt) -> tuple[set[str], set[str]]:
    """The global names that a statement defines (`*` where an import may give any), and uses."""
    if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
        return {"*"}, set()
    try:
        module = symtable.symtable(ast.unparse(node), "cell", "exec")
    except SyntaxError:  # such as a `return` outside a function: running it says so
        return set(), set()
    defines, uses, scopes = set(), set(), [module]
    for scope in scopes:
        scopes += scope.get_children()
        for symbol in scope.get_symbols():
            if scope is module and (symbol.is_assigned() or symbol.is_imported()):
                defines.add(symbol.get_name())
            if symbol.is_referenced() and (scope is module or symbol.is_global()):
                uses.add(symbol.get_name())
    match node:
        case ast.Delete():
            defines = set()
        case ast.AugAssign():
            uses |= defines
        case ast.Assign([ast.Subscript(ast.Name(table))]):  # fills what another line has made
            defines.add(table)
    return defines, uses


def spells(text: str, name: str) -> bool:
    """Whether a line of what need not be Python sets out to define the name."""
    lines = (line.strip().removeprefix("async ").replace(" ", "") for line in text.splitlines())
    return any(line.startswith((f"def{name}(", f"{name}=")) and line[len(name):][:2] != "=="
               for line in lines)


# -- exercises ------------------------------------------------------------------------------------

def checked(node: ast.stmt) -> str | None:
    """The exercise whose check a statement calls, as `checks.<name>(…)`."""
    match node:
        case ast.Expr(ast.Call(ast.Attribute(ast.Name("checks"), exercise))):
            return exercise
    return None


def exercises(content: dict) -> list[str]:
    """A notebook's exercises, in order: those whose answer `my_<name>` a cell gives to a check."""
    code = [source(cell) for cell in content["cells"] if cell["cell_type"] == "code"]
    in_order = [checked(statement.node) for text in code for statement in statements(text)
                if f"my_{checked(statement.node)}" in statement.uses]
    return list(dict.fromkeys(in_order))
