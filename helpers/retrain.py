"""Training as a function of the data's weights: retraining, and the exact gradient through it.

Every loss term −log p(x_{t+1} | x_≤t) of story i has a weight w[i, t] (1: as it is, 0: left out, 2: one
more copy). `train` is a deterministic function of the weights, so that f(w), the log-probability of a query
under the trained model, can be measured for any w and, by `metagradient`, differentiated by all of them.
"""
from dataclasses import dataclass, fields

import torch

from .stories import IGNORE, InputError, batches, encode_query, logits_of, plain_attention, token_losses


@dataclass(frozen=True)
class Recipe:
    """How to train: Adam with its epsilon under the root, linear decay to 0 with a linear warm-up over the first
    10% of the steps, batches drawn from a seed.

    The loss of a batch is Σ w ℓ / (batch_size × mean targets of a story): the divisor does not depend on
    the weights, so leaving a story out never makes the others louder.
    """
    epochs: int = 2
    batch_size: int = 32
    rate: float = 1e-3
    betas: tuple = (0.9, 0.99)
    epsilon: float = 1e-7  # inside the square root: there the update is smooth in a gradient near 0

    def order(self, count: int, seed: int) -> list[list[int]]:
        """The rows of every step's batch: each epoch reads all `count` stories in a new order."""
        draw = torch.Generator().manual_seed(seed)
        return [rows.tolist() for _ in range(self.epochs)
                for rows in torch.randperm(count, generator=draw).split(self.batch_size)]


@dataclass
class State:
    """What one step hands to the next: parameters θ and Adam's two moments, all `(P,)`."""
    theta: torch.Tensor
    mean: torch.Tensor
    square: torch.Tensor

    def parts(self):
        return [getattr(self, field.name) for field in fields(self)]


def start(model) -> State:
    """The model's present parameters, no steps taken."""
    theta = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return State(theta, torch.zeros_like(theta), torch.zeros_like(theta))


def parameters_of(model, theta: torch.Tensor) -> dict:
    """θ `(P,)` as `{name: tensor}`, for `logits_of`."""
    named = dict(model.named_parameters())
    parts = theta.split([parameter.numel() for parameter in named.values()])
    return {name: part.view_as(parameter) for (name, parameter), part in zip(named.items(), parts)}


def losses_of(model, batch, theta) -> torch.Tensor:
    """`token_losses` of a batch under the parameters θ, `(B, T)`, on the device of θ."""
    batch = batch.to(theta.device)
    return token_losses(logits_of(model, batch, parameters_of(model, theta)), batch.labels)


def adam(state: State, gradient: torch.Tensor, at: int, steps: int, recipe: Recipe) -> State:
    """Step `at` of `steps`; smooth in `gradient` as long as `recipe.epsilon` > 0 (Kingma and Ba 2015)."""
    one, two = recipe.betas
    mean = one * state.mean + (1 - one) * gradient
    square = two * state.square + (1 - two) * gradient**2
    rate = recipe.rate * min(1, (at + 1) / (0.1 * steps)) * (1 - at / steps)
    update = mean / (1 - one ** (at + 1)) / (square / (1 - two ** (at + 1)) + recipe.epsilon).sqrt()
    return State(state.theta - rate * update, mean, square)


def one_step(model, ids, rows, weights, state, at, steps, recipe, divisor, bends=None) -> State:
    """The state after the batch `rows` with loss weights `(B, T)`.

    `bends` None: no graph is kept. True: differentiable by state and weights. False: the same, but as if the
    gradient did not depend on θ (no curvature).
    """
    batch = _aligned(ids, rows)
    theta = state.theta if bends else state.theta.detach().requires_grad_()
    loss = (weights[:, :batch.labels.shape[1]].to(theta.device) * losses_of(model, batch, theta)).sum() / divisor
    gradient, = torch.autograd.grad(loss, theta, create_graph=bends is not None)
    return adam(state, gradient, at, steps, recipe)


def _aligned(ids, rows):
    """One batch of the rows in the order given."""
    chosen = [ids[row] for row in rows]
    batch, = batches(chosen, len(chosen))
    back = torch.tensor(batch.index).argsort()
    batch.index, batch.input_ids = rows, batch.input_ids[back]
    batch.mask, batch.labels = batch.mask[back], batch.labels[back]
    return batch


def _divisor(ids, recipe):
    return recipe.batch_size * sum(len(row) - 1 for row in ids) / len(ids)


def train(model, ids, recipe: Recipe, seed=0, weights=None, keep=False) -> State | list[State]:
    """The state after all steps from the model's present parameters (which stay), or with `keep` all states.

    `weights`: `(N,)` by story or `(N, T)` by position (of the token that is read), default 1. Stories of weight 0
    are not run at all. Raises InputError when the loss stops being finite.
    """
    weights = _by_position(ids, weights)
    order, state, divisor = recipe.order(len(ids), seed), start(model), _divisor(ids, recipe)
    states = [state]
    for at, rows in enumerate(order):
        rows = [row for row in rows if weights[row].any()]
        state = (one_step(model, ids, rows, weights[rows], state, at, len(order), recipe, divisor) if rows
                 else adam(state, torch.zeros_like(state.theta), at, len(order), recipe))
        if keep:
            states.append(state)
    if not torch.isfinite(state.theta).all():
        raise InputError("training went astray (a parameter is not finite): lower the rate")
    return states if keep else state


def _by_position(ids, weights):
    longest = max(map(len, ids))
    weights = torch.ones(len(ids)) if weights is None else weights
    return weights if weights.dim() == 2 else weights[:, None].expand(-1, longest)


def query_batch(tokenizer, queries, context):
    """All queries as one batch whose only targets are the completions' tokens."""
    encoded = [encode_query(tokenizer, query, context) for query in queries]
    batch = _aligned([ids for ids, _ in encoded], list(range(len(encoded))))
    for row, (_, first) in enumerate(encoded):
        batch.labels[row, :first - 1] = IGNORE
    return batch


def log_probs(model, batch, theta) -> torch.Tensor:
    """f of every query of `query_batch`, `(Q,)` in nats, under the parameters θ."""
    return -losses_of(model, batch, theta).sum(1)


def metagradient(model, ids, recipe: Recipe, seed, states: list[State], questions, bends=True) -> torch.Tensor:
    """∂f_q/∂w[i, t] at w = 1 through every step of training, `(Q, N, T)`: exact, not an approximation.

    Reverse mode over the steps: each is run again from its stored state, with a graph, and hands the
    derivative by (θ, mean, square) back to the step before (Engstrom et al. 2025). `states` is
    `train(…, keep=True)` with the same recipe and seed; `questions` a `query_batch`. With `bends=False` no longer
    exact: a change of θ is then handed on as it is, without what it does to later gradients (as in TracIn,
    Pruthi et al. 2020).
    """
    order, divisor = recipe.order(len(ids), seed), _divisor(ids, recipe)
    found = torch.zeros(len(questions.index), len(ids), max(map(len, ids)), dtype=states[0].theta.dtype)
    theta = states[-1].theta.detach().requires_grad_()
    answers = log_probs(model, questions, theta)
    first = [torch.autograd.grad(answer, theta, retain_graph=True)[0] for answer in answers]
    adjoints = [[grad, torch.zeros_like(grad), torch.zeros_like(grad)] for grad in first]
    for at in reversed(range(len(order))):
        rows = order[at]
        state = State(*(part.detach().requires_grad_() for part in states[at].parts()))
        weights = torch.ones(len(rows), found.shape[-1], dtype=found.dtype, requires_grad=True)
        with plain_attention():
            after = one_step(model, ids, rows, weights, state, at, len(order), recipe, divisor, bends)
        for query, adjoint in enumerate(adjoints):
            *adjoints[query], by_weight = torch.autograd.grad(
                after.parts(), [*state.parts(), weights], grad_outputs=adjoint, retain_graph=True)
            found[query, rows] += by_weight
    return found
