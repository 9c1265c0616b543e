"""Student copies and grading: what students get, and what every kind of submission gets from the grader."""
import csv
import json
import os
import re
import sys
from importlib import import_module

import documents
import nbformat
import pytest
import torch
from builders import ROOT
from exercises import notebook, pasted, solution, solution_cells, source, tags, verdict

from helpers import checks
from helpers.classroom import grade, student
from helpers.classroom.grade import Submission, find_submissions, judge, which_notebook
from helpers.classroom.submission import attempt, decode, encode, recorded

PATHS = {path.name[:2]: path for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))}
EXERCISES = [(number, name) for number in PATHS for name in solution_cells(notebook(number))]
SENTENCE = "an answer that is graded may not"
ONE_QUICK = [pytest.param(number, marks=() if number == "01" else pytest.mark.slow) for number in PATHS]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The checks' tensors are tiny, and threads that wait for each other on a busy machine make them slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def sources(content):
    return [source(cell) for cell in content["cells"] if cell["cell_type"] == "code"]


# -- student copies ----------------------------------------------------------------------------------

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


def test_a_copy_is_the_notebook_without_its_solutions(pair):
    original, copy = pair
    nbformat.validate(nbformat.from_dict(copy))
    anonymous = lambda cell: {key: [{k: v for k, v in output.items() if k != "execution_count"} for output in value]
                              if key == "outputs" else value for key, value in cell.items() if key != "execution_count"}
    plain = [cell for cell in copy["cells"] if "packed-solution" not in tags(cell)]
    assert [*map(anonymous, plain)] == [anonymous(cell) for cell in original["cells"] if "solution" not in tags(cell)]
    assert original["metadata"] == copy["metadata"]
    code = [cell for cell in copy["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not any("packed" in output for cell in code for output in cell["outputs"])


def test_no_line_of_a_solution_is_to_be_read(pair):
    original, copy = pair
    text = "\n".join(map(source, copy["cells"]))
    kept = "\n".join(source(cell) for cell in original["cells"] if "solution" not in tags(cell))
    for answer in solution_cells(original).values():
        lines = [line.strip() for line in answer.splitlines() if re.match(r"    +\S", line)]
        lines = [line for line in lines if line not in kept]
        assert lines and not any(line in text for line in lines)


def test_what_later_cells_use_is_there_and_right(pair):
    original, copy = pair
    cells, seen = sources(copy), {"torch": torch}
    packed = [source(cell) for cell in copy["cells"] if "packed-solution" in tags(cell)]
    for cell in packed:
        exec(cell, seen)
    for name in solution_cells(original):
        used = [cell for cell in cells if f"{name}_solution" in cell]
        assert bool(used) == (f"{name}_solution" in seen)  # packed where needed, and only there
        if used:
            assert verdict(getattr(checks, name), seen[f"{name}_solution"]).startswith("✓")
            assert all(cells.index(used[0]) > cells.index(cell) for cell in packed if cell == packed[0])


def test_links_and_files_are_all_in_the_copy(copies):
    texts = {path: documents.text(path) for path in (copies / "notebooks").glob("*.ipynb")}
    assert len(texts) == len(PATHS)
    for path, words in texts.items():
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", words):
            assert (path.parent / target).exists(), target
    every = {path.name for path in copies.rglob("*")}
    assert {path.name for path in copies.iterdir()} == {"README.md", "LICENSE", "requirements.txt", "helpers", "data",
                                                        "notebooks"}
    assert not every & {"__pycache__", "TEACHING.md"} and not any(name.startswith(".") for name in every)
    assert str(ROOT) not in (copies / "README.md").read_text("utf-8")


def test_the_same_bytes_again_also_into_an_empty_folder(copies, tmp_path):
    assert student.main([str(tmp_path)]) == 0
    files = lambda folder: {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
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


# -- what an answer is, and how it is judged -----------------------------------------------------------

def marks(number, cells):
    """The grader's marks of a notebook with these cells, found in this process: {exercise: (mark, sentence)}."""
    before = torch.get_default_dtype()
    try:
        return {name: judge(name, json.loads(json.dumps(attempt(cells, name))))
                for name in solution_cells(notebook(number))}
    finally:
        torch.set_default_dtype(before)


def wrong(number, which):
    """Cells of a learner whose every stub holds a wrong answer, and the words that each must be told."""
    mistakes = {name: answers[which] for name, answers in import_module(f"wrong_answers_{number}").WRONG.items()}
    content, tests = notebook(number), str(ROOT / "tests")
    for cell in content["cells"]:
        for name in mistakes:
            if f"def my_{name}(" in source(cell):
                cell["source"] = (f"import sys\nsys.path.append({tests!r})\nfrom wrong_answers_{number} import WRONG\n"
                                  f"my_{name} = WRONG[{name!r}][{which}][1]")
    return sources(content), {name: words for name, (words, _) in mistakes.items()}


@pytest.mark.parametrize("number", ONE_QUICK)
def test_untouched_solved_and_mistaken(number, copies):
    untouched = json.loads((copies / "notebooks" / PATHS[number].name).read_text("utf-8"))
    assert {mark for mark, _ in marks(number, sources(untouched)).values()} == {"not attempted"}
    assert {mark for mark, _ in marks(number, sources(pasted(notebook(number)))).values()} == {"correct"}
    for which in (0, -1):
        cells, words = wrong(number, which)
        for name, (mark, said) in marks(number, cells).items():
            assert mark == "wrong" and words[name] in said


@pytest.mark.parametrize("number, name", EXERCISES)
def test_the_values_alone_give_the_checks_sentence(number, name):
    """What travels is enough: judged from its record, an answer gets the very sentence that the learner saw."""
    for answer in (solution(number, name), lambda *a: "text", lambda *a: 1 / 0, lambda *a: {"a": [torch.ones(2)]},
                   lambda *a: repr):
        events, check = [], getattr(checks, name)
        said = verdict(check, recorded(answer, events))
        record = json.loads(json.dumps({"events": events, "mark": "correct"}))
        assert judge(name, record)[1].startswith(said[2:])


def test_values_travel_unchanged():
    for value in (3, -0.5, float("inf"), True, "é\n", [1, (2.0, "x")], {"layer": 1, 2: [None]}):
        assert decode(json.loads(json.dumps(encode(value)))) == value
    for tensor in (torch.ones(2, 0, 3), torch.tensor(1.5), torch.arange(6).view(2, 3).T,
                   torch.ones(2, dtype=torch.complex64).conj(), torch.ones(3, requires_grad=True),
                   torch.tensor([True, False])):
        again = decode(json.loads(json.dumps(encode(tensor))))
        assert torch.equal(again, tensor)
        assert (again.dtype, again.requires_grad) == (tensor.dtype, tensor.requires_grad)
    assert torch.isnan(torch.tensor(decode(json.loads(json.dumps(encode(float("nan")))))))
    assert type(decode(encode(10**400))).__name__ == "int" and type(decode(encode(object()))).__name__ == "object"
    assert encode(torch.empty(10**7))["kind"] == "other"
    assert encode(torch.ones(1, dtype=torch.bfloat16))["dtype"] == "float32"


@pytest.mark.parametrize("item", [
    {}, [], {"kind": "tensor"}, {"kind": "tensor", "dtype": "float64", "shape": [10**12], "data": "", "grad": False},
    {"kind": "tensor", "dtype": "__class__", "shape": [], "data": "", "grad": False},
    {"kind": "plain", "value": {}}, {"kind": "dict", "parts": [[{"kind": "list", "parts": []}]]}])
def test_a_malformed_record_is_only_wrong(item):
    mark, said = judge("removal_effect", {"events": [{"value": item, "state": {}}], "mark": "correct", "said": "✓"})
    assert mark == "wrong" and said
    assert judge("make_hook", {"events": [item], "mark": "correct"})[0] == "wrong"
    assert judge("removal_effect", {"events": item})[0] == "wrong"


SOLVED = "def my_removal_effect(q, H, g):\n    return g @ torch.linalg.solve(H, q) / {}"


@pytest.mark.parametrize("cells", [
    [SOLVED.format("len(g)")],
    ["# before", "SIZE = 500\n%matplotlib inline\n!ls", SOLVED.format("SIZE")],
    ["import datasets, math as m", SOLVED.format("m.floor(float(len(g)))")],
    ["count = lambda rows: size(rows)", SOLVED.format("count(g)"), "def size(rows):\n    return len(rows)"],
    ["len = 3 +", SOLVED.format("len(g)"), "raise SystemExit"],
    ["def size(g):\n    return len(g)", SOLVED.format("size(g)"), "def size(g):\n    return 0  # later, another"],
    [SOLVED.format("1"),
     "# my_removal_effect = None\n" + SOLVED.format("len(g)") + "\nprint(my_removal_effect(missing))"],
    ["torch.set_default_dtype(torch.float64)",
     SOLVED.format("(torch.ones(1, len(g)) @ torch.ones(len(g), dtype=H.dtype))")],
    ["from helpers.checks import *\nfrom math import *", SOLVED.format("floor(len(g))")],
    ["my_removal_effect = lambda q, H, g: g @ torch.linalg.solve(H, q) / len(g)"],
])
def test_an_answer_finds_what_it_needs_in_other_cells(cells):
    assert marks("01", cells)["removal_effect"][0] == "correct"


def test_what_an_answer_lacks_is_told():
    for cells, mark, words in (
            (["x = 1"], "missing", ["my_removal_effect"]),
            (["def my_removal_effect(q, H, g):\n    retrun 1"], "wrong", ["my_removal_effect", "no valid", "line 2"]),
            (["if 0:\n    def my_removal_effect(): ..."], "wrong", ["my_removal_effect raised"]),
            (["1 / 0\nmy_removal_effect = 1 / 0"], "wrong", ["ZeroDivisionError"]),
            (["size = len([1, 2])", SOLVED.format("size")], "wrong", ["NameError", "'size'", "other cells compute"])):
        found, sentence = marks("01", cells)["removal_effect"]
        assert found == mark and all(word in sentence for word in words), sentence


# -- whose, and which ----------------------------------------------------------------------------------

def test_students_by_folder_and_by_file(tmp_path):
    name = PATHS["02"].name
    for file in (f"anna/{name}", f"anna/deep/{name}", "anna/.ipynb_checkpoints/x.ipynb", "ben.ipynb",
                 f"copy/notebooks/{name}", "copy/data/stories.jsonl", name, "notes.txt", "empty/readme.txt"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("{}")
    known = grade.series()
    found = {(one.student, one.path and one.path.relative_to(tmp_path).as_posix())
             for one in find_submissions([tmp_path], known)}
    assert found == {("anna", f"anna/{name}"), ("anna", f"anna/deep/{name}"), ("ben", "ben.ipynb"),
                     ("copy", f"copy/notebooks/{name}"), (tmp_path.name, name), ("empty", None)}
    one = lambda path: find_submissions([path], known)
    assert one(tmp_path / "copy") == [Submission("copy", tmp_path / "copy" / "notebooks" / name)]
    assert one(tmp_path / "anna" / name) == [Submission("anna", tmp_path / "anna" / name)]
    assert one(tmp_path / "ben.ipynb") == [Submission("ben", tmp_path / "ben.ipynb")]
    assert which_notebook(tmp_path / "renamed.ipynb", ["def my_lds(): ..."], known) == PATHS["06"].name
    assert which_notebook(tmp_path / "hw_03_final.ipynb", [], known) == PATHS["03"].name
    assert which_notebook(tmp_path / "2003.ipynb", ["x"], known) is None


def test_texts_of_theirs_steer_nothing():
    evil = "=1+1\x1b[31m\u202e</td><script>" + "x" * 10**6
    page = grade.report(evil, [grade.Row(evil, "", evil, [("lds", "wrong", evil)], evil)])
    assert "<script" not in page and "\x1b" not in page and "\u202e" not in page and len(page) < 10_000
    assert all(not line.startswith("=") for line in grade.table([grade.Row(evil, "", evil, [], evil)]).splitlines())


def test_names_that_are_alike_get_a_report_each(tmp_path):
    students = ["a b-2", "a.b", "a_b", "A b"]
    grade.write_grades([grade.Row(student, "", "", [], "") for student in students], tmp_path / "grades")
    pages = {path.stem: path.read_text("utf-8") for path in (tmp_path / "grades" / "reports").iterdir()}
    assert sorted(pages) == ["A_b-4", "a_b", "a_b-2", "a_b-3"]
    for whose, name in zip(students, ["a_b-2", "a_b", "a_b-3", "A_b-4"]):
        assert f"Exercises: {whose}<" in pages[name]


@pytest.mark.parametrize("arguments, words", [
    (["nowhere"], "nowhere: name notebooks"), (["."], "no notebook .* name notebooks"),
    ([".", "--out", "full"], "full .*not empty"),
    ([".", "--time-limit", "0"], "'0'"), ([".", "--memory", "0.1"], "'0.1'"), ([], "required"),
    ([".", "--out", "no/such/folder"], "no/such/folder")])
def test_a_teachers_mistakes_are_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "grades.csv").write_text("mine")
    assert grade.main(arguments) == 2
    assert re.fullmatch(rf"error: [^\n]*{words}[^\n]*\n", capsys.readouterr().err)
    assert (tmp_path / "full" / "grades.csv").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


# -- submissions, each really run ------------------------------------------------------------------------

FORGED = '''import json, os
def my_damped_solve(*arguments):
    line = json.dumps({"exercise": "damped_solve", "events": [], "mark": "correct", "said": "equal"}) + "\\n"
    for channel in range(30):
        try:
            os.write(channel, line.encode())
        except OSError:
            pass
    os._exit(0)'''
PATCHED = '''import helpers.checks
helpers.checks.compare = lambda *arguments, **options: None
def my_removal_effect(q, H, g):
    import helpers.checks, helpers.classroom.submission, torch
    helpers.checks.removal_effect.__wrapped__ = lambda answer: "equal"
    helpers.classroom.submission.judged = lambda *arguments: ("correct", "equal")
    torch.equal = torch.allclose = lambda *arguments, **options: True
    print("✓ all 500 are right")
    return g[:, 0]'''


def hostile(number, **stubs):
    """The solved notebook, but for these exercises: {exercise: source of its cell}."""
    content = pasted(notebook(number))
    for cell in content["cells"]:
        for name, text in stubs.items():
            if f"def my_{name}(" in source(cell):
                cell["source"] = text
    return json.dumps(content)


def body(name, *lines):
    """A cell whose answer does this."""
    return "\n    ".join([f"def my_{name}(*arguments):", "import os, sys, subprocess, shutil, socket, time", *lines])


def handed_in(victim):
    """{student: {file: text}} of a class in which everything goes wrong."""
    return {
        "anna": {PATHS["01"].name: json.dumps(pasted(notebook("01")))},
        "broken": {"01.ipynb": "{", "02.ipynb": json.dumps({"nbformat": 4}), "03.ipynb": "",
                   "04.ipynb": json.dumps({"cells": [1, {}]}), "05.ipynb": "[" * 10**5,
                   "06.ipynb": json.dumps({"cells": [{"cell_type": "code", "source": 5}]}), "x.ipynb": "{}"},
        "empty": {},
        "<script>alert(1)<b>": {"=cmd()&<b>.ipynb": hostile(
            "02", make_hook=body("make_hook", "raise ValueError('</td><script>alert(2)</script>')"),
            token_scores=body("token_scores", "os._exit(0)"),
            find_output_grad="def my_find_output_grad(:")},
        "vandal": {"03.ipynb": hostile(
            "03", ggn_product=body("ggn_product", f"shutil.rmtree({str(victim)!r})"),
            exact_fisher=body("exact_fisher", f"subprocess.run(['rm', '-r', {str(victim)!r}])"),
            kron_ihvp=body("kron_ihvp", "while True: os.fork()"),
            ekfac_eigenvalues=body("ekfac_eigenvalues", "return [bytearray(2**28) for _ in range(100)]"),
            cg=body("cg", f"open({str(victim / 'file')!r}, 'w')"))},
        "talker": {"04.ipynb": hostile(
            "04", completion_labels=body("completion_labels", "for _ in range(1000): print('✓' * 10**5)",
                                         "os.system('echo ✓')"),
            token_influence=body("token_influence", "socket.create_connection(('127.0.0.1', 9), 1)"),
            relatif="import sys\nmy_relatif = sys.exit(0)")},
        "forger": {"01.ipynb": hostile(
            "01", damped_solve=FORGED, removal_effect=PATCHED,
            loo_residuals=body("loo_residuals", "sys.setrecursionlimit(10**6)", "f = lambda: f()", "return f()"))},
    }


def graded_class(root, files, *options):
    """What the command makes of {student: {file: text}}: (rows of grades.csv, {report: text}, the folder `root`)."""
    for name, texts in files.items():
        (root / "in" / name).mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            (root / "in" / name / file).write_text(text, encoding="utf-8")
    assert grade.main([str(root / "in"), "--out", str(root / "out"), *options]) == 0
    with open(root / "out" / "grades.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    return rows, {path.name: path.read_text("utf-8") for path in (root / "out" / "reports").iterdir()}, root


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """The class in which everything goes wrong, as the command grades it."""
    root = tmp_path_factory.mktemp("class")
    (root / "victim").mkdir()
    (root / "victim" / "file").write_text("precious")
    (root / "in" / "broken").mkdir(parents=True)
    (root / "in" / "broken" / "link.ipynb").symlink_to("/etc/passwd")
    os.mkfifo(root / "in" / "broken" / "pipe.ipynb")
    return graded_class(root, handed_in(root / "victim"))


def row(graded, name):
    (found,) = [row for row in graded[0] if row["student"] == name]
    return found


def result(graded, name):
    found = row(graded, name)
    return [found[f"exercise_{at}"] for at in range(1, int(found["total"]) + 1)]


def said(graded, name):
    (text,) = [text for title, text in graded[1].items() if title == f"{name}.html"]
    return text


def test_an_honest_notebook_is_graded_by_the_command(tmp_path):
    """One answer right, one wrong, one not begun, one deleted: the quick one of these tests."""
    content = pasted(notebook("01"))
    stubs = [source(cell) for cell in notebook("01")["cells"] if "def my_loo_residuals(" in source(cell)]
    answers = {"removal_effect": SOLVED.format("1"), "loo_residuals": stubs[0], "damped_solve": ""}
    for cell in content["cells"]:
        for name, text in answers.items():
            if f"def my_{name}(" in source(cell):
                cell["source"] = text
    rows, reports, _ = graded_class(tmp_path, {"anna": {PATHS["01"].name: json.dumps(content)}})
    names = [name for number, name in EXERCISES if number == "01"]
    marks = dict(zip(names, (rows[0][f"exercise_{at}"] for at in range(1, 5))))
    assert marks == {"ridge_influence": "correct", "removal_effect": "wrong", "loo_residuals": "not attempted",
                     "damped_solve": "missing"}
    assert [rows[0][key] for key in ("student", "attempted", "correct", "total")] == ["anna", "2", "1", "4"]
    assert "N times too large" in reports["anna.html"]


@pytest.mark.slow
def test_a_loop_is_stopped_and_costs_its_own_exercise(tmp_path):
    """The limit is generous for the other answers: each takes milliseconds."""
    loop = hostile("01", removal_effect=body("removal_effect", "while True: pass"))
    graded = graded_class(tmp_path, {"ben": {"01.ipynb": loop}}, "--time-limit", "4")
    assert sorted(result(graded, "ben")) == ["correct"] * 3 + ["wrong"] and "after 4 seconds" in said(graded, "ben")


@pytest.mark.slow
def test_everyone_has_rows_and_a_report(graded):
    rows, reports, root = graded
    assert len(rows) == 1 + 9 + 1 + 4 and len(reports) == 7
    assert not list(root.glob("out/.*")) and not [path for path in root.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_the_honest_one_is_untouched_by_the_others(graded):
    assert result(graded, "anna") == ["correct"] * 4
    assert [row(graded, "anna")[key] for key in ("attempted", "correct", "total")] == ["4", "4", "4"]
    assert verdict(checks.removal_effect, solution("01", "removal_effect")).removeprefix("✓ ") in said(graded, "anna")


@pytest.mark.slow
def test_broken_files_cost_their_own_row(graded):
    rows = {row["file"]: row for row in graded[0] if row["student"] == "broken"}
    assert all(row["correct"] == row["attempted"] == "0" for row in rows.values())
    for note, files in {"no valid JSON": ["01", "03", "05"], "no cells": ["02", "x"], "no": ["link", "pipe"]}.items():
        assert all(note in rows[f"{file}.ipynb"]["note"] for file in files)
    assert {rows["04.ipynb"][f"exercise_{at}"] for at in range(1, 5)} == {"missing"}
    assert rows["06.ipynb"]["total"] == "4"
    assert row(graded, "empty")["note"] == "no notebook in this folder"
    assert "root:" not in said(graded, "broken")


@pytest.mark.slow
def test_exits_and_errors_cost_their_own_exercise(graded):
    name, page = "<script>alert(1)<b>", said(graded, "_script_alert_1_b_")
    assert result(graded, name) == ["wrong", "correct", "wrong", "correct", "wrong"]
    for words in ("ended the process", "no valid Python"):
        assert words in page
    assert "<script" not in page.lower() and "&lt;script&gt;alert(2)" in page
    assert row(graded, name)["file"] == "'=cmd()&<b>.ipynb"  # no formula


@pytest.mark.slow
def test_vandals_meet_refusals(graded):
    assert result(graded, "vandal") == ["wrong"] * 5
    assert (graded[2] / "victim" / "file").read_text() == "precious"
    page = said(graded, "vandal")
    assert page.count(SENTENCE) == 4
    if sys.platform == "linux":
        assert "MemoryError" in page


@pytest.mark.slow
def test_printing_and_the_network_gain_nothing(graded):
    assert result(graded, "talker") == ["wrong", "wrong", "correct", "wrong"]
    assert said(graded, "talker").count(SENTENCE) == 2 and "raised SystemExit" in said(graded, "talker")


@pytest.mark.slow
def test_a_verdict_cannot_be_forged(graded):
    assert result(graded, "forger") == ["correct", "wrong", "wrong", "wrong"]
    assert said(graded, "forger").count("the check said otherwise") == 2
    assert verdict(checks.removal_effect, solution("01", "removal_effect")).startswith("✓")  # nothing here was replaced
