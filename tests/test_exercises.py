"""Every exercise: its check accepts right answers of every kind, refuses wrong ones, and says why.
Every exercise: its check accepts right answers of every kind, refuses wrong ones, and says why."""
import os
from importlib import import_module

import numpy as np
import pytest
import torch
from builders import ROOT
from exercises import (
    notebook,
    pasted,
    run_all,
    solution,
    solution_cells,
    source,
    tags,
    unlike,
    variants,
    verdict,
)

from helpers import checks

NUMBERS = [path.name[:2] for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))]
EXERCISES = [(number, name) for number in NUMBERS for name in solution_cells(notebook(number))]
ATTEMPTS = {number: import_module(f"attempts_{number}") for number in NUMBERS}
WRONG = {number: ATTEMPTS[number].WRONG for number in NUMBERS}
GENERIC = "in a way this check does not know"


@pytest.mark.parametrize("number, name", EXERCISES)
def test_solution_stub_and_error(number, name):
    check = getattr(checks, name)
    assert verdict(check, solution(number, name)).startswith("✓")
    assert verdict(check, lambda *arguments: ...) == "· not attempted yet"
    assert verdict(check, lambda *arguments: None) == "· not attempted yet"
    assert verdict(check, lambda *arguments: 1 / 0).startswith(
        "✗ your function raised ZeroDivisionError"
    )
    for nonsense in (
        "text",
        [None],
        {},
        torch.tensor(float("nan")),
        (torch.zeros(2), "x"),
        object(),
    ):
        assert verdict(check, lambda *arguments, value=nonsense: value).startswith("✗")
    assert verdict(check, 3).startswith("✗")
    assert verdict(check, lambda *arguments: np.ones((2, 3))[::-1]).startswith(
        "✗"
    )  # a stride that torch does not have


@pytest.mark.parametrize("number, name", EXERCISES)
def test_right_answers_are_accepted_however_they_are_given(number, name):
    """Other formulas, loops, arrays, lists, float32; inputs overwritten, switches left behind."""
    given = variants(solution(number, name))
    given |= {f"attempt {place}": answer
              for place, answer in enumerate(ATTEMPTS[number].RIGHT[name])}
    said = {label: verdict(getattr(checks, name), answer) for label, answer in given.items()}
    refused = {label: line for label, line in said.items() if not line.startswith("✓")}
    assert not refused and len(ATTEMPTS[number].RIGHT[name]) >= 5
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("number, name", EXERCISES)
def test_wrong_answers_are_refused_and_most_are_named(number, name):
    said = [
        (words, verdict(getattr(checks, name), answer)) for words, answer in WRONG[number][name]
    ]
    unlike_expected = [(words, line) for words, line in said
                       if not line.startswith("✗") or (words or "") not in line]
    assert not unlike_expected and len(said) >= 12
    assert 8 * sum(GENERIC in line for _, line in said) <= len(said)


@pytest.mark.parametrize("number", NUMBERS)
def test_each_notebook_has_exercises_with_a_stub_a_check_hints_and_wrong_answers(number):
    content = notebook(number)
    names, cells = list(solution_cells(content)), content["cells"]
    assert 3 <= len(names) <= 6 and all(len(WRONG[number][name]) >= 2 for name in names)
    for name in names:
        (at,) = [i for i, cell in enumerate(cells) if f"def my_{name}(" in source(cell)]
        card, stub, check, hints, answer = map(source, cells[at - 1:at + 4])
        assert (
            card.split("### Exercise")[-1] != card and "Difficulty ●" in card and "minutes" in card
        )
        assert stub.rstrip().endswith("...") and f"checks.{name}(my_{name})" in check
        assert hints.count("<details>") >= 2 and "solution" in tags(cells[at + 3])
        assert f"checks.{name}({name}_solution)" in answer
        assert (
            sum(f"my_{name}" in source(cell) for cell in cells) == 2
        )  # the stub and its check: nothing leans on it


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("RUN_ALL_NOTEBOOKS"), reason="a second run of each: set RUN_ALL_NOTEBOOKS=1"
)
@pytest.mark.parametrize(
    "number", [number for number in NUMBERS if number != "01"]
)  # 01 runs so in test_colab.py
def test_runs_through_with_all_solutions_pasted_in(number):
    """Run All of a learner who is done: no error, every check passes, and every other text is as
    stored."""
    content = pasted(notebook(number))
    assert not unlike(run_all(content, ROOT / "notebooks").cells, content["cells"], solved=True)
