"""What all checks share: problems, an answer called on copies of them, a verdict in one line.

A check prints "· not attempted yet" for a stub, ✓ with what was verified, or ✗ with the likely
misconception. It never raises, so Run All passes with stubs, half answers and solutions, and
nothing an answer does to its inputs, to autograd or to the default precision reaches the oracle or
the learner's next cell.
"""
import functools
import tracemalloc
from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch

TOLERANCE = 1e-4  # of the largest entry: what float32 leaves right in every exercise
HALF = 3e-2  # the same for answers in float16 and bfloat16
LOOKS = {  # what may stand in place of the right numbers, whatever the exercise
    "every sign is turned": torch.neg,
    "the signs are lost, these are the absolute values of the right ones": torch.abs,
    "every entry is 0": torch.zeros_like,
    "every entry is squared": torch.square,
    "every entry is the root of the right one": torch.sqrt,
    "every entry is 1 over the right one": torch.reciprocal,
}
SIGNS = {"correct": "✓", "wrong": "✗", "not attempted": "·"}


class NotAttempted(Exception):
    """The stub is untouched."""


class Wrong(Exception):
    """An answer that the oracle refutes; the message is for the learner."""


class Expected(NamedTuple):
    """What an answer should return, or one part of it.

    `mistakes` maps a message to the value of that misconception, `shapes` a message to the shape
    that gives it away; `fact` tells what is plainly wrong with a value, or None.
    """
    what: str
    truth: torch.Tensor
    mistakes: dict = {}
    shapes: dict = {}
    tolerance: float = TOLERANCE
    fact: Callable[[torch.Tensor], str | None] | None = None


class Problem(NamedTuple):
    """One input of a check, and what is expected for it: a list for an answer of several parts."""
    arguments: tuple
    expected: Expected | list[Expected]


# -- a verdict -----------------------------------------------------------------------------------

def check(judge):
    """Turns `judge(answer) -> what was verified`, which raises Wrong, into a check that prints."""
    @functools.wraps(judge)
    def verdict(answer):
        mark, sentence = judged(verdict, answer)
        print(f"{SIGNS[mark]} {sentence}")
    return verdict


def judged(verdict, answer) -> tuple[str, str]:
    """`(mark, sentence)` of a check: "correct", "wrong" or "not attempted". Raises nothing."""
    try:
        with settled(), torch.enable_grad():
            if not callable(answer):
                raise Wrong("give the function itself, without parentheses; got "
                            f"{type(answer).__name__}")
            mark, sentence = "correct", verdict.__wrapped__(answer)
    except NotAttempted:
        mark, sentence = "not attempted", "not attempted yet"
    except Wrong as reason:
        mark, sentence = "wrong", reason
    except Exception as problem:
        name = type(problem).__name__
        mark, sentence = "wrong", f"this check cannot read what your function gives ({name})"
    return mark, " ".join(str(sentence).split())


@contextmanager
def settled():
    """Puts back what an answer may have changed: autograd's switch, the default precision."""
    gradients, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)


# -- an answer and its numbers -------------------------------------------------------------------

def call(answer, *arguments):
    """What the answer returns for copies of the arguments. Raises NotAttempted for None and `...`,
    also in a pair, and Wrong where the answer raises."""
    try:
        with settled():
            value = answer(*map(copied, arguments))
    except (Exception, SystemExit) as problem:
        reason = f"{type(problem).__name__}: {str(problem)[:300]}"
        raise Wrong(f"your function raised {reason}") from None
    parts = value if isinstance(value, tuple) and value else [value]
    if all(part is None or part is ... for part in parts):
        raise NotAttempted
    return value


def copied(value):
    """The same values, in memory of their own."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, list | tuple):
        return type(value)(map(copied, value))
    return {key: copied(part) for key, part in value.items()} if isinstance(value, dict) else value


class _Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Remembers the bytes of the largest tensor that is made inside the block."""
    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else [result]:
            if isinstance(part, torch.Tensor):
                self.size = max(self.size, part.untyped_storage().nbytes())
        return result


def largest_tensor(answer, *arguments) -> int:
    """Bytes of the largest tensor that the answer makes, for a constraint on a card."""
    with _Largest() as largest:
        call(answer, *arguments)
    return largest.size


def bytes_formed(answer, *arguments) -> int:
    """The same, or the bytes of its arrays and lists together if that is more. About 150 KB are
    Python's own."""
    largest = largest_tensor(answer, *arguments)
    tracemalloc.start()  # only for a second call: the first may import modules
    try:
        call(answer, *arguments)
        return max(largest, tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


def numbers(value, what="your result") -> torch.Tensor:
    """A tensor of what holds numbers: a tensor, an array, a number, lists of any of these. Lists
    are read in float64. Raises Wrong."""
    try:
        if isinstance(value, torch.Tensor):
            dense = value.to_dense() if value.layout != torch.strided else value
            tensor = dense.detach().cpu()
        elif isinstance(value, str | bytes | dict | set):
            raise TypeError
        else:
            tensor = torch.from_numpy(np.array(_plain(value)))
        return tensor if tensor.dtype == torch.bool else tensor + 0  # raises for what is no number
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"{what}: {type(value).__name__} is not or holds no numbers") from None


def _plain(value):
    """Lists, their tensors as lists, too."""
    if isinstance(value, torch.Tensor):
        return value.detach().double().tolist() if value.is_floating_point() else value.tolist()
    if hasattr(value, "__array__") or not hasattr(value, "__iter__"):
        typed = isinstance(value, bool | int | np.ndarray | np.generic)
        return np.asarray(value, dtype=None if typed else float)
    return [_plain(part) for part in value]


# -- compared with the oracle --------------------------------------------------------------------

def judge(answer, problems: list[Problem]) -> None:
    """Raises Wrong unless the answer gives what is expected for every problem. A misconception is
    named only where its value is what came out of all problems that tell it from the truth."""
    results = []
    for problem in problems:
        try:
            results.append(_results(call(answer, *problem.arguments), problem))
        except NotAttempted:
            if results:
                raise Wrong("your function returns nothing for some inputs") from None
            raise
    for cases in zip(*results):
        compare_all(list(cases))


def _results(value, problem):
    """[(numbers, Expected)] of the parts that the answer gives."""
    wanted = problem.expected
    if isinstance(wanted, Expected):
        return [(numbers(value, wanted.what), wanted)]
    several = isinstance(value, tuple | list) or getattr(value, "ndim", 0)
    if not several or len(value) != len(wanted):
        names = ", ".join(part.what for part in wanted)
        raise Wrong(f"return {len(wanted)} things, in this order: {names}")
    if any(part is None or part is ... for part in value):
        raise NotAttempted
    return [(numbers(part, expected.what), expected) for part, expected in zip(value, wanted)]


def compare_all(cases: list[tuple[torch.Tensor, Expected]]) -> None:
    """Raises Wrong unless one part's numbers are those expected in all problems."""
    cases = [_ready(value, expected) for value, expected in cases]
    for message in cases[0][1].shapes:
        if all(tuple(value.shape) == tuple(expected.shapes.get(message, ()))
               for value, expected in cases):
            raise Wrong(message)
    for value, (what, truth, *_) in cases:
        if value.shape != truth.shape:
            raise Wrong(f"{what} has shape {tuple(value.shape)}, expected {tuple(truth.shape)}")
        if value.is_complex():
            raise Wrong(f"{what} is complex: the numbers here are real")
        if not torch.isfinite(value).all():
            raise Wrong(f"{what} holds values that are not finite")
    wrong = [case for case in cases if not _equal(*case, case[1].truth)]
    if wrong:
        raise Wrong(_misconception(cases) or _fact(*wrong[0]) or _partly(wrong, cases)
                    or _pattern(cases) or _places(*wrong[0]) or _unknown(*wrong[0]))


def _ready(value, expected):
    """The truth as a tensor; a single number may come in brackets."""
    expected = expected._replace(truth=torch.as_tensor(expected.truth))
    single = expected.truth.dim() == 0 and value.numel() == 1
    return value.reshape(()) if single else value, expected


def _equal(value, expected, other):
    """Whether the answer's value is `other`, to the precision of the coarser of the two."""
    half = value.dtype in (torch.float16, torch.bfloat16)
    tolerance = max(expected.tolerance, HALF if half else 0)
    value, other = value.double(), torch.as_tensor(other).detach().double()
    if value.shape != other.shape or not torch.isfinite(other).all():  # relative to infinity
        return False
    return bool((value - other).abs().max() <= tolerance * other.abs().max())


# -- what may be wrong ---------------------------------------------------------------------------

def _misconception(cases):
    """The message whose value came out of every problem, unless it is the truth in all of them."""
    for message in cases[0][1].mistakes:
        named = [(value, expected) for value, expected in cases if message in expected.mistakes]
        if all(_equal(value, expected, expected.mistakes[message]) for value, expected in named):
            if not all(_equal(torch.as_tensor(expected.mistakes[message]), expected, expected.truth)
                       for _, expected in named):
                return message
    return None


def _fact(value, expected):
    return expected.fact(value) if expected.fact else None


def _partly(wrong, cases):
    if len(wrong) == len(cases):
        return None
    return (f"{cases[0][1].what}: right for {len(cases) - len(wrong)} of {len(cases)} inputs; "
            "something in your function holds for some sizes, signs or settings only")


def _pattern(cases):
    """What is plain from the values alone, whatever the exercise."""
    what = cases[0][1].what
    for look, change in LOOKS.items():
        if all(_equal(*case, change(case[1].truth.double())) for case in cases):
            return f"{what}: {look}"
    if factors := _factors(cases):
        return f"{what}: every entry is the right one times {', '.join(factors)}"
    if all(value.dim() > 1 and _equal(value.mT, expected, expected.truth)
           for value, expected in cases):
        return f"{what} is transposed"
    if all(_equal(value.flatten().sort().values, expected, expected.truth.flatten().sort().values)
           for value, expected in cases):
        return f"{what}: the right numbers, in another order"
    return None


def _factors(cases):
    """By what each problem's right entries are multiplied; None where they are not."""
    factors = []
    for value, expected in cases:
        truth = expected.truth.double()
        factor = (value.double() * truth).sum() / truth.pow(2).sum()
        if not factor or not _equal(value, expected, factor * truth):
            return None
        factors.append(f"{factor:.4g}")
    # every number is another one times something: of single ones only a constant factor says much
    telling = len(set(factors)) == 1 or any(expected.truth.numel() > 1 for _, expected in cases)
    return factors if telling else None


def _places(value, expected):
    """Where the first wrong entry is, if a good part of them is right."""
    truth = expected.truth.double()
    wrong = (value.double() - truth).abs() > 1e-3 * truth.abs()  # each entry by its own size
    if not wrong.any() or wrong.double().mean() > 0.75:
        return None
    return (f"{expected.what}: {(~wrong).sum()} of {wrong.numel()} entries are right, the first "
            f"wrong one is {wrong.nonzero()[0].tolist()}")


def _unknown(value, expected):
    truth = expected.truth.double()
    error = ((value.double() - truth).norm() / truth.norm().clamp(min=1e-300)).item()
    return (f"{expected.what} is off by {error:.0%} from the oracle, in a way this check does not "
            "know")


# -- for the problems ----------------------------------------------------------------------------

def draws(seed):
    """A function of sizes that gives standard normal numbers, float64, from a stream of its own."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)
    return draw
