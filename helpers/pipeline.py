"""The whole run, step by step: corpus → factors → query gradients → iHVP → scores → top stories."""
import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from . import curvature, influence, show
from .capture import backward_pass, find_layers
from .files import check_writable, output, save_tensors, save_text
from .search import candidates
from .stories import (Corpus, InputError, Query, batches, complete, context_length, encode_query, load_model,
                      load_queries, load_stories, make_query, positions_budget, tokenise)

DEFAULT_PROMPT = "Bramble kept the glass egg in the"


@dataclass
class Setting:
    """What every step needs: the model, its tokenizer and tracked layers, the corpus, and how to run them."""
    model: torch.nn.Module
    tokenizer: object
    layers: dict
    corpus: Corpus
    batch_size: int = 16  # larger ones are slower on a CPU: their attention maps outgrow what malloc keeps
    quiet: bool = False

    @property
    def device(self):
        return next(self.model.parameters()).device

    @property
    def pad_id(self):
        return self.tokenizer.pad_token_id or 0

    def max_positions(self, floats=2**28):
        """Positions (B·T) a batch may have: its logits fit, and its attention maps stay within `floats` numbers."""
        config = self.model.config.get_text_config()
        maps = getattr(config, "num_hidden_layers", 1) * getattr(config, "num_attention_heads", 1)  # (T, T) a story
        return min(positions_budget(self.model), max(1, floats // (maps * max(map(len, self.corpus.ids)))))

    def stream(self, rows=None, label=""):
        """Length-bucketed batches of the corpus rows (default all), `index` holding corpus rows; a bar on stderr."""
        rows = list(range(len(self.corpus))) if rows is None else rows
        ids = [self.corpus.ids[row] for row in rows]
        made = batches(ids, self.batch_size, self.pad_id, self.max_positions())
        # counted in tokens: the short stories come first, so a count of stories would promise too much
        with tqdm(total=sum(map(len, ids)), desc=label, unit=" tokens", unit_scale=True, disable=self.quiet,
                  mininterval=0.5) as bar:
            for batch in made:
                yield replace(batch.to(self.device), index=[rows[at] for at in batch.index])
                bar.update(batch.mask.sum().item())


def fit_sample(total: int, limit: int, seed: int) -> list[int]:
    """Rows of a seeded sample of at most `limit` of `total` stories, in corpus order."""
    if total <= limit:
        return list(range(total))
    return sorted(torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:limit].tolist())


def fit(setting: Setting, method="ekfac", fit_limit=2000, seed=0, damping=None, cache=None) -> curvature.Curvature:
    """The curvature of the tracked layers; read from the folder `cache` when the same was fitted before."""
    if method == "identity":
        return curvature.Identity(setting.layers)
    rows = fit_sample(len(setting.corpus), fit_limit, seed)
    path = cache_path(setting, cache, rows, method, seed) if cache else None
    blocks = curvature.load_blocks(path) if path else None
    if blocks is None:
        blocks = fit_now(setting, rows, method, seed)
        if path:
            keep(blocks, path)
    return curvature.METHODS[method]({name: blocks[name] for name in setting.layers}, damping)


def cache_path(setting, cache, rows, method, seed) -> Path:
    """Where the factors of this model, these stories and settings are kept."""
    ids = [setting.corpus.ids[row] for row in rows]
    key = curvature.cache_key(setting.model, setting.layers, ids, rows=rows, method=method, seed=seed)
    return Path(cache).expanduser() / f"{method}-{key}.safetensors"


def fit_now(setting, rows, method, seed):
    """Fits the blocks; numbers that overflow become one line for the user."""
    passes = iter(["fitting A and S", "fitting Λ"])
    try:
        return curvature.fit_blocks(method, setting.model, setting.layers,
                                    lambda: setting.stream(rows, next(passes)), seed=seed)
    except torch.linalg.LinAlgError:
        raise InputError("the curvature is not finite: check the model's weights and the stories") from None


def keep(blocks, path):
    """Saves fitted factors; a full or read-only disk costs the cache, not the run."""
    try:
        curvature.save_blocks(blocks, path)
    except OSError as problem:
        print(f"note: the factors were not cached in {path.parent} ({problem.strerror or problem}); "
              "--cache chooses another folder", file=sys.stderr)


def explain(setting: Setting, queries: list[Query], matrix: curvature.Curvature, top=10, prefilter=None,
            every_token=False) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """The `queries` part of the JSON, for every query its `top` positive, then `top` negative stories; and all scores:
    `sequence (Q, N)`, with `every_token` also `token (Q, N, T)`, 0 at padding and outside the prefilter."""
    model, layers, corpus, total = setting.model, setting.layers, setting.corpus, len(setting.corpus)
    encoded = [encode_query(setting.tokenizer, query, context_length(model)) for query in queries]
    gradients, log_probs = influence.query_gradients(model, layers, encoded, setting.pad_id)
    ihvps = matrix.solve(gradients)
    rows = matching(queries, corpus, prefilter) if prefilter else None
    if every_token:
        scores = all_token_scores(setting, ihvps, rows)
    else:
        scores = {"sequence": influence.sequence_scores(model, layers, setting.stream(rows, "scoring"), ihvps, total)}
    picks = influence.top_indices(scores["sequence"], top)
    pairs = [(query, row) for query, (positive, negative) in enumerate(picks) for row in positive + negative]
    chosen = setting.stream(sorted({row for _, row in pairs}), "tokens")
    values = influence.tokenwise(model, layers, chosen, ihvps, total, pairs)
    entries = [{"prompt": query.prompt, "completion": query.completion, "log_prob": log_probs[at].item(),
                "influences": [influence.entry(rank, row, corpus, values[at, row], list(layers), setting.tokenizer)
                               for side in picks[at] for rank, row in enumerate(side, start=1)]}
               for at, query in enumerate(queries)]
    return entries, scores


def matching(queries, corpus, count) -> list[int]:
    """Rows of the stories among the `count` that match one of the queries best, word by word."""
    try:
        return candidates([q.prompt + q.completion for q in queries], [s.text for s in corpus.stories], count)
    except ValueError:  # scikit-learn: empty vocabulary
        raise InputError("the stories hold no words to match: leave out --prefilter") from None


def all_token_scores(setting, ihvps, rows) -> dict[str, torch.Tensor]:
    """`sequence (Q, N)` and `token (Q, N, T)` of the corpus rows (None: all), 0 elsewhere. Raises InputError if not finite."""
    queries, total = len(next(iter(ihvps.values()))), len(setting.corpus)
    token = torch.zeros(queries, total, max(map(len, setting.corpus.ids)))
    for batch in setting.stream(rows, "scoring all tokens"):
        captured, _ = backward_pass(setting.model, setting.layers, batch)
        every = list(range(len(batch.index)))
        for query in range(queries):  # one at a time: memory stays that of a batch
            values = influence.token_scores(captured, ihvps, total, [query] * len(every), every)
            token[query, batch.index, :values.shape[-1]] = values.sum(1).cpu()
    sequence = token.sum(-1)
    if not torch.isfinite(sequence).all():
        raise InputError("some influence scores are not finite: check the model's weights, or raise --damping")
    return {"sequence": sequence, "token": token}


# -- the command line -----------------------------------------------------------------------------

def run(args) -> None:
    """Does what the parsed command line asks; raises InputError with one clear line."""
    check_outputs(args)
    model, tokenizer = load_model(args.model, args.device)
    layers = find_layers(model, args.scope)
    queries = read_queries(args, model, tokenizer)
    max_tokens = min(args.max_tokens, context_length(model))
    corpus = tokenise(load_stories(args.stories, args.limit), tokenizer, max_tokens)
    tell_about(corpus, max_tokens)
    if args.top > len(corpus):
        raise InputError(f"--top {args.top} asks for more than the {len(corpus)} stories there are: give at most {len(corpus)}")
    setting = Setting(model, tokenizer, layers, corpus, args.batch_size)
    matrix = fit(setting, args.method, args.fit_limit, args.seed, args.damping, None if args.cache == "none" else args.cache)
    entries, scores = explain(setting, queries, matrix, args.top, args.prefilter, bool(args.all_scores))
    result = {"model": args.model, "stories": args.stories, "method": args.method, "n_train": len(corpus),
              "unit": show.UNIT, "damping": matrix.damping, "queries": entries}
    deliver(result, scores, args)


def check_outputs(args):
    """Says before any long work that an output cannot be written, or would overwrite what is read."""
    taken = {Path(name).expanduser().resolve() for name in (args.queries, args.stories) if name}
    for path in filter(None, (args.json, args.html, args.all_scores)):
        check_writable(path)
        if path.resolve() in taken:
            raise InputError(f"{path} is named twice, or is what is to be read: give every output a file of its own")
        taken.add(path.resolve())


def read_queries(args, model, tokenizer) -> list[Query]:
    """The queries of the command line; the model completes (greedily) those without a completion."""
    if args.queries and (args.prompt is not None or args.completion is not None):
        raise InputError("both a prompt and --queries were given: give one of them")
    given = make_query(DEFAULT_PROMPT if args.prompt is None else args.prompt, args.completion)
    queries = []
    for query in load_queries(args.queries) if args.queries else [given]:
        if query.completion is None:
            query = replace(query, completion=complete(model, tokenizer, query.prompt))
        encode_query(tokenizer, query, context_length(model))  # too long or empty: say so now
        queries.append(query)
    return queries


def tell_about(corpus, max_tokens):
    """One line on stderr each for stories that were cut or left out."""
    total = len(corpus) + corpus.skipped
    if corpus.truncated:
        print(f"note: {corpus.truncated} of {total} stories cut to their first {max_tokens} tokens", file=sys.stderr)
    if corpus.skipped:
        print(f"note: {corpus.skipped} of {total} stories left out (empty, a single token, or no text)", file=sys.stderr)


def deliver(result, scores, args):
    """Tables on stdout and the files that were asked for; one that fails does not cost the others."""
    jobs = [(say, "\n\n".join(map(show.text_table, result["queries"]))), (write_json, result, args.json),
            (show.write_page, result, args.html), (write_scores, scores, args.all_scores)]
    problems = []
    for job, *what in jobs:
        try:
            if what[-1] is not None:
                job(*what)
        except InputError as problem:
            problems.append(str(problem))
    if problems:
        raise InputError("; ".join(problems))
    if args.html:
        print(f"open {args.html} in a browser to read every story word by word", file=sys.stderr)


def say(text):
    """Prints to stdout; a reader that has had enough (a pipe into head) is no error."""
    try:
        print(text, flush=True)
    except OSError as problem:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains once more at exit
        if not isinstance(problem, BrokenPipeError):
            raise InputError(f"cannot print the table ({problem.strerror}): give --json or --html a file") from None


def write_json(result, path):
    with output(path):
        save_text(json.dumps(result, ensure_ascii=False, indent=1, allow_nan=False) + "\n", path)


def write_scores(scores, path):
    with output(path):
        save_tensors(scores, path)
