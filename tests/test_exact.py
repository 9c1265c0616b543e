"""Exact curvature and iterative solvers against matrices that autograd builds entry by entry."""
from functools import partial
from itertools import islice

import pytest
import torch
from builders import language_model_fisher, random_ids, relative, tiny_model
from oracles import BlockDiagonal, Dense, matrix_of
from torch import nn

from helpers.capture import find_layers
from helpers.curvature import EKFAC, KFAC, Diagonal, Identity, Layerwise, pseudo_gradients
from helpers.exact import (GaussNewton, as_parameters, conjugate_gradient_steps,
                           conjugate_gradients, flatten,
                           neumann, preconditioned, unflatten, weights)
from helpers.stories import batches, logits_of, vector_batch

DAMPING = 0.05


@pytest.fixture(scope="module")
def toy():
    """A small classifier in float64, its layers, its data as two batches, a loss of θ anew."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    inputs, labels = torch.randn(30, 4, dtype=torch.float64), torch.randint(3, (30,))
    parts = [vector_batch(inputs[:20], labels[:20]), vector_batch(inputs[20:], labels[20:])]
    parts[1].index = list(range(20, 30))

    def logits(theta):
        first, last = theta[:25].view(5, 5), theta[25:].view(3, 6)
        hidden = (inputs @ first[:, :4].T + first[:, 4]).tanh()
        return hidden @ last[:, :5].T + last[:, 5]
    return model, find_layers(model), lambda: parts, logits, labels


@pytest.fixture(scope="module")
def truth(toy):
    """θ, Hessian, Gauss–Newton matrix: dense, by torch.autograd.functional alone."""
    model, layers, _, logits, labels = toy
    theta = torch.cat([torch.cat([model[at].weight, model[at].bias[:, None]], 1).flatten()
                       for at in (0, 2)]).detach()
    hessian = torch.autograd.functional.hessian(
        lambda t: nn.functional.cross_entropy(logits(t), labels), theta)
    jacobian, p = torch.autograd.functional.jacobian(logits, theta), logits(theta).softmax(-1)
    bend = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    return theta, hessian, torch.einsum("nip,nij,njq->pq", jacobian, bend, jacobian) / len(labels)


def some_vectors(layers, *leading):
    return {name: torch.randn(*leading, *theta.shape, dtype=torch.float64)
            for name, theta in weights(layers).items()}


def test_theta_is_the_models_weights_and_goes_back_into_it(toy, truth):
    model, layers, batches, logits, _ = toy
    theta = flatten(weights(layers))
    assert torch.equal(theta, truth[0])
    moved = as_parameters(unflatten(theta + 0.1, layers), layers)
    found = torch.cat([logits_of(model, batch, moved)[:, 0] for batch in batches()])
    torch.testing.assert_close(found, logits(theta + 0.1), rtol=1e-6, atol=1e-6)


def test_exact_products(toy, truth):
    model, layers, batches, *_ = toy
    matrix, v = GaussNewton(model, layers, batches, DAMPING), some_vectors(layers, 2, 3)
    flat = flatten(v)
    assert relative(matrix.product(flat), flat @ truth[2]) < 1e-8
    for damped in (matrix.damped_product(flat), flatten(matrix.matvec(v))):
        assert relative(damped, flat @ truth[2] + DAMPING * flat) < 1e-8
    assert relative(matrix_of(matrix), truth[2]) < 1e-8
    assert relative(truth[1], truth[2]) > 0.01  # the Hessian is another matrix


def test_every_curvature_solves_what_its_dense_matrix_says(toy, truth):
    """One interface: solve undoes matvec, and both agree with dense() + λI by torch.linalg."""
    model, layers, batches, *_ = toy
    exact = GaussNewton(model, layers, batches, DAMPING, steps=200, tolerance=1e-12)
    matrices = [exact, Dense(truth[2], layers, DAMPING), BlockDiagonal(exact, layers, DAMPING),
                Dense.fisher(model, layers, batches, DAMPING), Identity(layers),
                *(kind.fit(model, layers, batches, DAMPING) for kind in (KFAC, EKFAC, Diagonal))]
    v, layerwise = some_vectors(layers, 2), 0
    for matrix in matrices:
        whole = matrix_of(matrix) + (0 if isinstance(matrix, Identity) else DAMPING) * torch.eye(43)
        assert relative(flatten(matrix.matvec(v)), flatten(v) @ whole.T) < 1e-8
        assert relative(flatten(matrix.solve(v)), torch.linalg.solve(whole, flatten(v).T).T) < 1e-6
        assert isinstance(matrix, Layerwise) == hasattr(matrix, "norms")
        if isinstance(matrix, Layerwise):
            assert relative(matrix.dense("0"), matrix.dense()[:25, :25]) < 1e-8
            one, inverse = v["0"].flatten(1), torch.linalg.inv(whole[:25, :25])
            expected = torch.einsum("bp,pq,bq->b", one, inverse, one)
            assert relative(matrix.norms("0", v["0"]), expected) < 1e-6
            layerwise += 1
    assert layerwise == 5


def test_blocks_are_the_diagonal_blocks_and_nothing_else(toy, truth):
    model, layers, batches, *_ = toy
    found = BlockDiagonal(Dense(truth[2], layers, DAMPING), layers, DAMPING).dense()
    assert relative(found, torch.block_diag(truth[2][:25, :25], truth[2][25:, 25:])) < 1e-8


def test_fishers(toy, truth):
    """Sampled labels converge to G; those of the data give the mean outer product of gradients."""
    model, layers, batches, logits, labels = toy
    few, many = (relative(Dense.fisher(model, layers, batches, 0, draws=draws).dense(), truth[2])
                 for draws in (3, 300))
    assert many < 0.1 and many < few / 4
    losses = nn.functional.cross_entropy(logits(truth[0].requires_grad_()), labels,
                                         reduction="none")
    rows = torch.stack([torch.autograd.grad(loss, truth[0], retain_graph=True)[0]
                        for loss in losses])
    truth[0].requires_grad_(False)
    assert relative(Dense.fisher(model, layers, batches, 0, labels="data").dense(),
                    rows.T @ rows / 30) < 1e-8


def test_diagonal_is_the_diagonal_of_the_fisher(toy):
    model, layers, batches, *_ = toy
    found = Diagonal.fit(model, layers, batches, 0.1,
                         pseudo=partial(pseudo_gradients, labels="data")).dense()
    expected = Dense.fisher(model, layers, batches, 0.1, labels="data").dense()
    assert relative(found, torch.diag(expected.diagonal())) < 1e-8


@pytest.mark.parametrize("kind", ["gpt_neo", "gpt2", "llama"])
def test_gauss_newton_of_a_language_model_with_padding(kind):
    model, ids = tiny_model(kind), random_ids(3, (4, 9))
    name, layer = list(find_layers(model).items())[-1]
    matrix = GaussNewton(model, {name: layer}, lambda: batches(ids, 2), DAMPING)
    v = flatten(some_vectors({name: layer}, 2))
    error = relative(matrix.product(v), v @ language_model_fisher(model, layer, ids))
    # the others compute parts of a pass in float32
    assert error < (1e-9 if kind == "gpt2" else 1e-3)


def test_conjugate_gradients_with_a_good_preconditioner_need_fewer_steps(toy, truth):
    model, layers, batches, *_ = toy
    damping = 1e-4
    exact, v = GaussNewton(model, layers, batches, damping), flatten(some_vectors(layers, 2))
    target = torch.linalg.solve(truth[2] + damping * torch.eye(43), v.T).T
    lengths = []
    for curvature in (None, EKFAC.fit(model, layers, batches, damping)):
        x, history = conjugate_gradients(exact.damped_product, v, preconditioned(curvature, layers),
                                         steps=300, tolerance=1e-9)
        assert relative(x, target) < 1e-3
        lengths.append(len(history))
    assert lengths[1] < lengths[0]


def test_conjugate_gradients_with_a_damping_of_every_weight(toy, truth):
    """Against torch.linalg; along the way each step is nearer in the norm that G + λ defines."""
    model, layers, batches, *_ = toy
    damping = {name: x[0].abs() + 0.01 for name, x in some_vectors(layers, 1).items()}
    exact, v = GaussNewton(model, layers, batches, damping), flatten(some_vectors(layers, 2))
    whole = truth[2] + torch.diag(flatten(damping))
    assert relative(exact.damped_product(v), v @ whole) < 1e-8
    target, before = torch.linalg.solve(whole, v.T).T, torch.inf
    for x, residuals in islice(conjugate_gradient_steps(exact.damped_product, v), 43):
        error = x - target
        distance = torch.einsum("vp,pq,vq->", error, whole, error)
        assert distance < before or distance < 1e-12
        torch.testing.assert_close(residuals, (v - x @ whole).norm(dim=1) / v.norm(dim=1),
                                   rtol=1e-4, atol=1e-9)
        before = distance
    assert relative(x, target) < 1e-4


def test_conjugate_gradients_leave_a_zero_vector_at_zero(toy):
    model, layers, batches, *_ = toy
    one = flatten(some_vectors(layers))
    matvec = GaussNewton(model, layers, batches, DAMPING).damped_product
    x, _ = conjugate_gradients(matvec, torch.stack([torch.zeros_like(one), one]))
    assert (x[0] == 0).all() and (x[1] != 0).any() and torch.isfinite(x).all()


def test_neumann_converges_to_the_solution_and_too_small_a_scale_diverges(toy, truth):
    v = flatten(some_vectors(toy[1]))
    whole = truth[2] + DAMPING * torch.eye(43)
    largest = torch.linalg.eigvalsh(whole)[-1].item()
    target = torch.linalg.solve(whole, v)
    errors = [relative(neumann(whole.matmul, v, largest, steps), target) for steps in (5, 50, 500)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-3
    assert relative(neumann(whole.matmul, v, 0.4 * largest, 200), target) > 1e3
