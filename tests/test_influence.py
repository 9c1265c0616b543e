"""Scores against autograd with a dense inverse, finite differences and leave-one-out retraining."""
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from builders import (QUERIES, ROOT, ROUNDING, autograd_gradient, loss_of, query_loss, random_ids,
                      tiny_model)
from torch import nn

from helpers.capture import backward_pass, find_layers
from helpers.curvature import EKFAC, KFAC, Identity
from helpers.influence import (Strongest, loss_slopes, query_gradients, scores_and_lengths,
                               sequence_scores, shift_to_predicted, token_scores, tokenwise,
                               top_indices)
from helpers.stories import EncodedQuery, InputError, batches
from helpers.terminal.index import finite

sys.path.insert(0, str(ROOT / "data"))
from record_counterfactuals import input_token_influence, other_tokens  # noqa: E402


def near(found, expected, family):
    """Equal up to rounding in the family's coarsest step, measured on the largest value."""
    room = 100 * ROUNDING[family]
    torch.testing.assert_close(found, expected, rtol=room, atol=room * expected.abs().max().item())


def setting(family, dtype=torch.float64, count=10, method=EKFAC):
    model, ids = tiny_model(family, dtype), random_ids(count)
    layers = find_layers(model)
    matrix = (Identity(layers) if method is Identity
              else method.fit(model, layers, lambda: batches(ids, 4)))
    gradients, log_probs = query_gradients(model, layers, QUERIES)
    return model, layers, ids, matrix, matrix.solve(gradients), log_probs


def all_token_scores(model, layers, ids, ihvps, size=4):
    found = {}
    for batch in batches(ids, size):
        captured, _ = backward_pass(model, layers, batch)
        pairs = torch.cartesian_prod(torch.arange(len(QUERIES)), torch.arange(len(batch.index)))
        values = token_scores(captured, ihvps, *pairs.T, len(ids))
        for (query, at), value in zip(pairs.tolist(), values):
            found[query, batch.index[at]] = value
    return found


@pytest.mark.parametrize("method", [EKFAC, KFAC, Identity])
def test_scores_equal_autograd_gradients_through_a_dense_inverse(family, method):
    model, layers, ids, matrix, ihvps, log_probs = setting(family, method=method)
    scores = sequence_scores(model, layers, batches(ids, 3), ihvps, len(ids))
    asked = [query_loss(model, tokens, start) for tokens, start in QUERIES]
    losses, expected = [loss_of(model, sequence) for sequence in ids], 0
    near(log_probs, -torch.stack(asked), family)
    for name, layer in layers.items():
        g = matrix.dense(name)
        if method is not Identity:
            g = g + matrix.damping[name] * torch.eye(len(g), dtype=torch.float64)
        q, r = (torch.stack([autograd_gradient(layer, loss).flatten() for loss in some])
                for some in (asked, losses))
        expected = expected + q @ torch.linalg.solve(g, r.T) / len(ids)
    near(scores, expected, family)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize("method", [EKFAC, KFAC, Identity])
def test_completeness_tokens_and_layers_sum_to_the_sequence(family, dtype, tolerance, method):
    model, layers, ids, _, ihvps, _ = setting(family, dtype, method=method)
    scores = sequence_scores(model, layers, batches(ids, 4), ihvps, len(ids))
    for (query, row), values in all_token_scores(model, layers, ids, ihvps).items():
        assert values.shape[0] == len(layers)
        assert abs(values.sum() - scores[query, row]) <= tolerance * values.abs().sum()


def test_padding_is_exactly_zero_and_batches_do_not_matter(family):
    model, layers, ids, _, ihvps, _ = setting(family)
    together, alone = (all_token_scores(model, layers, ids, ihvps, size) for size in (10, 1))
    padded = 0
    for (query, row), values in together.items():
        padded += values.shape[1] - len(ids[row])
        assert (values[:, len(ids[row]):] == 0).all()
        assert (values[:, len(ids[row]) - 1] == 0).all()  # the last token has nothing to predict
        near(values[:, :len(ids[row])], alone[query, row], family)
    assert padded > 0


def test_tokenwise_picks_the_same_values_as_all_pairs():
    model, layers, ids, _, ihvps, _ = setting("gpt_neo")
    everything = all_token_scores(model, layers, ids, ihvps)
    pairs = [(0, 4), (1, 4), (1, 0), (0, 9)]
    stream = (batch for batch in batches(ids, 4) if {0, 4, 9} & set(batch.index))
    wanted = {row for _, row in pairs}
    stream = (one for batch in stream for one in only(batch, wanted))
    found = tokenwise(model, layers, stream, ihvps, len(ids), pairs)
    assert set(found) == set(pairs)
    for query, row in pairs:
        near(found[query, row], everything[query, row][:, :len(ids[row])], "gpt_neo")


def only(batch, wanted):
    keep = [at for at, row in enumerate(batch.index) if row in wanted]
    if keep:
        yield type(batch)([batch.index[at] for at in keep], batch.input_ids[keep], batch.mask[keep],
                          batch.labels[keep])


def test_two_stories_have_two_profiles_and_a_changed_query_changes_them(family):
    model, layers, _, _, ihvps, _ = setting(family)
    ids = random_ids(12, (20, 21), seed=4)
    values = all_token_scores(model, layers, ids, ihvps)
    for query in range(2):
        profiles = torch.stack([values[query, row].sum(0) for row in range(len(ids))])
        correlation = torch.corrcoef(profiles)[~torch.eye(len(ids), dtype=torch.bool)]
        assert correlation.mean().abs() < 0.3 and correlation.max() < 0.95
    for row in range(len(ids)):
        one, other = values[0, row].sum(0), values[1, row].sum(0)
        assert torch.corrcoef(torch.stack([one, other]))[0, 1] < 0.95


def test_token_values_equal_the_effect_of_one_tokens_term():
    """r_t = Ds_t ā_tᵀ: nudging the output at position t along P ā_t changes the loss by −N·I_t."""
    model, layers, ids, _, ihvps, _ = setting("gpt2")
    values, sequence = all_token_scores(model, layers, ids, ihvps)[0, 3], ids[3]
    largest = values.abs().max().item()
    (batch,) = batches([sequence], 1)
    captured, _ = backward_pass(model, layers, batch)
    step = 1e-5
    for layer_at, (name, layer) in enumerate(layers.items()):
        for t in range(len(sequence) - 1):
            push = torch.zeros(len(sequence), ihvps[name].shape[1], dtype=torch.float64)
            push[t] = ihvps[name][0] @ captured[name].inputs[0, t]
            losses = []
            for sign in (step, -step):
                def nudged(module, args, output, push=sign * push):
                    return output + push
                handle = layer.register_forward_hook(nudged)
                losses.append(loss_of(model, sequence).item())
                handle.remove()
            slope = (losses[0] - losses[1]) / (2 * step) / len(ids)
            assert values[layer_at, t].item() == pytest.approx(slope, rel=1e-3, abs=1e-4 * largest)


def test_normalised_scores_divide_by_the_preconditioned_norm():
    model, layers, ids, matrix, ihvps, _ = setting("gpt2")
    scores, norms = scores_and_lengths(model, layers, batches(ids, 4), ihvps,
                                       [matrix, Identity(layers)], len(ids))
    assert torch.equal(scores, sequence_scores(model, layers, batches(ids, 4), ihvps, len(ids)))
    for row, sequence in enumerate(ids):
        preconditioned = plain = 0
        for name, layer in layers.items():
            r = autograd_gradient(layer, loss_of(model, sequence))[None]
            preconditioned += (r * matrix.solve({name: r})[name]).sum().item()
            plain += r.pow(2).sum().item()
        assert norms[:, row].tolist() == pytest.approx([preconditioned ** 0.5, plain ** 0.5],
                                                       rel=1e-4)


def test_predicted_alignment_is_a_shift_by_one():
    values = torch.tensor([[1.0, 2.0, 3.0, 0.0]])
    assert shift_to_predicted(values).tolist() == [[0.0, 1.0, 2.0, 3.0]]


def test_top_indices_keep_signs_apart_and_order():
    scores = torch.tensor([[0.5, -2.0, 0.0, 3.0, -1.0]])
    assert top_indices(scores, 2) == [Strongest(positive=[3, 0], negative=[1, 4])]
    assert top_indices(torch.tensor([[1.0, 2.0]]), 2) == [Strongest([1, 0], [])]


def test_parts_of_the_stories_give_scores_that_add_up():
    """What two processes do with a share each: rows that a stream does not hold stay exactly 0."""
    model, layers, ids, _, ihvps, _ = setting("llama")
    whole, split = sequence_scores(model, layers, batches(ids, 4), ihvps, len(ids)), 0
    for rows in (range(0, len(ids), 2), range(1, len(ids), 2)):
        stream = [replace(batch, index=[rows[place] for place in batch.index])
                  for batch in batches([ids[row] for row in rows], 4)]
        part = sequence_scores(model, layers, stream, ihvps, len(ids))
        assert part.nonzero()[:, 1].unique().tolist() == list(rows)
        split = split + part
    near(split, whole, "llama")


def test_scores_that_are_not_finite_are_refused():
    model, layers, ids, _, ihvps, _ = setting("gpt2")
    broken = {name: value * float("inf") for name, value in ihvps.items()}
    scores = sequence_scores(model, layers, batches(ids, 4), broken, len(ids))
    with pytest.raises(InputError, match="not finite"):
        finite(scores)


# -- retraining ----------------------------------------------------------------------------------

class Bigram(nn.Module):
    """Next token from this token's fixed random features through one trained layer.

    Convex, so it can be retrained exactly.
    """

    def __init__(self, vocabulary=5, width=4):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.features = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64)
        self.mlp = nn.Linear(width, vocabulary, dtype=torch.float64)

    def forward(self, input_ids, use_cache=False):
        return SimpleNamespace(logits=self.mlp(self.features[input_ids]))


def objective(model, ids, weights, decay):
    """Mean over stories of the weighted summed loss, all pairs at once, and weight decay."""
    pairs = torch.tensor([pair for sequence in ids for pair in zip(sequence, sequence[1:])])
    owner = torch.tensor([row for row, sequence in enumerate(ids) for _ in sequence[1:]])
    losses = nn.functional.cross_entropy(model(pairs[:, 0]).logits, pairs[:, 1], reduction="none")
    size = sum(p.pow(2).sum() for p in model.parameters())
    return weights[owner] @ losses / len(ids) + decay / 2 * size


def train(ids, weights, decay, start=None):
    model = Bigram()
    nn.init.zeros_(model.mlp.weight), nn.init.zeros_(model.mlp.bias)
    if start:
        model.load_state_dict(start)
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=500, tolerance_grad=1e-11,
                                  tolerance_change=1e-14,
                                  line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        value = objective(model, ids, weights, decay)
        value.backward()
        return value

    optimiser.step(closure)
    return model


def test_influence_has_the_sign_and_size_of_leave_one_out_retraining():
    ids, decay = [[token % 5 for token in sequence] for sequence in random_ids(40, (4, 12))], 0.3
    query = EncodedQuery([2, 4], 1)
    model = train(ids, torch.ones(len(ids), dtype=torch.float64), decay)
    layers = find_layers(model)
    stream = partial(batches, ids * 300, 400)  # many label draws: close to the expectation
    gradients, log_probs = query_gradients(model, layers, [query])
    before = log_probs[0].item()
    changes = []
    for row in range(len(ids)):
        weights = torch.ones(len(ids), dtype=torch.float64)
        weights[row] = 0
        without = train(ids, weights, decay, model.state_dict())
        changes.append(before + query_loss(without, *query).item())  # what the story had added
    changes = torch.tensor(changes, dtype=torch.float64)
    for method, wanted in ((EKFAC, 0.97), (KFAC, 0.95)):
        matrix = method.fit(model, layers, stream, damping=decay)
        scores = sequence_scores(model, layers, batches(ids, 8), matrix.solve(gradients),
                                 len(ids))[0]
        assert torch.corrcoef(torch.stack([scores, changes]))[0, 1] > wanted
        strong = changes.abs() > changes.abs().median()
        assert (scores[strong].sign() == changes[strong].sign()).all()
        slope = (scores @ changes / (changes @ changes)).item()
        assert 0.6 < slope < 1.5


def term_losses(model, ids, targets):
    """−log p(targets[t] | ids[:t + 1]) for every position with a target."""
    log_probs = model(input_ids=torch.tensor([ids])).logits[0, :len(targets)].log_softmax(-1)
    return -log_probs.gather(1, torch.tensor(targets)[:, None])[:, 0]


def test_slopes_along_the_ihvp_are_the_influence_of_single_loss_terms(family):
    model, layers, ids, _, ihvps, _ = setting(family)
    direction, story = {name: one[0] for name, one in ihvps.items()}, max(ids, key=len)
    (batch,) = batches([story])
    slopes = loss_slopes(model, layers, batch, direction)[0]
    expected = [sum((direction[name] * autograd_gradient(layer, loss)).sum()
                    for name, layer in layers.items())
                for loss in term_losses(model, story, story[1:])]
    near(slopes[:-1], torch.stack(expected), family)
    assert slopes[-1] == 0


def test_input_token_influence_equals_one_changed_story_after_the_other(family):
    model, layers, ids, _, ihvps, _ = setting(family)
    direction, story = {name: one[1] for name, one in ihvps.items()}, max(ids, key=len)
    (batch,) = batches([story])
    others = other_tokens(model, batch, 3, seed=5)
    assert (others != torch.tensor(story[1:])[:, None]).all()

    def influence(read):
        loss = term_losses(model, read, story[1:]).sum()
        return sum((direction[name] * autograd_gradient(layer, loss)).sum()
                   for name, layer in layers.items())

    original, expected = influence(story), []
    for at in range(1, len(story)):
        changed = [influence([*story[:at], token, *story[at + 1:]])
                   for token in others[at - 1].tolist()]
        expected.append(original - sum(changed) / 3)
    found = input_token_influence(model, layers, story, direction, 7, draws=3, seed=5, batch_size=4)
    assert found[0] == 0 and found[-1] == 0
    near(found[1:] * 7, torch.stack(expected), family)
    some = input_token_influence(model, layers, story, direction, 7, draws=3, seed=5,
                                 positions=[0, 2, 4])
    assert some.nonzero()[:, 0].tolist() == [2, 4] and (found[[2, 4]] != 0).all()
    assert (some - found)[[2, 4]].abs().max() < 100 * ROUNDING[family] * found.abs().max()


def test_another_token_follows_the_model_without_the_true_one():
    model, ids = tiny_model("gpt_neo"), random_ids(1, (6, 7))
    (batch,) = batches(ids)
    drawn = other_tokens(model, batch, 20000, seed=1)
    p = model(input_ids=batch.input_ids).logits[0, :-1].softmax(-1).detach()
    for at, row in enumerate(drawn):
        expected = p[at].clone()
        expected[ids[0][at + 1]] = 0
        shares = torch.bincount(row, minlength=len(expected)) / len(row)
        torch.testing.assert_close(shares.double(), expected / expected.sum(), rtol=0, atol=0.02)
    assert torch.equal(drawn, other_tokens(model, batch, 20000, seed=1))
