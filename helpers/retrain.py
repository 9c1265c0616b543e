"""Training as a function of the data's weights: retraining, and the exact gradient through it.

Every loss term −log p(x_{t+1} | x_≤t) of story i has a weight w[i, t] (1: as it is, 0: left out,
2: one more copy). `train` is a deterministic function of the weights, so that f(w), the
log-probability of a query under the trained model, can be measured for any w and, by
`metagradient`, differentiated by all of them."""
from dataclasses import dataclass, fields
from functools import partial

import torch

from .exact import joined
from .stories import (Batch, Corpus, InputError, batches, completion_masks, encode_query,
                      logits_of, padded, plain_attention, token_losses)


@dataclass(frozen=True)
class Recipe:
    """How to train: Adam with its epsilon under the root, batches drawn from a seed.
    The rate decays linearly to 0, after a linear warm-up over the first 10% of the steps. The loss
    of a batch is Σ w ℓ / (batch_size × mean targets of a story): the divisor does not depend on
    the weights, so the loss is linear in them. (Adam itself undoes a factor common to all.)
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

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of step `step` of `steps`."""
        return self.rate * min(1, (step + 1) / (0.1 * steps)) * (1 - step / steps)

    def divisor(self, ids: list[list[int]]) -> float:
        """What the summed loss of a batch is divided by."""
        return self.batch_size * sum(len(row) - 1 for row in ids) / len(ids)


@dataclass
class State:
    """What one step hands to the next: parameters θ and Adam's two moments, all `(P,)`."""
    theta: torch.Tensor
    mean: torch.Tensor
    square: torch.Tensor

    def parts(self):
        return [getattr(self, field.name) for field in fields(self)]

    def root(self, step: int, recipe: Recipe) -> torch.Tensor:
        """√v̂ of Adam after step `step`, `(P,)`: what it has divided the gradient by."""
        return (self.square / (1 - recipe.betas[1] ** (step + 1)) + recipe.epsilon).sqrt()


def start(model) -> State:
    """The model's present parameters, those that are frozen left out; no steps taken."""
    theta = torch.cat([parameter.detach().flatten() for parameter in trainable(model).values()])
    return State(theta, torch.zeros_like(theta), torch.zeros_like(theta))


def trainable(model) -> dict:
    """The parameters that are not frozen, `{name: parameter}`."""
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


def parameters_of(model, theta: torch.Tensor) -> dict:
    """θ `(P,)` as `{name: tensor}`, for `logits_of`."""
    named = trainable(model)
    parts = theta.split([parameter.numel() for parameter in named.values()])
    return {name: part.view_as(parameter)
            for (name, parameter), part in zip(named.items(), parts)}


@torch.no_grad()
def put(model, theta: torch.Tensor):
    """The model itself, its parameters now those of θ."""
    for name, value in parameters_of(model, theta).items():
        model.get_parameter(name).copy_(value)
    return model


def losses_of(model, batch: Batch, theta: torch.Tensor) -> torch.Tensor:
    """`token_losses` of a batch under the parameters θ, `(B, T)`, on the device of θ."""
    batch = batch.to(theta.device)
    return token_losses(logits_of(model, batch, parameters_of(model, theta)), batch.labels)


def adam(state: State, gradient: torch.Tensor, step: int, steps: int, recipe: Recipe) -> State:
    """Step `step` of `steps` (Kingma and Ba 2015); smooth in `gradient` where epsilon > 0."""
    beta_1, beta_2 = recipe.betas
    mean = beta_1 * state.mean + (1 - beta_1) * gradient
    square = beta_2 * state.square + (1 - beta_2) * gradient**2
    after = State(state.theta, mean, square)
    update = mean / (1 - beta_1 ** (step + 1)) / after.root(step, recipe)
    return State(state.theta - recipe.rate_at(step, steps) * update, mean, square)


def one_step(model, ids, rows, weights, state, step, steps, recipe, divisor, bends=None) -> State:
    """The state after the batch `rows` with loss weights `(B, T)`.

    `bends` None: no graph is kept. True: differentiable by state and weights. False: the same, but
    as if the gradient did not depend on θ (no curvature).
    """
    batch = padded(ids, rows)
    theta = state.theta if bends else state.theta.detach().requires_grad_()
    weights = weights[:, :batch.labels.shape[1]].to(theta.device)
    loss = (weights * losses_of(model, batch, theta)).sum() / divisor
    gradient, = torch.autograd.grad(loss, theta, create_graph=bends is not None)
    return adam(state, gradient, step, steps, recipe)


def train(model, ids, recipe: Recipe, seed=0, weights=None) -> State:
    """The state after all steps from the model's present parameters (which stay).
    `weights`: `(N,)` by story or `(N, T)` by position (of the token that is read), default 1.
    Stories of weight 0 are not run at all. Raises InputError when a parameter stops being finite.
    """
    for state in states(model, ids, recipe, seed, weights):  # noqa: B007, one at a time in memory
        pass
    return state


def trajectory(model, ids, recipe: Recipe, seed=0, weights=None) -> list[State]:
    """All `states` in a list."""
    return list(states(model, ids, recipe, seed, weights))


def states(model, ids, recipe: Recipe, seed=0, weights=None):
    """Yields every state of `train`, from before the first step to after the last."""
    order, state, divisor = recipe.order(len(ids), seed), start(model), recipe.divisor(ids)
    weights = torch.ones(len(ids)) if weights is None else weights
    if weights.dim() == 1:
        weights = weights[:, None].expand(-1, max(map(len, ids)))
    yield state
    for step, rows in enumerate(order):
        rows = [row for row in rows if weights[row].any()]
        place = step, len(order), recipe
        state = (one_step(model, ids, rows, weights[rows], state, *place, divisor) if rows
                 else adam(state, torch.zeros_like(state.theta), *place))
        yield state
    if not torch.isfinite(state.theta).all():
        raise InputError("training went astray (a parameter is not finite): lower the rate")


def loss_weights(corpus: Corpus) -> torch.Tensor:
    """Weights `(N, T)` for `train`: 0 where the loss does not count; where it does such that the
    divisor is the mean number of the terms that count."""
    weights = torch.zeros(len(corpus), max(map(len, corpus.ids)))
    for row, ids in enumerate(corpus.ids):
        mask = corpus.loss_masks[row] if corpus.loss_masks else [True] * len(ids)
        weights[row, :len(ids) - 1] = torch.tensor(mask[1:]).float()
    return weights * (sum(map(len, corpus.ids)) - len(corpus)) / weights.sum()


def query_batch(tokenizer, queries, context: int) -> Batch:
    """All queries as one batch whose only targets are the completions' tokens."""
    encoded = [encode_query(tokenizer, query, context) for query in queries]
    return padded([query.ids for query in encoded], list(range(len(encoded))),
                  completion_masks(encoded))


def log_probs(model, batch: Batch, theta: torch.Tensor) -> torch.Tensor:
    """f of every query of `query_batch`, `(Q,)` in nats, under the parameters θ."""
    return -losses_of(model, batch, theta).sum(1)


def metagradient(model, ids, recipe: Recipe, seed, states: list[State], questions: Batch,
                 bends=True) -> torch.Tensor:
    """∂f_q/∂w[i, t] at w = 1 through every step of training, `(Q, N, T)`: exact.

    Reverse mode over the steps: each is run again from its stored state, with a graph, and hands
    the derivative by (θ, mean, square) back to the step before (Engstrom et al. 2025). `states` is
    the `trajectory` with the same recipe and seed; `questions` a `query_batch`. With `bends=False`
    no longer exact: a change of θ is then handed on as it is, without what it does to later
    gradients (as in TracIn, Pruthi et al. 2020).
    """
    order, divisor = recipe.order(len(ids), seed), recipe.divisor(ids)
    theta = states[-1].theta.detach().requires_grad_()
    gradient = torch.zeros(len(questions.index), len(ids), max(map(len, ids)), dtype=theta.dtype)
    answers = log_probs(model, questions, theta)
    first = [torch.autograd.grad(answer, theta, retain_graph=True)[0] for answer in answers]
    adjoints = [[grad, torch.zeros_like(grad), torch.zeros_like(grad)] for grad in first]
    for step in reversed(range(len(order))):
        rows = order[step]
        state = State(*(part.detach().requires_grad_() for part in states[step].parts()))
        weights = torch.ones(len(rows), gradient.shape[-1], dtype=theta.dtype, requires_grad=True)
        with plain_attention():
            after = one_step(model, ids, rows, weights, state, step, len(order), recipe, divisor,
                             bends)
        for query, adjoint in enumerate(adjoints):
            *adjoints[query], by_weight = torch.autograd.grad(
                after.parts(), [*state.parts(), weights], grad_outputs=adjoint, retain_graph=True)
            gradient[query, rows] += by_weight
    return gradient


# -- without unrolling ---------------------------------------------------------------------------

def path_damping(states: list[State], ids, recipe: Recipe, part=slice(None)) -> torch.Tensor:
    """What a training of few steps does as a damping: λ of every parameter, `(P,)`.

    With m the mean targets of a story, Adam moves θ by −η_k/(m √v̂_k) times the gradient of the
    mean loss; followed for the time Σ_k η_k/(m √v̂_k), a change of the loss has gone as far as a
    damping of 1/time lets it (1/(ηT) for gradient descent). `part` chooses steps. `states` is the
    `trajectory`.
    """
    steps = len(states) - 1
    times = [recipe.rate_at(step, steps) / states[step + 1].root(step, recipe)
             for step in range(steps)[part]]
    return recipe.divisor(ids) / recipe.batch_size / sum(times)


def layer_places(model, layers: dict) -> dict[str, torch.Tensor]:
    """Where each layer's weights lie in θ, `{layer: (out, in+1)}`; tied weights have one place."""
    places = parameters_of(model, torch.arange(len(start(model).theta)))
    own = {id(parameter): places[name] for name, parameter in trainable(model).items()}
    return {name: joined(layer, lambda parameter: own[id(parameter)])
            for name, layer in layers.items()}


def term_slopes(model, ids, theta: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """d/ds of every loss term at θ + s·direction for directions `(Q, P)`: `(Q, N, T)`.
    Along an iHVP, a slope divided by N is the influence of that loss term alone."""
    slopes = theta.new_zeros(len(directions), len(ids), max(map(len, ids)))
    for batch in batches(ids, 8):
        def along(direction, batch=batch):
            return torch.func.jvp(partial(losses_of, model, batch), (theta,), (direction,))[1]
        with plain_attention(), torch.no_grad():
            values = torch.func.vmap(along, chunk_size=8)(directions)
        slopes[:, batch.index, :values.shape[-1]] = values
    return slopes
