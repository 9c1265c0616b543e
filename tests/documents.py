"""Texts of the series: its Markdown files and notebooks, their headings, links and the words between them."""
import json
import re
from pathlib import Path

from builders import ROOT

MARKDOWN = [ROOT / "README.md", ROOT / "data" / "README.md", *sorted((ROOT / "notebooks").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[str]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def text(path: Path) -> str:
    """A Markdown file whole, or the Markdown of a notebook."""
    return "\n\n".join(cells(path, "markdown")) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")


def without_code(written: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", " ", written, flags=re.S)


def prose(written: str) -> str:
    """Without code, formulas, targets of links, bare addresses and tags of HTML."""
    return re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$|\]\([^)]*\)|https?://\S+|<[^>]+>", " ", without_code(written), flags=re.S)


def links(path: Path) -> list[str]:
    """Targets of all links and pictures."""
    written = without_code(text(path))
    return [*re.findall(r"\]\(([^)\s]+)\)", written), *re.findall(r"(?:src|href)=\"([^\"]+)\"", written)]


def sections(path: Path) -> dict[str, str]:
    """{anchor: the section with its subsections}, as JupyterLab names anchors in notebooks and code hosts in Markdown files."""
    parts = re.split(r"^(?=#+ )", re.sub(r"```.*?```", "", text(path), flags=re.S), flags=re.M)[1:]
    depths, found = [len(part) - len(part.lstrip("#")) for part in parts], {}
    for at, part in enumerate(parts):
        title = part.split("\n")[0].strip("# ")
        plain = title if path.suffix == ".ipynb" else re.sub(r"[^\w -]", "", title.lower())
        end = next((i for i in range(at + 1, len(parts)) if depths[i] <= depths[at]), len(parts))
        found[plain.replace(" ", "-")] = "".join(parts[at:end])
    return found
