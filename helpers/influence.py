"""Query gradient → iHVP → scores by sequence, by layer and by token.

I(z) = (1/N) ∇L_qᵀ (G + λI)⁻¹ ∇L(z), in nats of the query's log-probability per extra copy of z:
positive when the copy makes the completion likelier (Grosse et al. 2023, eqs 30 and 31).
"""
import torch

from . import processes
from .capture import backward_pass
from .curvature import as_parameters, weights
from .stories import IGNORE, Batch, InputError, batches, logits_of, plain_attention, token_losses, token_texts


def query_gradients(model, layers, encoded, pad_id=0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """∇L_q = −∇ log p(completion | prompt), one row a query.

    `encoded` holds `(ids, start)` pairs of `encode_query`; only the completion's tokens are targets.
    Returns `({layer: (Q, out, in+1)}, log-probabilities (Q,))`.
    """
    rows, log_probs = {name: [] for name in layers}, []
    for ids, start in encoded:
        (batch,) = batches([ids], pad_id=pad_id)
        batch = batch.to(_device(model))
        batch.labels[:, :start - 1] = IGNORE
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
    scores = finite(processes.total(scores))
    return (scores / n_train, processes.total(squares).sqrt()) if norms_of else scores / n_train


def finite(scores):
    """The scores, checked. Raises InputError."""
    if not torch.isfinite(scores).all():
        raise InputError("some influence scores are not finite: check the model's weights, or raise --damping")
    return scores


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
    return _from_all(found, pairs, len(layers))


def _from_all(found, pairs, layers):
    """`found` of all processes together. They hold different pairs, so sums of tensors filled with zeros will do."""
    if processes.world() == 1 or not pairs:
        return found
    at, lengths = {pair: i for i, pair in enumerate(pairs)}, torch.zeros(len(pairs), dtype=torch.long)
    for pair, values in found.items():
        lengths[at[pair]] = values.shape[1]
    processes.total(lengths)
    every = torch.zeros(len(pairs), layers, int(lengths.max()), dtype=torch.float32)
    for pair, values in found.items():
        every[at[pair], :, :values.shape[1]] = values
    processes.total(every)
    return {pair: every[i, :, :lengths[i]] for pair, i in at.items()}


def loss_slopes(model, layers, batch, direction) -> torch.Tensor:
    """d/ds of every loss term −log p(x_{t+1} | x_≤t) at θ + s·direction, `(B, T)`, 0 without a target.

    One forward-mode pass, whatever the number of terms. `direction` `{layer: (out, in+1)}`: along the
    iHVP of one query, a slope divided by N is the influence of that loss term alone.
    """
    def losses(theta):
        return token_losses(logits_of(model, batch, as_parameters(theta, layers)), batch.labels)

    with plain_attention(), torch.no_grad():
        return torch.func.jvp(losses, (weights(layers),), (direction,))[1]


def other_tokens(model, batch, draws, seed=0) -> torch.Tensor:
    """For each position t ≥ 1 of a single story `draws` tokens ≠ x_t from p(· | x_<t), `(T − 1, draws)`."""
    with torch.no_grad():
        p = logits_of(model, batch)[0, :-1].softmax(-1).cpu()
    p[torch.arange(len(p)), batch.input_ids[0, 1:].cpu()] = 0
    return torch.multinomial(p, draws, replacement=True, generator=torch.Generator().manual_seed(seed))


def input_token_influence(model, layers, ids, direction, n_train, draws=2, seed=0, positions=None, batch_size=8):
    """I(z) − E[I(z with another token read at t, all targets kept)] for the `positions` t (default all), `(T,)`.

    The other token is drawn from the model's own prediction at that place (`other_tokens`). 0 elsewhere; exactly
    0 at the first position, for which there is no prediction, and at the last, which no target reads.
    """
    (batch,) = batches([ids])
    batch, one = batch.to(_device(model)), {name: part[None] for name, part in direction.items()}
    others = other_tokens(model, batch, draws, seed)
    chosen = [t for t in (range(len(ids)) if positions is None else positions) if 0 < t < len(ids) - 1]
    rows = batch.input_ids.repeat(len(chosen) * draws, 1)
    for at, t in enumerate(chosen):
        rows[at * draws:(at + 1) * draws, t] = others[t - 1].to(rows.device)
    found = []
    for part in [batch.input_ids, *rows.split(batch_size)]:
        copies = Batch([0] * len(part), part, batch.mask.expand(len(part), -1), batch.labels.expand(len(part), -1))
        found.append(token_scores(backward_pass(model, layers, copies)[0], one, n_train).sum((1, 2)).cpu())
    original, changed = torch.cat(found).split([1, len(rows)])
    effects = torch.zeros(len(ids), dtype=original.dtype)
    effects[chosen] = original - changed.view(len(chosen), draws).mean(1)
    return effects


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
