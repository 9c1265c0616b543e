"""Every exercise of every notebook: the solution passes its check, the stub is told apart, an error is a sentence."""
import pytest
from conftest import ROOT
from exercises import notebook, solution, solution_cells, verdict

from helpers import checks

NUMBERS = [path.name[:2] for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))]
EXERCISES = [(number, name) for number in NUMBERS for name in solution_cells(notebook(number))]


@pytest.mark.parametrize("number, name", EXERCISES)
def test_solution_stub_and_error(number, name):
    check = getattr(checks, name)
    assert verdict(check, solution(number, name)).startswith("✓")
    assert verdict(check, lambda *arguments: ...) == "· not attempted yet"
    assert verdict(check, lambda *arguments: None) == "· not attempted yet"
    assert verdict(check, lambda *arguments: 1 / 0).startswith("✗ your function raised ZeroDivisionError")


@pytest.mark.parametrize("number", NUMBERS)
def test_every_solution_has_a_stub_that_does_nothing(number):
    content = notebook(number)
    code = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]
    for name in solution_cells(content):
        (stub,) = [text for text in code if f"def my_{name}(" in text]
        assert stub.rstrip().endswith("...") and any(f"checks.{name}(my_{name})" in text for text in code)
