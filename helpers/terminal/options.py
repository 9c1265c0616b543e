"""Which stories, and which words in them, taught the model to say this?"""
import argparse
import math
import sys
import warnings
from pathlib import Path

from .. import default_cache

MOST = 10**9  # larger counts are typing errors, and overflow further down


class Usage(Exception):
    """Arguments that cannot be parsed."""


class Parser(argparse.ArgumentParser):
    """Raises Usage where argparse would print and exit."""

    def error(self, message):
        raise Usage(message)


def build_parser():
    parser = Parser(prog="python -m helpers", description=__doc__)
    add = parser.add_argument
    add("prompt", nargs="?", help="text the model continues (default: a planted fact)")
    _add_question(add)
    add("--model", default="default", help="default, a Hub id or a folder")
    add("--stories", default="default", metavar="STORIES",
        help="default, a Hub id, or a file: .jsonl, .csv, .parquet, .txt")
    add("--limit", type=count, metavar="N", help="read only the first N stories")
    add("--fit-limit", type=count, default=2000, metavar="M",
        help="fit the curvature on a sample of M stories (default: %(default)s)")
    add("--top", type=count, default=10, metavar="K",
        help="stories shown, K positive and K negative (default: %(default)s)")
    add("--method", choices=["ekfac", "kfac", "identity"], default="ekfac",
        help="curvature (default: %(default)s)")
    add("--scope", help="layers: mlp, all, trained, or a regular expression for their names "
        "(default: trained, which is an adapter's own, for an adapter, else mlp)")
    add("--max-tokens", type=count, default=512, metavar="T",
        help="cut longer stories (default: %(default)s)")
    add("--batch-size", type=count, default=16, metavar="B",
        help="stories in one pass (default: %(default)s)")
    add("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    add("--damping", type=damping, default="auto", metavar="X",
        help="λ, or auto: 0.1 × the layer's mean eigenvalue (default)")
    add("--seed", type=natural, default=0, metavar="S",
        help="of the sampled stories, labels and contexts (default: %(default)s)")
    add("--cache", type=cache, default=default_cache(), metavar="DIR",
        help="folder for fitted factors, or none (default: %(default)s)")
    add("--prefilter", type=count, metavar="M",
        help="score only the M stories that match each query best by TF-IDF")
    add("--index", type=Path, metavar="DIR",
        help="answer from an index of gradients in this folder; built by the first question")
    add("--precision", choices=["float32", "bfloat16"], default="float32",
        help="of the model (default: %(default)s)")
    add("--estimate", action="store_true",
        help="say how much time, memory and disk this takes, and stop")
    _add_outputs(add)
    return parser


def _add_question(add):
    add("--completion", metavar="TEXT",
        help="the continuation to explain (default: what the model writes, greedily)")
    add("--against", metavar="TEXT", help="explain why the completion and not this one")
    add("--chat", action="store_true",
        help="the prompt is a user's message: put it into the tokenizer's chat template")
    add("--contexts", type=natural, default=0, metavar="K",
        help="ask behind K beginnings of stories, and take the mean (default: the prompt alone)")
    add("--target", choices=["influence", "content"], default="influence",
        help="what one more copy of a story would do, or what it holds (default: %(default)s)")
    add("--rank", choices=["influence", "relatif"], default="influence",
        help="by influence, or by influence divided by the story's length (RelatIF), which finds "
             "what is learnt for good (default: %(default)s)")
    add("--queries", metavar="FILE.jsonl",
        help='many at once, one {"prompt": …, "completion": …, "against": …, "also": […]} a line '
             '("messages" in place of the prompt asks a chat model; "also": other wordings)')


def _add_outputs(add):
    add("--json", type=Path, metavar="OUT.json", help="everything shown, and more, for programs")
    add("--html", type=Path, metavar="OUT.html", help="the stories as heatmaps, for a browser")
    add("--all-scores", type=Path, metavar="OUT.safetensors",
        help="influence of every story and token")


def natural(text, least=0):
    if not (text.isascii() and text.isdigit() and least <= int(text) <= MOST):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {MOST:,}")
    return int(text)


def count(text):
    return natural(text, 1)


def cache(text):
    return None if text == "none" else text


def damping(text):
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a number of at least zero")
    return value


def main(argv=None) -> int:
    """Runs the command line; returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    if hasattr(sys.stdout, "reconfigure"):  # a terminal need not know every character of a story
        sys.stdout.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", module=r"helpers\.")
        warnings.showwarning = tell_warning
        code, message = attempt(argv)
    if message:  # printed only here, where the run's frames are gone and have closed their bars
        # a bar that is interrupted while tqdm draws it for the first time ends no line
        start = "\n" if code == 130 else ""
        print(f"{start}error: {message}", file=sys.stderr)
    return code


def tell_warning(message, *_):
    print(f"note: {message}", file=sys.stderr)


def attempt(argv):
    """One run: its exit code and what to tell the user, if it failed by anything but our fault."""
    try:
        arguments = build_parser().parse_args(argv)
        from .job import Request, run  # heavy imports only once the arguments are sound
        run(Request(**vars(arguments)))
    except Usage as problem:
        return 2, f"{problem} (see python -m helpers --help)"
    except KeyboardInterrupt:
        return 130, "interrupted; what was kept is whole, and the same command goes on from there"
    except Exception as problem:
        from ..stories import InputError
        if isinstance(problem, InputError):
            return 2, str(problem)
        if out_of_memory(problem):
            return 2, "out of memory: give a smaller --batch-size, --max-tokens or --limit"
        raise
    return 0, None


def out_of_memory(problem) -> bool:
    """Whether that is what it says; other faults speak of memory, too (an illegal access)."""
    # of GPUs, of the CPU on Windows, on Linux
    words = ("out of memory", "not enough memory", "can't allocate memory")
    said = isinstance(problem, RuntimeError) and any(word in str(problem) for word in words)
    return isinstance(problem, MemoryError) or said
