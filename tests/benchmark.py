"""Times as ratios to one plain forward and backward pass over the same stories, beside kronfluence.

    python tests/benchmark.py [--stories 512] [--queries 20] [--threads 2]

The plain pass computes the gradients of all parameters. All runs share model, batches, precision
and threads; kronfluence gets the same batches of equal length, in float32.
"""
import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "data")]
from helpers.capture import find_layers
from helpers.curvature import EKFAC, corrected, covariances, eigenvectors
from helpers.influence import query_gradients, sequence_scores, tokenwise, top_indices
from helpers.pipeline import Setting
from helpers.stories import Query, encode_query, load_model, load_stories, sequence_loss, tokenise

PROMPT_TOKENS = 12


def timed(work):
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def plain_pass(setting):
    for batch in setting.stream():
        setting.model.zero_grad()
        sequence_loss(setting.model, batch).sum().backward()


def ours(setting, encoded):
    model, layers, total = setting.model, setting.layers, len(setting.corpus)
    times = {}
    pairs, times["A and S"] = timed(lambda: covariances(model, layers, setting.stream()))
    blocks, times["eigenvectors"] = timed(lambda: eigenvectors(*pairs))
    blocks, times["Λ"] = timed(lambda: corrected(model, layers, setting.stream(), blocks))
    gradients, _ = query_gradients(model, layers, encoded)
    ihvps = EKFAC(blocks).solve(gradients)
    scores, times["sequence scores"] = timed(lambda: sequence_scores(model, layers, setting.stream(), ihvps, total))
    wanted = [(q, row) for q, (positive, _) in enumerate(top_indices(scores, 50 * total // 5000 or 1)) for row in positive]
    rows = sorted({row for _, row in wanted})
    _, times["tokens of the top 1%"] = timed(lambda: tokenwise(model, layers, setting.stream(rows), ihvps, total, wanted))
    return scores, times


def kronfluence(setting, encoded, folder):
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from record_kronfluence import LabelledTask, Sequences

    task = LabelledTask(list(setting.layers))
    order = sorted(range(len(setting.corpus)), key=lambda row: len(setting.corpus.ids[row]))
    longest = max(map(len, setting.corpus.ids))
    train = Sequences([setting.corpus.ids[row] for row in order], longest)
    queries = Sequences([ids for ids, _ in encoded], PROMPT_TOKENS, [start for _, start in encoded])
    analyzer = Analyzer("bench", prepare_model(setting.model, task), task, cpu=True, output_dir=folder,
                        disable_tqdm=True, log_level=logging.ERROR)
    times, size = {}, setting.batch_size
    options = FactorArguments(strategy="ekfac")
    _, times["A and S"] = timed(lambda: analyzer.fit_covariance_matrices("f", train, per_device_batch_size=size, factor_args=options))
    _, times["eigenvectors"] = timed(lambda: analyzer.perform_eigendecomposition("f", factor_args=options))
    _, times["Λ"] = timed(lambda: analyzer.fit_lambda_matrices("f", train, per_device_batch_size=size, factor_args=options))
    _, times["sequence scores"] = timed(lambda: analyzer.compute_pairwise_scores(
        "s", "f", queries, train, per_device_query_batch_size=len(queries), per_device_train_batch_size=size,
        score_args=ScoreArguments(damping_factor=None)))
    scores = torch.empty(len(queries), len(order))
    scores[:, order] = analyzer.load_pairwise_scores("s")["all_modules"].float()
    return scores, times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stories", type=int, default=512)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ours-only", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, tokenizer = load_model(device="cpu")
    corpus = tokenise(load_stories(limit=args.stories), tokenizer, 512)
    setting = Setting(model, tokenizer, find_layers(model), corpus, quiet=True)
    encoded = [encode_query(tokenizer, Query(*split(story.text)), 512) for story in corpus.stories[:args.queries]]
    encoded = [(ids[:PROMPT_TOKENS], PROMPT_TOKENS - 1) for ids, _ in encoded]
    timed(lambda: plain_pass(setting))  # warm up
    _, plain = timed(lambda: plain_pass(setting))
    scores, times = ours(setting, encoded)
    _, again = timed(lambda: plain_pass(setting))
    plain = (plain + again) / 2
    others, theirs = (None, {}) if args.ours_only else kronfluence(setting, encoded, tempfile.mkdtemp())
    print(f"{len(corpus)} stories, {len(encoded)} queries, {args.threads} threads; plain pass {plain:.1f} s = 1.00")
    for name, seconds in times.items():
        print(f"{name:22s} {seconds / plain:5.2f}" + (f"   kronfluence {theirs[name] / plain:5.2f}" if name in theirs else ""))
    fit = lambda one: sum(one[name] for name in ("A and S", "eigenvectors", "Λ"))
    print(f"{'fit in all':22s} {fit(times) / plain:5.2f}" + (f"   kronfluence {fit(theirs) / plain:5.2f}" if theirs else ""))
    if others is not None:
        pearson = torch.corrcoef(torch.stack([scores.flatten(), others.flatten()]))[0, 1]
        print(f"Pearson of the scores {pearson:.4f} (labels of the factors are drawn independently)")


def split(text):
    """A prompt of a story's first words and the rest: any query will do for timing."""
    words = text.split(" ")
    return " ".join(words[:8]), " " + " ".join(words[8:30])


if __name__ == "__main__":
    main()
