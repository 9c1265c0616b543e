"""Curvature matrices G of the mean training loss, one block a layer, behind one interface.

`matvec(v)`, `solve(v)` and `dense(layer)` mean the same for every class, so swapping the method
is one word. A vector is a dictionary `{layer: (..., out, in+1)}`; G is the Gauss–Newton Hessian of
the mean over sequences of the summed loss, so its unit is that of Dθ squared.
"""
import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from .capture import Capture, backward_pass, shape
from .files import save_tensors
from .stories import InputError

DAMPING_FACTOR = 0.1  # λ = 0.1 × mean eigenvalue of the block (Grosse et al. 2023, section 3)


@dataclass
class Block:
    """One layer's G = (Q_S ⊗ Q_A) diag(Λ) (Q_S ⊗ Q_A)ᵀ: `q_a (in+1, in+1)`, `q_s (out, out)`, `eigenvalues (out, in+1)`."""
    q_a: torch.Tensor
    q_s: torch.Tensor
    eigenvalues: torch.Tensor

    def rotate(self, v):
        return self.q_s.T @ v @ self.q_a

    def unrotate(self, v):
        return self.q_s @ v @ self.q_a.T

    def to(self, device=None, dtype=None):
        return Block(*(x.to(device=device, dtype=dtype) for x in (self.q_a, self.q_s, self.eigenvalues)))


class Curvature:
    """Blocks in an eigenbasis. Each subclass says how its eigenvalues are fitted."""

    def __init__(self, blocks: dict[str, Block], damping: float | None = None):
        self.blocks = blocks
        self.damping = {name: self._damping(name, block, damping) for name, block in blocks.items()}

    @staticmethod
    def _damping(name, block, damping):
        if not torch.isfinite(block.eigenvalues).all():
            raise InputError(f"the curvature of layer {name!r} is not finite: check the model's weights and the stories")
        value = DAMPING_FACTOR * block.eigenvalues.double().mean().item() if damping is None else float(damping)
        if value == 0 and block.eigenvalues.min() <= 0:
            raise InputError(f"layer {name!r} has zero curvature in some direction: give a damping above zero")
        return value

    def matvec(self, v: dict) -> dict:
        """(G + λI) v, layer by layer; shapes as given."""
        return {name: self._apply(name, x, lambda values, damping: values + damping) for name, x in v.items()}

    def solve(self, v: dict) -> dict:
        """The iHVP (G + λI)⁻¹ v, layer by layer; shapes as given: Q_S [(Q_Sᵀ V Q_A) / (Λ+λ)] Q_Aᵀ."""
        return {name: self._apply(name, x, lambda values, damping: 1 / (values + damping)) for name, x in v.items()}

    def _apply(self, name, x, scale):
        block = self.blocks[name].to(x.device, x.dtype)
        return block.unrotate(block.rotate(x) * scale(block.eigenvalues, self.damping[name]))

    def norms(self, name: str, gradients: torch.Tensor) -> torch.Tensor:
        """rᵀ (G + λI)⁻¹ r of one layer for gradients `(batch, out, in+1)` → `(batch,)`."""
        block = self.blocks[name].to(gradients.device, gradients.dtype)
        return (block.rotate(gradients) ** 2 / (block.eigenvalues + self.damping[name])).flatten(1).sum(1)

    def dense(self, name: str) -> torch.Tensor:
        """G of one layer without damping, `(out·(in+1), out·(in+1))`, rows in the order of `Dθ.flatten()`."""
        block = self.blocks[name]
        basis = torch.kron(block.q_s, block.q_a)
        return (basis * block.eigenvalues.flatten()) @ basis.T


class Identity(Curvature):
    """G + λI = I: influence becomes the plain dot product of gradients."""

    def __init__(self, layers: dict):
        self.layers = layers
        self.damping = dict.fromkeys(layers, 0.0)

    def _apply(self, name, x, scale):
        return x

    def norms(self, name, gradients):
        return gradients.flatten(1).pow(2).sum(1)

    def dense(self, name):
        return torch.eye(torch.Size(shape(self.layers[name])).numel(), dtype=torch.float64)


class KFAC(Curvature):
    """Λ = tokens per sequence × λ_S λ_Aᵀ: tokens independent, inputs independent of output gradients.

    The factor makes it the same quantity as EK-FAC's Λ, a mean over *sequences* (Martens and
    Grosse 2015).
    """
    name = "kfac"

    @classmethod
    def fit(cls, model, layers, batches, damping=None, **options):
        """`batches()` gives a fresh iterator of batches; `options` are those of `fit_blocks`."""
        return cls(fit_blocks(cls.name, model, layers, batches, **options), damping)


class EKFAC(KFAC):
    """Λ = E_sequences[(Q_Sᵀ Dθ Q_A)²]: K-FAC's eigenvectors with the measured second moments along them.

    George et al. 2018; Grosse et al. 2023, section 3.
    """
    name = "ekfac"


METHODS = {"kfac": KFAC, "ekfac": EKFAC}


def fit_blocks(method, model, layers, batches, pseudo=None, seed=0) -> dict[str, Block]:
    """Streams the batches once (K-FAC) or twice (EK-FAC) and returns the blocks, float64 on the CPU.

    `pseudo(model, layers, batch, seed)` runs one pass and returns its capture (default
    `pseudo_gradients`); the second pass draws other labels than the first, so that Λ is not
    measured on the sample that chose the eigenvectors.
    """
    pseudo = pseudo or pseudo_gradients
    blocks = eigenvectors(*covariances(model, layers, batches(), pseudo, seed))
    return corrected(model, layers, batches(), blocks, pseudo, f"{seed}, second") if method == "ekfac" else blocks


# -- pseudo-gradients: the loss with labels drawn from the model ---------------------------------

def sampled_labels(logits: torch.Tensor, batch, seed) -> torch.Tensor:
    """Labels drawn from the model at every real target, `(batch, token)`, −100 elsewhere.

    Each sequence has its own random stream, keyed by seed and row, so that neither padding nor
    the other sequences in the batch change what is drawn. One uniform number picks each label
    through the cumulative distribution.
    """
    uniform = torch.zeros(batch.labels.shape)
    for at, row in enumerate(batch.index):
        uniform[at] = _uniform(seed, row, batch.labels.shape[1])
    cumulative = logits.float().softmax(-1).cumsum(-1)
    drawn = (cumulative < uniform.to(logits.device)[..., None] * cumulative[..., -1:]).sum(-1)
    return torch.where(batch.labels == -100, batch.labels, drawn.clamp(max=logits.shape[-1] - 1))


def _uniform(seed, row, count):
    digest = hashlib.blake2b(f"{seed}/{row}".encode(), digest_size=7).digest()
    return torch.rand(count, generator=torch.Generator().manual_seed(int.from_bytes(digest, "big")))


def pseudo_gradients(model, layers, batch, seed=0, labels="sampled") -> Capture:
    """One forward and backward pass for the curvature; returns the capture of ā and Ds.

    `labels`: "sampled" gives the true Fisher (= Gauss–Newton for this loss); "data" the empirical
    Fisher, a different matrix, kept for comparison.
    """
    choose = (lambda logits: sampled_labels(logits, batch, seed)) if labels == "sampled" else None
    return backward_pass(model, layers, batch, choose)[0]


def covariances(model, layers, batches, pseudo=pseudo_gradients, seed=0):
    """A = E[ā āᵀ] and S = E[Ds Dsᵀ] over real tokens, and the mean number of tokens a sequence.

    Returns `({layer: (A, S)}, tokens per sequence)`, float64 on the CPU.
    """
    sums, tokens, sequences = {}, 0, 0
    for batch in batches:
        tokens, sequences = tokens + batch.mask.sum().item(), sequences + len(batch.index)
        for name, record in pseudo(model, layers, batch, seed).items():
            a, s = record.inputs[batch.mask], record.output_grads[batch.mask]
            sums[name] = [_add(total, moment) for total, moment in zip(sums.get(name, [0, 0]), (a.T @ a, s.T @ s))]
    return {name: tuple(total / tokens for total in pair) for name, pair in sums.items()}, tokens / sequences


def _add(total, moment):
    return total + moment.cpu().double()


def eigenvectors(pairs: dict, tokens_per_sequence: float) -> dict[str, Block]:
    """K-FAC blocks from A = Q_A Λ_A Q_Aᵀ and S = Q_S Λ_S Q_Sᵀ (eigh of the symmetrised matrices, float64)."""
    blocks = {}
    for name, (a, s) in pairs.items():
        (values_a, q_a), (values_s, q_s) = (torch.linalg.eigh((m + m.T) / 2) for m in (a, s))
        eigenvalues = tokens_per_sequence * torch.outer(values_s.clamp(min=0), values_a.clamp(min=0))
        blocks[name] = Block(q_a, q_s, eigenvalues)
    return blocks


def corrected(model, layers, batches, blocks, pseudo=pseudo_gradients, seed=0) -> dict[str, Block]:
    """EK-FAC blocks: the same eigenvectors with Λ = E_sequences[(Q_Sᵀ Dθ Q_A)²]."""
    totals, sequences, bases = {name: 0 for name in blocks}, 0, None
    for batch in batches:
        sequences += len(batch.index)
        for name, record in pseudo(model, layers, batch, seed).items():
            bases = bases or {key: block.to(record.inputs.device, record.inputs.dtype) for key, block in blocks.items()}
            totals[name] = _add(totals[name], (bases[name].rotate(record.gradients()) ** 2).sum(0))
    return {name: Block(block.q_a, block.q_s, totals[name] / sequences) for name, block in blocks.items()}


# -- cache ----------------------------------------------------------------------------------------

def cache_key(model, layers, ids, **settings) -> str:
    """Names the factors of one model (weights included), one list of token sequences and the settings."""
    digest = hashlib.sha256(json.dumps([sorted(settings.items()), list(layers), ids]).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:24]


def save_blocks(blocks: dict[str, Block], path: Path) -> None:
    """Writes the blocks as safetensors, with a checksum; a reader never sees half a file. Raises OSError."""
    tensors = {f"{name}/{part}": value.contiguous() for name, block in blocks.items() for part, value in vars(block).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(tensors, path, checksum=_checksum(tensors))


def load_blocks(path: Path) -> dict[str, Block] | None:
    """The blocks stored at `path`; None when there is no such file or its checksum does not fit."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as stored:
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}
            intact = stored.metadata().get("checksum") == _checksum(tensors)
    except (SafetensorError, OSError, AttributeError):
        intact = False
    if not intact:
        warnings.warn(f"the cached factors {path.name} are damaged; fitting them again", stacklevel=2)
        return None
    names = dict.fromkeys(key.rpartition("/")[0] for key in tensors)
    return {name: Block(*(tensors[f"{name}/{part}"] for part in ("q_a", "q_s", "eigenvalues"))) for name in names}


def _checksum(tensors):
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode() + tensors[key].numpy().tobytes())
    return digest.hexdigest()
