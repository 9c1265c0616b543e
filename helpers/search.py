"""What makes it cheap: candidates by their words, queries of low rank, and an index of gradients that answers at once."""
import hashlib
import json
import os
from pathlib import Path

import torch

from . import files
from .capture import backward_pass
from .curvature import METHODS, Block, as_blocks, code_version, model_key, save_blocks
from .influence import finite
from .stories import InputError

WORD = r"(?u)\b\w+\b"
LEVELS = 7  # a code is a whole number from −7 to 7, kept in four bits
STEP = 0.45  # of a code, in root mean squares of the vector: what lies beyond 3.15 of them is cut
PART = 512  # stories in one file of an index: what a killed build can lose
MOST_COORDINATES = 300_000


# -- by words -------------------------------------------------------------------------------------

def tfidf(texts: list[str]):
    """Function from queries to the cosine similarity of their TF-IDF vectors with those of the texts, `(Q, N)`, a numpy array.

    Sublinear term frequency, single words and pairs of words, no stop-word list. Raises ValueError for texts without words.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORD)
    stories = vectorizer.fit_transform(texts)
    return lambda queries: (vectorizer.transform(queries) @ stories.T).toarray()


def tfidf_scores(queries: list[str], texts: list[str]):
    """`tfidf` of the texts, asked once: the word-matching baseline, `(Q, N)`, a numpy array."""
    return tfidf(texts)(queries)


def bm25_scores(queries: list[str], texts: list[str], k1=1.5, b=0.75):
    """Okapi BM25 of single words, `(Q, N)`, a numpy array: word matching that forgives long texts (Robertson et al. 1994)."""
    import numpy as np
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(token_pattern=WORD)
    counts = vectorizer.fit_transform(texts).toarray().astype(float)
    lengths, holding = counts.sum(1, keepdims=True), (counts > 0).sum(0)
    rare = np.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
    weights = rare * counts * (k1 + 1) / (counts + k1 * (1 - b + b * lengths / lengths.mean()))
    return (vectorizer.transform(queries).toarray() > 0) @ weights.T


def candidates(queries: list[str], texts: list[str], count: int) -> list[int]:
    """Rows of the stories among the `count` best of at least one query, in corpus order."""
    best = (-tfidf_scores(queries, texts)).argsort(axis=1, kind="stable")[:, :count]
    return sorted(set(best.ravel().tolist()))


# -- queries of low rank --------------------------------------------------------------------------

def low_rank(ihvps: dict, rank: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The best approximation of rank r of every iHVP: `{layer: (U (Q, out, r), V (Q, r, in+1))}` with P ≈ U V.

    By singular values (Grosse et al. 2023, section 3.2.2, where r = 32).
    """
    found = {}
    for name, p in ihvps.items():
        u, values, v = torch.linalg.svd(p, full_matrices=False)
        found[name] = (u[..., :rank] * values[..., None, :rank], v[..., :rank, :])
    return found


def low_rank_token_scores(captured, factors: dict, n_train: int) -> torch.Tensor:
    """Influence of every token of a captured batch on every query, `(query, story, token)`, summed over layers.

    Σ_r (Uᵀ Ds_t)_r (V ā_t)_r: all queries in two matrix products a layer, and no `(out, in+1)` gradient is formed.
    """
    total = 0
    for name, (u, v) in factors.items():
        record = captured[name]
        left = torch.einsum("qor,bto->qbtr", u, record.output_grads)
        total = total + (left * torch.einsum("qri,bti->qbtr", v, record.inputs)).sum(-1)
    return total / n_train


# -- an index -------------------------------------------------------------------------------------

def quantise(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Four bits a number: `(codes (n, ⌈K/2⌉) uint8, scales (n,))` of `(n, K)`.

    A number is scale × (code − 8); the first half of a vector lies in the lower four bits, the second in the upper.
    """
    scales = STEP * vectors.norm(dim=1, keepdim=True) / vectors.shape[1] ** 0.5
    codes = vectors / scales.clamp(min=torch.finfo(vectors.dtype).tiny)
    codes = codes.round_().clamp_(-LEVELS, LEVELS).add_(8).to(torch.uint8)
    codes = torch.nn.functional.pad(codes, (0, codes.shape[1] % 2))
    low, high = codes.chunk(2, dim=1)
    return low | high << 4, scales[:, 0]


def products(codes: torch.Tensor, scales: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Dot products of quantised vectors with queries `(Q, K)`, `(Q, n)`, in float32.

    With byte = low + 16 high, Σ low·q₁ + high·q₂ = Σ byte·q₂/16 + low·(q₁ − q₂/16): one mask, no shift.
    """
    low, high = torch.nn.functional.pad(queries, (0, queries.shape[1] % 2)).chunk(2, dim=1)
    rest, high = low - high / 16, (high / 16).contiguous()
    room, masked = torch.empty(16, codes.shape[1]), torch.empty(16, codes.shape[1], dtype=torch.uint8)
    found = torch.empty(len(codes), len(queries))
    for at in range(0, len(codes), 16):  # into the same memory each time: fresh pages cost more than the arithmetic
        part = codes[at:at + 16]
        n = len(part)
        found[at:at + n] = torch.nn.functional.linear(room[:n].copy_(part), high)
        found[at:at + n] += torch.nn.functional.linear(room[:n].copy_(torch.bitwise_and(part, 15, out=masked[:n])), rest)
    return (found - 8 * queries.sum(1)).T * scales


class Index:
    """Training gradients in a folder, whitened and quantised, so that a new query costs a pass over bytes, not stories.

    A story's vector holds (Q_Sᵀ Dθ Q_A) / √(Λ+λ) of all layers at the K coordinates with the largest Λ/(Λ+λ); the
    product with a query's own vector is N times its influence. In the folder: `head.safetensors` (the curvature and
    what it belongs to) and `part-….safetensors` (up to 512 stories each). Parts are written whole, so a killed build
    goes on and a grown corpus is added to; stories are known by their tokens.
    """

    def __init__(self, folder, matrix, settings):
        self.folder, self.matrix, self.settings = Path(folder), matrix, settings
        keep = torch.cat([(block.eigenvalues / (block.eigenvalues + matrix.damping[name])).flatten()
                          for name, block in matrix.blocks.items()])
        self.total = len(keep)
        self.coordinates = keep.argsort(descending=True, stable=True)[:settings["coordinates"]].sort().values
        self._bases, self._sound = {}, set()  # bases by layer and device; parts whose checksum was right

    @classmethod
    def create(cls, folder, model, matrix, coordinates=MOST_COORDINATES, **settings):
        """A new, empty index for the model (or its `model_key`) and its curvature; `settings` are what else it depends on.

        Raises OSError.
        """
        total = sum(block.eigenvalues.numel() for block in matrix.blocks.values())
        settings = {"model": model_key(model), "code": code_version("search.py"), "method": matrix.name,
                    "coordinates": min(coordinates, total), "damping": matrix.damping, **settings}
        save_blocks(matrix.blocks, Path(folder) / "head.safetensors", settings=json.dumps(settings))
        return cls(folder, matrix, settings)

    @classmethod
    def open(cls, folder, model, **settings):
        """The index in `folder` for the model (or its `model_key`), or None when there is none.

        Raises InputError when it is damaged or another's.
        """
        head = Path(folder) / "head.safetensors"
        if not os.path.exists(head):
            return None
        stored = files.read_checked(head)
        if stored is None:
            raise InputError(f"the index in {folder} is damaged: delete the folder, and it will be built again")
        tensors, kept = stored[0], json.loads(stored[1]["settings"])
        wanted = {"model": model_key(model), "code": code_version("search.py"), **settings}
        for name, value in wanted.items():
            if kept.get(name) != value:
                raise InputError(_other(folder, name, kept.get(name), value))
        blocks = as_blocks(tensors)  # in the file's order; the vectors stand in the model's
        matrix = METHODS[kept["method"]]({name: blocks[name] for name in kept["damping"]})
        matrix.damping = kept["damping"]
        return cls(folder, matrix, kept)

    def vectors(self, gradients: dict) -> torch.Tensor:
        """The whitened vectors (Q_Sᵀ Dθ Q_A) / √(Λ+λ), `(batch, K)`, of gradients `{layer: (batch, out, in+1)}`, float32."""
        return self._rotated(gradients, torch.mul)

    def queries(self, ihvps: dict) -> torch.Tensor:
        """(Q_Sᵀ P Q_A) · √(Λ+λ), `(Q, K)`, float32, of iHVPs P `{layer: (Q, out, in+1)}`: what a story's vector is multiplied with."""
        return self._rotated(ihvps, torch.div)

    def _rotated(self, parts, scaled):
        """All layers' kept coordinates in a row, `scaled` (multiplied or divided) by 1/√(Λ+λ)."""
        first, at = next(iter(parts.values())), 0
        whole = torch.empty(len(first), self.total, device=first.device)
        for name, block in self.matrix.blocks.items():
            one, width = self._basis(name, first.device), block.eigenvalues.numel()
            rotated = one.rotate(parts[name].float())
            scaled(rotated, one.eigenvalues, out=whole[:, at:at + width].view_as(rotated))
            at += width
        return whole if len(self.coordinates) == self.total else whole[:, self.coordinates.to(whole.device)]

    def _basis(self, name, device):
        """The block on the device, float32, with 1/√(Λ+λ) in the place of Λ; kept for the next time."""
        if (name, device) not in self._bases:
            block = self.matrix.blocks[name]
            scale = (block.eigenvalues + self.matrix.damping[name]).rsqrt()
            self._bases[name, device] = Block(block.q_a, block.q_s, scale).to(device, torch.float32)
        return self._bases[name, device]

    def parts(self):
        """`(digests, codes, scales)` of every part; the codes stay on disk until they are read.

        A part's checksum (SHA-256) is compared the first time that this index reads it: 0.6 s for 5,000 stories. What
        happens to a file after that is not noticed. Raises InputError when a part is damaged.
        """
        for path in sorted(self.folder.glob("part-*.safetensors")):
            found = files.read_checked(path, trusted=path in self._sound)
            if found is None:
                raise InputError(f"{path} is damaged: delete this one file, and its stories will be added again")
            self._sound.add(path)
            yield tuple(found[0][name] for name in ("digests", "codes", "scales"))

    def missing(self, corpus) -> list[int]:
        """Rows of the corpus that are not in the index, one of each kind, shortest first.

        Raises InputError when index and stories have less than half of the smaller in common.
        """
        held, wanted = {digest for part in self.parts() for digest in part[0].tolist()}, corpus.digests
        if 2 * len(held & set(wanted)) < min(len(held), len(set(wanted))):
            raise InputError(f"the index in {self.folder} holds other stories: name another folder")
        new = {digest: row for row, digest in enumerate(wanted) if digest not in held}
        return sorted(new.values(), key=lambda row: len(corpus.ids[row]))

    def add(self, model, layers, corpus, stream, rows) -> None:
        """Adds the stories `rows` of the corpus; `stream(rows)` gives their batches. Raises OSError."""
        for at in range(0, len(rows), PART):
            found = []
            for batch in stream(rows[at:at + PART]):
                captured, _ = backward_pass(model, layers, batch)
                names = [corpus.digests[row] for row in batch.index]
                vectors = self.vectors({name: captured[name].gradients() for name in layers})
                found.append((torch.tensor(names), *(part.cpu() for part in quantise(vectors))))
            if found:
                part = dict(zip(("digests", "codes", "scales"), map(torch.cat, zip(*found))))
                finite(part["scales"])
                name = hashlib.sha256(part["digests"].numpy().tobytes()).hexdigest()[:16]
                files.save_checked(part, self.folder / f"part-{name}.safetensors")

    def scores(self, ihvps: dict, corpus) -> torch.Tensor:
        """Influence `(Q, N)` of the corpus's stories on queries with these iHVPs `{layer: (Q, out, in+1)}`, to four bits.

        With v a story's vector and P = M⁻¹ ∇L_q, N times the influence is Σ (Q_Sᵀ P Q_A) √(Λ+λ) v, whatever the
        curvature M: `index.matrix.solve(gradients)` gives its own scores, another curvature's `solve` that one's.
        Raises InputError when a story is not in the index.
        """
        queries, names, found = self.queries(ihvps).cpu(), [], []
        for held, codes, scales in self.parts():
            names += held.tolist()
            found.append(products(codes, scales, queries))
        at = {name: column for column, name in enumerate(names)}
        try:
            columns = [at[name] for name in corpus.digests]
        except KeyError:
            raise InputError(f"some stories are not in the index in {self.folder}: add them first") from None
        return torch.cat(found, 1)[:, columns] / len(corpus)

    def norms(self, corpus) -> torch.Tensor:
        """Lengths `(N,)` of the stories' vectors, √(rᵀ(G+λI)⁻¹r) over the kept coordinates: the divisor of RelatIF."""
        lengths = {}
        for held, _, scales in self.parts():
            lengths.update(zip(held.tolist(), (scales * len(self.coordinates) ** 0.5 / STEP).tolist()))
        return torch.tensor([lengths[name] for name in corpus.digests])

    def story_bytes(self) -> int:
        """Bytes a story takes."""
        return -(-len(self.coordinates) // 2) + 12

    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))


def _other(folder, name, kept, wanted):
    """What to tell about an index that belongs to something else."""
    reasons = {"model": "belongs to another model, or to other weights", "code": "was built by another version of helpers/"}
    reason = reasons.get(name, f"was built with {name} {kept}, not {wanted}")
    return f"the index in {folder} {reason}: name another folder, or delete it and it will be built again"
