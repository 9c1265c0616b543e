"""What all checks share: problems, an answer called on copies of them, and a verdict in one line.

A check prints "· not attempted yet" for a stub, ✓ with what was verified, or ✗ with the likely misconception. It never
raises, so Run All passes with stubs, half answers and solutions, and nothing an answer does to its inputs, to autograd
or to the default precision reaches the oracle or the learner's next cell.
"""
import functools
from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch

TOLERANCE = 1e-4  # of the largest entry: what float32 leaves right in every exercise
HALF = 3e-2  # the same for answers in float16 and bfloat16
SIGNS = {"correct": "✓", "wrong": "✗", "not attempted": "·"}


class NotAttempted(Exception):
    """The stub is untouched."""


class Wrong(Exception):
    """An answer that the oracle refutes; the message is for the learner."""


class Expected(NamedTuple):
    """What an answer should return, or one part of it: `mistakes` maps a message to the value of that misconception,
    `shapes` a message to the shape that gives it away; `fact` tells what is plainly wrong with a value, or None."""
    what: str
    truth: torch.Tensor
    mistakes: dict = {}
    shapes: dict = {}
    tolerance: float = TOLERANCE
    fact: Callable[[torch.Tensor], str | None] | None = None


class Problem(NamedTuple):
    """One input of a check, and what is expected for it: an `Expected`, or a list of them for an answer of several parts."""
    arguments: tuple
    expected: Expected | list[Expected]


# -- a verdict ------------------------------------------------------------------------------------

def check(judge):
    """Turns `judge(answer) -> what was verified`, which raises Wrong, into a check that prints its verdict."""
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
                raise Wrong(f"give the function itself, without parentheses; got {type(answer).__name__}")
            mark, sentence = "correct", verdict.__wrapped__(answer)
    except NotAttempted:
        mark, sentence = "not attempted", "not attempted yet"
    except Wrong as reason:
        mark, sentence = "wrong", reason
    except Exception as problem:
        mark, sentence = "wrong", f"this check cannot read what your function gives ({type(problem).__name__})"
    return mark, " ".join(str(sentence).split())


@contextmanager
def settled():
    """Puts back what an answer may have changed for everyone: autograd's switch, the default precision."""
    gradients, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)


# -- an answer and its numbers --------------------------------------------------------------------

def call(answer, *arguments):
    """What the answer returns for copies of the arguments. Raises NotAttempted for None and `...`, Wrong where it raises."""
    try:
        with settled():
            value = answer(*map(copied, arguments))
    except (Exception, SystemExit) as problem:
        raise Wrong(f"your function raised {type(problem).__name__}: {str(problem)[:300]}") from None
    parts = value if isinstance(value, (tuple, list)) and len(value) else [value]
    if all(part is None or part is ... for part in parts):
        raise NotAttempted
    return value


def copied(value):
    """The same values, in memory of their own."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, (list, tuple)):
        return type(value)(map(copied, value))
    return {key: copied(part) for key, part in value.items()} if isinstance(value, dict) else value


def numbers(value, what="your result") -> torch.Tensor:
    """A tensor of what holds numbers: a tensor, an array, a number, lists of any of these (read in float64).

    Raises Wrong.
    """
    try:
        if isinstance(value, torch.Tensor):
            value = (value.to_dense() if value.layout != torch.strided else value).detach().cpu()
        elif isinstance(value, (str, bytes, dict, set)):
            raise TypeError
        else:
            value = torch.from_numpy(np.array(_plain(value)))
        return value if value.dtype == torch.bool else value + 0  # raises for what is no number, and is no view
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"{what}: {type(value).__name__} is not or holds no numbers") from None


def _plain(value):
    """Lists, their tensors as lists, too."""
    if isinstance(value, torch.Tensor):
        return value.detach().double().tolist() if value.is_floating_point() else value.tolist()
    if hasattr(value, "__array__") or not hasattr(value, "__iter__"):
        return np.asarray(value, dtype=None if isinstance(value, (bool, int, np.ndarray, np.generic)) else float)
    return [_plain(part) for part in value]


# -- compared with the oracle -----------------------------------------------------------------------

def judge(answer, problems: list[Problem]) -> None:
    """Raises Wrong unless the answer gives what is expected for every problem.

    A misconception is named only where its value is what came out of all problems that tell it from the truth.
    """
    results = [_results(call(answer, *problem.arguments), problem) for problem in problems]
    for cases in zip(*results):
        compare_all(list(cases))


def _results(value, problem):
    """[(numbers, Expected)] of the parts that the answer gives."""
    if isinstance(problem.expected, Expected):
        return [(numbers(value, problem.expected.what), problem.expected)]
    wanted = ", ".join(part.what for part in problem.expected)
    if not isinstance(value, (tuple, list)) and not getattr(value, "ndim", 0) or len(value) != len(problem.expected):
        raise Wrong(f"return {len(problem.expected)} things, in this order: {wanted}")
    if any(part is None or part is ... for part in value):
        raise NotAttempted
    return [(numbers(part, expected.what), expected) for part, expected in zip(value, problem.expected)]


def compare(value, expected: Expected) -> None:
    """Raises Wrong unless the numbers of `value` are those expected."""
    compare_all([(numbers(value, expected.what), expected)])


def compare_all(cases: list[tuple[torch.Tensor, Expected]]) -> None:
    """`compare` of one part over all problems together."""
    cases = [(value, expected._replace(truth=torch.as_tensor(expected.truth))) for value, expected in cases]
    for message, _ in cases[0][1].shapes.items():
        if all(tuple(value.shape) == tuple(expected.shapes[message]) for value, expected in cases):
            raise Wrong(message)
    for value, expected in cases:
        if value.shape != expected.truth.shape:
            raise Wrong(f"{expected.what} has shape {tuple(value.shape)}, expected {tuple(expected.truth.shape)}")
        if value.is_complex():
            raise Wrong(f"{expected.what} is complex: the numbers here are real")
        if not torch.isfinite(value).all():
            raise Wrong(f"{expected.what} holds values that are not finite")
    right = [_equal(value, expected.truth, expected) for value, expected in cases]
    if not all(right):
        raise Wrong(_misconception(cases) or _fact(right, cases) or _partly(right, cases) or _pattern(cases)
                    or _unknown(right, cases))


def _equal(value, other, expected):
    tolerance = max(expected.tolerance, HALF if value.dtype in (torch.float16, torch.bfloat16) else 0)
    value, other = value.double(), torch.as_tensor(other).detach().double()
    return value.shape == other.shape and bool((value - other).abs().max() <= tolerance * other.abs().max())


def _misconception(cases):
    """The message whose value came out of every problem; one that equals the truth in all of them says nothing."""
    for message in cases[0][1].mistakes:
        told = [(value, expected, expected.mistakes[message]) for value, expected in cases if message in expected.mistakes]
        if all(_equal(value, wrong, expected) for value, expected, wrong in told):
            if not all(_equal(torch.as_tensor(wrong), expected.truth, expected) for _, expected, wrong in told):
                return message
    return None


def _pattern(cases):
    """What is plain from the values alone, whatever the exercise."""
    what = cases[0][1].what
    alike = lambda change: all(_equal(change(value + 0.0), expected.truth, expected) for value, expected in cases)
    if alike(torch.neg):
        return f"{what}: every sign is turned"
    factors = [(value.double() * truth.double()).sum() / truth.double().pow(2).sum()
               for value, (_, truth, *_) in cases if truth.double().abs().sum() > 0]
    names = [f"{factor:.4g}" for factor in factors]
    # every number is another one times something: of single numbers only a constant factor says anything
    telling = len(set(names)) == 1 or any(expected.truth.numel() > 1 for _, expected in cases)
    if telling and len(factors) == len(cases) and all(_equal(value, factor * expected.truth.double(), expected) and factor != 0
                                                      for factor, (value, expected) in zip(factors, cases)):
        return f"{what}: every entry is the right one times {', '.join(names)}"
    if all(value.dim() > 1 and value.shape[-1] == value.shape[-2] for value, _ in cases) and alike(lambda value: value.mT):
        return f"{what} is transposed"
    return None


def _fact(right, cases):
    value, expected = next(case for case, good in zip(cases, right) if not good)
    return expected.fact(value) if expected.fact else None


def _partly(right, cases):
    if not any(right):
        return None
    return (f"{cases[0][1].what}: right for {sum(right)} of {len(right)} inputs; something in your function holds for some sizes, "
            "signs or settings only")


def _unknown(right, cases):
    value, expected = next(case for case, good in zip(cases, right) if not good)
    truth = expected.truth.double()
    error = ((value.double() - truth).norm() / truth.norm().clamp(min=1e-300)).item()
    return f"{expected.what} is off by {error:.0%} from the oracle, in a way this check does not know"


# -- for the problems -----------------------------------------------------------------------------

def draws(seed):
    """A function of sizes that gives standard normal numbers, float64, from a stream of its own."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)
