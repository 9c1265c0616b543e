"""Which stories, and which words in them, taught the model to say this?"""
import argparse
import math
import sys
import warnings

from .. import default_cache
from .command import Parser, command, count, natural, path


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
    add("--index", type=path, metavar="DIR",
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
    add("--queries", type=path, metavar="FILE.jsonl",
        help='many at once, one {"prompt": …, "completion": …, "against": …, "also": […]} a line '
             '("messages" in place of the prompt asks a chat model; "also": other wordings)')


def _add_outputs(add):
    add("--json", type=path, metavar="OUT.json", help="everything shown, and more, for programs")
    add("--html", type=path, metavar="OUT.html", help="the stories as heatmaps, for a browser")
    add("--all-scores", type=path, metavar="OUT.safetensors",
        help="influence of every story and token")


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


def explain(argv) -> None:
    """Raises Usage and InputError."""
    arguments = build_parser().parse_args(argv)
    from .job import Request, run  # heavy imports only once the arguments are sound
    run(Request(**vars(arguments)))


def main(argv=None) -> int:
    """Runs the command line; returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", module=r"helpers\.")
        warnings.showwarning = tell_warning
        return command(explain, argv=argv)


def tell_warning(message, *_):
    print(f"note: {message}", file=sys.stderr)
