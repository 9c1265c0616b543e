"""The exercises of the notebooks: their solution cells, and the verdict a check prints."""
import contextlib
import io
import json

from conftest import ROOT


def notebook(number: str) -> dict:
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    return json.loads(path.read_text(encoding="utf-8"))


def solution_cells(content: dict) -> dict[str, str]:
    """{exercise name: source of its cell tagged `solution`}; the cell defines `<name>_solution`."""
    found = {}
    for cell in content["cells"]:
        if "solution" in cell["metadata"].get("tags", []):
            source = "".join(cell["source"])
            found[source.split("_solution(")[0].split("def ")[-1]] = source
    return found


def solution(number: str, name: str):
    """The function `<name>_solution` of notebook `number`, run with nothing but torch and the checks at hand."""
    import torch

    from helpers import checks
    space = {"torch": torch, "checks": checks}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(solution_cells(notebook(number))[name], space)
    return space[f"{name}_solution"]


def verdict(check, answer) -> str:
    """The one line that `check` prints about `answer`."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        check(answer)
    return said.getvalue().strip()
