"""What grading writes: a table for the teacher, and a page for each student."""
import csv
import io
import re
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader


ATTEMPTED = ("correct", "wrong")
MOST_TEXT = 1000  # characters of any text of theirs


class Row(NamedTuple):
    """What a file got: `marks` lists (exercise, mark, sentence), `note` what is odd about it."""
    student: str
    notebook: str
    file: str
    marks: list
    note: str = ""

    def count(self, *marks):
        return sum(mark in marks for _, mark, _ in self.marks)


def plain(value) -> str:
    """Text of theirs, not endless, without what steers terminals and directions of writing."""
    text = str(value)[:MOST_TEXT]
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


PAGES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
PAGES.filters["plain"] = plain


def cell(value) -> str:
    """The same, and no spreadsheet takes it for a formula."""
    text = plain(value)
    return "'" + text if text.startswith(tuple("=+-@")) else text


def table(rows: list[Row]) -> str:
    """grades.csv: one row a student and file."""
    most, text = max(len(row.marks) for row in rows), io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    write(["student", "notebook", "file", "attempted", "correct", "total",
           *(f"exercise_{number}" for number in range(1, most + 1)), "note"])
    for row in rows:
        marks = [mark for _, mark, _ in row.marks]
        write([*map(cell, (row.student, row.notebook, row.file)),
               row.count(*ATTEMPTED), row.count("correct"), len(marks),
               *marks, *[""] * (most - len(marks)), cell(row.note)])
    return text.getvalue()


def page(student: str, rows: list[Row]) -> str:
    """A student's page; every text of theirs is escaped."""
    return PAGES.get_template("report.html").render(student=student, rows=rows, attempted=ATTEMPTED)


def write_grades(rows: list[Row], out: Path) -> None:
    """grades.csv and reports/<student>.html in the new or empty folder `out`, or nothing of it.
    Raises InputError."""
    pages = {}
    for student in dict.fromkeys(row.student for row in rows):
        stem = re.sub(r"[^\w-]+", "_", student)[-60:]
        alike = [stem, *(f"{stem}-{number}" for number in range(2, len(rows) + 2))]
        taken = {name.lower() for name in pages}  # not all systems tell capitals apart
        name = next(name for name in alike if name.lower() not in taken)
        pages[name] = page(student, [row for row in rows if row.student == student])
    from ..sources.files import whole_folder  # takes seconds
    with whole_folder(out) as made:
        (made / "reports").mkdir()
        save = {made / "reports" / f"{name}.html": text for name, text in pages.items()}
        save[made / "grades.csv"] = "\ufeff" + table(rows)  # tells spreadsheets that it is UTF-8
        for path, text in save.items():
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
