"""Query gradient → iHVP → scores by sequence, by layer and by token.

I(z) = (1/N) ∇L_qᵀ (G + λI)⁻¹ ∇L(z), in nats of the query's log-probability per extra copy of z:
positive when the copy makes the completion likelier (Grosse et al. 2023, eqs 30 and 31).
"""
import torch

from .capture import backward_pass
from .curvature import as_parameters, weights
from .stories import InputError, batches, logits_of, plain_attention, token_losses, token_texts


def query_gradients(model, layers, encoded, pad_id=0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """∇L_q = −∇ log p(completion | prompt), one row a query.

    `encoded` holds `(ids, start)` pairs of `encode_query`; only the completion's tokens are targets.
    Returns `({layer: (Q, out, in+1)}, log-probabilities (Q,))`.
    """
    rows, log_probs = {name: [] for name in layers}, []
    for ids, start in encoded:
        (batch,) = batches([ids], pad_id=pad_id)
        batch = batch.to(_device(model))
        batch.labels[:, :start - 1] = -100
        captured, losses = backward_pass(model, layers, batch)
        log_probs.append(-losses)
        for name, record in captured.items():
            rows[name].append(record.gradients())
    return {name: torch.cat(parts) for name, parts in rows.items()}, torch.cat(log_probs)


def sequence_scores(model, layers, stream, ihvps, n_train, norms_of=()):
    """Influence of every sequence of the stream on every query, `(Q, n_train)`, on the CPU.

    `ihvps` is `curvature.solve(query gradients)`. With curvatures in `norms_of`, also returns
    √(rᵀ(G+λI)⁻¹r) of every sequence under each, `(curvatures, n_train)`: the divisor of RelatIF
    (Barshan et al. 2020). Raises InputError when a score is not finite.
    """
    first = next(iter(ihvps.values()))
    scores = torch.zeros(len(first), n_train, dtype=first.dtype)
    squares = torch.zeros(len(norms_of), n_train, dtype=first.dtype)
    for batch in stream:
        captured, _ = backward_pass(model, layers, batch)
        for name, record in captured.items():
            gradients = record.gradients()
            scores[:, batch.index] += (ihvps[name].flatten(1) @ gradients.flatten(1).T).cpu()
            for at, matrix in enumerate(norms_of):
                squares[at, batch.index] += matrix.norms(name, gradients).cpu()
    if not torch.isfinite(scores).all():
        raise InputError("some influence scores are not finite: check the model's weights, or raise --damping")
    return (scores / n_train, squares.sqrt()) if norms_of else scores / n_train


def token_scores(captured, ihvps, n_train, queries=None, rows=None) -> torch.Tensor:
    """Influence by layer and token, `(pairs, layer, token)`, each value at the position that was read.

    Pair p is query `queries[p]` with row `rows[p]` of the captured batch; without them all pairs,
    in the order of `itertools.product(queries, rows)`. Sums over layer and token to the sequence's
    influence; exactly 0 on padding.
    """
    by_layer = []
    for name in ihvps:
        record = captured[name]
        if queries is None:
            at = torch.cartesian_prod(torch.arange(len(ihvps[name])), torch.arange(len(record.inputs)))
            queries, rows = at.T.to(record.inputs.device)
        moved = record.output_grads[rows] @ ihvps[name][queries]  # Ds_tᵀ P, (pair, token, in+1)
        by_layer.append((moved * record.inputs[rows]).sum(-1))
    return torch.stack(by_layer, 1) / n_train


def term_scores(model, layers, batch, ihvps, n_train) -> torch.Tensor:
    """Influence of every single loss term −log p(x_{t+1} | x_≤t), `(Q, B, T)`, at the position that was read.

    What a query would lose if that one target were left out of training; sums to the sequence's
    influence. One forward-mode pass a query: the change of all terms as the weights move along the iHVP.
    """
    def losses(theta):
        return token_losses(logits_of(model, batch, as_parameters(theta, layers)), batch.labels)

    theta, found = weights(layers), []
    for query in range(len(next(iter(ihvps.values())))):
        along = {name: ihvp[query] for name, ihvp in ihvps.items()}
        with plain_attention(), torch.no_grad():
            found.append(torch.func.jvp(losses, (theta,), (along,))[1])
    return torch.stack(found) / n_train


def top_indices(scores: torch.Tensor, k: int) -> list[tuple[list[int], list[int]]]:
    """For each query the rows of the k most positive and the k most negative sequences, strongest first.

    A sequence counts as positive only above zero, as negative only below.
    """
    picks = []
    for row in scores:
        order = row.argsort(descending=True, stable=True)
        positive = [i for i in order[:k].tolist() if row[i] > 0]
        negative = [i for i in order.flip(0)[:k].tolist() if row[i] < 0]
        picks.append((positive, negative))
    return picks


def tokenwise(model, layers, stream, ihvps, n_train, pairs) -> dict[tuple[int, int], torch.Tensor]:
    """Token values `(layer, token)` of chosen `(query, story row)` pairs, without padding, on the CPU.

    `stream` gives the batches of the stories named in `pairs`; each story is run once for all the
    queries that chose it.
    """
    wanted, found = {}, {}
    for query, row in pairs:
        wanted.setdefault(row, []).append(query)
    for batch in stream:
        captured, _ = backward_pass(model, layers, batch)
        chosen = [(query, at) for at, row in enumerate(batch.index) for query in wanted[row]]
        queries, rows = torch.tensor(chosen, device=batch.labels.device).T
        for (query, at), values in zip(chosen, token_scores(captured, ihvps, n_train, queries, rows).cpu()):
            found[query, batch.index[at]] = values[:, :batch.mask[at].sum()]
    return found


def shift_to_predicted(values: torch.Tensor) -> torch.Tensor:
    """From `align="input"` to `align="predicted"`: the value of position t moves to token t+1, `(..., token)`."""
    return torch.cat([torch.zeros_like(values[..., :1]), values[..., :-1]], dim=-1)


def entry(rank, row, corpus, values, layers, tokenizer) -> dict:
    """One story's influence as the JSON describes it; `values` `(layer, token)`, `row` its place in the corpus."""
    story, texts = corpus.stories[row], token_texts(tokenizer, corpus.ids[row])
    tokens = zip(texts, values.sum(0).tolist(), [*texts[1:], None])
    return {"rank": rank, "index": row, "id": story.id, "text": story.text, "influence": values.sum().item(),
            "layers": dict(zip(layers, values.sum(1).tolist())),
            "tokens": [{"token": text, "position": t, "influence": value, "predicted": after}
                       for t, (text, value, after) in enumerate(tokens)]}


def _device(model):
    return next(model.parameters()).device
