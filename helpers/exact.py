"""The curvature that the approximations stand for: exact, never formed; solvers for it.

Inside this file a vector is one flat tensor `(..., P)`, all tracked parameters in the order of the
layers; `flatten` and `unflatten` lead there and back from `{layer: (..., out, in+1)}`.
"""
from itertools import islice

import torch
from transformers.pytorch_utils import Conv1D

from .capture import shape
from .curvature import Curvature
from .stories import IGNORE, logits_of, plain_attention

# -- vectors -------------------------------------------------------------------------------------

def flatten(v: dict) -> torch.Tensor:
    """`{layer: (..., out, in+1)}` → `(..., P)`, the layers one after the other."""
    return torch.cat([x.flatten(-2) for x in v.values()], dim=-1)


def unflatten(flat: torch.Tensor, layers: dict) -> dict:
    """The inverse of `flatten`."""
    shapes = {name: torch.Size(shape(layer)) for name, layer in layers.items()}
    parts = flat.split([size.numel() for size in shapes.values()], dim=-1)
    return {name: part.unflatten(-1, shapes[name]) for name, part in zip(shapes, parts)}


def weights(layers: dict) -> dict:
    """The layers' present weights as a vector θ, `{layer: (out, in+1)}`."""
    return {name: joined(layer, torch.Tensor.detach) for name, layer in layers.items()}


def joined(layer, part) -> torch.Tensor:
    """`part(weight)` and `part(bias)` of a layer in one matrix `(out, in+1)`."""
    weight = part(layer.weight).T if isinstance(layer, Conv1D) else part(layer.weight)
    bias = [] if layer.bias is None else [part(layer.bias)[:, None]]
    return torch.cat([weight, *bias], dim=1)


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

class GaussNewton(Curvature):
    """The exact Gauss–Newton Hessian G = E[Σ_t J_tᵀ (diag p − p pᵀ) J_t] over all layers.

    It is known by its products only: each costs two forward passes and one backward (Grosse et al.
    2023, section 2.2); `solve` runs conjugate gradients.
    """

    def __init__(self, model, layers, batches, damping, preconditioner=None, steps=100,
                 tolerance=1e-6):
        """`batches()` gives a fresh iterator of batches; `damping` is one λ, or one a layer.

        `preconditioner` is another curvature, whose `solve` roughly undoes this one.
        """
        self.model, self.layers, self.batches = model, layers, batches
        single = not isinstance(damping, dict)
        self.damping = dict.fromkeys(layers, float(damping)) if single else damping
        self.preconditioner, self.steps, self.tolerance = preconditioner, steps, tolerance

    def product(self, v: torch.Tensor) -> torch.Tensor:
        """G v without damping, `(..., P)`."""
        theta, rows = flatten(weights(self.layers)), v.reshape(-1, v.shape[-1])
        total, sequences = 0, 0
        for batch in self.batches():
            def of_batch(row, batch=batch):
                return self._of_batch(theta, row, batch)
            with plain_attention(), torch.no_grad():  # else every batch's graph would be kept
                total = total + torch.func.vmap(of_batch)(rows)
            sequences += len(batch.index)
        return (total / sequences).view_as(v)

    def _of_batch(self, theta, v, batch):
        def logits(theta):
            parameters = as_parameters(unflatten(theta, self.layers), self.layers)
            return logits_of(self.model, batch, parameters)

        outputs, moved = torch.func.jvp(logits, (theta,), (v,))
        p = outputs.softmax(-1)
        bent = p * moved - p * (p * moved).sum(-1, keepdim=True)
        bent = bent * (batch.labels != IGNORE)[..., None]
        return torch.func.vjp(logits, theta)[1](bent)[0]

    def damped_product(self, v: torch.Tensor) -> torch.Tensor:
        """(G + λI) v, `(..., P)`."""
        by_layer = unflatten(v, self.layers)
        damped = flatten({name: self.damping[name] * x for name, x in by_layer.items()})
        return self.product(v) + damped

    def matvec(self, v):
        return unflatten(self.damped_product(flatten(v)), self.layers)

    def solve(self, v):
        precondition = preconditioned(self.preconditioner, self.layers)
        solved, _ = conjugate_gradients(self.damped_product, flatten(v), precondition, self.steps,
                                        self.tolerance)
        return unflatten(solved, self.layers)


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
