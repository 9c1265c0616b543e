"""Grades submitted notebooks: the check of every exercise is run on what the learner's function returns."""
import csv
import html
import io
import json
import os
import queue
import re
import shutil
import signal
import site
import subprocess
import sys
import threading
from argparse import ArgumentTypeError
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from ..__main__ import Parser
from .student import ROOT, exercises
from .student import main as tool

START, LINE, LARGEST = 180, 64 * 2**20, 50 * 2**20  # seconds for imports; bytes of one answer, of one notebook
MOST_TEXT = 600  # characters of one sentence
ATTEMPTED = ("correct", "wrong")
HINT = "; an answer may use imports, functions, classes and constants of any cell, but nothing that other cells compute"
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ border-bottom: 1px solid #888; padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; overflow-wrap: anywhere; }}
</style></head><body><h1>{title}</h1>
{parts}
<p>An answer is judged by the values it returns. It may use what it is given, and imports, functions, classes and
constants of any cell; values that other cells compute are not at hand.</p></body></html>
"""


class Submission(NamedTuple):
    """A student's notebook file; `path` is None where a student's folder holds none."""
    student: str
    path: Path | None


class Row(NamedTuple):
    """What one notebook got: `marks` is a list of (exercise, mark, sentence); `note` says what is wrong with the file."""
    student: str
    notebook: str
    file: str
    marks: list
    note: str = ""

    def count(self, *marks):
        return sum(mark in marks for _, mark, _ in self.marks)


class Ended(Exception):
    """The submission's process did not answer; the message is for the report."""


# -- which notebooks ---------------------------------------------------------------------------------

def series() -> dict[str, list[str]]:
    """{notebook of the series: its exercises in order}."""
    paths = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    return {path.name: exercises(json.loads(path.read_text(encoding="utf-8"))) for path in paths}


def find_submissions(paths, known) -> list[Submission]:
    """All notebooks that the paths name or hold. Raises InputError where one does not exist, or none is found.

    The student is the folder directly below the one given. A notebook that lies in the folder given, or
    is given itself, is its student's by its name; or by its folder's, where it is called as in the series.
    """
    from ..stories import InputError
    found = []
    for path in paths:
        path = Path(os.path.abspath(path))
        if not path.exists():
            raise InputError(f"there is no {path}: name notebooks, or a folder with them")
        if path.is_dir() and not (path / "notebooks").is_dir():
            for entry in sorted(path.iterdir()):
                if entry.name.startswith("."):
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    found += [Submission(entry.name, file) for file in notebooks_below(entry) or [None]]
                elif entry.suffix == ".ipynb":
                    found.append(Submission(path.name if entry.name in known else entry.stem, entry))
        elif path.is_dir():  # a whole student copy
            found += [Submission(path.name, file) for file in notebooks_below(path)]
        else:
            found.append(Submission(path.parent.name if path.name in known else path.stem, path))
    if not any(submission.path for submission in found):
        raise InputError("no notebook (*.ipynb) in " + ", ".join(map(str, paths)) + ": name notebooks, or a folder with them")
    return found


def notebooks_below(folder: Path) -> list[Path]:
    """Notebooks in the folder and its subfolders, without hidden ones (.ipynb_checkpoints); links to folders are not followed."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent) / name for name in files if name.endswith(".ipynb") and not name.startswith(".")]
    return sorted(found)


def read_cells(path: Path) -> list[str]:
    """Sources of the code cells. Raises ValueError with what is wrong with the file."""
    if path.is_symlink() or not path.is_file():
        raise ValueError("not a file of its own")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"larger than {LARGEST // 2**20} MB")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError):
        raise ValueError("not a notebook: the file is no valid JSON") from None
    cells = content.get("cells") if isinstance(content, dict) else None
    if not isinstance(cells, list):
        raise ValueError("not a notebook: it has no cells")
    texts = [cell.get("source", "") for cell in cells if isinstance(cell, dict) and cell.get("cell_type") == "code"]
    return [text if isinstance(text, str) else "".join(map(str, text)) if isinstance(text, list) else "" for text in texts]


def which_notebook(path: Path, cells, known) -> str | None:
    """The notebook of the series that this is: by the answers it names, or by its file's number."""
    mentioned = Counter(name for name, names in known.items() for one in names
                        if any(re.search(rf"\bmy_{one}\b", cell) for cell in cells))
    if mentioned:
        return mentioned.most_common(1)[0][0]
    numbers = re.findall(r"(?<!\d)\d\d(?!\d)", path.name)
    return next((name for name in known if name == path.name or name[:2] in numbers), None)


# -- one notebook at work ----------------------------------------------------------------------------

class Process:
    """`helpers.submission` at work in an empty folder, with a clean environment. Raises Ended, from `next`."""

    def __init__(self, cells, names, seconds, memory):
        self.folder = TemporaryDirectory(prefix="grade-", ignore_cleanup_errors=True)
        home = os.path.realpath(self.folder.name)
        keep = {key: os.environ[key] for key in ("PATH", "SYSTEMROOT", "LANG", "LD_LIBRARY_PATH") if key in os.environ}
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = keep | one_thread | {"HOME": home, "TMPDIR": home, "TEMP": home, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "",
                                   "PYTHONUSERBASE": site.getuserbase(), "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"}
        self.process = subprocess.Popen([sys.executable, "-m", "helpers.classroom.submission"], cwd=home, env=env, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        self.lines = queue.Queue(maxsize=2)
        threading.Thread(target=self.listen, daemon=True).start()
        order = {"cells": cells, "names": names, "seconds": seconds, "memory": memory}
        try:
            with self.process.stdin as stdin:
                stdin.write(json.dumps(order).encode())
        except OSError:
            pass  # it has ended already, and `next` says so

    def listen(self):
        while line := self.process.stdout.readline(LINE):
            self.lines.put(line)
        self.lines.put(b"")

    def next(self, seconds) -> dict:
        """The next line that it writes. Raises Ended."""
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            raise Ended(f"stopped after {seconds:g} seconds: does it loop, or wait for input?") from None
        if not line:
            raise Ended("it ended the process, by itself or by using too much memory or time")
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise Ended("what came back from it cannot be read")
        return record

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # whatever else it has started
        except (AttributeError, OSError):
            self.process.kill()
        self.process.wait()
        self.folder.cleanup()


def run_answers(cells, names, seconds, memory) -> dict[str, dict]:
    """{exercise: what its answer did}. Each has the time limit to itself; where one ends the process, the rest get another.

    Raises InputError where the process does not even start.
    """
    from ..stories import InputError
    found, waiting = {}, list(names)
    while waiting:
        with Process(cells, waiting, seconds, memory) as process:
            try:
                process.next(START)
            except Ended as reason:
                raise InputError(f"the grading process does not start ({reason}): try python -m helpers.preflight") from None
            try:
                while waiting:
                    record = process.next(seconds)
                    if record.get("exercise") != waiting[0]:
                        raise Ended("what came back from it cannot be read")
                    found[waiting.pop(0)] = record
            except Ended as reason:
                found[waiting.pop(0)] = {"failed": str(reason)}
    return found


def judge(name: str, record: dict) -> tuple[str, str]:
    """`(mark, sentence)` of an exercise, decided here from the values that the answer returned.

    The process's own verdict can only lower the mark: it has seen how the values were made.
    """
    from .. import checks
    from .submission import judged, replayed
    if record.get("missing"):
        return "missing", f"no cell defines my_{name}"
    if "failed" in record or not isinstance(record.get("events"), list):
        return "wrong", str(record.get("failed", "what came back from it cannot be read"))
    mark, said = judged(getattr(checks, name), replayed(record["events"]))
    claimed, sentence = record.get("mark"), str(record.get("said"))
    if mark == "correct" and claimed != "correct":
        return "wrong", sentence
    if mark == "wrong" and claimed == "correct":
        said += " (in the submission's own process the check said otherwise: read this answer)"
    return mark, said + (HINT if "raised NameError" in said else "")


def grade(submission: Submission, known, seconds, memory) -> Row:
    """Whatever is wrong with the submission stands in its row. Raises InputError only where nothing can be graded."""
    student, path = submission
    if path is None:
        return Row(student, "", "", [], "no notebook in this folder")
    try:
        cells, note = read_cells(path), ""
    except (ValueError, OSError) as problem:
        cells, note = [], str(problem)
    notebook = which_notebook(path, cells, known)
    names = known.get(notebook, [])
    if not note and not names:
        note = "not a notebook of this series"
    asked = [name for name in names if any(f"my_{name}" in cell for cell in cells)]
    records = run_answers(cells, asked, seconds, memory)
    marks = [(name, *judge(name, records.get(name, {"missing": True}))) for name in names]
    return Row(student, notebook or "", path.name, marks, note)


# -- what is written ---------------------------------------------------------------------------------

def plain(value) -> str:
    """Text of theirs without what steers terminals and directions of writing, and not endless."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in str(value)[:MOST_TEXT])


def cell(value) -> str:
    """The same, and no spreadsheet takes it for a formula."""
    text = plain(value)
    return "'" + text if text.startswith(tuple("=+-@")) else text


def table(rows: list[Row]) -> str:
    """grades.csv: one row a student and notebook."""
    most, text = max(len(row.marks) for row in rows), io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    write(["student", "notebook", "file", "attempted", "correct", "total", *(f"exercise_{n}" for n in range(1, most + 1)), "note"])
    for row in rows:
        marks = [mark for _, mark, _ in row.marks]
        write([*map(cell, (row.student, row.notebook, row.file)), row.count(*ATTEMPTED), row.count("correct"), len(marks),
               *marks, *[""] * (most - len(marks)), cell(row.note)])
    return text.getvalue()


def report(student: str, rows: list[Row]) -> str:
    """A page for one student; every text of theirs is escaped."""
    parts, safe = [], lambda text: html.escape(plain(text))
    for row in rows:
        file = f"File: {row.file}. " if row.file else ""
        parts.append(f"<h2>{safe(row.notebook or row.file or 'Nothing handed in')}</h2>")
        parts.append(f"<p>{row.count('correct')} of {len(row.marks)} correct, {row.count(*ATTEMPTED)} attempted. {safe(file + row.note)}</p>")
        if row.marks:
            lines = "\n".join(f"<tr><td>{safe(name)}</td><td>{mark}</td><td>{safe(said)}</td></tr>" for name, mark, said in row.marks)
            parts.append(f"<table><tr><th>exercise</th><th>mark</th><th>what the check says</th></tr>\n{lines}</table>")
    return PAGE.format(title=safe(f"Exercises: {student}"), parts="\n".join(parts))


def write_grades(rows: list[Row], out: Path) -> None:
    """grades.csv and reports/<student>.html in the new or empty folder `out`: all or nothing. Raises OSError."""
    with TemporaryDirectory(dir=out.parent, prefix=".tokenwise-", suffix=".partial") as folder:
        made, names = Path(folder) / "grades", set()
        (made / "reports").mkdir(parents=True)
        save = lambda name, text: (made / name).write_text(text, encoding="utf-8", errors="backslashreplace")
        save("grades.csv", "\ufeff" + table(rows))  # the mark tells spreadsheets that it is UTF-8
        for student in dict.fromkeys(row.student for row in rows):
            stem = name = re.sub(r"[^\w-]+", "_", student)[:60]
            numbers = count(2)
            while name.lower() in names:
                name = f"{stem}-{next(numbers)}"
            names.add(name.lower())
            save(f"reports/{name}.html", report(student, [row for row in rows if row.student == student]))
        if out.exists():
            out.rmdir()
        shutil.move(made, out)


def grade_all(submissions, *arguments, jobs=1) -> list[Row]:
    """The rows of all submissions, in order, `jobs` at a time; tells on stderr how far it is."""
    pool, rows = ThreadPoolExecutor(jobs), []
    try:
        for row in pool.map(lambda submission: grade(submission, *arguments), submissions):
            rows.append(row)
            what = f"{row.student}  {row.notebook or row.file}  {row.count('correct')} of {len(row.marks)}  {row.note}"
            print(plain(what).rstrip(), file=sys.stderr)
    finally:
        pool.shutdown(cancel_futures=True)
    return rows


def whole_number(text):
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 3600):
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1 to 3,600")
    return int(text)


def build_parser():
    parser = Parser(prog="python -m helpers.grade", description=__doc__)
    add = parser.add_argument
    add("paths", nargs="+", type=Path, metavar="FOLDER_OR_NOTEBOOK", help="notebooks, folders with them, or a folder of students' folders")
    add("--out", type=Path, default=Path("grades"), metavar="FOLDER", help="a new or empty folder (default: %(default)s)")
    add("--time-limit", type=whole_number, default=30, metavar="S", help="seconds for each exercise (default: %(default)s)")
    add("--memory", type=whole_number, default=2, metavar="GB", help="for each notebook, where the system can limit it (default: %(default)s)")
    add("--jobs", type=whole_number, default=min(4, os.cpu_count() or 1), metavar="N", help="notebooks at a time (default: %(default)s)")
    return parser


def run(argv) -> None:
    """Raises Usage and InputError."""
    args = build_parser().parse_args(argv)
    import torch

    from ..files import output
    from ..stories import InputError
    torch.set_num_threads(1)  # for judging; the submissions at work need the other processors
    out, known = args.out.resolve(), series()
    with output(args.out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{args.out} is there and not empty: name a new folder with --out")
        if not os.access(out.parent, os.W_OK):
            raise OSError(f"the folder {args.out.parent} is not there, or may not be changed")
    rows = grade_all(find_submissions(args.paths, known), known, args.time_limit, args.memory * 2**30, jobs=args.jobs)
    with output(args.out):
        write_grades(rows, out)
    print(f"{len(rows)} notebooks: {args.out / 'grades.csv'} and {args.out / 'reports'}")


def main(argv=None) -> int:
    """Runs the command line; returns the exit code."""
    return tool(argv, run, "grade")
