"""Rules every stored notebook keeps; that its outputs are right is checked by nbval, which runs
it."""
import json
import re
import statistics

import pytest

from builders import ROOT
from exercises import source, tags

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TAGS = {"nbval-ignore-output", "solution"}
WORDS_A_MINUTE = 200


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return request.param, json.loads(request.param.read_text(encoding="utf-8"))


def cells_of(content, kind):
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


def prose(content):
    """All markdown, without inline code, links' targets and tags of HTML."""
    text = "\n\n".join(map(source, cells_of(content, "markdown")))
    return re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)|<[^>]+>", " ", text, flags=re.S)


def test_executed_top_to_bottom_without_errors(notebook):
    cells = cells_of(notebook[1], "code")
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
    assert not any(output.get("name") == "stderr" for cell in cells for output in cell["outputs"])


def test_small_cells_small_file_no_machine_paths_no_widget_state(notebook):
    path, content = notebook
    lengths = [len(source(cell).splitlines()) for cell in cells_of(content, "code")]
    assert max(lengths) <= 25 and statistics.median(lengths) <= 8
    assert path.stat().st_size < 2_000_000
    assert not re.search(r"(?<![\w.])/(home|root|tmp|Users|work)/",
                         path.read_text(encoding="utf-8"))
    assert "widgets" not in content["metadata"]


def test_exported_as_a_script_it_is_a_python_file(notebook):
    from nbconvert import ScriptExporter
    script, resources = ScriptExporter().from_filename(str(notebook[0]))
    assert resources["output_extension"] == ".py" and "# The set-up cell" in script


def test_the_set_up_cell_is_the_same_in_all_and_tags_are_known(notebook):
    first = json.loads(NOTEBOOKS[0].read_text(encoding="utf-8"))
    ours, others = (cells_of(content, "code")[0] for content in (notebook[1], first))
    assert source(ours) == source(others) and source(ours).startswith("# The set-up cell")
    assert all(set(tags(cell)) <= TAGS for cell in notebook[1]["cells"])


def test_opens_with_aims_needs_and_times_and_closes_with_what_comes_next(notebook):
    path, content = notebook
    opening, text = source(content["cells"][0]), prose(content)
    assert opening.startswith(f"# {path.name[:2]} · ") and "**You will be able to**" in opening
    assert re.search(r"\*\*You need first\*\*: \S", opening)
    assert len(re.findall(r"^- [a-z]", opening, re.M)) >= 3
    assert re.search(r"\d (minutes?|seconds) to run on two CPU cores, "
                     r"\d[\d.]* GB of memory at the peak", opening)
    # tests/test_colab.py knows what it must say
    assert opening.splitlines()[-1].startswith("**On Colab**: ")
    assert "**Predict**" in text
    closing = ("## Summary", "## Limits", "**Further reading**:", "**Next**:")
    assert all(text.count(part) == 1 for part in closing)
    assert sorted(closing, key=text.index) == list(closing)


def test_the_stated_reading_time_is_that_of_its_words_and_exercises(notebook):
    opening, text = source(notebook[1]["cells"][0]), prose(notebook[1])
    (stated,) = map(int, re.findall(r"(\d+) minutes to read, exercises included", opening))
    exercises = sum(map(int, re.findall(r"^Difficulty .* · (\d+) minutes", text, re.M)))
    code = "\n".join(source(cell) for cell in cells_of(notebook[1], "code")
                     if "solution" not in tags(cell))
    minutes = len(re.findall(r"\w[\w'’-]*", text + code)) / WORDS_A_MINUTE + exercises
    assert abs(stated - minutes) <= 0.1 * minutes, f"{minutes:.0f} minutes"


def test_explains_its_figures(notebook):
    cells = notebook[1]["cells"]
    for at, cell in enumerate(cells):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            assert any("What to see" in source(after) for after in cells[at + 1:at + 3])


def test_names_the_conventions(notebook):
    path, content = notebook
    linked = any("01_influence_functions.ipynb#Conventions" in source(cell)
                 for cell in content["cells"])
    assert linked or path.name.startswith("01")


def test_most_text_is_compared(notebook):
    """nbval compares text; only cells whose output rightly varies may opt out. Figures it cannot
    compare."""
    cells = cells_of(notebook[1], "code")
    compared = [cell for cell in cells if "nbval-ignore-output" not in tags(cell)
                and any(output.get("name") == "stdout" for output in cell["outputs"])]
    ignored = [cell for cell in cells if "nbval-ignore-output" in tags(cell)]
    assert len(compared) >= 0.6 * len(cells) and len(ignored) <= 0.1 * len(cells)
