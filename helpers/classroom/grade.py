"""Grades notebooks: each is at work in a process of its own, where every exercise has its check."""
import json
import os
import signal
import site
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from ..terminal.command import Parser, command, natural
from .handed_in import Submission, find_submissions
from .notebooks import ROOT, exercises, load_series, read_cells
from .report import Row, plain, write_grades

START = 180  # seconds for imports and for reading the cells
KEPT = "PATH", "SYSTEMROOT", "LANG", "LD_LIBRARY_PATH"  # of the environment
ALARM = -getattr(signal, "SIGALRM", 1)  # how a process ends that its alarm has ended
MARKS = "correct", "wrong", "not attempted", "missing"
LOOPS = "stopped after {} seconds: does it loop, or wait for input?"
ENDED = "it ended the process, by itself or by using too much memory or time"


def environment(home: str) -> dict[str, str]:
    """Nothing of the teacher's but what Python needs; one thread, no GPU, no models fetched."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {name: os.environ[name] for name in KEPT if name in os.environ} | {
        "HOME": home, "TMPDIR": home, "TEMP": home, "PYTHONPATH": path,
        "PYTHONUSERBASE": site.getuserbase(), "PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1"}


def run_once(order: dict) -> tuple[list, str]:
    """What `helpers.classroom.submission` says, run in an empty folder; why it says no more.

    Its order and its verdicts go through files of their own: no process that it leaves behind can
    make the grader wait for their end. Raises OSError where it cannot be started.
    """
    with (TemporaryDirectory(prefix="grade-", ignore_cleanup_errors=True) as home,
          TemporaryFile() as given, TemporaryFile() as said):
        given.write(json.dumps(order).encode())
        given.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", "helpers.classroom.submission"], cwd=home,
            env=environment(os.path.realpath(home)), stdin=given, stdout=said,
            stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            overtime = process.wait(START + order["cpu"]) == ALARM
        except subprocess.TimeoutExpired:  # where its own alarm does not end it
            overtime = True
        finally:
            kill_group(process)
        said.seek(0)
        lines = said.read().splitlines()
    messages = []
    for line in lines:
        with suppress(ValueError, RecursionError):  # cut off, or no message
            messages.append(json.loads(line))
    return messages, LOOPS.format(order["seconds"]) if overtime else ENDED


def kill_group(process: subprocess.Popen) -> None:
    """Ends the process and whatever it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (AttributeError, OSError):  # Windows; or all have ended
        process.kill()
    process.wait()


def run_answers(order: dict) -> tuple[str | None, list]:
    """(the notebook of the series that this is, [(exercise, mark, sentence)]).

    Each answer has the time limit to itself; where one ends the process, the rest get another.
    Raises ValueError where the cells cannot be read, InputError where the process does not start.
    """
    from ..stories import InputError
    marks, waiting = {}, True
    while waiting:
        try:
            messages, reason = run_once(order | {"done": list(marks)})
        except OSError as problem:
            messages, reason = [], problem
        if not messages:
            raise InputError(f"the grading process does not start ({reason}): try python -m "
                             "helpers.preflight")
        if len(messages) == 1:
            raise ValueError("its cells cannot be read, within these limits of time and memory")
        notebook, names = messages[1], order["series"].get(messages[1], [])
        for name, *verdict in filter(is_verdict, messages[2:]):
            marks.setdefault(name, verdict)
        waiting = [name for name in names if name not in marks]
        if waiting:
            marks[waiting.pop(0)] = ["wrong", reason]
    return notebook, [(name, *marks[name]) for name in names]


def is_verdict(message) -> bool:
    return (isinstance(message, list) and len(message) == 3 and message[1] in MARKS
            and isinstance(message[0], str))


def grade(submission: Submission, series: dict[str, list[str]], seconds: int, memory: int) -> Row:
    """What a submission gets. Raises InputError only where nothing at all can be graded."""
    student, path = submission
    if path is None:
        return Row(student, "", "", [], "no notebook in this folder")
    try:
        cells, note = read_cells(path)
        notebook, marks = run_answers({
            "cells": cells, "file": path.name, "series": series, "memory": memory,
            "seconds": seconds, "cpu": 60 + seconds * max(map(len, series.values()))})
    except (ValueError, OSError) as problem:
        return Row(student, "", path.name, [], str(problem))
    note = note if notebook else "not a notebook of this series" + (note and f"; {note}")
    return Row(student, notebook or "", path.name, marks, note)


def grade_all(submissions, *arguments, jobs=1) -> list[Row]:
    """The rows of all submissions, in order, `jobs` at a time; tells on stderr how far it is."""
    pool, rows = ThreadPoolExecutor(jobs), []
    try:
        for row in pool.map(lambda submission: grade(submission, *arguments), submissions):
            rows.append(row)
            told = (f"{row.student}  {row.notebook or row.file}  {row.count('correct')} of "
                    f"{len(row.marks)}  {row.note}")
            print(plain(told).rstrip(), file=sys.stderr)
    finally:
        pool.shutdown(cancel_futures=True)
    return rows


# -- the command line -----------------------------------------------------------------------------

def build_parser():
    parser = Parser(prog="python -m helpers.grade", description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, metavar="FOLDER_OR_NOTEBOOK",
                        help="notebooks, folders with them, or a folder of students' folders")
    parser.add_argument("--out", type=Path, default=Path("grades"), metavar="FOLDER",
                        help="a new or empty folder (default: %(default)s)")
    for option, default, metavar, what in (
            ("--time-limit", 30, "S", "seconds for each exercise"),
            ("--memory", 2, "GB", "for each notebook, where the system can limit it"),
            ("--jobs", min(4, os.cpu_count() or 1), "N", "notebooks at a time")):
        parser.add_argument(option, type=partial(natural, least=1, most=3600), default=default,
                            metavar=metavar, help=f"{what} (default: %(default)s)")
    return parser


def run(argv) -> None:
    """Raises Usage and InputError."""
    args = build_parser().parse_args(argv)
    from ..sources.files import check_new, output
    check_new(args.out)
    with output(args.out):
        if not os.access(args.out.absolute().parent, os.W_OK):
            raise OSError(f"the folder {args.out.parent} is not there, or may not be changed")
    series = {name: exercises(content) for name, content in load_series().items()}
    submissions = find_submissions(args.paths, series)
    rows = grade_all(submissions, series, args.time_limit, args.memory * 2**30, jobs=args.jobs)
    write_grades(rows, args.out)
    print(f"{len(rows)} graded: {args.out / 'grades.csv'} and {args.out / 'reports'}")


main = partial(command, run, "helpers.grade")
