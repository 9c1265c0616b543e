"""The whole run, step by step: corpus → factors → query gradients → iHVP → scores → top stories."""
import json
import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm.auto import tqdm

from . import curvature, influence, show
from .capture import backward_pass, find_layers
from .search import candidates
from .stories import (Corpus, InputError, Query, batches, complete, context_length, encode_query, load_model,
                      load_queries, load_stories, positions_budget, tokenise)

DEFAULT_PROMPT = "Bramble kept the glass egg in the"

@dataclass
class Setting:
    """What every step needs: the model, its tokenizer and tracked layers, the corpus, and how to run them."""
    model: torch.nn.Module
    tokenizer: object
    layers: dict
    corpus: Corpus
    batch_size: int = 32
    quiet: bool = False

    @property
    def device(self):
        return next(self.model.parameters()).device

    @property
    def pad_id(self):
        return self.tokenizer.pad_token_id or 0

    def stream(self, rows=None, label=""):
        """Length-bucketed batches of the corpus rows (default all), `index` holding corpus rows; a bar on stderr."""
        rows = list(range(len(self.corpus))) if rows is None else rows
        made = batches([self.corpus.ids[row] for row in rows], self.batch_size, self.pad_id,
                       positions_budget(self.model))
        with tqdm(total=len(rows), desc=label, unit=" stories", disable=self.quiet, mininterval=0.5) as bar:
            for batch in made:
                yield replace(batch.to(self.device), index=[rows[at] for at in batch.index])
                bar.update(len(batch.index))


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
    path = None
    if cache:
        ids = [setting.corpus.ids[row] for row in rows]
        path = Path(cache) / f"{method}-{curvature.cache_key(setting.model, setting.layers, ids, rows=rows, method=method, seed=seed)}.safetensors"
    blocks = curvature.load_blocks(path) if path else None
    if blocks is None:
        passes = iter(["A and S", "Λ"])
        blocks = curvature.fit_blocks(method, setting.model, setting.layers,
                                      lambda: setting.stream(rows, f"fitting {next(passes)}"), seed=seed)
        if path:
            keep(blocks, path)
    return curvature.METHODS[method](blocks, damping)


def keep(blocks, path):
    """Saves fitted factors; a full or read-only disk costs the cache, not the run."""
    try:
        curvature.save_blocks(blocks, path)
    except OSError as problem:
        print(f"note: the factors were not cached ({problem.strerror or problem}); --cache chooses another folder", file=sys.stderr)


def explain(setting: Setting, queries: list[Query], matrix: curvature.Curvature, top=10, prefilter=None,
            all_scores: Path | None = None) -> list[dict]:
    """The `queries` part of the JSON: for every query its `top` positive, then `top` negative stories."""
    model, layers, corpus, total = setting.model, setting.layers, setting.corpus, len(setting.corpus)
    encoded = [encode_query(setting.tokenizer, query, context_length(model)) for query in queries]
    gradients, log_probs = influence.query_gradients(model, layers, encoded, setting.pad_id)
    ihvps = matrix.solve(gradients)
    rows = candidates([q.prompt + q.completion for q in queries], [s.text for s in corpus.stories], prefilter) if prefilter else None
    if all_scores:
        scores = write_all_scores(setting, ihvps, total, rows, all_scores)
    else:
        scores = influence.sequence_scores(model, layers, setting.stream(rows, "scoring"), ihvps, total)
    picks = influence.top_indices(scores, top)
    pairs = [(query, row) for query, (positive, negative) in enumerate(picks) for row in positive + negative]
    chosen = setting.stream(sorted({row for _, row in pairs}), "tokens")
    values = influence.tokenwise(model, layers, chosen, ihvps, total, pairs)
    return [{"prompt": query.prompt, "completion": query.completion, "log_prob": log_probs[at].item(),
             "influences": [influence.entry(rank, row, corpus, values[at, row], list(layers), setting.tokenizer)
                            for side in picks[at] for rank, row in enumerate(side, start=1)]}
            for at, query in enumerate(queries)]


def write_all_scores(setting, ihvps, total, rows, path):
    """Writes `sequence (Q, N)` and `token (Q, N, T)` (0 at padding and outside the prefilter); returns the former."""
    queries = len(next(iter(ihvps.values())))
    token = torch.zeros(queries, total, max(map(len, setting.corpus.ids)))
    for batch in setting.stream(rows, "all tokens"):
        captured, _ = backward_pass(setting.model, setting.layers, batch)
        values = influence.token_scores(captured, ihvps, total).sum(1).cpu()
        token[:, batch.index, :values.shape[-1]] = values.unflatten(0, (queries, -1))
    sequence = token.sum(-1)
    written(path, lambda temporary: save_file({"sequence": sequence, "token": token}, temporary))
    return sequence


def written(path: Path, write) -> None:
    """Calls `write(temporary name)` and renames: the file is whole or not there. InputError when it cannot be written."""
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        write(temporary)
        os.replace(temporary, path)
    except BaseException as problem:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(problem, OSError):
            raise InputError(f"cannot write {path}: {problem.strerror or problem}; choose another place") from None
        raise


# -- the command line -----------------------------------------------------------------------------

def run(args) -> None:
    """Does what the parsed command line asks; raises InputError with one clear line."""
    check_outputs(args)
    model, tokenizer = load_model(args.model, args.device)
    layers = find_layers(model, args.scope)
    queries = read_queries(args, model, tokenizer)
    corpus = tokenise(load_stories(args.stories, args.limit), tokenizer, min(args.max_tokens, context_length(model)))
    tell_about(corpus)
    if args.top > len(corpus):
        raise InputError(f"--top {args.top} asks for more than the {len(corpus)} stories there are; give at most {len(corpus)}")
    setting = Setting(model, tokenizer, layers, corpus, args.batch_size)
    damping = None if args.damping == "auto" else args.damping
    matrix = fit(setting, args.method, args.fit_limit, args.seed, damping, None if args.cache == "none" else args.cache)
    result = {"model": args.model, "stories": args.stories, "method": args.method, "n_train": len(corpus),
              "unit": "nats per extra copy", "damping": matrix.damping,
              "queries": explain(setting, queries, matrix, args.top, args.prefilter, args.all_scores)}
    deliver(result, args)


def check_outputs(args):
    """Says before any long work that an output cannot be written."""
    for path in filter(None, (args.json, args.html, args.all_scores)):
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder; give a file name")
        written(path.with_name(f"{path.name}.try"), lambda temporary: None)
        path.with_name(f"{path.name}.try").unlink()


def read_queries(args, model, tokenizer) -> list[Query]:
    """The queries of the command line; the model completes (greedily) those without a completion."""
    if args.queries and (args.prompt is not None or args.completion is not None):
        raise InputError("give either a prompt or --queries, not both")
    given = [Query(DEFAULT_PROMPT if args.prompt is None else args.prompt, args.completion)]
    queries = []
    for query in load_queries(args.queries) if args.queries else given:
        if query.completion is None:
            query = replace(query, completion=complete(model, tokenizer, query.prompt))
        encode_query(tokenizer, query, context_length(model))  # too long or empty: say so now
        queries.append(query)
    return queries


def tell_about(corpus):
    """One line on stderr for stories that were cut or left out."""
    if corpus.truncated:
        print(f"note: {corpus.truncated} stories were cut to the longest length the model reads", file=sys.stderr)
    if corpus.skipped:
        print(f"note: {corpus.skipped} stories without text to learn from (empty, one token or no text) were left out", file=sys.stderr)


def deliver(result, args):
    """Tables on stdout; the JSON and HTML files that were asked for."""
    for query in result["queries"]:
        print(show.text_table(query))
    if args.json:
        text = json.dumps(result, ensure_ascii=False, indent=1, allow_nan=False)
        written(args.json, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))
    if args.html:
        show.write_page(result, args.html)
        print(f"open {args.html} in a browser to read every story word by word", file=sys.stderr)
