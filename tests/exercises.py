"""The exercises of the notebooks: solution cells, notebooks with all solutions pasted in, runs, a
check's verdict."""
import contextlib
import copy
import io
import json
from pathlib import Path

from builders import ROOT
from printed import alike


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


def run_all(content: dict, folder: Path, **options):
    """The notebook, run from top to bottom in this folder. Raises CellExecutionError."""
    import nbformat
    from nbclient import NotebookClient
    ran = nbformat.reads(json.dumps(content), as_version=4)
    NotebookClient(ran, timeout=900, resources={"metadata": {"path": str(folder)}}).execute(
        **options
    )
    return ran


def printed(cell) -> str:
    return "".join(
        "".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream"
    )


def unlike(ran, stored, solved: bool) -> list[tuple[str, str]]:
    """(cell, what it printed) where it is not as stored, up to rounding, or, if all is solved, a
    check objects."""
    found = []
    for now, then in zip(ran, stored):
        if now["cell_type"] == "code" and "nbval-ignore-output" not in tags(then):
            said, check = printed(now), solved and "checks." in source(now)
            if not (said.startswith("✓") if check else alike(printed(then), said)):
                found.append((source(now), said))
    return found


def solution(number: str, name: str):
    """The function `<name>_solution` of notebook `number`, run with nothing but torch and the
    checks at hand."""
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


def variants(answer) -> dict:
    """{what is special: the same right answer, given as people may give it}."""
    import numpy as np
    import torch

    def over(change, value):
        """`change` of every tensor in a result or among arguments."""
        if isinstance(value, tuple | list):
            return type(value)(over(change, part) for part in value)
        return change(value) if isinstance(value, torch.Tensor) else value

    def single(part):
        return part.float() if part.dtype == torch.float64 else part

    def tied(part):
        return part.detach().requires_grad_(part.is_floating_point())

    def spoil(part):
        return part if part.requires_grad else part.zero_()

    def spoiling(*arguments):
        result = over(torch.clone, answer(*arguments))
        over(spoil, arguments)
        return result

    def leaving(*arguments):
        result = answer(*arguments)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        return result

    changes = {
        "result in float32": single,
        "lists": lambda part: part.detach().tolist(),
        "arrays": lambda part: part.detach().numpy(),
        "arrays with negative strides": lambda part: np.flip(np.flip(part.detach().numpy()).copy()),
        "not contiguous": lambda part: torch.stack([part, part], -1)[..., 0],
        "still tied to a graph": tied,
    }
    changed = {label: lambda *given, change=change: over(change, answer(*given))
               for label, change in changes.items()}
    return {
        "as it is": answer, **changed,
        "worked in float32": lambda *given: answer(*over(single, given)),
        "overwrites its inputs": spoiling,
        "leaves switches behind": leaving,
        "without gradients": torch.no_grad()(answer),
    }
