"""The curvature that the approximations stand for: exact, formed or never formed; solvers for it.

Inside this file a vector is one flat tensor `(..., P)`, all tracked parameters in the order of the
layers; `flatten` and `unflatten` lead there and back from `{layer: (..., out, in+1)}`.
"""
from abc import abstractmethod
from itertools import islice

import torch
from transformers.pytorch_utils import Conv1D

from .capture import shape
from .curvature import Curvature, Layerwise, pseudo_gradients
from .stories import IGNORE, logits_of, plain_attention, summed_loss

# -- vectors -------------------------------------------------------------------------------------

def flatten(v: dict) -> torch.Tensor:
    """`{layer: (..., out, in+1)}` → `(..., P)`, the layers one after the other."""
    return torch.cat([x.flatten(-2) for x in v.values()], dim=-1)


def unflatten(flat: torch.Tensor, layers: dict) -> dict:
    """The inverse of `flatten`."""
    shapes = {name: torch.Size(shape(layer)) for name, layer in layers.items()}
    parts = flat.split([size.numel() for size in shapes.values()], dim=-1)
    return {name: part.unflatten(-1, shapes[name]) for name, part in zip(shapes, parts)}


def places_of(name: str | None, layers: dict) -> torch.Tensor:
    """The places of one layer in a flat vector, or all of them."""
    places = torch.arange(sum(torch.Size(shape(layer)).numel() for layer in layers.values()))
    return places if name is None else unflatten(places, layers)[name].flatten()


def weights(layers: dict) -> dict:
    """The layers' present weights as a vector θ, `{layer: (out, in+1)}`."""
    theta = {}
    for name, layer in layers.items():
        weight = layer.weight.detach()
        weight = weight.T if isinstance(layer, Conv1D) else weight
        bias = [] if layer.bias is None else [layer.bias.detach()[:, None]]
        theta[name] = torch.cat([weight, *bias], dim=1)
    return theta


def as_parameters(theta: dict, layers: dict) -> dict:
    """θ as the parameters that `logits_of` takes."""
    parameters = {}
    for name, layer in layers.items():
        weight = theta[name] if layer.bias is None else theta[name][:, :-1]
        parameters[f"{name}.weight"] = weight.T if isinstance(layer, Conv1D) else weight
        if layer.bias is not None:
            parameters[f"{name}.bias"] = theta[name][:, -1]
    return parameters


# -- never formed --------------------------------------------------------------------------------

class Products(Curvature):
    """A matrix that is known by its products only; `solve` runs conjugate gradients."""

    def __init__(self, model, layers, batches, damping, preconditioner=None, steps=100,
                 tolerance=1e-6):
        """`batches()` gives a fresh iterator of batches; `damping` is one λ, one a
        layer, or one for every weight `{layer: (out, in+1)}`.

        `preconditioner` is another curvature, whose `solve` roughly undoes this one.
        """
        self.model, self.layers, self.batches = model, layers, batches
        single = not isinstance(damping, dict)
        self.damping = dict.fromkeys(layers, float(damping)) if single else damping
        self.preconditioner, self.steps, self.tolerance = preconditioner, steps, tolerance

    @abstractmethod
    def one_product(self, theta, v, batch) -> torch.Tensor:
        """The matrix of a batch's summed loss times `v (P,)`, at the weights `theta (P,)`."""

    def product(self, v: torch.Tensor) -> torch.Tensor:
        """G v without damping, `(..., P)`."""
        theta, rows = flatten(weights(self.layers)), v.reshape(-1, v.shape[-1])
        total, sequences = 0, 0
        for batch in self.batches():
            def of_batch(row, batch=batch):
                return self.one_product(theta, row, batch)
            with plain_attention(), torch.no_grad():  # else every batch's graph would be kept
                total = total + torch.func.vmap(of_batch)(rows)
            sequences += len(batch.index)
        return (total / sequences).view_as(v)

    def damped_product(self, v: torch.Tensor) -> torch.Tensor:
        """(G + λI) v, `(..., P)`."""
        by_layer = unflatten(v, self.layers)
        damped = flatten({name: self.damping[name] * x for name, x in by_layer.items()})
        return self.product(v) + damped

    def logits(self, batch):
        """The model's logits as a function of flat weights `(P,)`."""
        def function(theta):
            parameters = as_parameters(unflatten(theta, self.layers), self.layers)
            return logits_of(self.model, batch, parameters)
        return function

    def matvec(self, v):
        return unflatten(self.damped_product(flatten(v)), self.layers)

    def solve(self, v):
        precondition = preconditioned(self.preconditioner, self.layers)
        solved, _ = conjugate_gradients(self.damped_product, flatten(v), precondition, self.steps,
                                        self.tolerance)
        return unflatten(solved, self.layers)

    def dense(self, name=None):
        theta = flatten(weights(self.layers))
        identity = torch.eye(len(theta), dtype=theta.dtype, device=theta.device)
        rows = places_of(name, self.layers)
        return torch.cat([self.product(identity[part]) for part in rows.split(256)])[:, rows]


class GaussNewton(Products):
    """The exact Gauss–Newton Hessian G = E[Σ_t J_tᵀ (diag p − p pᵀ) J_t] over all layers.

    A product costs two forward passes and one backward (Grosse et al. 2023, section 2.2).
    """

    def one_product(self, theta, v, batch):
        logits, moved = torch.func.jvp(self.logits(batch), (theta,), (v,))
        p = logits.softmax(-1)
        bent = p * moved - p * (p * moved).sum(-1, keepdim=True)
        bent = bent * (batch.labels != IGNORE)[..., None]
        return torch.func.vjp(self.logits(batch), theta)[1](bent)[0]


class Hessian(Products):
    """The exact Hessian of the mean loss over all layers; it may be indefinite."""

    def one_product(self, theta, v, batch):
        def loss(theta):
            return summed_loss(self.logits(batch)(theta), batch.labels).sum()
        return torch.func.jvp(torch.func.grad(loss), (theta,), (v,))[1]


# -- formed --------------------------------------------------------------------------------------

class Dense(Curvature):
    """One symmetric matrix over all layers, held as its eigenvalues and eigenvectors, float64."""

    def __init__(self, matrix: torch.Tensor, layers: dict, damping: float):
        """`matrix` `(P, P)` without damping, rows in the order of `flatten`; `damping` one λ."""
        self.layers, self.damping = layers, dict.fromkeys(layers, float(damping))
        self.shift = float(damping)
        symmetric = (matrix.double() + matrix.double().T) / 2
        self.eigenvalues, self.q = torch.linalg.eigh(symmetric)

    @classmethod
    def fisher(cls, model, layers, batches, damping, labels="sampled", draws=1, seed=0):
        """E over sequences of Dθ Dθᵀ.

        Labels are drawn from the model (`draws` times), or those of the data (empirical Fisher).
        """
        total, sequences = 0, 0
        for draw in range(draws):
            for batch in batches():
                captured = pseudo_gradients(model, layers, batch, seed, draw, labels)
                gradients = flatten({name: captured[name].gradients() for name in layers}).double()
                total = total + gradients.T @ gradients
                sequences += len(batch.index)
        return cls(total / sequences, layers, damping)

    def matvec(self, v):
        return self._scaled(v, self.eigenvalues + self.shift)

    def solve(self, v):
        return self._scaled(v, 1 / (self.eigenvalues + self.shift))

    def _scaled(self, v, scale):
        flat = flatten(v)
        moved = flat.double() @ self.q * scale @ self.q.T
        return unflatten(moved.to(flat.dtype), self.layers)

    def dense(self, name=None):
        rows = places_of(name, self.layers)
        return (self.q * self.eigenvalues @ self.q.T)[rows][:, rows]


class BlockDiagonal(Layerwise):
    """The diagonal blocks of another curvature, one dense matrix a layer."""

    def __init__(self, whole: Curvature, layers: dict, damping: float):
        self.damping = dict.fromkeys(layers, float(damping))
        self.parts = {name: Dense(whole.dense(name), {name: layer}, damping)
                      for name, layer in layers.items()}

    def matvec(self, v):
        return {name: self.parts[name].matvec({name: x})[name] for name, x in v.items()}

    def solve(self, v):
        return {name: self.parts[name].solve({name: x})[name] for name, x in v.items()}

    def norms(self, name, gradients):
        solved = self.parts[name].solve({name: gradients})[name]
        return (solved * gradients).flatten(1).sum(1)

    def dense(self, name=None):
        return self.all_dense() if name is None else self.parts[name].dense()


# -- solving without an inverse ------------------------------------------------------------------

def preconditioned(curvature: Curvature | None, layers: dict):
    """A curvature's `solve` as a map of flat vectors; None changes nothing."""
    def precondition(v):
        return flatten(curvature.solve(unflatten(v, layers))) if curvature else v
    return precondition


def conjugate_gradients(matvec, v: torch.Tensor, precondition=None, steps=100, tolerance=1e-6):
    """Solves matvec(x) = v `(..., P)`, positive definite; `(x, relative residuals by step)`.

    It stops when the largest relative residual is below `tolerance`.
    """
    solved, history = torch.zeros_like(v), []
    for x, residuals in islice(conjugate_gradient_steps(matvec, v, precondition), steps):
        solved = x
        history.append(residuals.max().item())
        if history[-1] < tolerance:
            break
    return solved, history


def conjugate_gradient_steps(matvec, v: torch.Tensor, precondition=None):
    """Yields x and its relative residuals after every step, without end.

    `precondition` is a map that roughly undoes `matvec`, such as `preconditioned(ekfac, layers)`.
    Leading dimensions are systems of their own.
    """
    precondition = precondition or torch.clone
    start = v.norm(dim=-1).clamp(min=torch.finfo(v.dtype).tiny)
    x, residual = torch.zeros_like(v), v
    direction = near = precondition(residual)
    energy = _dot(residual, near)
    while True:
        pushed = matvec(direction)
        step = _ratio(energy, _dot(direction, pushed))
        x, residual = x + step * direction, residual - step * pushed
        yield x, residual.norm(dim=-1) / start
        near = precondition(residual)
        energy, before = _dot(residual, near), energy
        direction = near + _ratio(energy, before) * direction


def _dot(x, y):
    return (x * y).sum(-1, keepdim=True)


def _ratio(numerator, denominator):
    """0/0 = 0: a system that is solved, or was zero, stays where it is."""
    safe = torch.where(denominator == 0, 1, denominator)
    return torch.where(denominator == 0, 0, numerator / safe)


def neumann(matvec, v: torch.Tensor, scale: float, steps: int) -> torch.Tensor:
    """The iHVP by the truncated Neumann series x ← v + (I − (G+λI)/scale) x, divided by `scale`.

    Converges when `scale` exceeds half the largest eigenvalue; slow along eigenvectors whose
    eigenvalue is small beside it. LiSSA is its stochastic form (Agarwal et al. 2017; Koh and Liang
    2017).
    """
    x = v
    for _ in range(steps):
        x = v + x - matvec(x) / scale
    return x / scale
