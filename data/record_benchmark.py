"""What everything costs: times as ratios to one plain forward and backward pass, and peak memory.

    python data/record_benchmark.py [--only default,real,1M,growth,terminal] [--stories 512]
        [--peer bergson=PYTHON] [--peer dattri=PYTHON] [--json FILE] [--png FILE]

And how both grow. The plain pass computes the gradients of all parameters, with the model as
transformers ships it. Everything in one table shares model, batches, precision and threads, and was
timed in one process; peak memory is that of a fresh process for each step. kronfluence gets the
same batches and the same sampled labels; bergson and dattri, in a Python that has one of them, the
same batches, see `benchmark_peers.py`. A benchmark, not a test: run it on a quiet machine.
"""
import argparse
import json
import logging
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import time
import warnings
from copy import deepcopy
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import GPTNeoConfig, GPTNeoForCausalLM

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from helpers.capture import backward_pass, find_layers  # noqa: E402
from helpers.curvature import (  # noqa: E402
    EKFAC,
    corrected,
    covariances,
    factors,
    sampled_labels,
    second_moments,
)
from helpers.influence import (  # noqa: E402
    query_gradients,
    sequence_scores,
    tokenwise,
    top_indices,
)
from helpers.search import low_rank, low_rank_token_scores  # noqa: E402
from helpers.sources import fuse, load_model, load_stories  # noqa: E402
from helpers.sources.files import save_tensors, save_text  # noqa: E402
from helpers.stories import (  # noqa: E402
    IGNORE,
    Query,
    encode_query,
    padded,
    sequence_loss,
    tokenise,
)
from helpers.terminal import Index, Setting, explain_indexed, processes  # noqa: E402
from helpers.terminal.kept import as_blocks  # noqa: E402

REAL = ROOT.parent / "shared" / "real"
PARTS = ("default", "real", "1M", "growth", "terminal", "profile")
FULL = {"sizes": (500, 1000, 2000, 4000), "widths": (32, 64, 128, 256), "width_stories": 64,
        "counts": (1, 4, 16, 64)}
QUICK = {"sizes": (6,), "widths": (16, 32), "width_stories": 4, "counts": (1, 3)}
RANKS = (8, 32)
PEERS = {"bergson": 10**6, "dattri": 32}  # of so many stories: dattri is slow


class Work:
    """A model, its stories and queries, and what the steps have `made` so far.

    `made`, `{what: {name: tensor}}`, goes from process to process. `shipped` is the model as
    transformers ships it, that of `setting` the same with fused attention.
    """

    def __init__(self, name, stories, queries, threads, folder):
        torch.set_num_threads(threads)
        self.folder, self.made = Path(folder), {}
        self.shipped, tokenizer, texts = sources(name)
        model = fused_twin(self.shipped)
        corpus = tokenise(texts[:stories], tokenizer, 512)
        self.setting = Setting(model, tokenizer, find_layers(model), corpus, quiet=True)
        # so that no batch is cut smaller, and kronfluence gets the same ones
        most = self.setting.max_positions() // max(map(len, corpus.ids))
        self.setting.batch_size = max(1, min(self.setting.batch_size, most))
        asked = questions(texts, planted=name != "real")[:queries]
        encoded = [(encode_query(tokenizer, query, 512), query) for query in asked]
        encoded.sort(key=lambda pair: len(pair[0].ids))  # as batches() would
        self.encoded, self.queries = map(list, zip(*encoded))

    @property
    def parts(self):
        return self.setting.model, self.setting.layers

    @property
    def exact(self):
        return self.made["scores"]["exact"]

    @property
    def kept(self):
        return self.folder / "made.safetensors"

    def save(self):
        # K-FAC and EK-FAC share their Q
        save_tensors({f"{what}|{name}": tensor.clone(memory_format=torch.contiguous_format)
                      for what, parts in self.made.items() for name, tensor in parts.items()},
                     self.kept)

    def load(self):
        for key, tensor in (load_file(self.kept) if self.kept.exists() else {}).items():
            what, _, name = key.partition("|")
            self.made.setdefault(what, {})[name] = tensor


def sources(name):
    """(model as transformers ships it, tokenizer, stories) of a table or, random, of a width."""
    real = name == "real"
    model, tokenizer = load_model(REAL / "stories260K-hf" if real else "default", "cpu",
                                  fused=False)
    texts = load_stories(REAL / "tinystories.jsonl" if real else "default")
    if name == "1M":
        model = random_model(width=64, vocabulary=50257)
    elif name not in ("default", "real"):
        model = random_model(width=int(name), vocabulary=1536)
    return model, tokenizer, texts


def random_model(width, vocabulary):
    """TinyStories-1M's shape (width 64) with random weights."""
    torch.manual_seed(0)
    return GPTNeoForCausalLM(GPTNeoConfig(
        vocab_size=vocabulary, hidden_size=width, num_layers=8, num_heads=16,
        attention_types=[[["global", "local"], 4]], max_position_embeddings=2048, window_size=256,
        embed_dropout=0.0, resid_dropout=0.0, attention_dropout=0.0, bos_token_id=0,
        eos_token_id=0)).eval()


def fused_twin(model):
    """The same parameters under fused attention."""
    twin = deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    fuse(twin)
    return twin


def questions(stories, planted):
    """The planted ones, shuffled, then the thirteenth words of the last stories."""
    asked = []
    if planted:
        facts = ROOT / "data" / "planted_facts.json"
        items = json.loads(facts.read_text(encoding="utf-8"))
        random.Random(0).shuffle(items)
        asked = [Query(item["prompt"], item["completion"]) for item in items]
    for words in (story.text.split() for story in reversed(stories)):
        if len(words) > 12:
            asked.append(Query(" ".join(words[:12]), " " + words[12]))
    return asked


# -- the steps -----------------------------------------------------------------------------------

def plain(work):
    model = work.shipped
    for batch in work.setting.stream():
        model.zero_grad()
        sequence_loss(model, batch).sum().backward()
    model.zero_grad()


def moments(work):
    sums = covariances(*work.parts, work.setting.stream(), seed=0)
    work.made["sums"] = processes.totals(sums)


def eigenbasis(work):
    work.made["kfac"] = parts_of(processes.from_first(factors(work.made["sums"])))


def parts_of(blocks):
    """The tensors of which `as_blocks` makes these blocks."""
    return {f"{name}/{part}": tensor for name, block in blocks.items()
            for part, tensor in vars(block).items()}


def lambdas(work):
    blocks = as_blocks(work.made["kfac"])
    sums = second_moments(*work.parts, work.setting.stream(), blocks, seed=0, number=1)
    work.made["ekfac"] = parts_of(corrected(blocks, processes.totals(sums)))


def scores(work):
    gradients, _ = query_gradients(*work.parts, work.encoded)
    ihvps = EKFAC(as_blocks(work.made["ekfac"])).solve(gradients)
    exact = sequence_scores(*work.parts, work.setting.stream(), ihvps, len(work.setting.corpus))
    work.made |= {"ihvps": ihvps, "scores": {"exact": processes.total(exact)}}


def fit_and_score(work):
    for one in (moments, eigenbasis, lambdas, scores):
        one(work)


def tokens(work):
    total = len(work.setting.corpus)
    top = max(1, 50 * total // 5000)
    pairs = [(query, row) for query, strongest in enumerate(top_indices(work.exact, top))
             for row in strongest.positive]
    stream = work.setting.stream(sorted({row for _, row in pairs}))
    tokenwise(*work.parts, stream, work.made["ihvps"], total, pairs)
    return {"top": top}


def build(work):
    setting, folder = work.setting, work.folder / "index"
    shutil.rmtree(folder, ignore_errors=True)
    index = Index.create(folder, setting.model, EKFAC(as_blocks(work.made["ekfac"])))
    index.add(*work.parts, setting.corpus, setting.stream, index.missing(setting.corpus))
    return {"megabytes": index.size() / 1e6}


def query(work):
    """Answers one query after the other; then all at once, to compare with the exact scores."""
    index, times = Index.open(work.folder / "index", work.setting.model), []
    for one in work.queries[:6]:
        start = time.perf_counter()
        explain_indexed(work.setting, [one], index, 10)
        times.append(time.perf_counter() - start)
    rough = index.scores(work.made["ihvps"], work.setting.corpus)
    listed = [{entry["index"] for entry in answer["influences"] if entry["influence"] > 0}
              for answer in explain_indexed(work.setting, work.queries, index, 10)]
    return {"query": median(times[1:] or times),
            "spearman": mean(correlation(ranks(a), ranks(b)) for a, b in zip(work.exact, rough)),
            "overlap": overlap(best(work.exact), listed),
            "overlap unscored": overlap(best(work.exact), best(rough))}


def ranks(values):
    return values.argsort().argsort()


def best(values):
    """The stories among the ten of largest influence, for each query."""
    return [set(strongest.positive) for strongest in top_indices(values, 10)]


def overlap(wanted, listed):
    """How much of `wanted` is in `listed`, on average over the queries."""
    return mean(len(a & b) / max(1, len(a)) for a, b in zip(wanted, listed))


def correlation(x, y):
    pair = torch.stack([x.flatten().double(), y.flatten().double()])
    return torch.corrcoef(pair)[0, 1].item()


# -- kronfluence on the same work ----------------------------------------------------------------

def collated(rows):
    """A batch of `(row, ids, start)` as ours are made."""
    batch = padded([ids for _, ids, _ in rows], list(range(len(rows))))
    for place, (_, _, start) in enumerate(rows):
        batch.labels[place, :start - 1] = IGNORE
    return {"index": torch.tensor([row for row, _, _ in rows]), "input_ids": batch.input_ids,
            "labels": batch.labels, "attention_mask": batch.mask.long()}


def labelled_task(names):
    """kronfluence's task with our loss and our labels; `number` is that of the pass."""
    from record_kronfluence import LabelledTask

    class Labelled(LabelledTask):
        number = 0

        def compute_train_loss(self, batch, model, sample=False):
            logits = model(input_ids=batch["input_ids"], use_cache=False).logits
            labels = batch["labels"]
            if sample:
                ours = SimpleNamespace(index=batch["index"].tolist(), labels=labels)
                labels = sampled_labels(logits.detach(), ours, 0, self.number)
            return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE,
                                   reduction="sum")

    return Labelled(names)


def their_analyzer(work, fused):
    """(kronfluence's `Analyzer`, task, training rows as `collated` takes them)."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.utils.dataset import DataLoaderKwargs
    warnings.filterwarnings("ignore", category=FutureWarning, module="kronfluence")
    task = labelled_task(list(work.setting.layers))
    model = prepare_model(deepcopy(work.setting.model if fused else work.shipped), task)
    analyzer = Analyzer(f"fused-{fused}", model, task, cpu=True, output_dir=str(work.folder),
                        disable_tqdm=True, log_level=logging.ERROR)
    analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=collated))
    ids = work.setting.corpus.ids
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    return analyzer, task, [(row, ids[row], 1) for row in order]


def their_fit(work, fused=False):
    from kronfluence.arguments import FactorArguments
    analyzer, task, train = their_analyzer(work, fused)
    options = {"factor_args": FactorArguments(strategy="ekfac"), "overwrite_output_dir": True}
    size = {"per_device_batch_size": work.setting.batch_size}
    analyzer.fit_covariance_matrices("f", train, **size, **options)
    analyzer.perform_eigendecomposition("f", **options)
    task.number = 1
    analyzer.fit_lambda_matrices("f", train, **size, **options)


def their_scores(work, fused=False):
    from kronfluence.arguments import ScoreArguments
    analyzer, _, train = their_analyzer(work, fused)
    asked = [(number, query.ids, query.start) for number, query in enumerate(work.encoded)]
    analyzer.compute_pairwise_scores(
        "s", "f", asked, train, per_device_query_batch_size=len(asked),
        per_device_train_batch_size=work.setting.batch_size,
        score_args=ScoreArguments(damping_factor=None), overwrite_output_dir=True)
    theirs = analyzer.load_pairwise_scores("s")["all_modules"].float()
    return {"pearson": correlation(work.exact[:, [row for row, _, _ in train]], theirs)}


STEPS = {"plain": plain, "A and S": moments, "eigenvectors": eigenbasis, "Λ": lambdas,
         "scores": scores, "tokens": tokens, "index build": build, "index query": query,
         "kronfluence fit": their_fit, "kronfluence scores": their_scores,
         "kronfluence fused fit": partial(their_fit, fused=True),
         "kronfluence fused scores": partial(their_scores, fused=True),
         "fit and scores": fit_and_score}
FIT = ("A and S", "eigenvectors", "Λ")  # the steps of which it consists
NAMES = {"plain": "plain forward and backward pass", "A and S": "fit EK-FAC: A and S",
         "eigenvectors": "fit EK-FAC: eigenvectors", "Λ": "fit EK-FAC: Λ",
         "fit": "fit EK-FAC, in all", "scores": "exact scores by sequence, {queries} queries",
         "tokens": "token values of the top {top} of each query", "index build": "index build",
         "index query": "index query, one, with tokens of its top 10",
         "kronfluence fit": "kronfluence: fit", "kronfluence scores": "kronfluence: scores",
         "kronfluence fused fit": "kronfluence with our fused attention: fit",
         "kronfluence fused scores": "kronfluence with our fused attention: scores",
         **{f"{peer} {key}": f"{peer}: {key}" for peer in PEERS for key in ("fit", "scores")},
         "one process": "fit and scores, one process of one thread",
         "two processes": "fit and scores, two processes of one thread"}


def peer_rows(spec, peer, python):
    """What bergson or dattri says in a process of its own: fit, scores, agreement with ours. Where
    it gets fewer stories, the plain pass that divides is one over these."""
    work = Work(**spec | {"stories": min(spec["stories"], PEERS[peer])})
    fit_and_score(work)
    passes = [timed(partial(plain, work))[0] for _ in range(3)]
    say(f"{peer}, {len(work.setting.corpus)} stories")
    work.shipped.save_pretrained(work.folder / "model")
    work.setting.tokenizer.save_pretrained(work.folder / "model")
    told = {"ids": work.setting.corpus.ids, "layers": list(work.setting.layers),
            "queries": [list(query) for query in work.encoded],
            "batch": work.setting.batch_size, "threads": torch.get_num_threads()}
    (work.folder / "work.json").write_text(json.dumps(told))
    script = Path(__file__).with_name("benchmark_peers.py")
    done = subprocess.run([python, str(script), peer, str(work.folder)], stdout=subprocess.PIPE,
                          text=True, env=os.environ | {"OMP_NUM_THREADS": str(told["threads"])})
    if done.returncode:
        say(f"{peer}: failed")
        return {}
    rows = json.loads(done.stdout.splitlines()[-1])
    theirs = load_file(work.folder / "scores.safetensors")["scores"]
    rows["scores"]["pearson"] = mean(correlation(a, b) for a, b in zip(work.exact, theirs))
    for row in rows.values():
        row |= {"stories": len(work.setting.corpus), "ratio": row["seconds"] / median(passes)}
    return {f"{peer} {key}": row for key, row in rows.items()}


def memory():
    """(now, at the peak) MB of this process.

    Not ru_maxrss where it can be helped: a child's begins with its parent's.
    """
    try:
        text = Path("/proc/self/status").read_text()
        lines = dict(line.split(":", 1) for line in text.splitlines())
        return tuple(int(lines[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))
    except (OSError, KeyError):
        unit = 2**20 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        return peak, peak


def step(work, name):
    """Runs one step; its seconds, peak memory and what it says itself."""
    say(f"{name}, {len(work.setting.corpus)} stories")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    except OSError:
        pass
    wait()
    before, start = memory()[0], time.perf_counter()
    facts = STEPS[name](work) or {}
    wait()
    seconds, peak = time.perf_counter() - start, memory()[1]
    return {"seconds": facts.pop("query", seconds), "above": max(0.0, peak - before),
            "process": peak, **facts}


def wait():
    """Returns once all processes have come here."""
    processes.everyones(None)


def say(text):
    if processes.rank() == 0:
        print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def in_child(spec, names, launcher=()):
    """What each step says, in their order, from a fresh process, or from two under torchrun.

    They go on from what was made.
    """
    command = [sys.executable, *launcher, str(Path(__file__).resolve()), "--child",
               json.dumps([spec, names])]
    environment = os.environ | {"OMP_NUM_THREADS": str(spec["threads"])}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{', '.join(names)} failed in a process of its own")
    return json.loads(done.stdout.splitlines()[-1])


def child(spec, names):
    processes.start("cpu")
    if any("kronfluence" in name for name in names):
        # what is only imported is no memory of the step
        import record_kronfluence  # noqa: F401
    work = Work(**spec)
    work.load()
    told = [step(work, name) for name in names]
    if processes.rank() == 0:
        work.save()
        print(json.dumps(told))
    processes.stop()


# -- the parts -----------------------------------------------------------------------------------

def setting_table(options, _, spec):
    """Every row for one model and its stories."""
    work = Work(**spec)
    names = steps_of(work.setting.model)
    rows = timed_rows(spec, names, options.quick)
    if not options.quick:
        for key in ("plain", *names):
            (fresh,) = in_child(spec, [key])
            rows[key] |= {"above": fresh["above"], "process": fresh["process"]}
    fit = [rows[key] for key in FIT]
    rows["fit"] = {"seconds": sum(row["seconds"] for row in fit)}
    rows["fit"] |= {key: max(row[key] for row in fit) for key in ("above", "process")}
    for peer in PEERS:
        if python := dict(options.peer).get(peer):
            rows |= peer_rows(spec, peer, python)
        else:
            say(f"{peer}: skipped, no --peer {peer}=PYTHON")
    alone, whole = spec | {"threads": 1}, ["fit and scores"]
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    quick = rows.pop("fit and scores", None)
    rows["one process"] = quick or in_child(alone, whole)[0]
    (rows["two processes"],) = in_child(alone, whole, torchrun)
    for row in rows.values():
        row.setdefault("ratio", row["seconds"] / rows["plain"]["seconds"])
    ids = work.setting.corpus.ids
    return {"stories": len(ids), "queries": len(work.queries), "batch": work.setting.batch_size,
            "tokens": sum(map(len, ids)), "rows": {key: rows[key] for key in NAMES if key in rows}}


def steps_of(model):
    """The steps of a table behind "plain"; models other than GPT-Neo are fused anyway."""
    fused = model.config.model_type == "gpt_neo"
    return [key for key in list(STEPS)[1:-1]
            if ("kronfluence" not in key or find_spec("kronfluence"))
            and ("fused" not in key or fused)]


def timed_rows(spec, names, quick):
    """The steps in one process, plain passes between them, of which the median counts."""
    order = ["plain"]  # only to warm up
    for key in names:
        short = key in ("eigenvectors", "tokens", "index query")
        if not short and not (quick and len(order) > 1):
            order.append("plain")
        order.append(key)
    order += ["fit and scores"] * quick  # else in a process of one thread of its own
    told = list(zip(order, in_child(spec, order)))[1:]
    passes, rows = [row["seconds"] for key, row in told if key == "plain"], dict(told)
    rows["plain"] |= {"seconds": median(passes), "all": passes}
    return rows


def growth(options, _, spec):
    """With the number of stories, the width of the layers and the number of queries."""
    sizes = QUICK if options.quick else FULL
    work = Work(**spec)
    fit_and_score(work)
    work.save()
    steps = ["scores", "index build", "index query"]
    groups = [steps] if options.quick else [[key] for key in steps]
    by_stories = {}
    for count in sizes["sizes"]:
        row = by_stories.setdefault(count, {})
        for group in groups:
            row.update(zip(group, in_child(spec | {"stories": count}, group)))
    by_width = {}
    for width in sizes["widths"]:
        narrow = Work(**spec | {"name": width, "stories": sizes["width_stories"]})
        step(narrow, "plain")  # to warm up
        by_width[width] = {key: step(narrow, key) for key in ("plain", *FIT, "scores")}
    return {"fitted on": len(work.setting.corpus), "queries": len(work.queries),
            "stories": by_stories, "width": by_width, "width stories": sizes["width_stories"],
            "count": by_queries(spec, sizes["counts"])}


def by_queries(spec, counts):
    """Seconds of a scoring pass, by rank, and of the index, for more and more queries at once."""
    work, rows = Work(**spec | {"queries": max(counts)}), {}
    fit_and_score(work)
    build(work)
    index = Index.open(work.folder / "index", work.setting.model)
    explain_indexed(work.setting, work.queries[:1], index, 10)  # to warm up
    for count in counts:
        say(f"{count} queries")
        ihvps = {name: part[:count] for name, part in work.made["ihvps"].items()}
        row = {"full": timed(partial(full_scores, work, ihvps))[0]}
        for rank in RANKS:
            sides = low_rank(ihvps, rank)
            row[f"rank {rank}"], narrow = timed(
                partial(narrow_scores, work, sides, len(work.setting.corpus)))
            row[f"pearson {rank}"] = mean(correlation(a, b) for a, b in zip(work.exact, narrow))
        asked = work.queries[:count]
        row["index"] = timed(partial(explain_indexed, work.setting, asked, index, 10))[0]
        rows[count] = row
    return rows


def full_scores(work, ihvps):
    return sequence_scores(*work.parts, work.setting.stream(), ihvps, len(work.setting.corpus))


def narrow_scores(work, sides, total):
    """Scores by queries of low rank, `(Q, N)`."""
    count = len(next(iter(sides.values()))[0])
    summed = torch.zeros(count, total)
    for batch in work.setting.stream():
        captured, _ = backward_pass(*work.parts, batch)
        summed[:, batch.index] = low_rank_token_scores(captured, sides, total).sum(-1)
    return summed


def timed(call):
    """(seconds, what it gives) of a call."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def terminal(options, _, spec):
    """Seconds of the command line on the default: nothing kept, factors kept, index built, used."""
    size = ["--limit", str(spec["stories"]), "--top", "3"] if options.quick else []
    base = [sys.executable, "-m", "helpers", *size, "--cache", f"{spec['folder']}/cache"]
    index = ["--index", f"{spec['folder']}/asked"]
    seconds = {}
    for name, more in {"nothing kept": [], "factors kept": [], "index built": index,
                       "index kept": index}.items():
        say(name)
        seconds[name], _ = timed(partial(subprocess.run, base + more, check=True,
                                         capture_output=True, cwd=ROOT))
    return seconds


def profile(options, _, spec):
    """The eight dearest operations of a scoring pass, as shares of its time.

    With plain and with fused attention.
    """
    work, told = Work(**spec), {}
    fit_and_score(work)
    models = {"plain attention": work.shipped, "fused attention": work.setting.model}
    for name, model in models.items():
        work.setting.model, work.setting.layers = model, find_layers(model)
        scores(work)  # to warm up
        seconds, _ = timed(partial(scores, work))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            scores(work)
        events = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
        whole = sum(event.self_cpu_time_total for event in events)
        shares = {event.key: event.self_cpu_time_total / whole for event in events[:8]}
        told[name] = {"seconds": seconds, "shares": shares}
    return told


# -- what is written -----------------------------------------------------------------------------

def table(head, rows):
    lines = [head, ["---"] * len(head), *(map(cell, row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def cell(value):
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def tell_setting(name, part):
    head = ["what", "seconds", "÷ plain pass", "peak MB above what was loaded",
            "of the whole process"]
    names = {"queries": part["queries"], "top": part["rows"]["tokens"]["top"]}
    lines = [[NAMES[key].format(**names),
              *(row.get(what) for what in ("seconds", "ratio", "above", "process"))]
             for key, row in part["rows"].items()]
    return (f"## {name}: {part['stories']} stories, {part['tokens']:,} tokens, batches of "
            f"{part['batch']}\n\n" + table(head, lines) + "\n"
            + "\n".join(f"- {line}" for line in remarks(part["rows"])) + "\n")


def remarks(rows):
    """What the rows say of the index, of kronfluence and of two processes."""
    seen, megabytes = rows["index query"], rows["index build"]["megabytes"]
    tells = [f"Index: {megabytes:.1f} MB, Spearman with the exact scores {seen['spearman']:.4f}, "
             f"overlap of the top 10 {seen['overlap']:.3f} ({seen['overlap unscored']:.3f} before "
             "its short list is scored exactly)."]
    for kind in ("kronfluence", "kronfluence fused", *PEERS):
        if f"{kind} fit" in rows:
            faster = (rows[f"{kind} {what}"]["ratio"] / rows[what]["ratio"]
                      for what in ("fit", "scores"))
            tells.append("Against {}: fit {:.2f} and scores {:.2f} times faster, Pearson "
                         "{:.6f}.".format(kind, *faster, rows[f"{kind} scores"]["pearson"]))
    faster = rows["one process"]["seconds"] / rows["two processes"]["seconds"]
    return [*tells, f"Two processes: {faster:.2f} times faster than one."]


def tell_growth(_, part):
    fitted_on = part["fitted on"]
    return "\n".join([
        f"## Growth with the stories ({part['queries']} queries, factors of {fitted_on} stories)\n",
        stories_table(part["stories"]),
        f"## Growth with the layer's width ({part['width stories']} stories, random weights)\n",
        width_table(part["width"]),
        f"## Growth with the queries ({fitted_on} stories; seconds, and Pearson with full rank)\n",
        queries_table(part["count"])])


def stories_table(rows):
    wanted = [("scores", "seconds"), ("scores", "above"), ("index build", "seconds"),
              ("index build", "above"), ("index build", "megabytes"), ("index query", "seconds"),
              ("index query", "spearman"), ("index query", "overlap")]
    return table(["stories", "scores, s", "peak MB above", "index build, s", "peak MB above",
                  "index, MB", "query, s", "Spearman", "top 10"],
                 [[count, *(row[key][what] for key, what in wanted)]
                  for count, row in rows.items()])


def width_table(rows):
    lines = []
    for width, row in rows.items():
        plain, eigen, scored = (row[key]["seconds"] for key in ("plain", "eigenvectors", "scores"))
        fit = fit_seconds(row)
        lines.append([width, plain, fit, eigen, scored, fit / plain, scored / plain])
    return table(["hidden", "plain pass, s", "fit, s", "of it eigenvectors", "scores, s",
                  "fit ÷ plain", "scores ÷ plain"], lines)


def fit_seconds(row):
    return sum(row[key]["seconds"] for key in FIT)


def queries_table(rows):
    ranks = [f"{kind} {rank}" for rank in RANKS for kind in ("rank", "pearson")]
    return table(["queries", "full rank", *ranks, "index"],
                 [[count, row["full"], *(row[key] for key in ranks), row["index"]]
                  for count, row in rows.items()])


def tell_other(name, part):
    if name == "terminal":
        return "## Terminal\n\n" + table(list(part), [list(part.values())])
    return "\n".join(
        f"## Profile of a scoring pass: {kind}, {told['seconds']:.1f} s\n\n"
        + table(["operation", "share"],
                [[key, f"{share:.1%}"] for key, share in told["shares"].items()])
        for kind, told in part.items())


def draw(part, path):
    """Three small panels: seconds against stories, width and queries."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), dpi=100, facecolor="white",
                                layout="constrained")
    styles = [("#E66101", "o", "-"), ("#286EDC", "s", "--"), ("#767676", "^", ":")]
    for axis, (kind, label, lines) in zip(axes, panels(part)):
        places = [int(key) for key in part[kind]]
        for (name, values), (color, marker, line) in zip(lines.items(), styles):
            axis.plot(places, values, color=color, marker=marker, linestyle=line, label=name)
        axis.set(xscale="log", yscale="log", xlabel=label)
        axis.set_xticks(places, [f"{place:,}" for place in places])
        axis.xaxis.minorticks_off()
        axis.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1))
    axes[0].set_ylabel("seconds")
    figure.savefig(path)


def panels(part):
    """`(kind, label, {line: its values})` of every panel."""
    by_stories, by_width = part["stories"].values(), part["width"].values()
    by_count, rank = part["count"].values(), f"rank {RANKS[1]}"
    return [("stories", "stories",
             {f"exact scores (peak +{peaks(by_stories, 'scores')} MB)": of(by_stories, "scores"),
              f"index build (peak +{peaks(by_stories, 'index build')} MB)":
                  of(by_stories, "index build"),
              "one query through the index": of(by_stories, "index query")}),
            ("width", "hidden width of the model",
             {"plain pass": of(by_width, "plain"), "exact scores": of(by_width, "scores"),
              "fit": [fit_seconds(row) for row in by_width]}),
            ("count", "queries at once",
             {"full rank": [row["full"] for row in by_count],
              rank: [row[rank] for row in by_count],
              "through the index": [row["index"] for row in by_count]})]


def of(rows, key):
    return [row[key]["seconds"] for row in rows]


def peaks(rows, key):
    above = [row[key]["above"] for row in rows]
    return f"{min(above):,.0f}–{max(above):,.0f}"


def environment(options):
    packages = filter(find_spec, ("torch", "transformers", "kronfluence", "numpy"))
    return {"date": time.strftime("%Y-%m-%d"), "machine": platform.machine(),
            "cpus": os.cpu_count(), "threads": options.threads,
            "python": platform.python_version(), **{name: version(name) for name in packages}}


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--stories", type=int, default=512, help="in the tables (default: %(default)s)")
    add("--queries", type=int, default=20, help="scored together (default: %(default)s)")
    add("--threads", type=int, default=2,
        help="of the process that is timed (default: %(default)s)")
    add("--only", default=",".join(PARTS[:-1]), metavar="PART,…",
        help="of %(default)s,profile; none: print --json again")
    add("--peer", action="append", default=[], metavar="NAME=PYTHON",
        type=lambda text: text.split("=", 1),
        help=f"a Python that has {' or '.join(PEERS)}, with which to compare")
    add("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    add("--profile", action="store_true", help="the profile too")
    add("--json", type=Path, metavar="FILE",
        help="everything measured; parts that are not run again are kept")
    add("--png", type=Path, metavar="FILE", help="the growth as a figure")
    add("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.only = [part for part in options.only.split(",") if part != "none"]
    options.only += ["profile"] * options.profile
    if wrong := set(options.only) - set(PARTS):
        parser.error(f"--only knows {', '.join(PARTS)}, not {', '.join(wrong)}")
    return options


def measured(options, name):
    """One part, measured now."""
    run = {"growth": growth, "terminal": terminal, "profile": profile}
    size = {"stories": 6, "queries": 3}
    if not options.quick:
        size = {"stories": options.stories, "queries": options.queries}
    with TemporaryDirectory() as folder:
        spec = {"name": name if name in ("default", "real", "1M") else "default", **size,
                "threads": options.threads, "folder": folder}
        found = run.get(name, setting_table)(options, name, spec)
    found = json.loads(json.dumps(found, allow_nan=False))  # keys are texts, as in the file
    return {"environment": environment(options), "found": found}


def kept_parts(path):
    """What was measured before, by part."""
    return json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else {}


def main():
    options = parse()
    if options.child:
        return child(*json.loads(options.child))
    parts = kept_parts(options.json)
    for name in options.only:
        if name == "real" and not REAL.is_dir():
            say("real: skipped, there is no folder ../shared/real")
            continue
        parts[name] = measured(options, name)
        if options.json:
            save_text(json.dumps(parts, indent=1, ensure_ascii=False) + "\n", options.json)
    tell = {"growth": tell_growth, "terminal": tell_other, "profile": tell_other}
    for name, part in parts.items():
        print(", ".join(f"{key} {value}" for key, value in part["environment"].items()) + "\n")
        print(tell.get(name, tell_setting)(name, part["found"]))
    if options.png and "growth" in parts:
        draw(parts["growth"]["found"], options.png)


if __name__ == "__main__":
    main()
