"""The same factors and scores as kronfluence, an independent implementation, on a small GPT-Neo."""
import logging
from functools import partial

import torch
import torch.nn.functional as F
from conftest import random_ids, tiny_model
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from torch.utils.data import Dataset

from helpers.capture import backward_pass, find_layers
from helpers.curvature import EKFAC, fit_blocks, pseudo_gradients
from helpers.influence import query_gradients, sequence_scores, token_scores
from helpers.stories import batches

LENGTH, DAMPING = 12, 1e-3


class Sequences(Dataset):
    """Fixed-length rows: kronfluence's token scores need equal lengths."""

    def __init__(self, ids, starts=None, length=LENGTH):
        self.rows = []
        for row, sequence in enumerate(ids):
            padded = torch.tensor(sequence + [0] * (length - len(sequence)))
            mask = (torch.arange(length) < len(sequence)).long()
            labels = F.pad(padded[1:], (0, 1)).masked_fill(F.pad(mask[1:], (0, 1)) == 0, -100)
            if starts:
                labels[: starts[row] - 1] = -100
            self.rows.append({"input_ids": padded, "attention_mask": mask, "labels": labels})

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, at):
        return self.rows[at]


class LabelledTask(Task):
    """Summed next-token loss; labels sampled from the model where kronfluence asks for it."""

    def __init__(self, names):
        super().__init__()
        self.names = names

    def compute_train_loss(self, batch, model, sample=False):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        labels = batch["labels"]
        if sample:
            drawn = torch.multinomial(logits.detach().flatten(0, 1).softmax(-1), 1).view_as(labels)
            labels = torch.where(labels == -100, labels, drawn)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")

    def compute_measurement(self, batch, model):
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self):
        return self.names

    def get_attention_mask(self, batch):
        return batch["attention_mask"]


def kronfluence_results(model, names, train, queries, folder):
    task = LabelledTask(names)
    analyzer = Analyzer("parity", prepare_model(model, task), task, cpu=True, output_dir=str(folder), disable_tqdm=True,
                        log_level=logging.ERROR)
    doubles = {"per_sample_gradient_dtype": torch.float64}
    factors = FactorArguments(strategy="ekfac", use_empirical_fisher=True, activation_covariance_dtype=torch.float64,
                              gradient_covariance_dtype=torch.float64, lambda_dtype=torch.float64,
                              eigendecomposition_dtype=torch.float64, **doubles)
    analyzer.fit_all_factors("factors", train, per_device_batch_size=4, factor_args=factors)
    found = {}
    for tokens in (False, True):
        scores = ScoreArguments(damping_factor=DAMPING, compute_per_token_scores=tokens, score_dtype=torch.float64,
                                precondition_dtype=torch.float64, **doubles)
        name = f"tokens-{tokens}"
        analyzer.compute_pairwise_scores(name, "factors", queries, train, per_device_query_batch_size=2,
                                         per_device_train_batch_size=4, score_args=scores)
        found[tokens] = analyzer.load_pairwise_scores(name)["all_modules"]
    return analyzer, found


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

    analyzer, theirs = kronfluence_results(model, list(layers), Sequences(ids),
                                           Sequences([q for q, _ in queries], [s for _, s in queries]), tmp_path)
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
