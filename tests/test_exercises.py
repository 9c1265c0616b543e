"""Every exercise: its check accepts the solution, waits for the stub, and names the mistakes that learners make."""
import json
import os
from importlib import import_module

import numpy as np
import pytest
import torch
from builders import ROOT
from exercises import notebook, pasted, solution, solution_cells, source, tags, verdict

from helpers import checks

NUMBERS = [path.name[:2] for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))]
EXERCISES = [(number, name) for number in NUMBERS for name in solution_cells(notebook(number))]
WRONG = {number: import_module(f"wrong_answers_{number}").WRONG for number in NUMBERS}


@pytest.mark.parametrize("number, name", EXERCISES)
def test_solution_stub_and_error(number, name):
    check = getattr(checks, name)
    assert verdict(check, solution(number, name)).startswith("✓")
    assert verdict(check, lambda *arguments: ...) == "· not attempted yet"
    assert verdict(check, lambda *arguments: None) == "· not attempted yet"
    assert verdict(check, lambda *arguments: 1 / 0).startswith("✗ your function raised ZeroDivisionError")
    for nonsense in ("text", [None], {}, torch.tensor(float("nan")), (torch.zeros(2), "x"), object()):
        assert verdict(check, lambda *arguments: nonsense).startswith("✗")
    assert verdict(check, 3).startswith("✗")
    assert verdict(check, lambda *arguments: np.ones((2, 3))[::-1]).startswith("✗")  # a stride that torch does not have


@pytest.mark.parametrize("number, name, words, answer", [
    (number, name, *wrong) for number, name in EXERCISES for wrong in WRONG[number][name]])
def test_a_mistake_is_named(number, name, words, answer):
    said = verdict(getattr(checks, name), answer)
    assert said.startswith("✗") and words in said


@pytest.mark.parametrize("number", NUMBERS)
def test_each_notebook_has_exercises_with_a_stub_a_check_hints_and_wrong_answers(number):
    content = notebook(number)
    names, cells = list(solution_cells(content)), content["cells"]
    assert 3 <= len(names) <= 6 and all(len(WRONG[number][name]) >= 2 for name in names)
    for name in names:
        (at,) = [i for i, cell in enumerate(cells) if f"def my_{name}(" in source(cell)]
        card, stub, check, hints, answer = map(source, cells[at - 1:at + 4])
        assert card.split("### Exercise")[-1] != card and "Difficulty ●" in card and "minutes" in card
        assert stub.rstrip().endswith("...") and f"checks.{name}(my_{name})" in check
        assert hints.count("<details>") >= 2 and "solution" in tags(cells[at + 3]) and f"checks.{name}({name}_solution)" in answer
        assert sum(f"my_{name}" in source(cell) for cell in cells) == 2  # the stub and its check: nothing leans on it


@pytest.mark.parametrize("number", NUMBERS)
def test_runs_through_with_all_solutions_pasted_in(number):
    """Run All of a learner who is done: no error, every check passes, and every other text is as stored.

    The quick notebooks; all of them with RUN_ALL_NOTEBOOKS=1, for a second run of each costs a quarter of an hour.
    """
    if number > "02" and not os.environ.get("RUN_ALL_NOTEBOOKS"):
        pytest.skip("a slow notebook: set RUN_ALL_NOTEBOOKS=1 to run it with its solutions pasted in")
    import nbformat
    from nbclient import NotebookClient
    content = pasted(notebook(number))
    done = nbformat.reads(json.dumps(content), as_version=4)
    NotebookClient(done, timeout=900, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
    for cell, before in zip(done.cells, content["cells"]):
        if cell.cell_type != "code" or "nbval-ignore-output" in tags(before):
            continue
        now, then = printed(cell), printed(before)
        assert now == then if "checks." not in cell.source else now.startswith("✓")


def printed(cell):
    return "".join("".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")
