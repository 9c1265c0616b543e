"""The index in a folder: built by the first question, added to, shared by several runs.

In the folder lie `head.safetensors` (the curvature and what it belongs to) and
`part-….safetensors` (up to 512 stories each). Parts are written whole, so a killed build goes on
and a grown corpus is added to; stories are known by their tokens and their loss.
"""
import hashlib
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch

from .. import search
from ..capture import backward_pass
from ..curvature import METHODS
from ..search import MOST_COORDINATES, quantise
from ..sources.files import local_path, output, read_checked, save_checked
from ..stories import InputError
from . import kept, processes
from .fitting import fit
from .setting import Setting

PART = 512  # stories in one file of an index: what a killed build can lose
ROWS = 16  # vectors that are multiplied at a time
FOREIGN = {"model": "belongs to another model, or to other weights",
           "code": "was built by another version of helpers/"}


class Index(search.Index):
    """`search.Index` with its stories in a folder; one that is asked reads bytes, not stories."""

    def __init__(self, folder, curvature, settings):
        super().__init__(curvature, settings["coordinates"])
        self.folder, self.settings = Path(folder), settings
        self._sound = set()  # parts whose checksum was right

    @classmethod
    def create(cls, folder, model, curvature, coordinates=MOST_COORDINATES, **settings):
        """A new, empty index for the model (or its `model_key`) and its curvature. `settings` are
        what else it depends on. Raises OSError."""
        total = sum(block.eigenvalues.numel() for block in curvature.blocks.values())
        settings = {"model": kept.model_key(model), "code": kept.code_version(kept.INDEXING),
                    "method": curvature.name, "coordinates": min(coordinates, total),
                    "damping": curvature.damping, **settings}
        if processes.rank() == 0:
            head = Path(folder) / "head.safetensors"
            kept.save_blocks(curvature.blocks, head, settings=json.dumps(settings))
        return cls(folder, curvature, settings)

    @classmethod
    def open(cls, folder, model, **settings):
        """The index in `folder` for the model (or its `model_key`), or None when there is none.
        Raises InputError when it is damaged or another's."""
        head = Path(folder) / "head.safetensors"
        if not os.path.exists(head):
            return None
        stored = read_checked(head)
        if stored is None:
            raise InputError(f"the index in {folder} is damaged: delete the folder, and it will be "
                             "built again")
        tensors, held = stored[0], json.loads(stored[1]["settings"])
        wanted = {"model": kept.model_key(model), "code": kept.code_version(kept.INDEXING),
                  **settings}
        for name, value in wanted.items():
            if held.get(name) != value:
                reason = FOREIGN.get(name, f"was built with {name} {held.get(name)}, not {value}")
                raise InputError(f"the index in {folder} {reason}: name another folder, or delete "
                                 "it and it will be built again")
        blocks = kept.as_blocks(tensors)  # in the file's order; the vectors stand in the model's
        blocks = {name: blocks[name] for name in held["damping"]}
        return cls(folder, METHODS[held["method"]](blocks, held["damping"]), held)

    def parts(self):
        """`(digests, codes, scales)` of every part; the codes stay on disk until they are read.

        A part's checksum (SHA-256) is compared the first time that this index reads it: 0.6 s for
        5,000 stories. What happens to a file after that is not noticed. Raises InputError when a
        part is damaged.
        """
        for path in sorted(self.folder.glob("part-*.safetensors")):
            stored = read_checked(path, trusted=path in self._sound)
            if stored is None:
                raise InputError(f"{path} is damaged: delete this one file, and its stories will "
                                 "be added again")
            self._sound.add(path)
            yield tuple(stored[0][name] for name in ("digests", "codes", "scales"))

    def missing(self, corpus) -> list[int]:
        """Rows of the corpus that are not in the index, one of each kind, shortest first. Raises
        InputError when index and stories have less than half of the smaller in common."""
        held = {digest for digests, _, _ in self.parts() for digest in digests.tolist()}
        wanted = set(digests_of(corpus))
        if 2 * len(held & wanted) < min(len(held), len(wanted)):
            raise InputError(f"the index in {self.folder} holds other stories: name another folder")
        new = {digest: row for row, digest in enumerate(digests_of(corpus)) if digest not in held}
        return sorted(new.values(), key=lambda row: len(corpus.ids[row]))

    def add(self, model, layers, corpus, stream, rows) -> None:
        """Adds the stories `rows` of the corpus; `stream(rows)` gives their batches. Raises
        OSError, and InputError for a gradient that is not finite."""
        named = digests_of(corpus)
        for first in range(0, len(rows), PART):
            digests, codes, scales = [], [], []
            for batch in stream(rows[first:first + PART]):
                captured, _ = backward_pass(model, layers, batch)
                gradients = {name: captured[name].gradients() for name in layers}
                some_codes, some_scales = quantise(self.vectors(gradients))
                digests += [named[row] for row in batch.index]
                codes.append(some_codes.cpu())
                scales.append(some_scales.cpu())
            if digests:
                part = {"digests": torch.tensor(digests), "codes": torch.cat(codes),
                        "scales": finite(torch.cat(scales))}
                name = hashlib.sha256(part["digests"].numpy().tobytes()).hexdigest()[:16]
                save_checked(part, self.folder / f"part-{name}.safetensors")

    def scores(self, ihvps: dict, corpus) -> torch.Tensor:
        """As `search.Index.scores`, `(Q, N)` for the stories of the corpus. Raises InputError when
        a story is not in the index."""
        queries, names, scores = self.queries(ihvps).cpu(), [], []
        for digests, codes, scales in self.parts():
            names += digests.tolist()
            scores.append(fast_products(codes, scales, queries))
        column = {name: place for place, name in enumerate(names)}
        try:
            columns = [column[name] for name in digests_of(corpus)]
        except KeyError:
            raise InputError(f"some stories are not in the index in {self.folder}: add them "
                             "first") from None
        return torch.cat(scores, 1)[:, columns] / len(corpus)

    def norms(self, corpus) -> torch.Tensor:
        """√(rᵀ(G+λI)⁻¹r) of the stories over the kept coordinates, `(N,)`: RelatIF's divisor."""
        lengths = {}
        for digests, _, scales in self.parts():
            lengths.update(zip(digests.tolist(), self.lengths(scales).tolist()))
        return torch.tensor([lengths[name] for name in digests_of(corpus)])

    def story_bytes(self) -> int:
        """Bytes a story takes."""
        return -(-len(self.coordinates) // 2) + 12

    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))


def digests_of(corpus) -> list[int]:
    """A 64-bit number for each story, by which its tokens, and which of them carry the loss, are
    known again; made once."""
    if "digests" not in vars(corpus):
        hashes = (hashlib.blake2b(json.dumps(kept.learnt(corpus, row)).encode(),
                                  digest_size=8).digest() for row in range(len(corpus)))
        corpus.digests = [int.from_bytes(digest, "big", signed=True) for digest in hashes]
    return corpus.digests


def fast_products(codes: torch.Tensor, scales: torch.Tensor, queries: torch.Tensor):
    """`search.products` without unpacking the codes, into the same memory each time. With byte =
    low + 16 high, Σ low·q₁ + high·q₂ = Σ byte·q₂/16 + low·(q₁ − q₂/16): one mask, no shift; and
    fresh pages would cost more than the arithmetic."""
    low, high = torch.nn.functional.pad(queries, (0, queries.shape[1] % 2)).chunk(2, dim=1)
    rest, high = low - high / 16, (high / 16).contiguous()
    numbers = torch.empty(ROWS, codes.shape[1])
    masked = torch.empty(ROWS, codes.shape[1], dtype=torch.uint8)
    sums = torch.empty(len(codes), len(queries))
    for start in range(0, len(codes), ROWS):
        part, place = codes[start:start + ROWS], slice(start, start + ROWS)
        n = len(part)
        lower = torch.bitwise_and(part, 15, out=masked[:n])
        sums[place] = torch.nn.functional.linear(numbers[:n].copy_(part), high)
        sums[place] += torch.nn.functional.linear(numbers[:n].copy_(lower), rest)
    return (sums - 8 * queries.sum(1)).T * scales


def finite(scores: torch.Tensor) -> torch.Tensor:
    """The scores, checked. Raises InputError."""
    if not torch.isfinite(scores).all():
        raise InputError("some influence scores are not finite: check the model's weights, or "
                         "raise --damping")
    return scores


def open_index(setting: Setting, folder, method="ekfac", fit_limit=2000, seed=0, damping=None,
               cache=None, key=None) -> Index:
    """The index in `folder`, complete for the setting's stories: opened, added to, or built. `key`
    is the model's `model_key`, where it is known already. Raises InputError when the index belongs
    to something else, or cannot be written."""
    folder, first = local_path(folder), processes.rank() == 0
    settings = {"layers": list(setting.layers), "method": method, "fit limit": fit_limit,
                "seed": seed, "λ": "auto" if damping is None else damping,
                "target": setting.target}
    key = key or kept.model_key(setting.model)  # once for all: it reads every weight
    with output(folder):
        if folder.exists() and not folder.is_dir():
            raise OSError("it is a file")
    with output(folder), kept.lock(folder) if first else nullcontext():
        # nobody looks before the first has the lock
        if processes.from_first(os.path.exists(folder / "head.safetensors")):
            index = Index.open(folder, key, **settings)
        else:
            kept.check_folder(folder)
            curvature = fit(setting, method, fit_limit, seed, damping, cache, key)
            index = Index.create(folder, key, curvature, **settings)
        rows = processes.from_first(index.missing(setting.corpus) if first else None)
        if rows and first:
            print(f"note: adding {len(rows)} stories to the index in {folder}, about "
                  f"{len(rows) * index.story_bytes() / 1e6:,.0f} MB", file=sys.stderr)
        index.add(setting.model, setting.layers, setting.corpus,
                  lambda part: setting.stream(part, "indexing"), rows)
        processes.everyones(None)  # returns when all have written
    return index
