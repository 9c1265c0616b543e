"""Trains your model again without some stories; says whether the attributions told what changed."""
import argparse
import math
import shlex
from pathlib import Path

from ..classroom.command import command
from ..terminal.options import Parser, Usage, build_parser, count
from . import BASELINES, METHODS

HOLES = ("{stories}", "{model}")


def judge_parser() -> Parser:
    """The options that `python -m helpers` has, too, have its defaults."""
    parser = Parser(prog="python -m helpers.judge", description=__doc__)
    add = parser.add_argument
    add("--model", required=True, metavar="BASE", help="the model before training: folder, Hub id")
    add("--stories", required=True, metavar="FILE", help="what it is trained on")
    add("--queries", required=True, metavar="FILE.jsonl", help="each with its completion")
    add("--out", required=True, type=Path, metavar="DIR", help="keeps each training as it ends")
    add("--train", type=train_command, metavar="COMMAND",
        help='yours, as in "python train.py {stories} {model} --seed {seed}"; it reads {stories} '
             "(JSONL, as given) and writes {model} (save_pretrained); {base} is BASE")
    add("--epochs", type=count, default=2, help="without --train (default: %(default)s)")
    add("--batch-size", type=count, default=32, help="without --train (default: %(default)s)")
    add("--rate", type=rate, default=1e-3, help="without --train (default: %(default)s)")
    add("--methods", type=methods, default="ekfac", metavar="A,B",
        help=f"of {', '.join(METHODS)} (default: %(default)s); beside them always identity (dot "
             "product), tfidf, random")
    add("--scores", type=given, action="append", default=[], metavar="NAME=FILE.safetensors",
        help="judge these, too: `sequence` (queries, stories), as --all-scores writes; may recur")
    add("--subsets", type=count, default=32, help="random ones (default: %(default)s)")
    add("--share", type=part, default="0.5", help="of the stories each keeps (default: 0.5)")
    add("--seeds", type=count, default=2, help="methods see the first (default: %(default)s)")
    add("--drop", type=parts, default="1%,5%", metavar="A,B",
        help="the shares of the list left out, or none (default: 1%%,5%%)")
    for name, kind in {"limit": count, "max-tokens": count, "scope": str, "device": str}.items():
        add(f"--{name}", type=kind, help="as in python -m helpers",
            default=build_parser().get_default(name.replace("-", "_")))
    add("--json", type=Path, metavar="OUT.json", help="the report, and more, for programs")
    add("--estimate", action="store_true", help="train once and say what the rest would take")
    return parser


def train_command(text):
    missing = [hole for hole in HOLES if hole not in text]
    if missing:
        raise argparse.ArgumentTypeError(f"{text!r} lacks {' and '.join(missing)}: write it where "
                                         "the command takes that path")
    try:
        return shlex.split(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be read ({problem})") from None


def rate(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above zero")
    return value


def part(text):
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share between 0 and 1 (0.05, or 5%)")
    return value


def parts(text):
    return [] if text == "none" else sorted(set(map(part, text.split(","))))


def methods(text):
    names = list(dict.fromkeys(text.split(",")))
    unknown = [name for name in names if name not in (*METHODS, *BASELINES)]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown method {unknown[0]!r}: choose from "
                                         f"{', '.join(METHODS)}")
    return [name for name in names if name in METHODS]


def given(text):
    name, found, path = text.partition("=")
    if not (name and found and path) or name in (*METHODS, *BASELINES):
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=FILE with a name of its own")
    return name, Path(path)


def run(argv) -> None:
    options = judge_parser().parse_args(argv)
    if options.train and options.seeds > 1 and not any("{seed}" in word for word in options.train):
        raise Usage("the command of --train has no {seed}: write it there, or give --seeds 1")
    from .job import judge  # heavy imports only once the arguments are sound
    judge(options)


def main(argv=None) -> int:
    """Runs the command line; returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    return command("judge", run, argv)
