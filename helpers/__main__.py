"""The pipeline from a terminal: which stories, and which words in them, taught the model to say this?"""
import argparse
import math
import os
import sys
import warnings
from pathlib import Path


def build_parser():
    parser = argparse.ArgumentParser(prog="python -m helpers", description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("prompt", nargs="?", help="text the model continues (default: a planted fact)")
    parser.add_argument("--completion", help="the continuation to explain; without it the model writes one (greedy)")
    parser.add_argument("--queries", metavar="FILE.jsonl", help='one {"prompt": …, "completion": …} a line')
    parser.add_argument("--model", default="default", help="default, a Hub id or a folder")
    parser.add_argument("--stories", default="default", help="default, a Hub id, FILE.jsonl or FILE.txt")
    parser.add_argument("--limit", type=count, help="read only the first stories")
    parser.add_argument("--fit-limit", type=count, default=2000, help="fit the curvature on at most so many stories")
    parser.add_argument("--top", type=count, default=10, help="stories shown, positive and negative each")
    parser.add_argument("--method", choices=["ekfac", "kfac", "identity"], default="ekfac")
    parser.add_argument("--scope", default="mlp", help="layers: mlp, all, or a regular expression for their names")
    parser.add_argument("--max-tokens", type=count, default=512, help="longer stories are cut")
    parser.add_argument("--batch-size", type=count, default=32)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    parser.add_argument("--damping", type=damping, default="auto", help="auto = 0.1 × mean eigenvalue, a layer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", default=default_cache(), help="folder for fitted factors, or none")
    parser.add_argument("--prefilter", type=count, metavar="M", help="score only the M best stories by TF-IDF")
    parser.add_argument("--json", type=Path, metavar="OUT.json")
    parser.add_argument("--html", type=Path, metavar="OUT.html")
    parser.add_argument("--all-scores", type=Path, metavar="OUT.safetensors")
    return parser


def count(text):
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def damping(text):
    if text == "auto":
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a number of at least zero")
    return value


def default_cache():
    return str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tokenwise-influence")


def main(argv=None) -> int:
    """Runs the command line; returns the exit code (0, 2 for bad input, 130 when interrupted)."""
    parser = build_parser()
    parser.error = lambda message: sys.exit(fail(f"{message} (see python -m helpers --help)"))
    warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)
    try:
        args = parser.parse_args(argv)
        from .pipeline import run  # heavy imports only once the arguments are sound
        run(args)
    except KeyboardInterrupt:
        return fail("interrupted; nothing half-written was left: give the same command again", code=130)
    except BrokenPipeError:
        sys.stdout = None
    except Exception as problem:
        from .stories import InputError
        if not isinstance(problem, InputError):
            raise
        return fail(problem)
    return 0


def fail(message, code=2):
    print(f"error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
