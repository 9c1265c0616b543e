"""Curvatures written out as matrices: what those of the book stand for, one entry after another."""
import torch

from helpers.curvature import Curvature, Layerwise, pseudo_gradients
from helpers.exact import GaussNewton, as_parameters, flatten, unflatten, weights
from helpers.stories import logits_of, summed_loss


def matrix_of(curvature: Curvature) -> torch.Tensor:
    """G without damping over all layers, `(P, P)`, rows in the order of `flatten`."""
    if not isinstance(curvature, GaussNewton):
        return curvature.dense()
    theta = flatten(weights(curvature.layers))
    identity = torch.eye(len(theta), dtype=theta.dtype, device=theta.device)
    return torch.cat([curvature.product(rows) for rows in identity.split(256)])


def places_of(name: str, layers: dict) -> torch.Tensor:
    """The places of one layer in a flat vector."""
    sizes = {key: theta.numel() for key, theta in weights(layers).items()}
    return dict(zip(sizes, torch.arange(sum(sizes.values())).split(list(sizes.values()))))[name]


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

    def dense(self):
        return self.q * self.eigenvalues @ self.q.T


class BlockDiagonal(Layerwise):
    """The diagonal blocks of another curvature, one dense matrix a layer."""

    def __init__(self, whole: Curvature, layers: dict, damping: float):
        self.damping, matrix = dict.fromkeys(layers, float(damping)), matrix_of(whole)
        places = {name: places_of(name, layers) for name in layers}
        self.parts = {name: Dense(matrix[places[name]][:, places[name]], {name: layer}, damping)
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


class Hessian(GaussNewton):
    """The exact Hessian of the mean loss over all layers, by its products; may be indefinite."""

    def _of_batch(self, theta, v, batch):
        def loss(theta):
            parameters = as_parameters(unflatten(theta, self.layers), self.layers)
            return summed_loss(logits_of(self.model, batch, parameters), batch.labels).sum()
        return torch.func.jvp(torch.func.grad(loss), (theta,), (v,))[1]
