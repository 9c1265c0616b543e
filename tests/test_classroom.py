"""Student copies and grading: what students get, and what every kind of submission gets."""
import contextlib
import csv
import gzip
import importlib
import io
import json
import os
import re
import sys
import time
import zipfile
from importlib import import_module

import documents
import nbformat
import pytest
import torch
from builders import ROOT
from exercises import notebook, pasted, run_all, solution, solution_cells, source, tags, verdict

from helpers import checks
from helpers.classroom import grade, report, student, submission
from helpers.classroom.handed_in import Submission, find_submissions
from helpers.classroom.notebooks import Cell, exercises, names, read_cells, spells, statements
from helpers.stories import InputError

PATHS = {path.name[:2]: path for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))}
EXERCISES = [(number, name) for number in PATHS for name in solution_cells(notebook(number))]
SERIES = {path.name: exercises(notebook(number)) for number, path in PATHS.items()}
ONE_QUICK = [pytest.param(number, marks=() if number == "01" else pytest.mark.slow)
             for number in PATHS]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The checks' tensors are tiny, and threads that wait for each other make them slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def code_cells(content):
    return [source(cell) for cell in content["cells"] if cell["cell_type"] == "code"]


# -- student copies -------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """A folder outside the repository with the student copies, as the command writes it."""
    out = tmp_path_factory.mktemp("outside") / "course" / "copies"
    assert student.main([str(out)]) == 0
    return out


@pytest.fixture(params=PATHS.values(), ids=lambda path: path.stem)
def pair(request, copies):
    """(the series' notebook, its student copy)."""
    both = request.param, copies / "notebooks" / request.param.name
    return tuple(json.loads(path.read_text(encoding="utf-8")) for path in both)


def without_counts(cell):
    outputs = [{key: value for key, value in output.items() if key != "execution_count"}
               for output in cell.get("outputs", [])]
    return cell | {"outputs": outputs, "execution_count": None}


def test_a_copy_is_the_notebook_without_its_solutions(pair):
    original, copy = pair
    nbformat.validate(nbformat.from_dict(copy))
    kept = [cell for cell in copy["cells"] if "answer-import" not in tags(cell)]
    wanted = [cell for cell in original["cells"] if "solution" not in tags(cell)]
    assert [*map(without_counts, kept[1:])] == [*map(without_counts, wanted[1:])]
    first, theirs = (source(cells[0]).rpartition("**On Colab**")[0] for cells in (wanted, kept))
    assert theirs == first
    assert original["metadata"] == copy["metadata"]
    code = [cell for cell in copy["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))


def test_no_line_of_a_solution_is_to_be_read(pair):
    original, copy = pair
    text = "\n".join(map(source, copy["cells"]))
    kept = "\n".join(source(cell) for cell in original["cells"] if "solution" not in tags(cell))
    for answer in solution_cells(original).values():
        lines = [line.strip() for line in answer.splitlines() if re.match(r"    +\S", line)]
        lines = [line for line in lines if line not in kept]
        assert lines and not any(line in text for line in lines)


def run_imports(copy, folder, monkeypatch):
    """The names that the copy's import cells give, wherever the notebook is at work."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    for module in [name for name in sys.modules if re.fullmatch(r"answers_\d\d", name)]:
        monkeypatch.delitem(sys.modules, module)
    space = {"sys": sys, "ROOT": folder}
    for cell in copy["cells"]:
        if "answer-import" in tags(cell):
            exec(source(cell), space)
    return space


@pytest.mark.parametrize("number", PATHS)
def test_what_later_cells_use_is_imported_and_right(number, copies, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # as on Colab, where the working folder is not the notebook's
    copy = json.loads((copies / "notebooks" / PATHS[number].name).read_text("utf-8"))
    space = run_imports(copy, copies, monkeypatch)
    code = code_cells(copy)
    imports = [source(cell) for cell in copy["cells"] if "answer-import" in tags(cell)]
    for name in solution_cells(notebook(number)):
        function = f"{name}_solution"
        users = [place for place, text in enumerate(code)
                 if function in text and text not in imports]
        assert bool(users) == (function in space)  # handed out where needed, and only there
        if users:
            (giver,) = [place for place, text in enumerate(code)
                        if function in text and text in imports]
            assert giver < users[0]
            assert verdict(getattr(checks, name), space[function]).startswith("✓")


@pytest.mark.slow
def test_the_imports_work_in_jupyterlab_and_on_colab(copies, tmp_path):
    """In a kernel that works in the notebook's folder, and in one beside what the ZIP file held."""
    content = json.loads((copies / "notebooks" / PATHS["01"].name).read_text("utf-8"))
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    content["cells"] = [code[0], *(cell for cell in code if "answer-import" in tags(cell))]
    for name in ("helpers", "data", "notebooks", "requirements.txt"):
        (tmp_path / name).symlink_to(copies / name)
    for folder in (copies / "notebooks", tmp_path):
        ran = run_all(content, folder)
        assert len(ran.cells) == 3 and all(cell.execution_count for cell in ran.cells)


def test_answers_are_to_be_read_as_python(copies):
    """They keep the solutions' own lines, and stand alone."""
    for number in PATHS:
        text = (copies / "notebooks" / f"answers_{number}.py").read_text("utf-8")
        assert text.startswith(f'"""Solutions of notebook {number} ')
        used = [cell for name, cell in solution_cells(notebook(number)).items()
                if f"def {name}_" in text]
        assert used
        for cell in used:
            assert cell.removeprefix("# @title Solution\n").rpartition("\n\nchecks.")[0] in text
        assert "checks." not in text and "# @title" not in text


def test_comments_and_imports_of_a_solution_are_kept():
    cells = [("import math\nfrom os import path as p", []), ("limit = float(3)", []),
             ("# @title Solution\ndef f_solution(x):\n    # why\n    return math.sqrt(x)\n\n"
              "checks.f(f_solution)", ["solution"]), ("print(f_solution(4))", [])]
    content = {"cells": [nbformat.v4.new_code_cell(text, metadata={"tags": tag})
                         for text, tag in cells]}
    copy, text = student.student_copy("09_x.ipynb", content)
    assert "import math\n" in text and "    # why\n" in text and "path" not in text
    assert "from answers_09 import f_solution  # used below" in source(copy["cells"][2])
    solution_cell = content["cells"][2]
    solution_cell["source"] = solution_cell["source"].replace("math.sqrt(x)", "x * limit")
    with pytest.raises(InputError, match="09_x.ipynb uses limit, which another cell computes"):
        student.student_copy("09_x.ipynb", content)


def test_links_and_files_are_all_in_the_copy(copies):
    texts = {path: documents.text(path) for path in (copies / "notebooks").glob("*.ipynb")}
    assert len(texts) == len(PATHS)
    for path, words in texts.items():
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", words):
            assert (path.parent / target).exists(), target
    every = {path.name for path in copies.rglob("*")}
    assert {path.name for path in copies.iterdir()} == {
        "README.md", "LICENSE", "requirements.txt", "helpers", "data", "notebooks"}
    assert not every & {"__pycache__", "TEACHING.md"}
    assert not any(name.startswith(".") for name in every)
    assert str(ROOT) not in (copies / "README.md").read_text("utf-8")


def test_the_same_bytes_again_also_into_an_empty_folder(copies, tmp_path):
    def files(folder):
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*")
                if path.is_file() and path.parent.name != "__pycache__"}
    assert student.main([str(tmp_path)]) == 0
    assert files(tmp_path) == files(copies)


def test_nothing_is_overwritten_and_nothing_half_written(copies, tmp_path, capsys, monkeypatch):
    def refused(out, words):
        assert student.main([str(out)]) == 2
        said = capsys.readouterr().err
        assert re.fullmatch(rf"error: [^\n]*{words}[^\n]*\n", said), said
    (tmp_path / "file").write_text("mine")
    refused(tmp_path, "not empty")
    refused(tmp_path / "file", "not empty")
    refused(tmp_path / "file" / "below", "cannot write")
    assert (tmp_path / "file").read_text() == "mine"
    assert student.main([]) == 2 and "helpers.student --help" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(student, "ROOT", copies)
        refused(tmp_path / "again", "student copy")

    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(student.shutil, "copy", full)
    refused(tmp_path / "new", "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# -- what a cell defines --------------------------------------------------------------------------

@pytest.mark.parametrize("text, defines, uses", [
    ("import a.b, c as d\nfrom e import *", {"a", "d", "*"}, set()),
    ("def f(x, y=z):\n    w = g(x)\n    return [v for v in w if h]", {"f"}, {"z", "g", "h"}),
    ("class C(B):\n    k = 1\n    def m(self):\n        return k", {"C"}, {"B", "k"}),
    ("if a:\n    def f(): ...\nelse:\n    f = b", {"f"}, {"a", "b"}),
    ("x, (y, *z) = t\nx += 1\ndel x", {"x", "y", "z"}, {"t", "x"}),
    ("async def f(): await g()", {"f"}, {"g"}),
    ("t['k'] = v\na.b = 1", {"t"}, {"t", "v", "a"}),
    ('"""\ndef my_x(): ...\n"""\n# def my_y(): ...\ns = "my_z = 1"', {"s"}, set()),
    ("%matplotlib inline\n!ls\nmy_x?\n??f\nfiles = !ls\nx = 1", {"x"}, set()),
    ("%%time\n%%capture\nx = y", {"x"}, {"y"}),
    ("def f():\n    !ls\n    %time g()\n    return h", {"f"}, {"h"}),
    (">>> x = 1", {"x"}, set()),
])
def test_what_a_cell_defines_and_uses(text, defines, uses):
    assert set().union(*(statement.defines for statement in statements(text))) == defines
    assert set().union(*(statement.uses for statement in statements(text))) == uses


@pytest.mark.parametrize("text", ["def f(:", "(" * 10**5, "x = '\ud800'", "\0",
                                  "x = (" + "-" * 10**5 + "1)"])
def test_a_cell_that_is_no_python_is_a_syntax_error(text):
    with pytest.raises(SyntaxError):
        statements(text)


def test_what_need_not_be_python_may_spell_a_definition():
    assert all(spells(text, "my_x") for text in (
        "def my_x(:", "## Mine\n```python\ndef my_x(a):\n    retrun\n```", "  async def my_x(",
        "my_x = 3 +"))
    assert not any(spells(text, "my_x") for text in (
        "# def my_x():", "call my_x", "def my_xy(", "'def my_x'", "checks.x(my_x)", "my_x == 3"))
    assert names(statements("def f(): return f")[0].node) == ({"f"}, {"f"})


# -- how an answer is judged ----------------------------------------------------------------------

def marks(number, cells):
    """{exercise: (mark, sentence)} of a notebook with these cells, judged in this process."""
    read = [submission.read(cell if isinstance(cell, Cell) else Cell("code", cell))
            for cell in cells]
    return {name: submission.attempt(read, name) for name in solution_cells(notebook(number))}


def wrong(number, which):
    """Cells of a learner whose every stub holds a wrong answer, and the words for each."""
    answers = import_module(f"attempts_{number}").WRONG
    content, tests = notebook(number), str(ROOT / "tests")
    for cell in content["cells"]:
        for name in answers:
            if f"def my_{name}(" in source(cell):
                cell["source"] = (f"import sys\nsys.path.append({tests!r})\n"
                                  f"from attempts_{number} import WRONG\n"
                                  f"my_{name} = WRONG[{name!r}][{which}][1]")
    return code_cells(content), {name: every[which][0] for name, every in answers.items()}


@pytest.mark.parametrize("number", ONE_QUICK)
def test_untouched_solved_and_mistaken(number, copies):
    untouched = json.loads((copies / "notebooks" / PATHS[number].name).read_text("utf-8"))
    assert {mark for mark, _ in marks(number, code_cells(untouched)).values()} == {"not attempted"}
    solved = marks(number, code_cells(pasted(notebook(number))))
    assert {mark for mark, _ in solved.values()} == {"correct"}
    for name, (_, sentence) in solved.items():
        assert verdict(getattr(checks, name), solution(number, name)) == f"✓ {sentence}"
    for which in (0, -1):
        cells, words = wrong(number, which)
        for name, (mark, said) in marks(number, cells).items():
            assert mark == "wrong" and (words[name] or "") in said


SOLVED = "def my_removal_effect(q, H, g):\n    return g @ torch.linalg.solve(H, q) / {}"
RIGHT = SOLVED.format("len(g)")
STUB = 'def my_removal_effect(query_gradient, H, gradients):\n    """Predicted change."""\n    ...'


@pytest.mark.parametrize("cells", [
    [RIGHT],
    ["# before", "SIZE = len\n%matplotlib inline\n!ls", SOLVED.format("SIZE(g)")],
    ["import datasets, math as m", SOLVED.format("m.floor(float(len(g)))")],
    ["count = lambda rows: size(rows)", SOLVED.format("count(g)"),
     "def size(rows):\n    return len(rows)"],
    ["len = 3 +", RIGHT, "raise SystemExit"],
    ["def size(g):\n    return len(g)", SOLVED.format("size(g)"),
     "def size(g):\n    return 0  # later, another"],
    ["torch.set_default_dtype(torch.float64)",
     SOLVED.format("(torch.ones(1, len(g)) @ torch.ones(len(g), dtype=H.dtype))")],
    ["from helpers.measure import *\nfrom math import *", SOLVED.format("floor(len(g))")],
    ["SIZES = {}\nSIZES['all'] = len", SOLVED.format("SIZES['all'](g)")],
    ["my_removal_effect = lambda q, H, g: g @ torch.linalg.solve(H, q) / len(g)"],
    ["import no_such_package\n%%time\n" + RIGHT, RIGHT],
    ["%%time\n" + RIGHT], ["import no_such_package\n" + RIGHT],
    [RIGHT + "\nmy_removal_effect?\n%timeit my_removal_effect(1, 2, 3)\n!ls\nfiles = !ls"],
    [RIGHT.replace("    return", "    !ls\n    %time 1\n    return")],
    ["from __future__ import annotations\n" + RIGHT.replace("(q,", "(q: Tensor,")],
    [RIGHT, '"""\ndef my_removal_effect(q, H, g):\n    return 0\n"""', "# my_removal_effect = 0",
     "del my_removal_effect"],
    ["if True:\n    " + RIGHT.replace("\n", "\n    ")],
    ["torch.set_grad_enabled(False)\n" + RIGHT],
])
def test_an_answer_finds_what_it_needs(cells):
    assert marks("01", cells)["removal_effect"][0] == "correct"
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()


@pytest.mark.parametrize("cells, mark, words", [
    (["x = 1"], "missing", "no cell defines my_removal_effect"),
    (["def my_removal_effect(q, H, g):\n    retrun 1"], "wrong",
     "my_removal_effect is no valid Python: .*line 2"),
    ([STUB, "def my_removal_effect(:"], "wrong", "no valid Python"),
    (["if 0:\n    def my_removal_effect(): return 0"], "wrong", "my_removal_effect raised nothing"),
    (["1 / 0\nmy_removal_effect = 1 / 0"], "wrong", "my_removal_effect raised ZeroDivisionError"),
    (["import sys\nmy_removal_effect = sys.exit(0)"], "wrong", "raised SystemExit"),
    (["size = len([1, 2])", SOLVED.format("size")], "wrong",
     "NameError.*'size'.*other cells compute"),
    (["async " + RIGHT], "wrong", "my_removal_effect is an `async def`: write `def`"),
    ([STUB], "not attempted", "not attempted yet$"),
    (["my_removal_effect = ..."], "not attempted", "not attempted yet"),
    ([STUB.replace("...", "pass"), STUB.replace("...", "return None")], "not attempted", "yet$"),
    # a package that is not here, at the top of the answer's cell, or of one that it needs
    (["import no_such_package as nsp\n" + SOLVED.format("nsp.size(g)")], "wrong",
     "^needs the package 'no_such_package', which is not installed here .*NameError"),
    (["from no_such_package.sub import size", "def count(g):\n    return size(g)",
      SOLVED.format("count(g)")],
     "wrong", "^needs the package 'no_such_package', which"),
    (["import no_such_package\nmy_removal_effect = no_such_package.solve"], "wrong",
     "^needs the package"),
    (["import no_such_package", SOLVED.format("2")], "wrong", "^(?!needs)"),
    # in a text cell
    ([Cell("markdown", RIGHT)], "missing",
     "my_removal_effect stands in a text cell: make it a code cell"),
    ([STUB, Cell("raw", RIGHT)], "not attempted", "stands in a text cell"),
    ([RIGHT, Cell("raw", RIGHT)], "correct", "refit|equal"),
    # an untouched stub below it; two of them
    ([RIGHT, STUB], "correct", r"\(the untouched stub below it is passed over\)"),
    ([RIGHT + "\n" + STUB], "correct", "passed over"),
    ([SOLVED.format("1"), RIGHT], "correct",
     r"\(my_removal_effect is defined 2 times: the last one counts\)"),
    ([RIGHT, SOLVED.format("1")], "wrong", r"defined 2 times: the last one counts"),
    ([RIGHT, SOLVED.format("1"), STUB], "wrong", r"2 times.*passed over"),
    ([STUB, RIGHT], "correct", r"[^)]$"),
    ([RIGHT, "def my_removal_effect(:"], "correct",
     "another cell with my_removal_effect is no valid Python"),
])
def test_what_is_odd_about_an_answer_is_told(cells, mark, words):
    found, sentence = marks("01", cells)["removal_effect"]
    assert found == mark and re.search(words, sentence), sentence


# -- whose, and which -----------------------------------------------------------------------------

def touch(root, *files):
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("{}")


def found(root, *paths):
    """{(student, path below root)}."""
    return {(entry.student, entry.path and entry.path.relative_to(root).as_posix())
            for entry in find_submissions([root / path for path in paths], SERIES)}


def test_students_by_folder_and_by_file(tmp_path):
    name = PATHS["02"].name
    touch(tmp_path, f"anna/{name}", f"anna/deep/{name}", "anna/.ipynb_checkpoints/x.ipynb",
          "ben.ipynb",
          f"copy/notebooks/{name}", "copy/data/stories.jsonl", name, "notes.txt", "empty/.hidden")
    assert found(tmp_path, "") == {
        ("anna", f"anna/{name}"), ("anna", f"anna/deep/{name}"), ("ben", "ben.ipynb"),
        ("copy", f"copy/notebooks/{name}"), (tmp_path.name, name), ("empty", None)}
    for path, owner, file in (("copy", "copy", f"copy/notebooks/{name}"),
                              (f"anna/{name}", "anna", f"anna/{name}"),
                              ("ben.ipynb", "ben", "ben.ipynb")):
        assert find_submissions([tmp_path / path], SERIES) == [Submission(owner, tmp_path / file)]


def test_nothing_that_was_handed_in_vanishes(tmp_path):
    touch(tmp_path, "anna.zip", "ben.ipynb.txt", "carl.IPYNB", "dora.pdf", "eve/eve.zip",
          "eve/__MACOSX/x.ipynb",
          "fay/work.ipynb", "fay/data.zip", ".DS_Store", "__MACOSX/x.ipynb", "_gil/a.ipynb")
    assert found(tmp_path, "") == {
        ("anna", "anna.zip"), ("ben", "ben.ipynb.txt"), ("carl", "carl.IPYNB"),
        ("dora", "dora.pdf"),
        ("eve", "eve/eve.zip"), ("fay", "fay/work.ipynb"), ("_gil", "_gil/a.ipynb")}
    with pytest.raises(InputError, match="no notebook .* only eve.zip: name"):
        found(tmp_path, "eve")


def test_students_of_one_name_are_told_apart_by_their_folders(tmp_path):
    touch(tmp_path, "A/hw.ipynb", "B/hw.ipynb", "g1/x/anna/1.ipynb", "g2/x/anna/1.ipynb",
          "g2/x/ben/1.ipynb")
    assert found(tmp_path, "A/hw.ipynb", "B/hw.ipynb", "A") == {
        ("A/hw", "A/hw.ipynb"), ("B/hw", "B/hw.ipynb")}
    assert found(tmp_path, "g1/x", "g2/x") == {
        ("g1/x/anna", "g1/x/anna/1.ipynb"), ("g2/x/anna", "g2/x/anna/1.ipynb"),
        ("ben", "g2/x/ben/1.ipynb")}


def test_which_notebook_it_is():
    def which(file, *cells):
        read = [submission.read(Cell("code", cell)) for cell in cells]
        return submission.which_notebook(file, read, SERIES)
    assert which("renamed.ipynb", "def my_lds(): ...") == PATHS["06"].name
    assert which("renamed.ipynb", "def my_lds(:") == PATHS["06"].name
    assert which("hw_03_final.ipynb") == PATHS["03"].name
    assert which("2003.ipynb", "x") is None


def packed_file(kind):
    data = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(data, "w") as archive:
            archive.writestr("01.ipynb", "{}")
        return data.getvalue()
    return gzip.compress(b"{}", mtime=0)


NOTEBOOK = json.dumps({"cells": [{"cell_type": "code", "source": ["x = 'é'\n", "y"]}]},
                      ensure_ascii=False)
OLD = {"nbformat": 3, "worksheets": [{"cells": [{"cell_type": "code", "input": "x = 'é'\ny"}]}]}


@pytest.mark.parametrize("data, note", [
    (NOTEBOOK.encode(), ""), (NOTEBOOK.encode("utf-8-sig"), "encoded in UTF-8-SIG"),
    (NOTEBOOK.encode("utf-16"), "encoded in UTF-16"),
    (NOTEBOOK.encode("latin-1"), "encoded in LATIN-1"),
    (json.dumps(OLD).encode(), "saved in the old format 3")])
def test_odd_files_are_read_and_told(data, note, tmp_path):
    (tmp_path / "a.ipynb").write_bytes(data)
    cells, told = read_cells(tmp_path / "a.ipynb")
    assert cells == [Cell("code", "x = 'é'\ny")]
    assert told.startswith(note) and bool(told) == bool(note)
    (tmp_path / "a.ipynb").rename(tmp_path / "a.ipynb.txt")
    assert read_cells(tmp_path / "a.ipynb.txt")[1].endswith("its name should end in .ipynb")


@pytest.mark.parametrize("data, reason", [
    (packed_file("zip"), "unpack it, it is a ZIP archive"),
    (packed_file("gzip"), "unpack it, it is a gzip archive"),
    (b"%PDF-1.7\n\xff", "it is a PDF file"), (b"\n<!DOCTYPE html>", "it is a web page"),
    (b"import torch\n", "it is Python source"), (b"", "the file is empty"),
    (b"{", "the file is no valid JSON"),
    (b"[" * 10**5, "the file is no valid JSON"), (b"words", "the file is no valid JSON"),
    (b"3", "it has no cells"),
    (b'{"worksheets": [1]}', "it has no cells"), (b'{"cells": 5}', "it has no cells")])
def test_what_is_no_notebook_is_told(data, reason, tmp_path):
    (tmp_path / "a.ipynb").write_bytes(data)
    with pytest.raises(ValueError, match=f"a.ipynb is no notebook: {reason}"):
        read_cells(tmp_path / "a.ipynb")


# -- what is written ------------------------------------------------------------------------------

def test_texts_of_theirs_steer_nothing():
    evil = "=1+1\x1b[31m\u202e</td><script>" + "x" * 10**6
    page = report.page(evil, [report.Row(evil, "", evil, [("lds", "wrong", evil)], evil)])
    assert not any(words in page for words in ("<script", "\x1b", "\u202e")) and len(page) < 10_000
    table = report.table([report.Row(evil, "", evil, [], evil)])
    assert all(not line.startswith("=") for line in table.splitlines())


def test_names_that_are_alike_get_a_report_each(tmp_path):
    students = ["a b-2", "a.b", "a_b", "A b", "A/b"]
    report.write_grades([report.Row(name, "", "", [], "") for name in students],
                        tmp_path / "grades")
    pages = {path.stem: path.read_text("utf-8")
             for path in (tmp_path / "grades" / "reports").iterdir()}
    wanted = ["a_b-2", "a_b", "a_b-3", "A_b-4", "A_b-5"]
    assert sorted(pages) == sorted(wanted)
    for whose, name in zip(students, wanted, strict=True):
        assert f"Exercises: {whose}<" in pages[name]


@pytest.mark.parametrize("arguments, words", [
    (["nowhere"], "nowhere: name notebooks"),
    (["."], "no notebook .*only grades.csv: name notebooks"),
    ([".", "--out", "full"], "full .*not empty"),
    ([".", "--time-limit", "0"], "'0'"), ([".", "--jobs", "3601"], "to 3,600"),
    ([".", "--memory", "0.1"], "'0.1'"), ([], "required"),
    ([".", "--out", "no/such/folder"], "no/such/folder")])
def test_a_teachers_mistakes_are_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "grades.csv").write_text("mine")
    assert grade.main(arguments) == 2
    assert re.fullmatch(rf"error: [^\n]*{words}[^\n]*\n", capsys.readouterr().err)
    assert (tmp_path / "full" / "grades.csv").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_process_that_does_not_start_is_the_teachers_matter(tmp_path, monkeypatch, capsys):
    """It is told in one line, and no student gets a row for it."""
    touch(tmp_path, "anna/01.ipynb")
    (tmp_path / "anna" / "01.ipynb").write_text(NOTEBOOK)
    monkeypatch.setattr(grade.sys, "executable", str(tmp_path / "no-python"))
    assert grade.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert re.fullmatch(r"error: the grading process does not start [^\n]*preflight\n", told), told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["student", "grade", "publish"])
def test_the_commands_keep_their_names(name):
    """Each is a door: it takes `main` from the classroom, and nothing else is in it."""
    door = importlib.import_module(f"helpers.{name}")
    assert door.main is importlib.import_module(f"helpers.classroom.{name}").main
    assert len((ROOT / "helpers" / f"{name}.py").read_text("utf-8").splitlines()) < 9


# -- submissions, each really run -----------------------------------------------------------------

def handing(number, **stubs):
    """The solved notebook, but for these exercises: {exercise: source of its cell}."""
    content = pasted(notebook(number))
    for cell in content["cells"]:
        for name, text in stubs.items():
            if f"def my_{name}(" in source(cell):
                cell["source"] = text
    return json.dumps(content)


def body(name, *lines):
    """A cell whose answer does this."""
    return "\n    ".join([f"def my_{name}(*arguments):", "import os, sys, time, torch", *lines])


def handed_in():
    """{student: {file: text or bytes}} of a class in which everything goes wrong."""
    deep = json.dumps({"cells": [{"cell_type": "code", "source": "(" * 10**6}]})
    number = json.dumps({"cells": [{"cell_type": "code", "source": 5}]})
    forks = "[os._exit(time.sleep(60) or 0) for _ in range(150) if not os.fork()]"
    return {
        "anna": {PATHS["01"].name: handing("01")},
        "broken": {"01.ipynb": "{", "02.ipynb": json.dumps({"nbformat": 4}), "03.ipynb": "",
                   "04.ipynb": json.dumps({"cells": [1, {}]}), "05.ipynb": "[" * 10**5,
                   "06.ipynb": number, "x.ipynb": packed_file("zip"), "09.ipynb": deep},
        "empty": {},
        "zipped": {"work.zip": packed_file("zip")},
        "<script>alert(1)<b>": {"=cmd()&<b>.ipynb": handing(
            "01",
            ridge_influence=body(
                "ridge_influence", "raise ValueError('</td><script>alert(2)</script>')"),
            loo_residuals=body("loo_residuals", "os._exit(0)"),
            damped_solve="def my_damped_solve(:")},
        "hungry": {"01.ipynb": handing(
            "01",
            removal_effect=body("removal_effect", "input('?')"),
            loo_residuals=body("loo_residuals", forks, "return 0"),
            ridge_influence=body("ridge_influence", "return [*range(2**30)]"),
            damped_solve=body("damped_solve", "file = open('big', 'wb')",
                              "while True: file.write(bytes(2**20))"))},
        "talker": {"04.ipynb": handing(
            "04",
            completion_labels=body("completion_labels", "print('✓' * 10**8)", "os.system('echo ✓')",
                                   "print('[\"completion_labels\", \"correct\", \"ok\"]')"),
            token_influence=body("token_influence", "sys.setrecursionlimit(10**6)",
                                 "my_token_influence()"),
            content_weights="import sys\nmy_content_weights = sys.exit(0)")},
    }


def graded_class(root, files, *options):
    """What the command makes of it: (rows of grades.csv, {report: text}, the folder `root`)."""
    for name, texts in files.items():
        (root / "in" / name).mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            data = text if isinstance(text, bytes) else text.encode()
            (root / "in" / name / file).write_bytes(data)
    assert grade.main([str(root / "in"), "--out", str(root / "out"), *options]) == 0
    with open(root / "out" / "grades.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    pages = {path.name: path.read_text("utf-8") for path in (root / "out" / "reports").iterdir()}
    return rows, pages, root


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """The class in which everything goes wrong, as the command grades it."""
    root = tmp_path_factory.mktemp("class")
    (root / "in" / "broken").mkdir(parents=True)
    (root / "in" / "broken" / "link.ipynb").symlink_to("/etc/passwd")
    os.mkfifo(root / "in" / "broken" / "pipe.ipynb")
    return graded_class(root, handed_in(), "--jobs", "2")


def row(graded, name):
    (only,) = [row for row in graded[0] if row["student"] == name]
    return only


def result(graded, name):
    only = row(graded, name)
    return [only[f"exercise_{number}"] for number in range(1, int(only["total"]) + 1)]


def said(graded, name):
    return graded[1][f"{name}.html"]


def test_an_honest_notebook_is_graded_by_the_command(tmp_path):
    """One answer right, one wrong, one not begun, one deleted: the quick one of these tests."""
    stubs = [source(cell) for cell in notebook("01")["cells"]
             if "def my_loo_residuals(" in source(cell)]
    content = handing("01", removal_effect=SOLVED.format("1"), loo_residuals=stubs[0],
                      damped_solve="")
    rows, reports, _ = graded_class(tmp_path, {"anna": {PATHS["01"].name: content}})
    names = [name for number, name in EXERCISES if number == "01"]
    given = {name: rows[0][f"exercise_{number}"] for number, name in enumerate(names, 1)}
    assert given == {"ridge_influence": "correct", "removal_effect": "wrong",
                     "loo_residuals": "not attempted",
                     "damped_solve": "missing"}
    counts = [rows[0][key] for key in ("student", "attempted", "correct", "total")]
    assert counts == ["anna", "2", "1", "4"]
    assert "N times too large" in reports["anna.html"]


@pytest.mark.slow
def test_a_loop_is_stopped_and_costs_its_own_exercise(tmp_path):
    """The limit is generous for the other answers: each takes milliseconds."""
    loop = handing("01", removal_effect=body("removal_effect", "while True: pass"))
    graded = graded_class(tmp_path, {"ben": {"01.ipynb": loop}}, "--time-limit", "4")
    assert sorted(result(graded, "ben")) == ["correct"] * 3 + ["wrong"]
    assert "after 4 seconds" in said(graded, "ben")


@pytest.mark.slow
def test_two_of_one_name_get_a_row_and_a_page_each(tmp_path):
    for folder, stubs in {"A": {"removal_effect": ""}, "B": {}}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "hw.ipynb").write_text(handing("01", **stubs))
    files = [str(tmp_path / folder / "hw.ipynb") for folder in "AB"]
    assert grade.main([*files, "--out", str(tmp_path / "out")]) == 0
    table = (tmp_path / "out" / "grades.csv").read_text("utf-8")
    assert "\nA/hw,01_influence_functions.ipynb,hw.ipynb,3," in table
    assert "\nB/hw,01_influence_functions.ipynb,hw.ipynb,4," in table
    pages = {path.name: path.read_text("utf-8")
             for path in (tmp_path / "out" / "reports").iterdir()}
    assert "3 of 4" in pages["A_hw.html"] and "4 of 4" in pages["B_hw.html"] and len(pages) == 2


@pytest.mark.slow
def test_everyone_has_rows_and_a_report(graded):
    rows, reports, root = graded
    assert len(rows) == 1 + 10 + 1 + 1 + 3 and len(reports) == 7
    assert not [*root.glob("out/.*"), *root.glob(".*")]


@pytest.mark.slow
def test_the_honest_one_is_untouched_by_the_others(graded):
    assert result(graded, "anna") == ["correct"] * 4
    assert {row(graded, "anna")[key] for key in ("attempted", "correct", "total")} == {"4"}
    right = verdict(checks.removal_effect, solution("01", "removal_effect"))
    assert right.removeprefix("✓ ") in said(graded, "anna")


@pytest.mark.slow
def test_broken_files_cost_their_own_row(graded):
    rows = {row["file"]: row for row in graded[0] if row["student"] == "broken"}
    assert all(row["correct"] == row["attempted"] == "0" for row in rows.values())
    for note, files in {"no valid JSON": ["01", "05"], "file is empty": ["03"], "no cells": ["02"],
                        "unpack it": ["x"], "no plain file": ["link", "pipe"]}.items():
        assert all(note in rows[f"{file}.ipynb"]["note"] for file in files)
    assert {rows["04.ipynb"][f"exercise_{number}"] for number in range(1, 5)} == {"missing"}
    assert rows["06.ipynb"]["total"] == "3" and rows["09.ipynb"]["total"] == "3"
    assert row(graded, "empty")["note"] == "no notebook in this folder"
    assert row(graded, "zipped")["note"].startswith("work.zip is no notebook: unpack it")
    assert "root:" not in said(graded, "broken")


@pytest.mark.slow
def test_exits_and_errors_cost_their_own_exercise(graded):
    name, page = "<script>alert(1)<b>", said(graded, "_script_alert_1_b_")
    assert result(graded, name) == ["wrong", "correct", "wrong", "wrong"]
    for words in ("ended the process", "no valid Python"):
        assert words in page
    assert "<script" not in page.lower() and "&lt;script&gt;alert(2)" in page
    assert row(graded, name)["file"] == "'=cmd()&<b>.ipynb"  # no formula


def started_by_graders():
    """Folders in which processes of graded notebooks still run."""
    places = []
    for number in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # another's, or it has just ended
            places.append(os.readlink(f"/proc/{number}/cwd"))
    return [place for place in places if "/grade-" in place]


@pytest.mark.slow
def test_memory_files_and_processes_are_limited(graded):
    """What it has started is ended with it: none of the 150 sleeps on."""
    assert result(graded, "hungry") == ["wrong"] * 4
    page = said(graded, "hungry")
    assert "EOFError" in page
    if sys.platform == "linux":
        assert "MemoryError" in page and "File too large" in page
        deadline = time.monotonic() + 30  # a killed process takes its time to go
        while left := started_by_graders():
            assert time.monotonic() < deadline, left
            time.sleep(0.1)


@pytest.mark.slow
def test_printing_gains_nothing_and_a_crash_costs_its_own(graded):
    assert result(graded, "talker") == ["not attempted", "wrong", "wrong", "correct"]
    assert "raised SystemExit" in said(graded, "talker")


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for its limits")
def test_limits_are_set_as_far_as_the_system_can():
    import resource
    before = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
              for name in ("DATA", "FSIZE", "CORE", "CPU", "NPROC")}
    child = os.fork()
    if child == 0:
        submission.confine(2**31, 90)
        now = [resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0] for name in before]
        os._exit(not (now[:4] == [2**31, submission.LARGEST_FILE, 0, 90] and 64 < now[4] < 10**6))
    assert os.waitpid(child, 0)[1] == 0
