"""The whole run, step by step: corpus → factors → query gradients → iHVP → scores → top stories."""
import json
import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from . import curvature, files, influence, pictures, processes
from .capture import backward_pass
from .files import check_writable, output, save_tensors, save_text
from .search import Index, candidates
from .stories import (Corpus, InputError, Query, batches, complete, context_length, encode_query, load_model,
                      load_queries, load_stories, local_path, positions_budget, query_notes, tokenise)
from .tracked import track

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
        maps = _number(self.model, "num_hidden_layers") * _number(self.model, "num_attention_heads")  # (T, T) a story
        return min(positions_budget(self.model), max(1, floats // (maps * max(map(len, self.corpus.ids)))))

    def stream(self, rows=None, label=""):
        """Length-bucketed batches of the corpus rows (default all), `index` holding corpus rows; a bar on stderr.

        Under torchrun every process gets a share of the rows.
        """
        rows = range(len(self.corpus)) if rows is None else rows
        rows = processes.share(sorted(rows, key=lambda row: len(self.corpus.ids[row])))
        ids = [self.corpus.ids[row] for row in rows]
        made = batches(ids, self.batch_size, self.pad_id, self.max_positions())
        # counted in tokens: the short stories come first, so a count of stories would promise too much
        with tqdm(total=sum(map(len, ids)), desc=label, unit=" tokens", unit_scale=True, mininterval=0.5,
                  disable=self.quiet or processes.rank() > 0) as bar:
            for batch in made:
                yield replace(batch.to(self.device), index=[rows[at] for at in batch.index])
                bar.update(batch.mask.sum().item())


def _number(model, name):
    """A size in the model's config; 1 where it has none, or another in each layer."""
    try:
        return getattr(model.config.get_text_config(), name, None) or 1
    except Exception:  # a config that differs by layer raises a type of its own
        return 1


def fit_sample(total: int, limit: int, seed: int) -> list[int]:
    """Rows of a seeded sample of at most `limit` of `total` stories, in corpus order."""
    if total <= limit:
        return list(range(total))
    return sorted(torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:limit].tolist())


def fit(setting: Setting, method="ekfac", fit_limit=2000, seed=0, damping=None, cache=None, key=None) -> curvature.Curvature:
    """The curvature of the tracked layers; read from the folder `cache` when the same was fitted before.

    With a cache a killed fit goes on where it was, and of two that fit the same at once one waits for the other.
    `key` is the model's `model_key`, where it is known already.
    """
    if method == "identity":
        return curvature.Identity(setting.layers)
    rows = fit_sample(len(setting.corpus), fit_limit, seed)
    path = cache_path(setting, cache, rows, method, seed, key) if cache else None
    blocks = curvature.load_blocks(path) if path else None
    if processes.anywhere(blocks is None):
        with files.lock(path) if path and processes.rank() == 0 else nullcontext():
            blocks = curvature.load_blocks(path) if path and processes.world() == 1 else None  # made while we waited
            blocks = blocks or fit_and_keep(setting, rows, method, seed, path)
    elif path:
        files.touch(path)
    return curvature.METHODS[method]({name: blocks[name] for name in setting.layers}, damping)


def cache_path(setting, cache, rows, method, seed, key=None) -> Path:
    """Where the factors of this model, these stories and settings are kept."""
    ids = [setting.corpus.ids[row] for row in rows]
    key = curvature.cache_key(key or setting.model, setting.layers, ids, rows=rows, method=method, seed=seed)
    return local_path(cache) / f"{method}-{key}.safetensors"


def fit_and_keep(setting, rows, method, seed, path=None):
    """Fits the blocks and saves them at `path`; a full or read-only disk costs what is kept, not the run."""
    blocks = fit_now(setting, rows, method, seed, path)
    if path and processes.rank() == 0:
        try:
            curvature.save_blocks(blocks, path)
            files.Checkpoint.clear(path)
            files.bound(path.parent, path)
        except OSError as problem:
            print(f"note: the factors were not cached in {path.parent} ({problem.strerror or problem}); "
                  "--cache chooses another folder", file=sys.stderr)
    return blocks


def fit_now(setting, rows, method, seed, keep=None):
    """Fits the blocks; numbers that overflow become one line for the user."""
    passes = iter(["fitting A and S", "fitting Λ"])
    if keep:  # half-done sums count batches, so they are good for batches of the same make only
        keep = keep.with_stem(f"{keep.stem}.{setting.batch_size}-{setting.max_positions()}")
    try:
        return curvature.fit_blocks(method, setting.model, setting.layers,
                                    lambda: setting.stream(rows, next(passes)), seed=seed, keep=keep)
    except torch.linalg.LinAlgError:
        raise InputError("the curvature is not finite: check the model's weights and the stories") from None


# -- through an index -----------------------------------------------------------------------------

def open_index(setting: Setting, folder, method="ekfac", fit_limit=2000, seed=0, damping=None, cache=None, key=None) -> Index:
    """The index in `folder`, complete for the setting's stories: opened, added to, or built with factors fitted now.

    `key` is the model's `model_key`, where it is known already. Raises InputError when the index belongs to something
    else, or cannot be written.
    """
    folder = local_path(folder)
    settings = {"layers": list(setting.layers), "method": method, "fit limit": fit_limit, "seed": seed,
                "λ": "auto" if damping is None else damping}
    with output(folder):
        if folder.exists() and not folder.is_dir():
            raise OSError("it is a file")
    with output(folder), files.lock(folder) if processes.rank() == 0 else nullcontext():
        processes.wait()  # nobody looks while another run still builds it
        key = key or curvature.model_key(setting.model)  # once for all: it reads every weight
        index = Index.open(folder, key, **settings)
        processes.wait()  # nobody creates it while another still looks
        if index is None:
            files.check_folder(folder)
            matrix = fit(setting, method, fit_limit, seed, damping, cache, key)
            index = Index.create(folder, key, matrix, **settings)
        rows = index.missing(setting.corpus)
        processes.wait()  # nobody adds while another still counts
        if rows and processes.rank() == 0:
            print(f"note: adding {len(rows)} stories to the index in {folder}, about "
                  f"{len(rows) * index.story_bytes() / 1e6:,.0f} MB", file=sys.stderr)
        index.add(setting.model, setting.layers, setting.corpus, lambda part: setting.stream(part, "indexing"), rows)
        processes.wait()
    return index


def explain_indexed(setting: Setting, queries: list[Query], index: Index, top=10) -> list[dict]:
    """As `explain`, from an index: its scores choose a short list, whose gradients give exact scores and tokens."""
    gradients, log_probs = encoded_gradients(setting, queries)
    ihvps = index.matrix.solve(gradients)
    rough = influence.finite(index.scores(ihvps, setting.corpus))
    listed = influence.top_indices(rough, top + max(5, top // 2))
    values = picked_tokens(setting, ihvps, listed)
    exact = torch.zeros_like(rough)
    for (query, row), value in values.items():
        exact[query, row] = value.sum()
    return told(setting, queries, log_probs, influence.top_indices(exact, top), values)


# -- exactly ---------------------------------------------------------------------------------------

def explain(setting: Setting, queries: list[Query], matrix: curvature.Curvature, top=10, prefilter=None,
            every_token=False) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """The `queries` part of the JSON, for every query its `top` positive, then `top` negative stories; and all scores:
    `sequence (Q, N)`, with `every_token` also `token (Q, N, T)`, 0 at padding and outside the prefilter."""
    model, layers, total = setting.model, setting.layers, len(setting.corpus)
    gradients, log_probs = encoded_gradients(setting, queries)
    ihvps = matrix.solve(gradients)
    rows = matching(queries, setting.corpus, prefilter) if prefilter else None
    if every_token:
        scores = all_token_scores(setting, ihvps, rows)
    else:
        scores = {"sequence": influence.sequence_scores(model, layers, setting.stream(rows, "scoring"), ihvps, total)}
    picks = influence.top_indices(scores["sequence"], top)
    return told(setting, queries, log_probs, picks, picked_tokens(setting, ihvps, picks)), scores


def encoded_gradients(setting, queries):
    """`query_gradients` of queries in words."""
    encoded = [encode_query(setting.tokenizer, query, context_length(setting.model)) for query in queries]
    return influence.query_gradients(setting.model, setting.layers, encoded, setting.pad_id)


def picked_tokens(setting, ihvps, picks) -> dict[tuple[int, int], torch.Tensor]:
    """`influence.tokenwise` of the stories that `top_indices` picked for each query."""
    pairs = [(query, row) for query, (positive, negative) in enumerate(picks) for row in positive + negative]
    chosen = setting.stream(sorted({row for _, row in pairs}), "tokens")
    return influence.tokenwise(setting.model, setting.layers, chosen, ihvps, len(setting.corpus), pairs)


def told(setting, queries, log_probs, picks, values) -> list[dict]:
    """Queries, log-probabilities, the rows picked and their token values as the JSON has them."""
    return [{"prompt": query.prompt, "completion": query.completion, "log_prob": log_probs[at].item(),
             "influences": [influence.entry(rank, row, setting.corpus, values[at, row], list(setting.layers), setting.tokenizer)
                            for side in picks[at] for rank, row in enumerate(side, start=1)]}
            for at, query in enumerate(queries)]


def batch_note(setting) -> str | None:
    """A sentence where the gradient of a story is another alone than in a batch, padded to the length of a longer one; None
    where they agree to the precision of the model. Whatever is scored by it would be off by as much.

    Tried are the first story and the longest but one, beside the longest: some models treat long texts in another way.
    """
    ids = setting.corpus.ids
    rows = sorted({0, *sorted(range(len(ids)), key=lambda row: len(ids[row]))[-2:]})
    together, shares = _gradients(setting, rows), {}
    for place, row in enumerate(rows):
        (alone,) = _gradients(setting, [row])
        shares[row] = ((together[place] - alone).norm() / alone.norm()).item()
    worst = max(shares, key=shares.get)
    if not shares[worst] > (1e-3 if setting.model.dtype in (torch.float32, torch.float64) else 0.1):  # NaN is told with the scores
        return None
    return (f"the gradient of story {setting.corpus.stories[worst].id!r} differs by {shares[worst]:.1%} between alone and in a batch: "
            "padding or other stories show in this model's scores; --batch-size 1 scores every story alone")


def _gradients(setting, rows):
    """The gradients of these corpus rows, run in one batch, `(rows, parameters)`."""
    (batch,) = batches([setting.corpus.ids[row] for row in rows], len(rows), setting.pad_id)
    captured, _ = backward_pass(setting.model, setting.layers, batch.to(setting.device))
    flat = torch.cat([captured[name].gradients().flatten(1) for name in setting.layers], 1)
    return flat[torch.tensor(batch.index).argsort().to(flat.device)]


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
    return {"sequence": influence.finite(processes.total(token).sum(-1)), "token": token}


# -- the command line -----------------------------------------------------------------------------

def run(args) -> None:
    """Does what the parsed command line asks; raises InputError with one clear line."""
    check_outputs(args)
    model, tokenizer = load_model(args.model, args.device, args.precision)
    processes.start(model.device)
    tracked = track(model, args.scope)
    tell(f"tracked: {pictures.tracked(tracked.summary())}")
    queries = read_queries(args, model, tokenizer)
    max_tokens = min(args.max_tokens, context_length(model))
    corpus = tokenise(load_stories(args.stories, args.limit), tokenizer, max_tokens)
    tell_about(corpus, max_tokens)
    if args.top > len(corpus):
        raise InputError(f"--top {args.top} asks for more than the {len(corpus)} stories there are: give at most {len(corpus)}")
    setting = Setting(model, tokenizer, tracked.layers, corpus, args.batch_size)
    tell(batch_note(setting))
    how = args.method, args.fit_limit, args.seed, args.damping, None if args.cache == "none" else args.cache
    if args.index:
        index = open_index(setting, args.index, *how)
        matrix, entries, scores = index.matrix, explain_indexed(setting, queries, index, args.top), None
    else:
        matrix = fit(setting, *how)
        entries, scores = explain(setting, queries, matrix, args.top, args.prefilter, bool(args.all_scores))
    result = {"model": args.model, "stories": args.stories, "method": args.method, "n_train": len(corpus),
              "unit": pictures.UNIT, "damping": matrix.damping, "tracked": tracked.summary(), "queries": entries}
    if processes.rank() == 0:
        deliver(result, scores, args)
    processes.stop()


def check_outputs(args):
    """Says before any long work that an output cannot be written, would overwrite what is read, or cannot be had."""
    if args.index and (args.all_scores or args.prefilter or args.method == "identity"):
        raise InputError("--index goes neither with --all-scores nor --prefilter nor --method identity: leave one of them out")
    stories, model = local_path(args.stories, "stories.jsonl"), local_path(args.model, "model")
    files_of_model = model.glob("*") if os.path.isdir(model) else []
    queries = [local_path(args.queries)] if args.queries else []
    taken = set(map(os.path.realpath, (stories, *files_of_model, *queries)))
    for path in filter(None, (args.json, args.html, args.all_scores)):
        check_writable(path)
        place = os.path.realpath(path)
        if place in taken:
            raise InputError(f"{path} is named twice, or is what is to be read: give every output a file of its own")
        taken.add(place)


def read_queries(args, model, tokenizer) -> list[Query]:
    """The queries of the command line; the model completes (greedily) those without a completion."""
    if args.queries and (args.prompt is not None or args.completion is not None):
        raise InputError("both a prompt and --queries were given: give one of them")
    given = Query(DEFAULT_PROMPT if args.prompt is None else args.prompt, args.completion)
    queries = []
    for query in load_queries(args.queries) if args.queries else [given]:
        if not (typed := query.completion is not None):
            query = replace(query, completion=complete(model, tokenizer, query.prompt))
        ids, start = encode_query(tokenizer, query, context_length(model))  # too long or empty: say so now
        for note in query_notes(tokenizer, query, ids, start, typed):
            tell(note)
        queries.append(query)
    return queries


def tell(note):
    """One line on stderr, from one of the processes, if there is anything to tell."""
    if note and processes.rank() == 0:
        print(f"note: {pictures.visible(note, ' ')}", file=sys.stderr)


def tell_about(corpus, max_tokens):
    """One line each for stories that were cut or left out."""
    total = len(corpus) + corpus.skipped
    if corpus.truncated:
        tell(f"{corpus.truncated} of {total} stories cut to their first {max_tokens} tokens")
    if corpus.skipped:
        tell(f"{corpus.skipped} of {total} stories left out (empty, a single token, or no text)")


def deliver(result, scores, args):
    """Tables on stdout and the files that were asked for; one that fails does not cost the others."""
    jobs = [(say, "\n\n".join(map(pictures.text_table, result["queries"]))), (write_json, result, args.json),
            (pictures.write_page, result, args.html), (write_scores, scores, args.all_scores)]
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
