"""The same factors and scores as kronfluence, an independent implementation, on a small GPT-Neo."""
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from builders import QUERIES, ROOT, random_ids, relative, tiny_model
from safetensors.torch import load_file

from helpers.capture import backward_pass, find_layers
from helpers.curvature import EKFAC, pseudo_gradients
from helpers.influence import query_gradients, sequence_scores, token_scores
from helpers.stories import IGNORE, batches

sys.path.insert(0, str(ROOT / "data"))
from record_kronfluence import Sequences, compute, kronfluence_results  # noqa: E402

LENGTH, DAMPING = 12, 1e-3


def pearson(x, y):
    return torch.corrcoef(torch.stack([x.flatten().double(), y.flatten().double()]))[0, 1].item()


def test_factors_and_scores_equal_kronfluence(tmp_path):
    model, ids = tiny_model("gpt_neo"), random_ids(14, (5, LENGTH + 1))
    layers = find_layers(model)
    ekfac = EKFAC.fit(model, layers, lambda: batches(ids, 4), DAMPING,
                      partial(pseudo_gradients, labels="data"))
    gradients, _ = query_gradients(model, layers, QUERIES)
    ihvps = ekfac.solve(gradients)
    sequence = sequence_scores(model, layers, batches(ids, 4), ihvps, len(ids))
    tokens = torch.zeros(len(QUERIES), len(ids), LENGTH, dtype=torch.float64)
    for batch in batches(ids, 4):
        captured, _ = backward_pass(model, layers, batch)
        places = range(len(batch.index))
        for query in range(len(QUERIES)):
            values = token_scores(captured, ihvps, [query] * len(places), places, len(ids)).sum(1)
            tokens[query, batch.index, :values.shape[-1]] = values

    asked = Sequences([query for query, _ in QUERIES], LENGTH, [start for _, start in QUERIES])
    analyzer, theirs = kronfluence_results(model, list(layers), Sequences(ids, LENGTH), asked,
                                           tmp_path, DAMPING)
    vectors, lambdas = analyzer.load_eigendecomposition("factors"), analyzer.load_lambda_matrices(
        "factors")
    for name in layers:
        q_a, q_s = (vectors[f"{side}_eigenvectors"][name] for side in ("activation", "gradient"))
        basis = torch.kron(q_s, q_a)
        count = lambdas["num_lambda_processed"][name]
        dense = (basis * (lambdas["lambda_matrix"][name] / count).flatten()) @ basis.T
        assert relative(ekfac.dense(name), dense) < 1e-3
    for ours, other in ((sequence, theirs[False].double()), (tokens, theirs[True].double())):
        assert pearson(ours, other) > 0.9999
        torch.testing.assert_close(ours * len(ids), other, rtol=0,
                                   atol=1e-3 * other.abs().max().item())


@pytest.mark.skipif("BERGSON_PYTHON" not in os.environ,
                    reason="set BERGSON_PYTHON to a Python that has bergson 2.5.1")
def test_scores_equal_bergson(tmp_path):
    """As the benchmark runs it, but with labels of the data, and lengths that differ. A story's
    last token, which has no label, is none of bergson's rows of A."""
    def stream():
        return (replace(batch, mask=batch.labels != IGNORE) for batch in batches(ids, 4))
    model, ids = tiny_model("gpt_neo").float(), random_ids(14, (3, LENGTH))
    layers = find_layers(model)
    ekfac = EKFAC.fit(model, layers, stream, pseudo=partial(pseudo_gradients, labels="data"))
    ihvps = ekfac.solve(query_gradients(model, layers, QUERIES)[0])
    ours = sequence_scores(model, layers, batches(ids, 4), ihvps, len(ids)) * len(ids)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "work.json").write_text(json.dumps({
        "ids": ids, "queries": QUERIES, "layers": list(layers), "batch": 4, "threads": 1,
        "data labels": True}))
    subprocess.run([os.environ["BERGSON_PYTHON"], str(ROOT / "data" / "benchmark_peers.py"),
                    "bergson", str(tmp_path)], check=True, capture_output=True)
    theirs = load_file(tmp_path / "scores.safetensors")["scores"]
    assert pearson(ours, theirs) > 0.9999
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3 * theirs.abs().max().item())


@pytest.mark.slow
def test_the_recorded_scores_of_notebook_08_are_those_of_kronfluence_now():
    recorded, now = load_file(ROOT / "data" / "kronfluence_scores.safetensors"), compute()
    assert torch.equal(recorded["rows"], now["rows"])
    for name in ("sequence", "token"):
        assert pearson(now[name], recorded[name]) > 0.9999
        torch.testing.assert_close(now[name], recorded[name], rtol=0,
                                   atol=1e-3 * recorded[name].abs().max().item())
