"""The job of `python -m helpers.judge`: train → attribute → train without stories → compare."""
import shutil
import sys
import time
from dataclasses import replace

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tqdm.auto import tqdm

from ..retrain import Recipe, query_batch
from ..search import tfidf_scores
from ..sources import context_length, load_model, track
from ..sources.files import local_path, output, read_checked, save_checked, whole_folder
from ..sources.forms import jsonl_rows
from ..sources.texts import plain_queries
from ..stories import InputError, sequence_loss
from ..terminal import kept as keeping
from ..terminal.answers import ask, exact_scores
from ..terminal.fitting import fit
from ..terminal.job import Request, check_outputs, read, say, tell, write_json
from ..terminal.options import build_parser
from .ledger import Ledger, digest
from .report import report, table
from .training import ByCommand, ByRecipe

LEAST = 8  # stories
DRAWS = 4  # random orders, which the queries share
SHARED = ("model", "stories", "queries", "limit", "max_tokens", "scope", "device", "json")


def judge(options) -> None:
    """Does what is asked; raises InputError with one clear line."""
    bench = Bench(options)
    with output(options.out):
        keeping.check_folder(options.out)
    with keeping.lock(options.out / "jobs.jsonl"):
        bench.open()
        bench.outcome(bench.everything, 0, "all stories")
        scores = {**bench.attributions(), **bench.baselines()}
        jobs = plan(bench, scores)
        left = {bench.key(kept, seed): (kept, seed, what) for kept, seed, what in jobs
                if bench.key(kept, seed) not in bench.ledger.done}
        tell(bench.estimate([kept for kept, _, _ in left.values()]))
        if options.estimate:
            return
        for job in tqdm(left.values(), "trainings", file=sys.stderr, disable=not left):
            bench.outcome(*job)
        shutil.rmtree(bench.folder / "training", ignore_errors=True)
    result = report(bench, scores)
    say(table(result))
    if options.json:
        write_json(result, options.json)


def plan(bench, scores: dict) -> list[tuple]:
    """Every training as `(kept, seed, what)`: all stories and the random subsets with each seed,
    the lists without their top with those that judge."""
    jobs = [(bench.everything, seed, "all stories") for seed in bench.seeds]
    jobs += [(kept, seed, f"subset {number}") for seed in bench.seeds
             for number, kept in enumerate(bench.subsets)]
    return jobs + [(bench.without(values[query], share), seed,
                    f"{share:.3g} of {name}, query {query}")
                   for share in bench.options.drop for name, values in scores.items()
                   for query in range(len(bench.queries)) for seed in bench.judging]


class Bench:
    """A base model, stories and queries; `outcome` is what training on some stories gives."""

    def __init__(self, options):
        self.options, self.folder = options, options.out
        names = [name for name, _ in options.scores]
        if len(set(names)) < len(names):
            raise InputError(f"two --scores are called alike ({', '.join(names)}): name each")
        self.seeds = list(range(options.seeds))
        self.judging = self.seeds[1:] or self.seeds  # the methods have seen seed 0
        self.request = Request(**vars(build_parser().parse_args([])) | {
            name: getattr(options, name) for name in SHARED} | {"top": 1, "cache": None})
        check_outputs(self.request)
        self.setting, _, self.queries, _ = read(self.request)
        for _, where, row in jsonl_rows(local_path(options.queries)):
            if row.get("completion") is None:
                raise InputError(f"{options.queries}: {where} has no \"completion\": write "
                                 "what is to be explained; the model that would say it changes")
        self.count = len(self.setting.corpus)
        if self.count < LEAST:
            raise InputError(f"{self.count} stories are too few to judge by: give {LEAST} or more")
        self.batches = [query_batch(self.setting.tokenizer, plain_queries(query),
                                    context_length(self.setting.model)) for query in self.queries]
        self.everything = torch.ones(self.count, dtype=torch.bool)
        left_out = min(max(round((1 - options.share) * self.count), 1), self.count - 1)
        draw = torch.Generator().manual_seed(6)
        self.subsets = torch.stack([torch.randperm(self.count, generator=draw) >= left_out
                                    for _ in range(options.subsets)])
        self.train = self.trainer()

    def trainer(self):
        options, setting = self.options, self.setting
        if options.train:
            return ByCommand(options.train, self.request, setting, self.folder / "training")
        recipe = Recipe(epochs=options.epochs, batch_size=options.batch_size, rate=options.rate)
        return ByRecipe(setting, recipe)

    def open(self) -> None:
        """Reads what is done. Raises InputError where it belongs to something else."""
        corpus = self.setting.corpus
        self.ledger = Ledger(self.folder, {
            "model": keeping.model_key(self.setting.model), "recipe or command": self.train.name,
            "set of stories": [corpus.ids, corpus.loss_masks],
            "set of queries": [vars(query) for query in self.queries]})

    # -- trainings -------------------------------------------------------------------------------

    def key(self, kept, seed) -> str:
        return f"{seed}/{digest(kept.int().tolist())}"

    @torch.no_grad()
    def measured(self, model) -> torch.Tensor:
        """log p of every query's completion, less that of what stands against it, `(Q,)`."""
        values = [-sequence_loss(model, batch.to(self.setting.device)) for batch in self.batches]
        sides = [value.unflatten(0, (-1, 1 + len(query.also))).mean(1)
                 for query, value in zip(self.queries, values)]
        return torch.stack([side[0] - side[1:].sum() for side in sides]).cpu()

    def outcome(self, kept, seed, what=None) -> torch.Tensor:
        """What was measured after training on the stories kept, `(Q,)`; trained if it must be.
        Raises InputError where nothing can be told from it."""
        key, first = self.key(kept, seed), seed == 0 and bool(kept.all())
        if key not in self.ledger.done or first and not (self.folder / "model").is_dir():
            began = time.monotonic()
            values = self.measured(self.train(kept, seed))
            self.check(values, kept, seed)
            if first:
                shutil.rmtree(self.folder / "model", ignore_errors=True)
                with whole_folder(self.folder / "model") as made:
                    self.train.save(made)
            self.ledger.add(key, what=what, log_probs=values.tolist(),
                            seconds=round(time.monotonic() - began, 3))
        return torch.tensor(self.ledger.done[key]["log_probs"], dtype=torch.float64)

    def check(self, values, kept, seed):
        if not torch.isfinite(values).all():
            raise InputError("the log-probabilities after training are not finite: train at a "
                             "lower rate")
        if kept.all() and torch.equal(values, self.measured(self.setting.model)):
            raise InputError("training changed nothing: the queries' log-probabilities are those "
                             "of the base model; is the trained model what is written?")
        whole = [self.ledger.done.get(self.key(self.everything, one), {}).get("log_probs")
                 for one in (0, seed)]
        if kept.all() and seed and values.tolist() == whole[0]:
            tell("another seed gives the same model: does the command of --train use {seed}?")
        if not kept.all() and values.tolist() == whole[1]:
            raise InputError(f"leaving out {int((~kept).sum())} of {self.count} stories changed "
                             "nothing: is it {stories} that the command of --train reads?")

    def estimate(self, left: list) -> str:
        """How long these trainings will take, by the one of all stories."""
        one = self.ledger.done[self.key(self.everything, 0)]["seconds"]
        total = one * sum(kept.double().mean().item() for kept in left)
        if not left:
            return "all trainings are done"
        return (f"{len(left)} trainings of about {total / len(left):.2g} s: "
                + (f"{total / 60:.0f} minutes" if total > 90 else f"{total:.0f} s"))

    # -- scores ----------------------------------------------------------------------------------

    def without(self, scores, share):
        """All stories but the share that has the highest scores."""
        kept = self.everything.clone()
        most = min(max(1, round(share * self.count)), self.count - 1)
        kept[scores.topk(most).indices] = False
        return kept

    def ids(self, chosen) -> list[str]:
        return [story.id for story, one in zip(self.setting.corpus.stories, chosen) if one]

    def attributions(self) -> dict[str, torch.Tensor]:
        """Scores `(Q, N)` of every method, under the model of seed 0; kept, since rounding could
        change the lists of a run that goes on. Then those that were given. Raises InputError."""
        model, _ = load_model(self.folder / "model", self.options.device)
        setting = replace(self.setting, model=model,
                          layers=track(model, self.request.scope).layers)
        made_by, scores = digest([self.request.scope, keeping.code_version()]), {}
        for method in (*self.options.methods, "identity"):
            # RelatIF: EK-FAC's scores by the stories' lengths
            fitted, kind = ("ekfac", "relatif") if method == "relatif" else (method, "sequence")
            path = self.folder / f"{fitted}.safetensors"
            tensors, metadata = read_checked(path) or ({}, {})
            if metadata.get("made_by") != made_by or kind not in tensors:
                curvature = fit(setting, **self.request.fitting | {"method": fitted})
                asked = ask(setting, self.queries, curvature)
                tensors = exact_scores(setting, asked,
                                       curvature=curvature if fitted == "ekfac" else None)
                with output(path):
                    save_checked(tensors, path, made_by=made_by)
            scores[method] = tensors[kind]
        return scores | {name: self.given(path) for name, path in self.options.scores}

    def given(self, path):
        size = len(self.queries), self.count
        try:
            scores = load_file(path)["sequence"].float()
        except (OSError, SafetensorError, KeyError):
            raise InputError(f"cannot read scores from {path}: write a safetensors file with a "
                             "tensor `sequence`") from None
        if scores.shape != size or not torch.isfinite(scores).all():
            raise InputError(f"the scores of {path} are {tuple(scores.shape)}: give finite ones of "
                             f"{size[0]} queries and {size[1]} stories, {size}")
        return scores

    def baselines(self) -> dict[str, torch.Tensor]:
        """Scores by words, and by chance."""
        texts = [story.text for story in self.setting.corpus.stories]
        asked = [f"{query.prompt}{query.completion}" for query in self.queries]
        try:
            words = torch.from_numpy(tfidf_scores(asked, texts)).float()
        except ValueError:  # scikit-learn: no words
            words = torch.zeros(len(asked), self.count)
        orders = torch.rand(DRAWS, self.count, generator=torch.Generator().manual_seed(6))
        chance = orders[torch.arange(len(asked)) % DRAWS]
        return {"tfidf": words, "random": chance}
