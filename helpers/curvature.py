"""Curvature matrices G of the mean training loss behind one interface, from exact to cheap.

`matvec(v)`, `solve(v)` and `dense(layer)` mean the same for every class, so swapping the method
is one word: `Hessian` and `GaussNewton` (exact, never formed), `Dense` (one matrix over all layers),
`BlockDiagonal` (one a layer), `KFAC`, `EKFAC`, `Diagonal`, `Identity`. A vector is a dictionary
`{layer: (..., out, in+1)}`; G belongs to the mean over sequences of the summed loss, so its unit is
that of Dθ squared.
"""
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.pytorch_utils import Conv1D

from . import processes
from .capture import Capture, backward_pass, shape
from .files import Checkpoint, load_checked, save_checked
from .stories import IGNORE, InputError, logits_of, plain_attention, summed_loss

# A config's entries that say where and how a model was loaded, not what it computes (dtypes stand with the weights)
LOADING = {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "_attn_implementation",
           "_attn_implementation_internal", "_attn_implementation_autoset"}
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
        parts = (self.q_a, self.q_s, self.eigenvalues)
        return Block(*(x if x is None else x.to(device=device, dtype=dtype) for x in parts))


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

    def dense(self, name: str | None = None) -> torch.Tensor:
        """G without damping, of one layer `(out·(in+1), out·(in+1))`, rows in the order of `Dθ.flatten()`, or of all
        layers in their order, with zeros between them."""
        if name is None:
            return torch.block_diag(*map(self.dense, self.damping))
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

    def dense(self, name=None):
        if name is None:
            return super().dense()
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


class Diagonal(KFAC):
    """The diagonal of the Fisher: EK-FAC with the weights' own axes in the place of eigenvectors."""
    name = "diagonal"


METHODS = {"kfac": KFAC, "ekfac": EKFAC, "diagonal": Diagonal}


def fit_blocks(method, model, layers, batches, pseudo=None, seed=0, keep=None) -> dict[str, Block]:
    """Streams the batches once (K-FAC, diagonal) or twice (EK-FAC) and returns the blocks, float64 on the CPU.

    `pseudo(model, layers, batch, seed)` runs one pass and returns its capture (default
    `pseudo_gradients`); the second pass draws other labels than the first, so that Λ is not
    measured on the sample that chose the eigenvectors. With a path `keep` the sums of each pass
    are kept beside it every few seconds, and a killed fit goes on from there. Under torchrun
    every process brings batches of its own, and all get the same blocks.
    """
    pseudo = pseudo or pseudo_gradients
    mine = f"{processes.rank()}-of-{processes.world()}"
    stages = [Checkpoint.beside(keep, f"{stage}-{mine}") if keep else None for stage in ("covariances", "eigenvalues")]
    if method == "diagonal":
        blocks = corrected(model, layers, batches(), {name: axes(layer) for name, layer in layers.items()}, pseudo, seed,
                           stages[1])
    else:
        blocks = eigenvectors(*covariances(model, layers, batches(), pseudo, seed, stages[0]))
        if method == "ekfac":
            blocks = corrected(model, layers, batches(), blocks, pseudo, f"{seed}, second", stages[1])
    return blocks


def accumulate(batches, contribution, checkpoint=None) -> dict[str, torch.Tensor]:
    """The sums of `contribution(batch)`, `{name: tensor}`, over all batches of all processes, float64 on the CPU.

    With a `Checkpoint` a pass that was cut off goes on behind the last batch that was kept: the same
    batches in the same order, so the same bits.
    """
    sums, done = checkpoint.load() if checkpoint else ({}, 0)
    for at, batch in enumerate(batches, start=1):
        if at <= done:
            continue
        for name, part in contribution(batch).items():
            sums[name] = sums.get(name, 0) + torch.as_tensor(part).cpu().double()
        if checkpoint:
            checkpoint.save(sums, at)
    return processes.totals(sums)


# -- pseudo-gradients: the loss with labels drawn from the model ---------------------------------

def sampled_labels(logits: torch.Tensor, batch, seed) -> torch.Tensor:
    """Labels drawn from the model at every real target, `(batch, token)`, −100 elsewhere.

    Each sequence has its own random stream, keyed by seed and row, so that neither padding nor
    the other sequences in the batch change what is drawn. One uniform number picks each label
    through the cumulative distribution.
    """
    drawn = torch.empty_like(batch.labels)
    for at, row in enumerate(batch.index):  # one by one: with a large vocabulary each is tens of megabytes
        cumulative = logits[at].float().softmax(-1).cumsum_(-1)
        uniform = _uniform(seed, row, len(cumulative)).to(logits.device)
        drawn[at] = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:])[:, 0]
    return torch.where(batch.labels == -100, batch.labels, drawn.clamp(max=logits.shape[-1] - 1))


def _uniform(seed, row, count):
    digest = hashlib.blake2b(f"{seed}/{row}".encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    return torch.rand(count, generator=generator, dtype=torch.float32)  # another default would draw other labels


def pseudo_gradients(model, layers, batch, seed=0, labels="sampled") -> Capture:
    """One forward and backward pass for the curvature; returns the capture of ā and Ds.

    `labels`: "sampled" gives the true Fisher (= Gauss–Newton for this loss); "data" the empirical
    Fisher, a different matrix, kept for comparison.
    """
    choose = (lambda logits: sampled_labels(logits, batch, seed)) if labels == "sampled" else None
    return backward_pass(model, layers, batch, choose)[0]


def covariances(model, layers, batches, pseudo=pseudo_gradients, seed=0, checkpoint=None):
    """A = E[ā āᵀ] and S = E[Ds Dsᵀ] over real tokens, and the mean number of tokens a sequence.

    Returns `({layer: (A, S)}, tokens per sequence)`, float64 on the CPU.
    """
    def moments(batch):
        found = {"tokens": batch.mask.sum(), "sequences": len(batch.index)}
        for name, record in pseudo(model, layers, batch, seed).items():
            a, s = record.inputs[batch.mask], record.output_grads[batch.mask]
            found |= {f"A/{name}": a.T @ a, f"S/{name}": s.T @ s}
        return found

    sums = accumulate(batches, moments, checkpoint)
    tokens, sequences = sums["tokens"].item(), sums["sequences"].item()
    return {name: (sums[f"A/{name}"] / tokens, sums[f"S/{name}"] / tokens) for name in layers}, tokens / sequences


def eigenvectors(pairs: dict, tokens_per_sequence: float) -> dict[str, Block]:
    """K-FAC blocks from A = Q_A Λ_A Q_Aᵀ and S = Q_S Λ_S Q_Sᵀ (eigh of the symmetrised matrices, float64)."""
    blocks = {}
    for name, (a, s) in pairs.items():
        (values_a, q_a), (values_s, q_s) = (torch.linalg.eigh((m + m.T) / 2) for m in (a, s))
        eigenvalues = tokens_per_sequence * torch.outer(values_s.clamp(min=0), values_a.clamp(min=0))
        blocks[name] = Block(*(processes.from_first(x.contiguous()) for x in (q_a, q_s, eigenvalues)))
    return blocks


def axes(layer) -> Block:
    """A block whose basis is the weights' own axes; its eigenvalues are still to be measured."""
    out_width, in_width = shape(layer)
    return Block(*(torch.eye(width, dtype=torch.float64) for width in (in_width, out_width)), None)


def corrected(model, layers, batches, blocks, pseudo=pseudo_gradients, seed=0, checkpoint=None) -> dict[str, Block]:
    """EK-FAC blocks: the same eigenvectors with Λ = E_sequences[(Q_Sᵀ Dθ Q_A)²]."""
    bases = {}

    def squares(batch):
        found = {"sequences": len(batch.index)}
        for name, record in pseudo(model, layers, batch, seed).items():
            if name not in bases:
                bases[name] = blocks[name].to(record.inputs.device, record.inputs.dtype)
            found[f"Λ/{name}"] = (bases[name].rotate(record.gradients()) ** 2).sum(0)
        return found

    sums = accumulate(batches, squares, checkpoint)
    return {name: Block(block.q_a, block.q_s, sums[f"Λ/{name}"] / sums["sequences"]) for name, block in blocks.items()}


# -- exact matrices, formed or not ----------------------------------------------------------------

def flatten(v: dict) -> torch.Tensor:
    """`{layer: (..., out, in+1)}` → `(..., P)`, the layers one after the other."""
    return torch.cat([x.flatten(-2) for x in v.values()], dim=-1)


def unflatten(flat: torch.Tensor, layers: dict) -> dict:
    """The inverse of `flatten`."""
    shapes = {name: torch.Size(shape(layer)) for name, layer in layers.items()}
    parts = flat.split([size.numel() for size in shapes.values()], dim=-1)
    return {name: part.unflatten(-1, size) for (name, size), part in zip(shapes.items(), parts)}


def weights(layers: dict) -> dict:
    """The layers' present weights as a vector θ, `{layer: (out, in+1)}`."""
    found = {}
    for name, layer in layers.items():
        weight = layer.weight.detach()
        weight = weight.T if isinstance(layer, Conv1D) else weight
        found[name] = weight if layer.bias is None else torch.cat([weight, layer.bias.detach()[:, None]], dim=1)
    return found


def as_parameters(theta: dict, layers: dict) -> dict:
    """θ as the parameters that `logits_of` takes."""
    found = {}
    for name, layer in layers.items():
        weight = theta[name] if layer.bias is None else theta[name][:, :-1]
        found[f"{name}.weight"] = weight.T if isinstance(layer, Conv1D) else weight
        if layer.bias is not None:
            found[f"{name}.bias"] = theta[name][:, -1]
    return found


class GaussNewton(Curvature):
    """The exact Gauss–Newton Hessian G = E[Σ_t J_tᵀ (diag p − p pᵀ) J_t] over all layers, never formed.

    A product costs two forward-mode and one reverse-mode pass over the batches; `solve` runs
    conjugate gradients, preconditioned by any other curvature (Grosse et al. 2023, section 2.2).
    """

    def __init__(self, model, layers, batches, damping, preconditioner=None, steps=100, tolerance=1e-6):
        """`batches()` gives a fresh iterator of batches; `damping` is one λ, or one a layer (a dictionary)."""
        self.model, self.layers, self.batches = model, layers, batches
        self.damping = dict(damping) if isinstance(damping, dict) else dict.fromkeys(layers, float(damping))
        self.preconditioner, self.steps, self.tolerance = preconditioner, steps, tolerance

    def matvec(self, v):
        return {name: x + self.damping[name] * v[name] for name, x in self.product(v).items()}

    def product(self, v: dict) -> dict:
        """G v without damping; shapes as given, any number of leading dimensions."""
        flat, theta = flatten(v), flatten(weights(self.layers))
        rows, total, sequences = flat.reshape(-1, flat.shape[-1]), 0, 0
        for batch in self.batches():
            with plain_attention(), torch.no_grad():  # else the graph of every batch would be kept
                total = total + torch.func.vmap(lambda row: self._one(theta, row, batch))(rows)
            sequences += len(batch.index)
        return unflatten((total / sequences).view_as(flat), self.layers)

    def _logits(self, batch):
        return lambda theta: logits_of(self.model, batch, as_parameters(unflatten(theta, self.layers), self.layers))

    def _one(self, theta, v, batch):
        logits, moved = torch.func.jvp(self._logits(batch), (theta,), (v,))
        p = logits.softmax(-1)
        bent = (p * moved - p * (p * moved).sum(-1, keepdim=True)) * (batch.labels != IGNORE)[..., None]
        return torch.func.vjp(self._logits(batch), theta)[1](bent)[0]

    def solve(self, v):
        return conjugate_gradients(self.matvec, v, self.preconditioner, self.steps, self.tolerance)[0]

    def dense(self, name=None):
        theta = flatten(weights(self.layers))
        axes = torch.eye(theta.numel(), dtype=theta.dtype, device=theta.device)
        chosen = unflatten(torch.arange(len(axes)), self.layers)
        rows = (flatten(chosen) if name is None else chosen[name].flatten())
        return torch.cat([flatten(self.product(unflatten(axes[part], self.layers))) for part in rows.split(256)])[:, rows]


class Hessian(GaussNewton):
    """The exact Hessian of the mean loss over all layers, never formed; it may be indefinite."""

    def _one(self, theta, v, batch):
        loss = lambda theta: summed_loss(self._logits(batch)(theta), batch.labels).sum()
        return torch.func.jvp(torch.func.grad(loss), (theta,), (v,))[1]


class Dense(Curvature):
    """One symmetric matrix over all layers, held as its eigenvalues and eigenvectors, float64."""

    def __init__(self, matrix: torch.Tensor, layers: dict, damping: float):
        """`matrix` `(P, P)` without damping, rows in the order of `flatten`; `damping` one λ."""
        self.layers, self.damping = layers, dict.fromkeys(layers, float(damping))
        self.eigenvalues, self.q = torch.linalg.eigh((matrix.double() + matrix.double().T) / 2)

    @classmethod
    def fisher(cls, model, layers, batches, damping, labels="sampled", draws=1, seed=0):
        """E over sequences of Dθ Dθᵀ, labels drawn from the model (`draws` times) or those of the data (empirical)."""
        total, sequences = 0, 0
        for draw in range(draws):
            for batch in batches():
                captured = pseudo_gradients(model, layers, batch, f"{seed}, draw {draw}", labels)
                gradients = flatten({name: captured[name].gradients() for name in layers}).double()
                total, sequences = total + gradients.T @ gradients, sequences + len(batch.index)
        return cls(total / sequences, layers, damping)

    def matvec(self, v):
        return self._scaled(v, lambda values, damping: values + damping)

    def solve(self, v):
        return self._scaled(v, lambda values, damping: 1 / (values + damping))

    def _scaled(self, v, scale):
        flat, damping = flatten(v), next(iter(self.damping.values()))
        moved = flat.double() @ self.q * scale(self.eigenvalues, damping) @ self.q.T
        return unflatten(moved.to(flat.dtype), self.layers)

    def dense(self, name=None):
        matrix = self.q * self.eigenvalues @ self.q.T
        rows = unflatten(torch.arange(len(matrix)), self.layers)
        rows = torch.arange(len(matrix)) if name is None else rows[name].flatten()
        return matrix[rows][:, rows]

    def norms(self, name, gradients):
        raise NotImplementedError("a dense matrix joins the layers: there is no norm of one layer alone")


class BlockDiagonal(Curvature):
    """The diagonal blocks of another curvature, one dense matrix a layer: layers do not interact."""

    def __init__(self, whole: Curvature, layers: dict, damping: float):
        self.damping = dict.fromkeys(layers, float(damping))
        self.parts = {name: Dense(whole.dense(name), {name: layer}, damping) for name, layer in layers.items()}

    def matvec(self, v):
        return {name: self.parts[name].matvec({name: x})[name] for name, x in v.items()}

    def solve(self, v):
        return {name: self.parts[name].solve({name: x})[name] for name, x in v.items()}

    def norms(self, name, gradients):
        return (self.parts[name].solve({name: gradients})[name] * gradients).flatten(1).sum(1)

    def dense(self, name=None):
        return super().dense() if name is None else self.parts[name].dense()


# -- solving without an inverse -------------------------------------------------------------------

def conjugate_gradients(matvec, v: dict, preconditioner=None, steps=100, tolerance=1e-6):
    """Solves matvec(x) = v for a positive definite matrix; `(x, relative residuals after each step)`.

    `preconditioner` is a curvature whose `solve` roughly undoes `matvec`. Leading dimensions are
    systems of their own; it stops when the largest relative residual is below `tolerance`.
    """
    precondition = preconditioner.solve if preconditioner else dict
    combine = lambda x, scale, y: {name: x[name] + scale[..., None, None] * y[name] for name in x}
    dot = lambda x, y: sum((x[name] * y[name]).sum((-2, -1)) for name in x)
    start = dot(v, v).sqrt().clamp(min=torch.finfo(next(iter(v.values())).dtype).tiny)
    x, residual = {name: torch.zeros_like(part) for name, part in v.items()}, v
    direction = near = precondition(residual)
    energy, history = dot(residual, near), []
    for _ in range(steps):
        pushed = matvec(direction)
        step = _ratio(energy, dot(direction, pushed))
        x, residual = combine(x, step, direction), combine(residual, -step, pushed)
        history.append((dot(residual, residual).sqrt() / start).max().item())
        if history[-1] < tolerance:
            break
        near = precondition(residual)
        energy, before = dot(residual, near), energy
        direction = combine(near, _ratio(energy, before), direction)
    return x, history


def _ratio(numerator, denominator):
    """0/0 = 0: a system that is solved, or was zero, stays where it is."""
    return torch.where(denominator == 0, 0, numerator / torch.where(denominator == 0, 1, denominator))


def lissa(matvec, v: dict, scale: float, steps: int) -> dict:
    """The iHVP by the truncated Neumann series x ← v + (I − (G+λI)/scale) x, divided by `scale` at the end.

    Converges when `scale` exceeds half the largest eigenvalue (Agarwal et al. 2017; Koh and Liang
    2017); slow along eigenvectors whose eigenvalue is small beside it.
    """
    x = v
    for _ in range(steps):
        pushed = matvec(x)
        x = {name: v[name] + x[name] - pushed[name] / scale for name in v}
    return {name: part / scale for name, part in x.items()}


# -- cache ----------------------------------------------------------------------------------------

def code_version(*more) -> str:
    """Names the code whose result a kept file is: another version of these rooms, and of `more`, makes it anew."""
    rooms = ("stories.py", "processes.py", "capture.py", "curvature.py", *more)
    return hashlib.sha256(b"".join((Path(__file__).parent / room).read_bytes() for room in rooms)).hexdigest()[:16]


def model_key(model) -> str:
    """Names one model by weights and config; a name made before, in the place of the model, is given back unchanged."""
    if isinstance(model, str):
        return model
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())  # a scalar has no bytes to view
    if hasattr(model, "config"):  # the same weights under another activation, window or norm are another model
        digest.update(json.dumps(_computed(model.config.to_dict()), sort_keys=True, default=str).encode())
    return digest.hexdigest()[:24]


def _computed(settings):
    """A config's settings, and those of the configs inside it, without the entries in LOADING."""
    if not isinstance(settings, dict):
        return settings
    return {name: _computed(value) for name, value in settings.items() if name not in LOADING}


def cache_key(model, layers, ids, **settings) -> str:
    """Names the factors of one model, one list of token sequences, the settings and the code."""
    parts = [code_version(), model_key(model), sorted(settings.items()), list(layers), ids]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def save_blocks(blocks: dict[str, Block], path: Path, **metadata) -> None:
    """Writes the blocks as safetensors, with a checksum; a reader never sees half a file. Raises OSError."""
    save_checked({f"{name}/{part}": value for name, block in blocks.items() for part, value in vars(block).items()},
                 path, **metadata)


def load_blocks(path: Path) -> dict[str, Block] | None:
    """The blocks stored at `path`; None when there is no such file or its checksum does not fit."""
    found = load_checked(path, "the cached factors")
    return found and as_blocks(found[0])


def as_blocks(tensors: dict) -> dict[str, Block]:
    """Blocks of the tensors that `save_blocks` wrote."""
    names = dict.fromkeys(key.rpartition("/")[0] for key in tensors)
    return {name: Block(*(tensors[f"{name}/{part}"] for part in ("q_a", "q_s", "eigenvalues"))) for name in names}
