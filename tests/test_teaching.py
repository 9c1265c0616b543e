"""notebooks/TEACHING.md keeps to the notebooks: links, sections, exercises, minutes, messages and numbers are theirs."""
import re
from importlib import import_module

import pytest
from builders import ROOT
from exercises import notebook, source, verdict

from helpers import checks

PATH = ROOT / "notebooks" / "TEACHING.md"
TEXT = PATH.read_text(encoding="utf-8")
NUMBERS = sorted(path.name[:2] for path in PATH.parent.glob("0*.ipynb"))
CELLS = {number: notebook(number)["cells"] for number in NUMBERS}
REFERENCE = re.compile(r"\b(0\d) “([^”]+)”")
SAID = re.compile(r"`(\w+)`[^|]*\| ✗ “([^”]+)”")
PRINTED = re.compile(r"\b(0\d)\s+prints\s+`([^`]+)`")


def flat(text):
    """With single spaces: a quotation may run over the end of a line."""
    return " ".join(text.split())


def headings(number):
    text = "\n".join(source(cell) for cell in CELLS[number] if cell["cell_type"] == "markdown")
    return [title.strip() for title in re.findall(r"^#+ (.+)$", text, re.M)]


def printed(number):
    return "\n".join("".join(output.get("text", "")) for cell in CELLS[number] for output in cell.get("outputs", []))


def cards(number):
    """{exercise number: (name, minutes)} from the notebook's cards and the checks that follow them."""
    text = "\n\n".join(map(source, CELLS[number]))
    found = re.findall(r"^### Exercise (\d).*?^Difficulty .*?· (\d+) minutes.*?^checks\.(\w+)\(my_", text, re.M | re.S)
    return {int(at): (name, int(minutes)) for at, minutes, name in found}


def rows_with_clock(section):
    return [(int(start), int(end)) for start, end in re.findall(r"^\| (\d+)–(\d+) \|", section, re.M)]


def test_every_section_named_is_in_its_notebook():
    named = REFERENCE.findall(flat(TEXT))
    assert len(named) > 60
    for number, title in named:
        assert title in headings(number), f"{number} “{title}”"


def test_every_exercise_has_its_number_name_and_minutes():
    found = re.findall(r"(0\d) exercise (\d), `(\w+)` \((\d+) minutes\)", flat(TEXT))
    assert all((name, int(minutes)) == cards(number)[int(at)] for number, at, name, minutes in found)
    wanted = {(number, name) for number in NUMBERS if number < "08" for name, _ in cards(number).values()}
    assert {(number, name) for number, _, name, _ in found} == wanted  # none is left out of the sessions; 08 is a tool


def test_every_message_quoted_is_what_the_check_says_to_a_wrong_answer():
    quoted = SAID.findall(flat(TEXT).replace("| |", "|\n|"))
    assert len(quoted) == TEXT.count("✗") and len(quoted) > 30
    wrong = {number: import_module(f"wrong_answers_{number}").WRONG for number in NUMBERS}
    for name, message in quoted:
        (answers,) = [found[name] for found in wrong.values() if name in found]
        said = [verdict(getattr(checks, name), answer) for _, answer in answers]
        assert any(message in one for one in said), (name, message, said)


def test_everything_said_to_be_printed_is_printed():
    quoted = PRINTED.findall(flat(TEXT))
    assert len(quoted) == len(re.findall(r"\bprints\b", TEXT)) and len(quoted) > 8
    for number, words in quoted:
        assert flat(words) in flat(printed(number)), (number, words)


@pytest.mark.parametrize("number", NUMBERS)
def test_times_and_memory_are_those_of_the_first_cell(number):
    read, run, memory = re.search(r"\*\*Time\*\*: (.+?) to read, exercises included; (.+?) to run on two CPU cores, "
                                  r"(.+? GB) of memory", source(CELLS[number][0])).groups()
    (row,) = re.findall(rf"^\| \[{number} · .*$", TEXT, re.M)
    assert row.split(" | ")[1:] in ([read, run, f"{memory} |"], ["see its first cell"] * 2 + ["see its first cell |"])
    for stated in re.findall(rf"notebook {number} \((\d[^,)]*), ([\d.]+ GB)\)", flat(TEXT)):
        assert stated == (run, memory)


def test_the_plans_fill_their_time():
    parts = re.split(r"^(?=##+ )", TEXT, flags=re.M)
    plans = {part.splitlines()[0]: rows_with_clock(part) for part in parts if rows_with_clock(part)}
    assert len(plans) == 8
    for title, rows in plans.items():
        assert rows[0][0] == 0 and rows[-1][1] == (90 if "90 minutes" in title else 50), title
        assert all(end == start for (_, end), (start, _) in zip(rows, rows[1:])), title


def test_an_exercise_in_class_has_at_least_the_minutes_of_its_card():
    for start, end, row in re.findall(r"^\| (\d+)–(\d+) \|(.+)$", TEXT, re.M):
        minutes = [int(minutes) for minutes in re.findall(r"0\d exercise \d, `\w+` \((\d+) minutes\)", row)]
        assert int(end) - int(start) > max(minutes, default=0), row  # several in a row are done side by side


def test_numbers_beside_a_section_are_in_its_notebook():
    """Every decimal number, percentage and λ of a paragraph or row that names a section stands in one of the notebooks named."""
    blocks = re.split(r"\n(?=\n|\||- |\d+\. )", re.sub(r"```.*?```", "", TEXT, flags=re.S))
    content = {number: flat("\n".join(map(source, CELLS[number])) + printed(number)) for number in NUMBERS}
    tested = 0
    for block in blocks:
        found = re.findall(r"(?<![\w.#])\d+\.\d+(?!\w)|\d+%", re.sub(r"\$[^$]*\$", "", block))
        named = {number for number, _ in REFERENCE.findall(flat(block))} | {number for number, _ in PRINTED.findall(flat(block))}
        for value in found if named else ():
            tested += 1
            assert any(re.search(rf"(?<![\d.]){re.escape(value)}(?!\d)", content[number]) for number in named), (value, block)
    assert tested > 30


def test_the_readme_measured_what_is_said_of_it():
    readme = flat((ROOT / "README.md").read_text(encoding="utf-8"))
    for measured in re.findall(r"\d+ min \d+ s", TEXT):
        assert measured in readme
