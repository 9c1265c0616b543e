"""Trains your model again without some stories: did attributions tell what that changes?"""
import argparse
import math
import shlex
from functools import partial
from pathlib import Path

from ..terminal.command import Parser, command, count, natural, path
from ..terminal.options import build_parser
from . import BASELINES, METHODS

HOLES = ("{stories}", "{model}", "{seed}")


def judge_parser() -> Parser:
    parser = Parser(prog="python -m helpers.judge", description=__doc__)
    add = parser.add_argument
    add("--model", required=True, metavar="BASE", help="the model before training: folder, Hub id")
    add("--stories", required=True, metavar="FILE", help="what it is trained on")
    add("--queries", required=True, type=path, metavar="FILE.jsonl",
        help="each with its completion")
    add("--out", required=True, type=path, metavar="DIR", help="keeps each training as it ends")
    add("--train", type=train_command, metavar="COMMAND",
        help='yours, as "python my.py --data {stories} --to {model} --seed {seed}": reads JSONL, '
             "each story as given; writes a folder (save_pretrained). {base} is BASE")
    add("--epochs", type=count, default=2, help="without --train (default: %(default)s)")
    add("--batch-size", type=count, default=32, help="without --train (default: %(default)s)")
    add("--rate", type=number, default=1e-3, help="without --train (default: %(default)s)")
    add("--methods", nargs="*", choices=METHODS, default=["ekfac"], metavar="NAME",
        help=f"of {', '.join(METHODS)} (default: ekfac), beside the dot product, TF-IDF and "
             "chance, which always stand there")
    add("--scores", type=given, action="append", default=[], metavar="NAME=FILE.safetensors",
        help="of another tool, for the model in DIR/model: `sequence` (queries, stories), as "
             "--all-scores writes; may recur")
    add("--subsets", type=partial(natural, least=4), default=32, metavar="S",
        help="random ones (default: %(default)s)")
    add("--share", type=share, default=0.5, help="of the stories, in each (default: %(default)s)")
    add("--seeds", type=count, default=2, metavar="K",
        help="methods are given the model of the first, and judged on the rest (default: 2)")
    add("--drop", nargs="*", type=share, default=[0.01, 0.05], metavar="SHARE",
        help="of the stories, from the top of each list (default: 1%% 5%%)")
    for name, kind in {"limit": count, "max-tokens": count, "scope": str, "device": str}.items():
        add(f"--{name}", type=kind, help="as in python -m helpers",
            default=build_parser().get_default(name.replace("-", "_")))
    add("--json", type=path, metavar="OUT.json", help="the report, and more, for programs")
    add("--estimate", action="store_true", help="train once and say what the rest would take")
    return parser


def train_command(text):
    missing = " and ".join(hole for hole in HOLES if hole not in text)
    if missing:
        raise argparse.ArgumentTypeError(f"{text!r} lacks {missing}: write it where the command "
                                         "takes it")
    return shlex.split(text)


def number(text, below=math.inf):
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value < below:
        raise argparse.ArgumentTypeError(f"{text!r} is no number between 0 and {below}")
    return value


def share(text):
    return number(text, 1)


def given(text):
    name, found, path = text.partition("=")
    if not (name and path) or name in METHODS + BASELINES:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=FILE with a name of its own")
    return name, Path(path)


def run(argv) -> None:
    """Raises Usage and InputError."""
    options = judge_parser().parse_args(argv)
    from .job import judge  # heavy imports only once the arguments are sound
    judge(options)


main = partial(command, run, "helpers.judge")
