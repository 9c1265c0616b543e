"""One submission at work, in a process of its own: finds the answers, runs their checks.

What an answer prints is lost and what it breaks breaks here: the limits below stop loops and other
accidents. They are no wall against people who mean harm: their code belongs in a container.
"""
import ast
import codeop
import inspect
import json
import os
import re
import signal
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from .. import checks
from .checks.core import judged, settled
from .notebooks import Cell, Statement, spells, statements

LARGEST_FILE, MORE_PROCESSES = 50 * 2**20, 64  # bytes; beyond those that the machine has now
MOST_TEXT = 600  # characters of one sentence
HINT = ("; an answer may use imports, functions, classes and constants of any cell, but nothing "
        "that other cells compute")


class ReadCell(NamedTuple):
    """A cell read as Python; `fault` says why a code cell cannot be."""
    kind: str
    text: str
    statements: list[Statement]
    fault: str | None


def read(cell: Cell) -> ReadCell:
    try:
        return ReadCell(*cell, statements(cell.text) if cell.kind == "code" else [], None)
    except SyntaxError as problem:
        return ReadCell(*cell, [], f"{problem.msg}, line {problem.lineno}")


def which_notebook(file: str, cells: list[ReadCell], series: dict[str, list[str]]) -> str | None:
    """The notebook of the series that this is: by its answers' names, or by its file's number."""
    code = [statement for cell in cells for statement in cell.statements]
    named = set().union(*(statement.defines | statement.uses for statement in code))
    mentioned = Counter(notebook for notebook, names in series.items()
                        for mine in map("my_{}".format, names)
                        if mine in named or any(spells(cell.text, mine) for cell in cells))
    if mentioned:
        return mentioned.most_common(1)[0][0]
    numbers = re.findall(r"(?<!\d)\d\d(?!\d)", file)
    return next((name for name in series if name == file or name[:2] in numbers), None)


# -- an answer, found in the cells ----------------------------------------------------------------

def attempt(cells: list[ReadCell], name: str) -> tuple[str, str]:
    """`(mark, sentence)` of an exercise: "correct", "wrong", "not attempted" or "missing"."""
    mine = f"my_{name}"
    definitions = [(home, statement.node) for home, cell in enumerate(cells)
                   for statement in cell.statements if mine in statement.defines]
    homes = [home for home, node in definitions if not is_stub(node)]
    faults = [cell.fault for cell in cells if cell.fault and spells(cell.text, mine)]
    if not homes:
        if faults:
            return "wrong", f"the cell of {mine} is no valid Python: {faults[-1]}"
        mark = "not attempted" if definitions else "missing"
        if any(cell.kind != "code" and spells(cell.text, mine) for cell in cells):
            return mark, f"{mine} stands in a text cell: make it a code cell"
        return mark, "not attempted yet" if definitions else f"no cell defines {mine}"
    with settled():
        mark, sentence = verdict(cells, homes[-1], name)
    remarks = {
        f"{mine} is defined {len(homes)} times: the last one counts": len(homes) > 1,
        "the untouched stub below it is passed over": is_stub(definitions[-1][1]),
        f"another cell with {mine} is no valid Python": faults,
    }
    told = "".join(f" ({remark})" for remark, true in remarks.items() if true)
    return mark, sentence[:MOST_TEXT] + told


def is_stub(node: ast.stmt) -> bool:
    """Whether a definition says nothing yet: below its docstring `...`, `pass` or None."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        body = node.body if ast.get_docstring(node) is None else node.body[1:]
        return all(isinstance(line, (ast.Pass, ast.Expr, ast.Return))
                   and is_nothing(getattr(line, "value", None)) for line in body)
    return isinstance(node, (ast.Assign, ast.AnnAssign)) and is_nothing(node.value)


def is_nothing(value: ast.expr | None) -> bool:
    return value is None or isinstance(value, ast.Constant) and value.value in (None, ...)


def verdict(cells: list[ReadCell], home: int, name: str) -> tuple[str, str]:
    """`(mark, sentence)` of the answer that the cell `home` defines."""
    mine = f"my_{name}"
    space, failures = run_cell(cells, home, mine)
    if mine not in space:
        reason = f"{type(failures[0]).__name__}: {failures[0]}" if failures else "nothing"
        mark, sentence = "wrong", f"the cell of {mine} raised {reason}"
    elif inspect.iscoroutinefunction(space[mine]):
        mark, sentence = "wrong", f"{mine} is an `async def`: write `def`"
    else:
        mark, sentence = judged(getattr(checks, name), space[mine])
    if mark == "correct":
        return mark, sentence
    for failure in failures:
        if isinstance(failure, ModuleNotFoundError):
            package = f"needs the package {failure.name!r}, which is not installed here"
            return mark, f"{package} ({sentence})"
    return mark, sentence + (HINT if "raised NameError" in sentence else "")


def run_cell(cells: list[ReadCell], home: int, mine: str) -> tuple[dict, list[BaseException]]:
    """The names at hand once the cell `home` has run, and what lines that `mine` needs raised.

    The cell is run as a whole. From the others it gets, without running them, what it needs of
    their imports, functions, classes, constants and lambdas, an earlier cell's before a later
    one's, and the default precision that holds at its place.
    """
    def listed(some_cells):
        return [statement for cell in some_cells for statement in cell.statements
                if not (mine in statement.defines and is_stub(statement.node))]

    own, before, after = listed([cells[home]]), listed(cells[:home]), listed(cells[home + 1:])
    used = set().union(*(statement.uses for statement in own))
    around = needed([*filter(only_defines, [*after, *before])], used)
    statements = [*around, *filter(sets_precision, before), *own]
    space, compiler = {"__name__": "__main__", "torch": torch, "display": print}, codeop.Compile()
    raised = [run_statement(statement.node, space, compiler) for statement in statements]
    leaning = needed(statements, {mine})
    return space, [problem for statement, problem in zip(statements, raised, strict=True)
                   if problem and statement in leaning]


def needed(among: list[Statement], wanted: set[str]) -> list[Statement]:
    """Those, in order, that define a name which is wanted, directly or by another that is."""
    wanted, chosen, size = wanted | {"*"}, set(), -1
    while size != len(chosen):
        size = len(chosen)
        for place, statement in enumerate(among):
            if place not in chosen and statement.defines & wanted:
                chosen.add(place)
                wanted |= statement.uses
    return [among[place] for place in sorted(chosen)]


def only_defines(statement: Statement) -> bool:
    """Whether running it does nothing else: imports, functions, classes, constants, lambdas."""
    node = statement.node
    if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value:
        inner = [] if isinstance(node.value, ast.Lambda) else ast.walk(node.value)
        return not any(isinstance(value, (ast.Call, ast.comprehension)) for value in inner)
    return isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom))


def sets_precision(statement: Statement) -> bool:
    return ast.unparse(statement.node).startswith("torch.set_default_dtype(")


def run_statement(node: ast.stmt, space: dict, compiler) -> BaseException | None:
    """Runs one statement; returns what it raised."""
    try:
        module = ast.fix_missing_locations(ast.Module([node], []))
        exec(compiler(module, "<submission>", "exec"), space)
    except BaseException as problem:  # SystemExit, too: the answer may be defined all the same
        return problem


# -- the process ----------------------------------------------------------------------------------

def confine(memory: int, seconds: int) -> None:
    """Limits memory, processor time, files and processes, as far as the system can."""
    try:
        import resource
    except ImportError:  # Windows; the grader's time limit remains
        return
    limits = {"DATA": memory, "FSIZE": LARGEST_FILE, "CORE": 0, "CPU": seconds}
    with suppress(OSError):  # not Linux. The last but one number there: "running/all" of the system
        processes = int(Path("/proc/loadavg").read_text().split()[3].split("/")[1])
        limits["NPROC"] = processes + MORE_PROCESSES  # holds for everyone but root
    for name, most in limits.items():
        with suppress(AttributeError, ValueError, OSError):
            limit = getattr(resource, f"RLIMIT_{name}")
            hard = resource.getrlimit(limit)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(limit, (most, most))


def own_channel():
    """What was stdout, for verdicts alone: from here on, whatever is printed goes nowhere."""
    channel, nowhere = os.fdopen(os.dup(1), "w"), os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    return channel


def main():
    """Reads an order from stdin; sends the notebook's name, and a verdict for each exercise."""
    order, channel = json.loads(sys.stdin.buffer.read()), own_channel()

    def send(message):
        print(json.dumps(message), file=channel, flush=True)

    send("ready")
    confine(order["memory"], order["cpu"])
    cells = [read(Cell(*cell)) for cell in order["cells"]]
    notebook = which_notebook(order["file"], cells, order["series"])
    send(notebook)
    for name in order["series"].get(notebook, []):
        if name in order["done"]:
            continue
        if hasattr(signal, "alarm"):
            signal.alarm(order["seconds"])  # nobody catches it: the system ends the process
        try:
            send([name, *attempt(cells, name)])
        except BaseException as problem:
            send([name, "wrong", f"the answer raised {type(problem).__name__}"])


if __name__ == "__main__":
    main()
