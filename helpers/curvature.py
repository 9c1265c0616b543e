"""Curvature matrices G of the mean training loss, made of eigenvectors: K-FAC, EK-FAC and others.

`matvec(v)` and `solve(v)` mean the same for every class here and in `exact`, so swapping the method
is one word. A vector is a dictionary `{layer: (..., out, in+1)}`; G belongs to
the mean over sequences of the summed loss, so its unit is that of Dθ squared.

A fit is one or two passes over the stories. Each returns *sums* over sequences and tokens, and what
is computed from sums (`factors`, `corrected`) does not care how many passes or processes made them.
"""
import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial

import torch

from .capture import Capture, backward_pass, shape
from .stories import IGNORE, InputError

DAMPING_FACTOR = 0.1  # λ = 0.1 × mean eigenvalue of the block (Grosse et al. 2023, section 3)


class Curvature(ABC):
    """G + λI. `damping` holds λ by layer; it is set once."""
    damping: dict[str, float]

    @abstractmethod
    def matvec(self, v: dict) -> dict:
        """(G + λI) v; shapes as given."""

    @abstractmethod
    def solve(self, v: dict) -> dict:
        """The iHVP (G + λI)⁻¹ v; shapes as given."""


class Layerwise(Curvature):
    """A curvature in which layers do not interact."""

    @abstractmethod
    def norms(self, name: str, gradients: torch.Tensor) -> torch.Tensor:
        """rᵀ (G + λI)⁻¹ r of one layer for gradients `(batch, out, in+1)` → `(batch,)`."""

    @abstractmethod
    def dense(self, name: str | None = None) -> torch.Tensor:
        """G without damping of one layer, `(out·(in+1), out·(in+1))`, rows in the order of
        `Dθ.flatten()`; of all layers, in their order, without a name."""

    def all_dense(self) -> torch.Tensor:
        """The layers' matrices on the diagonal of one, zeros between them."""
        return torch.block_diag(*map(self.dense, self.damping))


@dataclass
class Block:
    """One layer's G = (Q_S ⊗ Q_A) diag(Λ) (Q_S ⊗ Q_A)ᵀ.

    `q_a (in+1, in+1)`, `q_s (out, out)`, `eigenvalues` Λ `(out, in+1)`.
    """
    q_a: torch.Tensor
    q_s: torch.Tensor
    eigenvalues: torch.Tensor

    def rotate(self, v):
        """Into the eigenbasis: Q_Sᵀ V Q_A."""
        return self.q_s.T @ v @ self.q_a

    def unrotate(self, v):
        """Back: Q_S V Q_Aᵀ."""
        return self.q_s @ v @ self.q_a.T

    def to(self, device=None, dtype=None):
        """The same block elsewhere, or in another precision."""
        return Block(*(part.to(device, dtype) for part in (self.q_a, self.q_s, self.eigenvalues)))

    def like(self, v):
        """The same block on the device and in the precision of `v`."""
        return self.to(v.device, v.dtype)


class KFAC(Layerwise):
    """Λ = tokens per sequence × λ_S λ_Aᵀ: tokens independent, ā independent of Ds.

    The factor makes it, like EK-FAC's, a mean over *sequences* (Martens and Grosse 2015).
    """
    name = "kfac"

    def __init__(self, blocks: dict[str, Block], damping: float | dict | None = None):
        """`damping` is one λ, one a layer, or None: 0.1 × the mean eigenvalue of each layer; where
        that is 0 (an expert that no token was sent to), the mean over all layers. Raises InputError
        for eigenvalues that are not finite, or need a damping."""
        self.blocks = blocks
        given = damping if isinstance(damping, dict) else dict.fromkeys(blocks, damping)
        means = {name: block.eigenvalues.double().mean().item() for name, block in blocks.items()}
        usual = sum(means.values()) / len(means)
        self.damping = {name: _damping(name, block, given[name], means[name] or usual)
                        for name, block in blocks.items()}

    @classmethod
    def fit(cls, model, layers, batches, damping=None, pseudo=None, seed=0):
        """`batches()` gives a fresh iterator; `pseudo` stands in for `pseudo_gradients`."""
        return cls(factors(covariances(model, layers, batches(), pseudo, seed)), damping)

    def spectral(self, v, function):
        """A function of the matrix times v, layer by layer: Q_S [φ(Λ, λ) ∘ (Q_Sᵀ V Q_A)] Q_Aᵀ."""
        applied = {}
        for name, x in v.items():
            block = self.blocks[name].like(x)
            values = function(block.eigenvalues, self.damping[name])
            applied[name] = block.unrotate(block.rotate(x) * values)
        return applied

    def matvec(self, v):
        return self.spectral(v, lambda values, damping: values + damping)

    def solve(self, v):
        """Layer by layer Q_S [(Q_Sᵀ V Q_A) / (Λ+λ)] Q_Aᵀ."""
        return self.spectral(v, lambda values, damping: 1 / (values + damping))

    def norms(self, name, gradients):
        block = self.blocks[name].like(gradients)
        rotated = block.rotate(gradients)
        return (rotated ** 2 / (block.eigenvalues + self.damping[name])).flatten(1).sum(1)

    def dense(self, name=None):
        if name is None:
            return self.all_dense()
        block = self.blocks[name]
        basis = torch.kron(block.q_s, block.q_a)
        return (basis * block.eigenvalues.flatten()) @ basis.T


def _damping(name, block, damping, mean):
    if not torch.isfinite(block.eigenvalues).all():
        raise InputError(f"the curvature of layer {name!r} is not finite: check the model's "
                         "weights and the stories")
    if damping is None:
        damping = DAMPING_FACTOR * mean
    if damping == 0 and block.eigenvalues.min() <= 0:
        raise InputError(f"layer {name!r} has zero curvature in some direction: give a damping "
                         "above zero")
    return float(damping)


class EKFAC(KFAC):
    """Λ = E_sequences[(Q_Sᵀ Dθ Q_A)²]: K-FAC's eigenvectors, measured second moments along them.

    George et al. 2018; Grosse et al. 2023, section 3.
    """
    name = "ekfac"

    @classmethod
    def fit(cls, model, layers, batches, damping=None, pseudo=None, seed=0):
        blocks = factors(covariances(model, layers, batches(), pseudo, seed))
        moments = second_moments(model, layers, batches(), blocks, pseudo, seed, number=1)
        return cls(corrected(blocks, moments), damping)


class Diagonal(KFAC):
    """The diagonal of the Fisher: EK-FAC with the weights' own axes for eigenvectors."""
    name = "diagonal"

    @classmethod
    def fit(cls, model, layers, batches, damping=None, pseudo=None, seed=0):
        blocks = {name: axes(layer) for name, layer in layers.items()}
        moments = second_moments(model, layers, batches(), blocks, pseudo, seed)
        return cls(corrected(blocks, moments), damping)


class Identity(Layerwise):
    """G + λI = I: influence becomes the plain dot product of gradients."""
    name = "identity"

    def __init__(self, layers: dict):
        self.layers, self.damping = layers, dict.fromkeys(layers, 0.0)

    def matvec(self, v):
        return dict(v)

    def solve(self, v):
        return dict(v)

    def norms(self, name, gradients):
        return gradients.flatten(1).pow(2).sum(1)

    def dense(self, name=None):
        if name is None:
            return self.all_dense()
        out_width, in_width = shape(self.layers[name])
        return torch.eye(out_width * in_width, dtype=torch.float64)


METHODS = {method.name: method for method in (KFAC, EKFAC, Diagonal)}


# -- pseudo-gradients: the loss with labels drawn from the model ---------------------------------

def sampled_labels(logits: torch.Tensor, batch, seed: int, number=0) -> torch.Tensor:
    """Labels drawn from the model at every real target, `(batch, token)`, −100 elsewhere.

    Each sequence has its own random stream, keyed by the seed, the `number` of the pass and its
    row, so that neither padding nor the other sequences in the batch change what is drawn. One
    uniform number picks each label through the cumulative distribution.
    """
    numbers = uniforms(batch, seed, number).to(logits.device)
    # in turn: with a large vocabulary each is megabytes
    drawn = [picked(row.float().softmax(-1), its) for row, its in zip(logits, numbers)]
    return torch.where(batch.labels == IGNORE, IGNORE, torch.stack(drawn))


def picked(p: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """The label of each row of `p (n, vocabulary)` at which its sum passes the uniform number."""
    cumulative = p.float().cumsum(-1)
    labels = torch.searchsorted(cumulative, numbers[:, None] * cumulative[:, -1:])[:, 0]
    return labels.clamp(max=p.shape[-1] - 1)


def uniforms(batch, seed: int, number=0) -> torch.Tensor:
    """The numbers that draw the labels, `(batch, token)`."""
    return torch.stack([_uniform(seed, number, row, batch.labels.shape[1]) for row in batch.index])


def _uniform(seed, number, row, count):
    stream = f"{seed}, pass {number}/{row}" if number > 1 else f"{seed}{', second' * number}/{row}"
    digest = hashlib.blake2b(stream.encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    # whatever the default precision: another one would draw other labels
    return torch.rand(count, generator=generator, dtype=torch.float32)


def pseudo_gradients(model, layers, batch, seed=0, number=0, labels="sampled") -> Capture:
    """One forward and backward pass for the curvature; returns the capture of ā and Ds.

    `labels`: "sampled" gives the true Fisher (= Gauss–Newton for this loss); "data" the empirical
    Fisher, a different matrix, kept for comparison.
    """
    drawn = partial(sampled_labels, batch=batch, seed=seed, number=number)
    return backward_pass(model, layers, batch, drawn if labels == "sampled" else None)[0]


# -- the passes: sums over stories ---------------------------------------------------------------

def covariances(model, layers, batches, pseudo=None, seed=0, number=0) -> dict[str, torch.Tensor]:
    """Σ ā āᵀ ("A/layer") and Σ Ds Dsᵀ ("S/layer") over real tokens, with the counts "tokens" and
    "sequences"; float64 on the CPU."""
    sums = {}
    for batch in batches:
        captured = (pseudo or pseudo_gradients)(model, layers, batch, seed, number)
        _add(sums, "tokens", batch.mask.sum())
        _add(sums, "sequences", torch.tensor(len(batch.index)))
        for name in layers:
            a = captured[name].inputs[batch.mask]
            s = captured[name].output_grads.flatten(0, 1)  # zero on padding
            _add(sums, f"A/{name}", a.T @ a)
            _add(sums, f"S/{name}", s.T @ s)
    return sums


def second_moments(model, layers, batches, blocks, pseudo=None, seed=0, number=0):
    """Σ (Q_Sᵀ Dθ Q_A)² ("Λ/layer") over sequences, with the count "sequences"; float64 on the CPU.

    EK-FAC draws other labels here (`number`) than for the eigenvectors, so that Λ is not measured
    on the sample that chose them.
    """
    sums, bases = {}, {}
    for batch in batches:
        captured = (pseudo or pseudo_gradients)(model, layers, batch, seed, number)
        _add(sums, "sequences", torch.tensor(len(batch.index)))
        for name in layers:
            gradients = captured[name].gradients()
            basis = bases.setdefault(name, blocks[name].like(gradients))
            _add(sums, f"Λ/{name}", (basis.rotate(gradients) ** 2).sum(0))
    return sums


def _add(sums, name, part):
    part = part.cpu()
    sums.setdefault(name, torch.zeros_like(part, dtype=torch.float64)).add_(part)


def factors(sums: dict[str, torch.Tensor]) -> dict[str, Block]:
    """K-FAC's blocks from sums of `covariances`: A = Q_A Λ_A Q_Aᵀ and S = Q_S Λ_S Q_Sᵀ, means
    over real tokens."""
    tokens, blocks = sums["tokens"].item(), {}
    tokens_per_sequence = tokens / sums["sequences"].item()
    for name in [key.removeprefix("A/") for key in sums if key.startswith("A/")]:
        means = sums[f"A/{name}"] / tokens, sums[f"S/{name}"] / tokens
        (values_a, q_a), (values_s, q_s) = (torch.linalg.eigh((m + m.T) / 2) for m in means)
        outer = torch.outer(values_s.clamp(min=0), values_a.clamp(min=0))
        blocks[name] = Block(q_a, q_s, tokens_per_sequence * outer)
    return blocks


def corrected(blocks: dict[str, Block], sums: dict[str, torch.Tensor]) -> dict[str, Block]:
    """EK-FAC's blocks: the same eigenvectors with Λ from the sums of `second_moments`."""
    return {name: Block(block.q_a, block.q_s, sums[f"Λ/{name}"] / sums["sequences"])
            for name, block in blocks.items()}


def axes(layer) -> Block:
    """The identity matrix as a block: its basis is the weights' own axes."""
    out_width, in_width = shape(layer)
    ones = torch.ones(out_width, in_width, dtype=torch.float64)
    return Block(torch.eye(in_width).double(), torch.eye(out_width).double(), ones)
