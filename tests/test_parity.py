"""The same factors and scores as kronfluence, an independent implementation, on a small GPT-Neo."""
import sys
from functools import partial

import torch
from builders import ROOT, random_ids, tiny_model
from safetensors.torch import load_file

from helpers.capture import backward_pass, find_layers
from helpers.curvature import EKFAC, fit_blocks, pseudo_gradients
from helpers.influence import query_gradients, sequence_scores, token_scores
from helpers.stories import batches

sys.path.insert(0, str(ROOT / "data"))
from record_kronfluence import Sequences, compute, kronfluence_results  # noqa: E402

LENGTH, DAMPING = 12, 1e-3


def pearson(x, y):
    return torch.corrcoef(torch.stack([x.flatten().double(), y.flatten().double()]))[0, 1].item()


def test_factors_and_scores_equal_kronfluence(tmp_path):
    model, ids = tiny_model("gpt_neo"), random_ids(14, (5, LENGTH + 1))
    queries = [([3, 8, 1, 14, 9], 3), ([5, 5, 2, 7], 2)]
    layers = find_layers(model)
    blocks = fit_blocks("ekfac", model, layers, lambda: batches(ids, 4), partial(pseudo_gradients, labels="data"))
    gradients, _ = query_gradients(model, layers, queries)
    ihvps = EKFAC(blocks, DAMPING).solve(gradients)
    sequence = sequence_scores(model, layers, batches(ids, 4), ihvps, len(ids))
    tokens = torch.zeros(len(queries), len(ids), LENGTH, dtype=torch.float64)
    for batch in batches(ids, 4):
        values = token_scores(backward_pass(model, layers, batch)[0], ihvps, len(ids)).sum(1)
        tokens[:, batch.index, :values.shape[-1]] = values.unflatten(0, (len(queries), -1))

    analyzer, theirs = kronfluence_results(model, list(layers), Sequences(ids, LENGTH),
                                           Sequences([q for q, _ in queries], LENGTH, [s for _, s in queries]), tmp_path,
                                           DAMPING)
    vectors, lambdas = analyzer.load_eigendecomposition("factors"), analyzer.load_lambda_matrices("factors")
    for name in layers:
        q_a, q_s = (vectors[f"{side}_eigenvectors"][name] for side in ("activation", "gradient"))
        basis = torch.kron(q_s, q_a)
        count = lambdas["num_lambda_processed"][name]
        dense = (basis * (lambdas["lambda_matrix"][name] / count).flatten()) @ basis.T
        torch.testing.assert_close(EKFAC(blocks, DAMPING).dense(name), dense, rtol=1e-5, atol=1e-5 * dense.abs().max().item())
    assert pearson(sequence, theirs[False]) > 0.9999
    assert pearson(tokens, theirs[True]) > 0.9999
    torch.testing.assert_close(sequence * len(ids), theirs[False].double(), rtol=1e-4, atol=1e-4 * sequence.abs().max().item() * len(ids))
    torch.testing.assert_close(tokens * len(ids), theirs[True].double(), rtol=1e-4, atol=1e-4 * tokens.abs().max().item() * len(ids))


def test_the_recorded_scores_of_notebook_06_are_those_of_kronfluence_now():
    recorded, now = load_file(ROOT / "data" / "kronfluence_scores.safetensors"), compute()
    assert torch.equal(recorded["rows"], now["rows"])
    for name in ("sequence", "token"):
        torch.testing.assert_close(now[name], recorded[name], rtol=1e-5, atol=1e-6 * recorded[name].abs().max().item())
