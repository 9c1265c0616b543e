"""Writes kronfluence_scores.safetensors: influence by sequence and token as kronfluence has it.

    python data/record_kronfluence.py [--out data/kronfluence_scores.safetensors]

The default model, as transformers ships it, in double precision, 24 planted stories, 3 queries,
EK-FAC with the empirical Fisher (nothing is sampled, so both sides can be compared digit by digit),
a damping of 1e-3. Needs kronfluence, which the notebooks do not (tests/requirements.txt). Takes a
minute on 2 cores.
"""
import argparse
import logging
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from record_planted import HERE, MADE_FROM
from torch.utils.data import Dataset

from helpers.capture import find_layers
from helpers.sources import load_model, load_planted, load_stories, rows_of
from helpers.sources.records import save_record
from helpers.stories import IGNORE, Query, encode_query, tokenise

DAMPING = 1e-3
ITEMS, TEACHERS, OPPONENTS = ("keep-0", "eat-1", "sleep-1"), 5, 3


class Sequences(Dataset):
    """Rows padded to one length, which kronfluence's token scores need.

    `starts`: the first completion token of every query.
    """

    def __init__(self, ids, length, starts=None):
        self.rows = []
        for row, sequence in enumerate(ids):
            padded = torch.tensor(sequence + [0] * (length - len(sequence)))
            mask = (torch.arange(length) < len(sequence)).long()
            labels = F.pad(padded[1:], (0, 1)).masked_fill(F.pad(mask[1:], (0, 1)) == 0, IGNORE)
            if starts:
                labels[:starts[row] - 1] = IGNORE
            self.rows.append({"input_ids": padded, "attention_mask": mask, "labels": labels})

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.rows[row]


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
            labels = torch.where(labels == IGNORE, labels, drawn)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE,
                               reduction="sum")

    def compute_measurement(self, batch, model):
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self):
        return self.names

    def get_attention_mask(self, batch):
        return batch["attention_mask"]


def kronfluence_results(model, names, train, queries, folder, damping=DAMPING):
    """`(analyzer with its factors, {False: (Q, N) by sequence, True: (Q, N, T) by token})`.

    The scores are without the factor 1/N.
    """
    task = LabelledTask(names)
    analyzer = Analyzer("parity", prepare_model(model, task), task, cpu=True,
                        output_dir=str(folder), disable_tqdm=True, log_level=logging.ERROR)
    doubles = {"per_sample_gradient_dtype": torch.float64}
    factors = FactorArguments(strategy="ekfac", use_empirical_fisher=True,
                              activation_covariance_dtype=torch.float64,
                              gradient_covariance_dtype=torch.float64, lambda_dtype=torch.float64,
                              eigendecomposition_dtype=torch.float64, **doubles)
    analyzer.fit_all_factors("factors", train, per_device_batch_size=4, factor_args=factors)
    results = {}
    for tokens in (False, True):
        scores = ScoreArguments(damping_factor=damping, compute_per_token_scores=tokens,
                                score_dtype=torch.float64, precondition_dtype=torch.float64,
                                **doubles)
        name = f"tokens-{tokens}"
        analyzer.compute_pairwise_scores(name, "factors", queries, train,
                                         per_device_query_batch_size=2,
                                         per_device_train_batch_size=4, score_args=scores)
        results[tokens] = analyzer.load_pairwise_scores(name)["all_modules"]
    return analyzer, results


def asked(corpus, tokenizer):
    """The 24 rows of the corpus and the 3 encoded queries."""
    items, rows, queries = {item["id"]: item for item in load_planted(corpus)}, [], []
    for item in map(items.get, ITEMS):
        rows += rows_of(item["teachers"])[:TEACHERS] + rows_of(item["opponents"])[:OPPONENTS]
        query = Query(item["prompt"], item["completion"])
        queries.append(encode_query(tokenizer, query, 512))
    return rows, queries


def compute() -> dict[str, torch.Tensor]:
    """Everything that is written, from scratch."""
    model, tokenizer = load_model("default", device="cpu", fused=False)
    corpus = tokenise(load_stories("default"), tokenizer, 512)
    rows, queries = asked(corpus, tokenizer)
    ids = [corpus.ids[row] for row in rows]
    train = Sequences(ids, max(map(len, ids)))
    asked_ids = [query.ids for query in queries]
    questions = Sequences(asked_ids, max(map(len, asked_ids)), [query.start for query in queries])
    with TemporaryDirectory() as folder:
        _, results = kronfluence_results(model.double(), list(find_layers(model)), train, questions,
                                         folder)
    return {"rows": torch.tensor(rows), "sequence": results[False].contiguous(),
            "token": results[True].contiguous()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "kronfluence_scores.safetensors")
    args = parser.parse_args()
    tensors = compute()
    save_record(tensors, args.out, MADE_FROM, script="data/record_kronfluence.py",
                damping=str(DAMPING), items=" ".join(ITEMS), kronfluence=version("kronfluence"),
                torch=torch.__version__)
    shapes = {name: tuple(values.shape) for name, values in tensors.items()}
    print(shapes, args.out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
