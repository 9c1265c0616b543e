"""What a job will take, told before it runs: seconds, memory and disk.

Nothing here is a ratio from a table. Two batches of the user's own stories, one of a single story
and one of several, are run through the steps themselves; a straight line through their times, added
up over the batches that the job will have, is the estimate. Factors are timed layer shape by layer
shape, eigenvectors up to a size and from there by its cube. Memory and disk are counted.
"""
import time
import weakref
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..capture import backward_pass, shape
from ..curvature import axes, covariances, factors, pseudo_gradients, second_moments
from ..influence import sequence_scores, tokenwise
from ..search import MOST_COORDINATES, quantise
from ..stories import batches, padded
from . import processes
from .answers import SHORT_LIST
from .fitting import ENOUGH, fit_sample
from .setting import Setting

PATIENCE = 1.5  # seconds that one step's larger batch may take
WIDEST = 1024  # matrices up to this size are taken apart; beyond, time goes with the cube
ROOM = 2**30  # bytes for the trial's own queries
# times what lives at once: malloc keeps pieces of earlier batches, measured up to as much again
KEPT = 1.5


@dataclass
class Estimate:
    """`seconds` by step, `memory` in bytes by what fills it at the peak, `disk` in bytes by what is
    kept; `work` says of what, `trial` how many seconds the estimate itself took."""
    seconds: dict[str, float]
    memory: dict[str, float]
    disk: dict[str, float]
    work: str
    trial: float

    def __str__(self):
        lines = [f"estimate for {self.work}, from {self.trial:.0f} s of trial passes"]
        for name, parts in (("time", self.seconds), ("memory", self.memory), ("disk", self.disk)):
            shown = _duration if name == "time" else _size
            each = " + ".join(f"{part} {shown(value)}" for part, value in parts.items() if value)
            lines.append(f"{name:8}{shown(sum(parts.values())):>8}"
                         f"{f'  = {each}' if each else ''}")
        return "\n".join(lines)


def estimate(setting: Setting, queries=1, method="ekfac", fit_limit=2000, seed=0, top=10,
             rows=None, prompts=1, all_tokens=False, index=False) -> Estimate:
    """What it takes to answer that many queries with nothing cached.

    `rows` are how many stories are scored (None: all), `prompts` how many texts a query is asked
    as; `all_tokens` and `index` as the options --all-scores and --index. Under torchrun the seconds
    are those of a process's share.
    """
    start, count, before = time.perf_counter(), len(setting.corpus), resident(setting.model)
    trial, widths = Trial(setting, queries), [shape(layer) for layer in setting.layers.values()]
    sample = [] if method == "identity" else fit_sample(count, fit_limit, seed)
    shown = top + max(SHORT_LIST, top // 2) * index
    if index:
        name, scored = "index", trial.indexing(count)
    elif all_tokens:
        name, scored = "scores", trial.tokens(count, queries)
    else:
        name, scored = "scores", trial.scoring(min(rows or count, count))
    seconds = {"fit": trial.fit(sample, method), "questions": trial.questions(queries * prompts),
               name: scored,
               "tokens of the strongest": trial.tokens(min(count, 2 * shown * queries))}
    disk = {"factors": 8 * sum(i * i + o * o + i * o for o, i in widths) * bool(sample)}
    if index:
        story = -(-min(MOST_COORDINATES, trial.weights) // 2) + 12
        disk["index"] = disk["factors"] + count * story
    memory = _memory(setting, before, widths, method, queries * prompts, all_tokens, index)
    work = (f"{count:,} stories of {sum(map(len, setting.corpus.ids)):,} tokens, {queries} "
            f"quer{'y' if queries == 1 else 'ies'}, {len(widths)} layers of {trial.weights:,} "
            "parameters, nothing cached")
    return Estimate(seconds, memory, disk, work, time.perf_counter() - start)


# -- time ----------------------------------------------------------------------------------------

class Trial:
    """Two small batches of a setting's stories, and the seconds that each step takes for them."""

    def __init__(self, setting: Setting, queries: int):
        self.setting, self.model, self.layers = setting, setting.model, setting.layers
        self.queries, ids = queries, setting.corpus.ids
        self.weights = sum(out * into for out, into in map(shape, self.layers.values()))
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        mean = sum(map(len, ids)) / len(ids)
        middle = next(place for place, row in enumerate(order) if len(ids[row]) >= mean)
        self.one = _batch(setting, order[middle:middle + 1])
        self._pass(self.one)  # the first is slower
        most = min(setting.batch_size, setting.max_positions() // self.one.labels.shape[1])
        most = max(2, min(most, int(PATIENCE / _seconds(self._pass, self.one)), len(ids)))
        first = max(0, min(middle - most // 2, len(ids) - most))
        self.several = _batch(setting, order[first:first + most])

    def _pass(self, batch):
        backward_pass(self.model, self.layers, batch)

    def _line(self, seconds, by_rows=False):
        """`(seconds a batch, seconds a position)` of a step, or a row, by its `seconds(batch)`."""
        small, large = ((len(batch.index) if by_rows else batch.labels.numel())
                        for batch in (self.one, self.several))
        first, second = seconds(self.one), seconds(self.several)
        slope = max(0.0, (second - first) / max(1, large - small))
        return max(0.0, first - slope * small), slope

    def _over(self, line, rows, by_rows=False):
        """The seconds of a step for these rows of the corpus, or for as many of them as named."""
        if isinstance(rows, int):
            count = len(self.setting.corpus)
            return self._over(line, range(count), by_rows) * rows / count
        ids = [self.setting.corpus.ids[row] for row in processes.share(list(rows))]
        sizes = [len(batch.index) if by_rows else batch.labels.numel() for batch in
                 batches(ids, self.setting.batch_size, self.setting.max_positions())]
        return len(sizes) * line[0] + sum(sizes) * line[1]

    def fit(self, rows, method) -> float:
        """Both passes of the fit, and the eigenvectors between them."""
        if not rows:
            return 0.0
        few = rows[::max(1, len(rows) // ENOUGH)]
        plain = self._line(partial(_seconds, partial(pseudo_gradients, self.model, self.layers)))
        seconds = (self._over(plain, few) + self._over(self._per_layer(covariances), few)
                   + self._eigenvectors())
        if method == "ekfac":
            seconds += self._over(plain, rows) + self._over(self._turning, rows, True)
        return seconds

    @cached_property
    def _turning(self):
        """The line, by rows, of turning gradients into the eigenbasis and squaring them."""
        def moments(model, layers, stream, pseudo):
            blocks = {name: axes(layer) for name, layer in layers.items()}
            return second_moments(model, layers, stream, blocks, pseudo)
        return self._per_layer(moments, True)

    def _per_layer(self, step, by_rows=False):
        """The line of what a step does for the layers; one of each shape is tried."""
        total = torch.zeros(2, dtype=torch.float64)
        for kind, count in Counter(map(shape, self.layers.values())).items():
            layer = dict([next(pair for pair in self.layers.items() if shape(pair[1]) == kind)])
            held = {id(batch): backward_pass(self.model, layer, batch)[0]
                    for batch in (self.one, self.several)}

            def again(batch, layer=layer, held=held):
                """One more batch: what is made once for all of them is left out."""
                def run(stream):
                    step(self.model, layer, stream, pseudo=lambda *given: held[id(given[2])])
                return max(0.0, _seconds(run, [batch, batch]) - _seconds(run, [batch]))
            total += count * torch.tensor(self._line(again, by_rows), dtype=torch.float64)
        return total.tolist()

    def _eigenvectors(self):
        seconds, generator = 0.0, torch.Generator().manual_seed(0)
        one = torch.eye(1, dtype=torch.float64)
        sides = Counter(side for layer in self.layers.values() for side in shape(layer))
        for size, count in sides.items():
            tried = min(size, WIDEST)
            drawn = torch.randn(tried, tried, dtype=torch.float64, generator=generator)
            sums = {"tokens": one, "sequences": one, "A/": drawn @ drawn.T, "S/": one}
            seconds += count * _seconds(factors, sums) * (size / tried) ** 3
        return seconds

    def questions(self, count) -> float:
        """A pass for each prompt, and its gradient into the eigenbasis and back."""
        return count * (_seconds(self._pass, self.one) + 2 * sum(self._turning))

    def scoring(self, rows) -> float:
        """Scores of as many stories on all queries; the trial asks as many as memory allows."""
        asked = max(1, min(self.queries, ROOM // (4 * self.weights)))
        many = self._scores(asked)
        few = self._scores(1) if self.queries > asked > 1 else many
        more = (self.queries - asked) / max(1, asked - 1)
        return self._over([max(0.0, b + more * (b - a)) for a, b in zip(few, many)], rows)

    def _scores(self, queries):
        count, ihvps = len(self.setting.corpus), self._ones(queries)
        return self._line(partial(_seconds, lambda batch: sequence_scores(
            self.model, self.layers, [batch], ihvps, count)))

    def _ones(self, queries):
        return {name: torch.ones(queries, *shape(layer), device=self.setting.device)
                for name, layer in self.layers.items()}

    def tokens(self, rows, queries=1) -> float:
        """Token values of as many stories, each for so many queries."""
        ihvps = self._ones(1)
        asked = self._line(partial(_seconds, lambda batch: tokenwise(
            self.model, self.layers, [batch], ihvps, 1, [(0, row) for row in batch.index])))
        plain = asked if queries == 1 else self._line(partial(_seconds, self._pass))
        return self._over([max(a, p + (a - p) * queries) for a, p in zip(asked, plain)], rows)

    def indexing(self, rows) -> float:
        """A pass, a turn into the eigenbasis and four bits a number, for as many stories."""
        vector = torch.randn(1, min(self.weights, MOST_COORDINATES))
        each, turned = self._turning
        return (self._over(self._line(partial(_seconds, self._pass)), rows)
                + self._over((each, turned + _seconds(quantise, vector)), rows, True))


def _batch(setting, rows):
    return padded(setting.corpus.ids, rows, setting.corpus.loss_masks).to(setting.device)


def _seconds(call, *arguments):
    """The seconds of a call, the mean of some where it is short."""
    start, calls = time.perf_counter(), 0
    while not calls or (calls < 3 and time.perf_counter() - start < 0.3):
        call(*arguments)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        calls += 1
    return (time.perf_counter() - start) / calls


# -- memory --------------------------------------------------------------------------------------

def _memory(setting, before, widths, method, queries, all_tokens, index):
    """Bytes at the peak, by what they hold: the largest of the job's phases."""
    in_pass, rows = pass_bytes(setting)
    in_pass *= KEPT
    sides = 8 * sum(i * i + o * o for o, i in widths)
    weights = sum(i * o for o, i in widths)
    gradients = 3 * 4 * rows * max(i * o for o, i in widths)  # one layer's at a time
    eigen = 4 * 8 * max(max(pair) for pair in widths) ** 2
    blocks = 0 if method == "identity" else sides + 8 * weights
    phases = [{"factors": 2 * sides + eigen if blocks else 0},
              {"a batch": in_pass, "factors": sides if blocks else 0}]
    if method == "ekfac":  # A and S, their eigenvectors, those once more in float32, and Λ
        phases.append({"a batch": in_pass + gradients,
                       "factors": 2.5 * sides + 8 * weights * 2.5})
    phases.append({"a batch": in_pass + gradients, "queries": 4 * weights * queries * 2,
                   "factors": blocks + (blocks / 2 if index else 0)})
    if index:
        phases[-1]["a batch"] += 2 * 4 * rows * weights
    if all_tokens:
        phases[-1]["scores"] = 4 * queries * len(setting.corpus) * max(map(len, setting.corpus.ids))
    peak = max(phases, key=lambda phase: sum(phase.values()))
    return {"Python and the model": before} | peak


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside the `with` block and live at once."""

    def __init__(self, model):
        super().__init__()
        self.now = self.peak = 0
        held = model.state_dict().values()
        self.known = {tensor.untyped_storage()._cdata: None for tensor in held}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage):
        name, size = storage._cdata, storage.nbytes()
        if name in self.known:
            return

        def gone(_):
            del self.known[name]
            self.now -= size
        self.known[name] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def pass_bytes(setting) -> tuple[float, int]:
    """Bytes of a pass over the largest batch, and its rows; counted on one and on two of its rows,
    each further row taking as much as the second."""
    largest = max(batches(setting.corpus.ids, setting.batch_size, setting.max_positions()),
                  key=lambda batch: batch.labels.numel()).index[::-1]
    counts = []
    for rows in (largest[:1], largest[:2]):
        batch = _batch(setting, rows)
        with Live(setting.model) as live:
            backward_pass(setting.model, setting.layers, batch)
        counts.append(live.peak)
    return counts[0] + (len(largest) - 1) * (counts[1] - counts[0]), len(largest)


def resident(model) -> int:
    """Bytes that this process holds now; where the system does not say, the model's and half a GB
    for the libraries."""
    with suppress(OSError, ValueError, IndexError):
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * 4096
    return sum(tensor.nbytes for tensor in model.state_dict().values()) + 2**29


# -- shown ---------------------------------------------------------------------------------------

def _duration(seconds) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(count) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
