"""Texts of the series: Markdown, notebooks, and what source files say of themselves; passages know
where they stand."""
import ast
import io
import json
import re
import tokenize
from pathlib import Path
from typing import NamedTuple

from builders import ROOT

MARKDOWN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data" / "README.md",
            *sorted((ROOT / "notebooks").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOURCES = sorted([*(ROOT / "helpers").rglob("*.py"), *(ROOT / "data").glob("*.py")])


class Passage(NamedTuple):
    """A Markdown file, a cell of a notebook, or a comment or string of a source file."""
    path: Path
    cell: int | None
    line: int
    text: str

    def place(self, at: int = 0) -> str:
        """Where the letter `at` of its text stands, for whoever has to mend it."""
        line = self.line + self.text.count("\n", 0, at)
        cell = f"cell {self.cell}:" if self.cell else ""
        return f"{self.path.relative_to(ROOT).as_posix()}:{cell}{line}"


def cells(path: Path, kind: str) -> list[str]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def text(path: Path) -> str:
    """A Markdown file whole, or the Markdown of a notebook."""
    if path.suffix == ".ipynb":
        return "\n\n".join(cells(path, "markdown"))
    return path.read_text(encoding="utf-8")


def passages(path: Path) -> list[Passage]:
    """A Markdown file; the Markdown cells of a notebook; comments and strings (of four words) of a
    source file."""
    written = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return [Passage(path, None, 1, written)]
    if path.suffix == ".ipynb":
        every = enumerate(json.loads(written)["cells"], 1)
        return [Passage(path, at, 1, "".join(cell["source"])) for at, cell in every
                if cell["cell_type"] == "markdown"]
    tokens = tokenize.generate_tokens(io.StringIO(written).readline)
    strings = (node for node in ast.walk(ast.parse(written))
               if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return [*(Passage(path, None, token.start[0], token.string) for token in tokens
              if token.type == tokenize.COMMENT),
            *(Passage(path, None, node.lineno, node.value) for node in strings
              if len(re.findall(r"[a-z]{2,} ", node.value)) >= 3 and "{" not in node.value)]


def blanked(pattern: str, written: str) -> str:
    """With blanks in the place of what the pattern finds; every other letter stays where it is."""
    return re.sub(pattern, lambda found: re.sub(r"[^\n]", " ", found[0]), written, flags=re.S)


def without_code(written: str) -> str:
    return blanked(r"```.*?```|`[^`\n]*`", written)


def prose(written: str) -> str:
    """Without code, formulas, targets of links, bare addresses and tags of HTML."""
    return blanked(r"\$\$.*?\$\$|\$[^$\n]+\$|\]\([^)]*\)|https?://\S+|<[^>]+>",
                   without_code(written))


def formulas(written: str):
    """Matches of all formulas."""
    return re.finditer(r"\$\$.+?\$\$|\$[^$\n]+\$", written, re.S)


def sections(path: Path) -> dict[str, str]:
    """{anchor: the section with its subsections}, as JupyterLab names anchors in notebooks, code
    hosts in Markdown."""
    parts = re.split(r"^(?=#+ )", re.sub(r"```.*?```", "", text(path), flags=re.S), flags=re.M)[1:]
    depths, found = [len(part) - len(part.lstrip("#")) for part in parts], {}
    for at, part in enumerate(parts):
        title = part.split("\n")[0].strip("# ")
        plain = title if path.suffix == ".ipynb" else re.sub(r"[^\w -]", "", title.lower())
        end = next((i for i in range(at + 1, len(parts)) if depths[i] <= depths[at]), len(parts))
        found[plain.replace(" ", "-")] = "".join(parts[at:end])
    return found
