"""The job of the command line: read → fit → ask → score → show → write."""
import json
import os
import sys
from types import SimpleNamespace

from .. import pictures
from ..sources import (Tracked, context_length, load_model, load_queries, load_stories, read_corpus,
                       read_query, track)
from ..sources.files import check_writable, local_path, output, save_tensors, save_text
from ..sources.texts import as_message, beginnings
from ..stories import InputError, Query
from . import colour, processes
from .answers import ask, exact_scores, exact_token_scores, explain_indexed, matching, told
from .estimate import Estimate, estimate
from .fitting import fit
from .index import open_index
from .setting import Setting, batch_note

DEFAULT_PROMPT = "Bramble kept the glass egg in the"


class Request(SimpleNamespace):
    """What the command line asks for; the names are those of its options."""

    @property
    def fitting(self) -> dict:
        """The options of `fit` and `open_index`."""
        return {"method": self.method, "fit_limit": self.fit_limit, "seed": self.seed,
                "damping": self.damping, "cache": self.cache}


def run(request: Request) -> None:
    """Does what is asked; raises InputError with one clear line."""
    check_outputs(request)
    setting, tracked, queries, contexts = read(request)
    if request.estimate:
        guess = estimated(request, setting, queries, contexts)
        if processes.rank() == 0:
            say(str(guess))
        return processes.stop()
    if request.index:
        index = open_index(setting, request.index, **request.fitting)
        damping, scores = index.curvature.damping, None
        answers = explain_indexed(setting, queries, index, request.top, contexts)
    else:
        curvature = fit(setting, **request.fitting)
        asked = ask(setting, queries, curvature, contexts)
        rows = request.prefilter and matching(queries, setting.corpus, request.prefilter)
        if request.all_scores:
            scores = exact_token_scores(setting, asked, rows)
        else:
            scores = exact_scores(setting, asked, rows,
                                  curvature if request.rank == "relatif" else None)
        order = scores.get("relatif", scores["sequence"])
        damping, answers = curvature.damping, told(setting, asked, order, request.top)
    result = {"model": request.model, "stories": request.stories, "method": request.method,
              "n_train": len(setting.corpus), "target": setting.target, "rank": request.rank,
              "unit": pictures.UNITS[setting.target], "damping": damping,
              "tracked": tracked.summary(), "queries": answers}
    if processes.rank() == 0:
        write(result, scores, request)
    processes.stop()


# -- read ----------------------------------------------------------------------------------------

def check_outputs(request: Request) -> None:
    """Says before any long work that an output cannot be had. It cannot be written, would overwrite
    what is read, or does not go with another option."""
    other = request.all_scores or request.prefilter or request.method == "identity"
    if request.index and other:
        raise InputError("--index goes neither with --all-scores nor --prefilter nor --method "
                         "identity: leave one of them out")
    if request.rank == "relatif" and (request.index or request.all_scores):
        raise InputError("--rank relatif goes neither with --index nor with --all-scores: leave "
                         "one of them out")
    model = local_path(request.model, "model")
    read = [local_path(request.stories, "stories.jsonl"),
            *(model.glob("*") if os.path.isdir(model) else []),
            *([local_path(request.queries)] if request.queries else [])]
    taken = set(map(os.path.realpath, read))
    for path in filter(None, (request.json, request.html, request.all_scores)):
        check_writable(path)
        place = os.path.realpath(path)
        if place in taken:
            raise InputError(f"{path} is named twice, or is what is to be read: give every output "
                             "a file of its own")
        taken.add(place)


def read(request: Request) -> tuple[Setting, Tracked, list[Query], list[str]]:
    """Model, layers and stories, the queries and what they are asked behind; what should be known
    of them is told on stderr."""
    model, tokenizer = load_model(request.model, request.device, request.precision)
    processes.start(model.device)
    tracked = track(model, request.scope)
    tell(f"tracked: {pictures.tracked(tracked.summary())}")
    queries = read_queries(request, model, tokenizer)
    max_tokens = min(request.max_tokens, context_length(model))
    stories = load_stories(request.stories, request.limit, tokenizer)
    corpus = read_corpus(stories, tokenizer, max_tokens)
    total = len(corpus) + corpus.skipped
    if corpus.truncated:
        tell(f"{corpus.truncated} of {total} stories cut to their first {max_tokens} tokens")
    if corpus.skipped:
        tell(f"{corpus.skipped} of {total} stories left out (empty, a single token, no text, or no "
             "answer)")
    if request.top > len(corpus):
        raise InputError(f"--top {request.top} asks for more than the {len(corpus)} stories there "
                         f"are: give at most {len(corpus)}")
    contexts = beginnings(tokenizer, corpus.stories, queries, request.contexts,
                          context_length(model), request.seed)
    setting = Setting(model, tokenizer, tracked.layers, corpus, request.batch_size,
                      target=request.target)
    tell(batch_note(setting))
    return setting, tracked, queries, contexts


def read_queries(request: Request, model, tokenizer) -> list[Query]:
    """The queries; the model completes (greedily) those without a completion."""
    if not request.queries:
        prompt = DEFAULT_PROMPT if request.prompt is None else request.prompt
        given = [Query(prompt, request.completion, request.against)]
    elif {request.prompt, request.completion, request.against} != {None}:
        raise InputError("both a prompt and --queries were given: give one of them")
    else:
        given = load_queries(request.queries, tokenizer)
    queries = []
    for query in [as_message(tokenizer, each) for each in given] if request.chat else given:
        query, _, notes = read_query(model, tokenizer, query)
        for note in notes:
            tell(note)
        queries.append(query)
    return queries


def tell(note) -> None:
    """One line on stderr, from one of the processes, if there is anything to tell."""
    if note and processes.rank() == 0:
        print(f"note: {pictures.visible(note, ' ')}", file=sys.stderr)


def estimated(request: Request, setting: Setting, queries, contexts) -> Estimate:
    """What the request takes, with nothing kept of an earlier run."""
    rows = request.prefilter and request.prefilter * len(queries)
    sides = 1 + any(query.against is not None for query in queries)
    return estimate(setting, len(queries), request.method, request.fit_limit, request.seed,
                    request.top, rows, prompts=sides * (len(contexts) or 1) * max(
                        1 + len(query.also) for query in queries),
                    all_tokens=bool(request.all_scores), index=bool(request.index))


# -- show and write ------------------------------------------------------------------------------

def write(result: dict, scores, request: Request) -> None:
    """Tables on stdout and the files asked for; one that fails does not cost the others."""
    problems = []

    def attempt(job, *what):
        try:
            job(*what)
        except InputError as problem:
            problems.append(str(problem))

    attempt(say, "\n\n".join(table(query, result) for query in result["queries"]))
    if request.json:
        attempt(write_json, result, request.json)
    if request.html:
        attempt(pictures.write_page, result, request.html)
    if request.all_scores:
        attempt(output(request.all_scores)(save_tensors), scores, request.all_scores)
    if problems:
        raise InputError("; ".join(problems))
    if request.html:
        print(f"open {request.html} in a browser to read every story word by word",
              file=sys.stderr)


def table(query: dict, result: dict) -> str:
    """A query's table; in a terminal that can, its strongest stories in colour, too."""
    coloured = [colour.stories(query)] if query["influences"] and colour.wanted() else []
    return "\n\n".join([pictures.text_table(query, result["unit"], result["rank"]), *coloured])


def say(text: str) -> None:
    """Prints to stdout; a reader that has had enough (a pipe into head) is no error."""
    try:
        print(text, flush=True)
    except OSError as problem:
        # else Python complains once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(problem, BrokenPipeError):
            raise InputError(f"cannot print the table ({problem.strerror}): give --json or --html "
                             "a file") from None


def write_json(result: dict, path) -> None:
    """Writes a result, whole or not at all. Raises InputError."""
    with output(path):
        text = json.dumps(result, ensure_ascii=False, indent=1, allow_nan=False)
        save_text(text + "\n", path)
