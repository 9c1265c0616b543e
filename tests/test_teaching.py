"""TEACHING.md keeps to the notebooks: sections, exercises, minutes, messages and numbers are
theirs."""
import re
from collections import Counter
from importlib import import_module

from builders import ROOT
from exercises import notebook, source, tags, verdict

from helpers import checks

PATH = ROOT / "notebooks" / "TEACHING.md"
TEXT = PATH.read_text(encoding="utf-8")
NUMBERS = sorted(path.name[:2] for path in PATH.parent.glob("[01]*.ipynb"))
CELLS = {number: notebook(number)["cells"] for number in NUMBERS}
REFERENCE = re.compile(r"\b([01]\d) “([^”]+)”")
SAID = re.compile(r"`(\w+)`[^|]*\| ✗ “([^”]+)”")
PRINTED = re.compile(r"\b([01]\d)\s+prints\s+`([^`]+)`")


def flat(text):
    """With single spaces: a quotation may run over the end of a line."""
    return " ".join(text.split())


def headings(number):
    text = "\n".join(source(cell) for cell in CELLS[number] if cell["cell_type"] == "markdown")
    return [title.strip() for title in re.findall(r"^#+ (.+)$", text, re.M)]


def printed(number):
    return "\n".join(
        "".join(output.get("text", ""))
        for cell in CELLS[number]
        for output in cell.get("outputs", [])
    )


def cards(number):
    """{exercise number: (name, minutes)} from the notebook's cards and the checks that follow
    them."""
    text = "\n\n".join(map(source, CELLS[number]))
    found = re.findall(
        r"^### Exercise (\d).*?^Difficulty .*?· (\d+) minutes.*?^checks\.(\w+)\(my_",
        text,
        re.M | re.S,
    )
    return {int(at): (name, int(minutes)) for at, minutes, name in found}


def rows_with_clock(section):
    return [
        (int(start), int(end)) for start, end in re.findall(r"^\| (\d+)–(\d+) \|", section, re.M)
    ]


def test_every_section_named_is_in_its_notebook():
    wanting = [
        (number, title)
        for number, title in REFERENCE.findall(flat(TEXT))
        if title not in headings(number)
    ]
    assert not wanting


def test_every_exercise_has_its_number_name_and_minutes():
    found = re.findall(r"([01]\d) exercise (\d), `(\w+)` \((\d+) minutes\)", flat(TEXT))
    assert not [one for one in found if (one[2], int(one[3])) != cards(one[0])[int(one[1])]]
    wanted = {
        (number, name) for number in NUMBERS if number != "09" for name, _ in cards(number).values()
    }
    assert {
        (number, name) for number, _, name, _ in found
    } == wanted  # none is left out of the sessions; 09 is a tool


def test_every_message_quoted_is_what_the_check_says_to_a_wrong_answer():
    quoted = SAID.findall(flat(TEXT).replace("| |", "|\n|"))
    assert quoted and len(quoted) == TEXT.count("✗")
    wrong = {}
    for number in NUMBERS:
        wrong |= import_module(f"attempts_{number}").WRONG
    unsaid = [
        (name, message)
        for name, message in quoted
        if not any(message in verdict(getattr(checks, name), answer) for _, answer in wrong[name])
    ]
    assert not unsaid


def test_everything_said_to_be_printed_is_printed():
    quoted = PRINTED.findall(flat(TEXT))
    assert quoted and len(quoted) == len(re.findall(r"\bprints\b", TEXT))
    assert not [
        (number, words) for number, words in quoted if flat(words) not in flat(printed(number))
    ]


def test_times_and_memory_are_those_of_the_first_cells():
    for number in NUMBERS:
        read, run, memory = re.search(
            r"\*\*Time\*\*: (.+?) to read, exercises included; (.+?) to run on two CPU "
            r"cores, (.+? GB) of memory",
            source(CELLS[number][0]),
        ).groups()
        (row,) = re.findall(rf"^\| \[{number} · .*$", TEXT, re.M)
        assert row.rstrip(" |").split(" | ")[1:] in (
            [read, run, memory],
            ["see its first cell"] * 3,
        ), number
        for stated in re.findall(rf"notebook {number} \((\d[^,)]*), ([\d.]+ GB)\)", flat(TEXT)):
            assert stated == (run, memory), number


def minutes_of(number):
    """{section: minutes to read it}, by the rule of tests/test_notebooks.py for whole notebooks."""
    found, at = Counter(), ""
    for cell in CELLS[number]:
        words = source(cell) if "solution" not in tags(cell) else ""
        if cell["cell_type"] == "markdown":
            at = "".join(re.findall(r"^## (\d*)", words)) if words.startswith("## ") else at
            found[at] += sum(map(int, re.findall(r"^Difficulty .* · (\d+) minutes", words, re.M)))
            words = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)|<[^>]+>", " ", words, flags=re.S)
        found[at] += len(re.findall(r"\w[\w'’-]*", words)) / 200
    return found


def test_the_routes_take_the_minutes_they_say():
    routes = re.findall(r"^\| [^|]+ \| (\d+) minutes \| ([01]\d.*) \|$", TEXT, re.M)
    for stated, places in routes:
        total = 0
        for number, sections in re.findall(r"\b([01]\d)\b(?: \(([\d, ]+)\))?", places):
            minutes = minutes_of(number)
            wanted = set(sections.split(", ") if sections else minutes)
            assert wanted <= minutes.keys(), (number, wanted)
            total += sum(minutes[section] for section in wanted)
        assert abs(int(stated) - total) <= 0.1 * total, (places, total)
    assert len(routes) >= 8


def test_the_plans_fill_their_time():
    parts = re.split(r"^(?=##+ )", TEXT, flags=re.M)
    plans = {part.splitlines()[0]: rows_with_clock(part) for part in parts}
    plans = {
        title: rows
        for title, rows in plans.items()
        if rows or re.search("90 minutes|Session|afternoon", title)
    }
    for title, rows in plans.items():
        end = 90 if "90 minutes" in title else 180 if "afternoon" in title else 50
        assert rows and rows[0][0] == 0 and rows[-1][1] == end, title
        assert all(end == start for (_, end), (start, _) in zip(rows, rows[1:])), title


def test_an_exercise_in_class_has_at_least_the_minutes_of_its_card():
    for start, end, row in re.findall(r"^\| (\d+)–(\d+) \|(.+)$", TEXT, re.M):
        stated = re.findall(r"[01]\d exercise \d, `\w+` \((\d+) minutes\)", row)
        minutes = [int(card) for card in stated]
        assert int(end) - int(start) > max(minutes, default=0), (
            row
        )  # several in a row are done side by side


def test_numbers_beside_a_section_are_in_its_notebook():
    """Every decimal number and percentage of a block that names sections stands in one of their
    notebooks."""
    blocks = re.split(r"\n(?=\n|\||- |\d+\. )", re.sub(r"```.*?```", "", TEXT, flags=re.S))
    content = {
        number: flat("\n".join(map(source, CELLS[number])) + printed(number)) for number in NUMBERS
    }
    wanting = []
    for block in blocks:
        found = re.findall(r"(?<![\w.#])\d+\.\d+(?!\w)|\d+%", re.sub(r"\$[^$]*\$", "", block))
        named = {
            number for number, _ in REFERENCE.findall(flat(block)) + PRINTED.findall(flat(block))
        }
        wanting += [(value, block) for value in found if named and not any(
            re.search(rf"(?<![\d.]){re.escape(value)}(?!\d)", content[number]) for number in named)]
    assert not wanting


def test_the_readme_measured_what_is_said_of_it():
    readme = flat((ROOT / "README.md").read_text(encoding="utf-8"))
    for measured in re.findall(r"\d+ min \d+ s", TEXT):
        assert measured in readme
