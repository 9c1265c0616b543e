"""One submission at work, in a process of its own: what its answers return is written down, for `grade.py` to judge.

The learner's functions run here and nowhere else. Nothing that this process says decides: it only tells
which values the answers returned, and the grader runs the check once more on those values, where no
learner's code has ever run. So printing a tick, replacing the checks or leaving the process gains nothing.
"""
import ast
import base64
import json
import math
import os
import re
import sys

import torch

from ..checks import NotAttempted, Wrong

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (
    torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
    torch.bool, torch.complex64, torch.complex128)}
MOST_NUMBERS, MOST_PARTS, MOST_EVENTS, MOST_TEXT = 1_000_000, 1_000, 2_000, 500
FILES, PROCESSES = 50 * 2**20, 64  # bytes that a submission may write into one file; threads and processes it may have


# -- values that travel between the processes: JSON, never pickle ------------------------------------

def encode(value, depth=0):
    """A value as JSON: tensors by their bytes, containers part by part, anything else by the name of its type."""
    if value is None or value is ...:
        return {"kind": "nothing"}
    if isinstance(value, (bool, str)) or isinstance(value, (int, float)) and (value != value or abs(value) < 2**63):
        return {"kind": "plain", "value": value[:MOST_TEXT] if isinstance(value, str) else value}
    if isinstance(value, float):  # infinite
        return {"kind": "plain", "value": float(value)}
    if isinstance(value, (list, tuple)) and depth < 5 and len(value) <= MOST_PARTS:
        return {"kind": "tuple" if isinstance(value, tuple) else "list", "parts": [encode(part, depth + 1) for part in value]}
    if isinstance(value, dict) and depth < 5 and len(value) <= MOST_PARTS:
        return {"kind": "dict", "parts": [[encode(key, 5), encode(part, depth + 1)] for key, part in value.items()]}
    if isinstance(value, torch.Tensor) or hasattr(value, "__array__"):
        return encode_tensor(value)
    return {"kind": "function" if callable(value) else "other", "name": type(value).__name__}


def encode_tensor(value):
    try:
        tracked = getattr(value, "requires_grad", False)
        numbers = value.detach().cpu().resolve_conj().resolve_neg() if isinstance(value, torch.Tensor) else torch.as_tensor(value)
        numbers = numbers.float() if numbers.dtype == torch.bfloat16 else numbers
        name = str(numbers.dtype).removeprefix("torch.")
        if name in DTYPES and numbers.numel() <= MOST_NUMBERS:
            data = base64.b64encode(numbers.numpy().tobytes()).decode()
            return {"kind": "tensor", "dtype": name, "shape": list(numbers.shape), "grad": bool(tracked), "data": data}
    except (TypeError, ValueError, RuntimeError):
        pass
    return {"kind": "other", "name": type(value).__name__}


def decode(item):
    """The value again; an object of another type is only one by name. Raises ValueError, KeyError or TypeError
    where the item is malformed, RuntimeError where its shape does not fit its bytes."""
    kind = item["kind"]
    if kind == "nothing":
        return None
    if kind == "plain" and isinstance(item["value"], (bool, int, float, str)):
        return item["value"]
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](map(decode, item["parts"]))
    if kind == "dict":
        return {decode(key): decode(part) for key, part in item["parts"]}
    if kind == "tensor":
        data, dtype = bytearray(base64.b64decode(item["data"])), DTYPES[item["dtype"]]
        numbers = (torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)).reshape(item["shape"])
        return numbers.requires_grad_() if item["grad"] and numbers.is_floating_point() else numbers
    return type(re.sub(r"\W", "", str(item["name"]))[:40] or "object", (), {})()


# -- calls written down, and played again ------------------------------------------------------------

def containers(arguments):
    """{position: argument} of those that a function may fill: dictionaries and lists."""
    return {str(at): argument for at, argument in enumerate(arguments) if isinstance(argument, (dict, list))}


def recorded(answer, events: list, held=()):
    """`answer`, which also writes down what each call returned or raised and how it filled the containers given to it.

    A function that it returns, such as a hook, is treated likewise.
    """
    def call(*arguments, **options):
        event, seen = {}, (*held, *arguments)
        if len(events) >= MOST_EVENTS:
            raise RuntimeError("called too often")
        try:
            value = answer(*arguments, **options)
            event["value"] = encode(value)
        except BaseException as problem:  # SystemExit and KeyboardInterrupt too: they are the learner's
            event["raised"] = [type(problem).__name__, str(problem)[:MOST_TEXT]]
            raise RuntimeError(str(problem)) if not isinstance(problem, Exception) else problem
        finally:
            event["state"] = {at: encode(container) for at, container in containers(seen).items()}
            events.append(event)
        return recorded(value, events, seen) if event["value"]["kind"] == "function" else value
    return call


def replayed(events, held=()):
    """A function that returns, call by call, what `recorded` wrote down. Raises what was raised then, and EOFError
    where no call is left."""
    events = iter(events)

    def again(held):
        def call(*arguments, **options):
            event, seen = next(events, None), (*held, *arguments)
            if event is None:
                raise EOFError("the record of its calls ends here")
            for at, container in containers(seen).items():
                container.clear()
                getattr(container, "update" if isinstance(container, dict) else "extend")(decode(event["state"][at]))
            if "raised" in event:
                name, message = map(str, event["raised"])
                raise type(re.sub(r"\W", "", name)[:40] or "Exception", (Exception,), {})(message[:MOST_TEXT])
            return again(seen) if event["value"]["kind"] == "function" else decode(event["value"])
        return call
    return again(held)


def judged(check, answer) -> tuple[str, str]:
    """`(mark, sentence)` of a check: "correct", "wrong" or "not attempted"."""
    try:
        return "correct", str(check.__wrapped__(answer))
    except NotAttempted:
        return "not attempted", "not attempted yet"
    except Wrong as reason:
        return "wrong", str(reason)
    except Exception as problem:
        return "wrong", f"the check cannot read what the answer gives ({type(problem).__name__})"


# -- an answer, found in the cells -------------------------------------------------------------------

def statements(cell: str) -> list[ast.stmt]:
    """A cell's top-level statements, each import a statement of its own; lines of IPython's own are dropped.

    Raises SyntaxError.
    """
    try:
        try:
            nodes = ast.parse(cell).body
        except SyntaxError:
            nodes = ast.parse(re.sub(r"^(\s*)[%!].*", r"\1pass", cell, flags=re.M)).body
    except (ValueError, RecursionError, MemoryError) as problem:
        raise SyntaxError(str(problem)) from None
    return [single for node in nodes for single in (
        (type(node)(**(vars(node) | {"names": [name]})) for name in node.names)
        if isinstance(node, (ast.Import, ast.ImportFrom)) else [node])]


def gives(node) -> set[str]:
    """Names that a statement defines, where running it does nothing else: imports, functions, classes, constants, lambdas."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(node.names[0].asname or node.names[0].name).split(".")[0]}
    if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value:
        inside = [] if isinstance(node.value, ast.Lambda) else ast.walk(node.value)
        if not any(isinstance(part, (ast.Call, ast.Await, ast.comprehension)) for part in inside):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            return {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return set()


def words(node) -> set[str]:
    """All names that a statement mentions."""
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def sets_dtype(node) -> bool:
    return isinstance(node, ast.Expr) and ast.unparse(node).startswith("torch.set_default_dtype(")


def lenient(cell: str) -> list[ast.stmt]:
    """The statements of a cell that need not be sound."""
    try:
        return statements(cell)
    except SyntaxError:
        return []


def needed(nodes, wanted: set[str]) -> list[ast.stmt]:
    """Those of the statements, in order, that define a name which is wanted, directly or by another that is."""
    chosen, size = set(), -1
    while size != len(chosen):
        size = len(chosen)
        for at, node in enumerate(nodes):
            if at not in chosen and gives(node) & (wanted | {"*"}):
                chosen.add(at)
                wanted = wanted | words(node)
    return [node for at, node in enumerate(nodes) if at in chosen]


def find_answer(cells: list[str], name: str):
    """The learner's `my_<name>`, or None where no cell defines it. Raises Wrong where its cell does not run.

    The last cell that defines it is run as a whole. From the others it gets, without running them, what
    it needs of their imports, functions, classes, constants and lambdas, an earlier cell's before a later
    one's, and the default dtype that holds at its place.
    """
    mine = f"my_{name}"
    homes = [at for at, cell in enumerate(cells) if re.search(rf"^\s*def {mine}\b|^{mine}\s*(:.+)?=(?!=)", cell, re.M)]
    if not homes:
        return None
    home = homes[-1]
    try:
        own = statements(cells[home])
    except SyntaxError as problem:
        raise Wrong(f"the cell of {mine} is no valid Python: {problem.msg}, line {problem.lineno}") from None
    before, after = ([node for cell in part for node in lenient(cell)] for part in (cells[:home], cells[home + 1:]))
    around = needed([*after, *before], set().union(*map(words, own)))
    torch.set_default_dtype(torch.float32)
    space = {"__name__": "__main__", "torch": torch, "display": print}
    for node in [*around, *filter(sets_dtype, before)]:
        run_node(node, space)
    problems = [run_node(node, space) for node in own]
    if mine not in space:
        raise Wrong(f"the cell of {mine} raised " + next(filter(None, problems), "nothing, but does not define it"))
    return space[mine]


def run_node(node, space):
    """Runs one statement; what it raised, in words, or None."""
    try:
        exec(compile(ast.fix_missing_locations(ast.Module([node], [])), "<submission>", "exec"), space)
    except BaseException as problem:
        return f"{type(problem).__name__}: {problem}"[:MOST_TEXT]


# -- the process -------------------------------------------------------------------------------------

def confine(memory: int, seconds: float) -> None:
    """Limits memory, files, processor time and processes, and cuts off the network, as far as the system can."""
    try:
        import ctypes
        cut = ctypes.CDLL(None).unshare(0x10000000 | 0x40000000) == 0  # Linux: users and a network of its own
    except (AttributeError, OSError, TypeError):
        cut = False
    try:
        import resource
    except ImportError:  # Windows; the grader's time limit remains
        return
    limits = {"DATA": memory, "FSIZE": FILES, "CORE": 0, "CPU": math.ceil(seconds)} | ({"NPROC": PROCESSES} if cut else {})
    for name, most in limits.items():
        try:
            limit = getattr(resource, f"RLIMIT_{name}")
            hard = resource.getrlimit(limit)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(limit, (most, most))
        except (AttributeError, ValueError, OSError):
            continue


def guard(folder: str):
    """From now on Python refuses what no answer needs: files changed outside `folder`, other processes, the network.

    This stops accidents and simple malice; it is no wall against native code.
    """
    realpath, is_folder, separator, null = os.path.realpath, os.path.isdir, os.sep, os.devnull
    folder, writing = realpath(folder) + separator, os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    two = ("os.rename", "os.link", "os.symlink")
    one = ("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.chown", "os.utime", "os.setxattr", "os.removexattr")
    refused = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.kill",
               "os.startfile", "pty.")

    def outside(path):
        return isinstance(path, (str, bytes)) and path != null and not (realpath(os.fsdecode(path)) + separator).startswith(folder)

    def hook(event, arguments):
        if event == "open":  # a folder too: what is opened can be changed from within
            change = outside(arguments[0]) and (arguments[2] & writing or is_folder(arguments[0]))
        else:
            change = any(map(outside, arguments[:1 if event in one else 2 if event in two else 0]))
        if change:
            raise PermissionError("an answer that is graded may not change files")
        if event.startswith(refused):
            raise PermissionError(f"an answer that is graded may not use {event.partition('.')[0]} ({event})")
    sys.addaudithook(hook)


def attempt(cells, name) -> dict:
    """One exercise: what its answer returned, and the mark and sentence that the check gives it here."""
    from .. import checks
    events = []
    try:
        answer = find_answer(cells, name)
        if answer is None:
            return {"exercise": name, "missing": True}
        mark, said = judged(getattr(checks, name), recorded(answer, events))
    except Wrong as reason:
        return {"exercise": name, "failed": str(reason)[:MOST_TEXT]}
    return {"exercise": name, "events": events, "mark": mark, "said": said[:MOST_TEXT]}


def main():
    """Reads an order from stdin, writes one line of JSON an exercise to what was stdout."""
    order = json.loads(sys.stdin.buffer.read())
    channel, nowhere = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace"), os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    sys.dont_write_bytecode = True
    confine(order["memory"], 60 + order["seconds"] * len(order["names"]))
    print(json.dumps({"ready": True}), file=channel, flush=True)
    guard(os.getcwd())
    for name in order["names"]:
        try:
            line = json.dumps(attempt(order["cells"], name))
        except BaseException as problem:
            line = json.dumps({"exercise": name, "failed": f"the answer raised {type(problem).__name__}"})
        print(line, file=channel, flush=True)


if __name__ == "__main__":
    main()
