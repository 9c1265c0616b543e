"""What all command lines here share: how arguments are refused, and how a run that failed ends."""
import argparse
import sys
from pathlib import Path

MOST = 10**9  # larger counts are typing errors, and overflow further down


class Usage(Exception):
    """Arguments that cannot be parsed."""


class Parser(argparse.ArgumentParser):
    """Raises Usage where argparse would print and exit."""

    def error(self, message):
        raise Usage(message)


def natural(text, least=0, most=MOST):
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most:,}")
    return int(text)


def count(text):
    return natural(text, 1)


def path(text):
    if not text:
        raise argparse.ArgumentTypeError("the name is empty: give a path")
    return Path(text)


def command(run, name="helpers", argv=None) -> int:
    """Calls `run(argv)` of `python -m name`; returns the exit code: 0, 2 for bad input, 130 when
    interrupted."""
    if hasattr(sys.stdout, "reconfigure"):  # a terminal need not know every character of a story
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        run(argv)
        return 0
    except Usage as problem:
        code, message = 2, f"{problem} (see python -m {name} --help)"
    except KeyboardInterrupt:
        code, message = 130, "interrupted; what is kept is whole: give the same command to go on"
    except Exception as problem:
        from ..stories import InputError  # takes seconds
        if not isinstance(problem, InputError) and not out_of_memory(problem):
            raise
        code, message = 2, str(problem) if isinstance(problem, InputError) else (
            "out of memory: give a smaller --batch-size, --max-tokens or --limit")
    # printed only here, where the run's frames are gone and have closed their bars; one that is
    # interrupted while tqdm draws it for the first time ends no line
    start = "\n" if code == 130 else ""
    print(f"{start}error: {message}", file=sys.stderr)
    return code


def out_of_memory(problem) -> bool:
    """Whether that is what it says; other faults speak of memory, too (an illegal access)."""
    # of GPUs, of the CPU on Windows, on Linux
    words = ("out of memory", "not enough memory", "can't allocate memory")
    said = isinstance(problem, RuntimeError) and any(word in str(problem) for word in words)
    return isinstance(problem, MemoryError) or said
