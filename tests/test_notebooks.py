"""Rules every stored notebook keeps; that its outputs are right is checked by nbval, which runs it."""
import json
import re
import statistics

import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def source(cell):
    return "".join(cell["source"])


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return request.param, json.loads(request.param.read_text(encoding="utf-8"))


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_executed_top_to_bottom_without_errors(notebook):
    cells = [cell for cell in notebook[1]["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
    assert not any(output.get("name") == "stderr" for cell in cells for output in cell["outputs"])


def test_small_cells_small_file_no_machine_paths_no_widget_state(notebook):
    path, content = notebook
    lengths = [len(source(cell).splitlines()) for cell in content["cells"] if cell["cell_type"] == "code"]
    assert max(lengths) <= 25 and statistics.median(lengths) <= 8
    assert path.stat().st_size < 2_000_000
    assert not re.search(r"(?<![\w.])/(home|root|tmp|Users|work)/", path.read_text(encoding="utf-8"))
    assert "widgets" not in content["metadata"]


def test_opens_with_what_is_needed_and_explains_its_figures(notebook):
    cells = notebook[1]["cells"]
    opening = source(cells[0])
    assert opening.startswith("# ") and "able to" in opening and "Time" in opening
    for cell, after in zip(cells, cells[1:]):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            assert "What to see" in source(after) or "What to see" in source(cells[cells.index(after) + 1])


def test_links_to_files_resolve(notebook):
    path, content = notebook
    for cell in content["cells"]:
        if cell["cell_type"] == "markdown":
            for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", source(cell)):
                assert (path.parent / target.split("#")[0]).exists(), target


def test_every_plain_text_output_is_compared(notebook):
    """nbval compares text; only cells whose output rightly varies may opt out."""
    cells = [cell for cell in notebook[1]["cells"] if cell["cell_type"] == "code" and cell["outputs"]]
    ignored = [cell for cell in cells if "nbval-ignore-output" in cell["metadata"].get("tags", [])]
    assert len(ignored) <= 0.1 * len(cells)
