"""Query gradient → iHVP → scores by sequence, by layer and by token.

I(z) = (1/N) ∇L_qᵀ (G + λI)⁻¹ ∇L(z), in nats of the query's log-probability per extra copy of z:
positive when the copy makes the completion likelier (Grosse et al. 2023, eqs 30 and 31).
"""
from typing import NamedTuple

import torch

from .capture import backward_pass
from .curvature import Layerwise
from .exact import as_parameters, weights
from .stories import (EncodedQuery, batches, completion_masks, logits_of, plain_attention,
                      token_losses)


class Strongest(NamedTuple):
    """Rows of the stories of the largest influence on a query, strongest first."""
    positive: list[int]
    negative: list[int]


# -- queries -------------------------------------------------------------------------------------

def query_gradients(model, layers, queries: list[EncodedQuery], batch_size=16):
    """∇L_q = −∇ log p(completion | prompt), one row a query; only the completion is a target.
    Returns `({layer: (Q, out, in+1)}, log-probabilities (Q,))`."""
    rows, log_probs, order = {name: [] for name in layers}, [], []
    masks = completion_masks(queries)
    for batch in batches([ids for ids, _ in queries], batch_size, 2048, masks):
        captured, losses = backward_pass(model, layers,
                                         batch.to(next(model.parameters()).device))
        order += batch.index
        log_probs.append(-losses)
        for name, record in captured.items():
            rows[name].append(record.gradients())
    places = torch.tensor(order).argsort()
    return ({name: torch.cat(parts)[places] for name, parts in rows.items()},
            torch.cat(log_probs)[places])


# -- scores by sequence --------------------------------------------------------------------------

def sequence_scores(model, layers, stream, ihvps: dict, n_train: int) -> torch.Tensor:
    """Influence of every sequence of the stream on every query, `(Q, n_train)`, on the CPU.

    `ihvps` is `curvature.solve(query gradients)`. Rows that the stream does not hold stay 0, so
    the scores of several streams add up.
    """
    return scores_and_lengths(model, layers, stream, ihvps, [], n_train)[0]


def scores_and_lengths(model, layers, stream, ihvps: dict, curvatures: list[Layerwise], n_train):
    """`sequence_scores`, and √(rᵀ(G+λI)⁻¹r) of every sequence under each curvature, `(C, n_train)`.
    The length is the divisor of RelatIF (Barshan et al. 2020)."""
    queries = next(iter(ihvps.values()))
    scores = torch.zeros(len(queries), n_train, dtype=queries.dtype)
    squares = torch.zeros(len(curvatures), n_train, dtype=queries.dtype)
    for batch in stream:
        captured, _ = backward_pass(model, layers, batch)
        for name, record in captured.items():
            gradients = record.gradients()
            products = ihvps[name].flatten(1) @ gradients.flatten(1).T
            scores[:, batch.index] += products.cpu()
            for which, curvature in enumerate(curvatures):
                squares[which, batch.index] += curvature.norms(name, gradients).cpu()
    return scores / n_train, squares.sqrt()


def top_indices(scores: torch.Tensor, k: int) -> list[Strongest]:
    """For each query of `scores (Q, N)` the k largest above zero and the k smallest below."""
    picks = []
    for row in scores:
        order = row.argsort(descending=True, stable=True)
        positive = [i for i in order[:k].tolist() if row[i] > 0]
        negative = [i for i in order.flip(0)[:k].tolist() if row[i] < 0]
        picks.append(Strongest(positive, negative))
    return picks


# -- scores by token -----------------------------------------------------------------------------

def token_scores(captured, ihvps: dict, queries, rows, n_train: int) -> torch.Tensor:
    """Influence by layer and token, `(pairs, layer, token)`, each value at the position read.

    Pair p is query `queries[p]` with row `rows[p]` of the batch. Sums over layer and token to the
    sequence's influence; exactly 0 on padding.
    """
    by_layer = []
    for name, ihvp in ihvps.items():
        record = captured[name]
        moved = record.output_grads[rows] @ ihvp[queries]  # Ds_tᵀ P, (pair, token, in+1)
        by_layer.append((moved * record.inputs[rows]).sum(-1))
    return torch.stack(by_layer, 1) / n_train


def tokenwise(model, layers, stream, ihvps: dict, n_train: int, pairs) -> dict:
    """Token values `(layer, token)` of chosen `(query, story row)` pairs, unpadded, on the CPU.

    `stream` gives batches of stories named in `pairs`; each story is run once for all the queries
    that chose it. Returns `{(query, row): values}` of the stream's stories.
    """
    asking, values = {}, {}
    for query, row in pairs:
        asking.setdefault(row, []).append(query)
    for batch in stream:
        captured, _ = backward_pass(model, layers, batch)
        chosen = [(query, place) for place, row in enumerate(batch.index) for query in asking[row]]
        queries, places = torch.tensor(chosen, device=batch.labels.device).T
        scores = token_scores(captured, ihvps, queries, places, n_train).cpu()
        for (query, place), by_token in zip(chosen, scores):
            values[query, batch.index[place]] = by_token[:, :batch.mask[place].sum()]
    return values


def shift_to_predicted(values: torch.Tensor) -> torch.Tensor:
    """From `align="input"` to `align="predicted"`: the value of position t moves to token t+1."""
    return torch.cat([torch.zeros_like(values[..., :1]), values[..., :-1]], dim=-1)


# -- other readings ------------------------------------------------------------------------------

def loss_slopes(model, layers, batch, direction: dict) -> torch.Tensor:
    """d/ds of every loss term −log p(x_{t+1} | x_≤t) at θ + s·direction, `(B, T)`.

    0 without a target. One forward-mode pass, whatever the number of terms. `direction`
    `{layer: (out, in+1)}`: along the iHVP of one query, a slope divided by N is the influence of
    that loss term alone.
    """
    def losses(theta):
        return token_losses(logits_of(model, batch, as_parameters(theta, layers)), batch.labels)

    with plain_attention(), torch.no_grad():
        return torch.func.jvp(losses, (weights(layers),), (direction,))[1]
