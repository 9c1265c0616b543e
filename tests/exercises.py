"""The exercises of the notebooks: solution cells, notebooks with all solutions pasted in, and a check's verdict."""
import contextlib
import copy
import io
import json

from builders import ROOT


def notebook(number: str) -> dict:
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell) -> str:
    return "".join(cell["source"])


def tags(cell) -> list[str]:
    return cell["metadata"].get("tags", [])


def solution_cells(content: dict) -> dict[str, str]:
    """{exercise name: source of its cell tagged `solution`}; the cell defines `<name>_solution`."""
    cells = [source(cell) for cell in content["cells"] if "solution" in tags(cell)]
    return {text.split("_solution(")[0].split("def ")[-1]: text for text in cells}


def pasted(content: dict) -> dict:
    """The notebook of a learner who has pasted every solution into its stub."""
    done = copy.deepcopy(content)
    for name, solution in solution_cells(content).items():
        definition = solution.rpartition("\nchecks.")[0].replace(f"{name}_solution", f"my_{name}")
        (stub,) = [cell for cell in done["cells"] if f"def my_{name}(" in source(cell)]
        stub["source"] = definition
    return done


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
