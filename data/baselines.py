"""Attributions that the records compare with and no notebook builds."""
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.feature_extraction.text import CountVectorizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers import retrain, search  # noqa: E402
from helpers.stories import batches  # noqa: E402


def bm25_scores(queries: list[str], texts: list[str], k1=1.5, b=0.75):
    """Okapi BM25 of single words, `(Q, N)`, a numpy array (Robertson et al. 1994)."""
    vectorizer = CountVectorizer(token_pattern=search.WORD)
    counts = vectorizer.fit_transform(texts).toarray().astype(float)
    lengths, holding = counts.sum(1, keepdims=True), (counts > 0).sum(0)
    rare = np.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
    spread = counts + k1 * (1 - b + b * lengths / lengths.mean())
    weights = rare * counts * (k1 + 1) / spread
    return (vectorizer.transform(queries).toarray() > 0) @ weights.T


def whitened_cosines(queries: torch.Tensor, stories: torch.Tensor, damping=0.1) -> torch.Tensor:
    """Cosines `(Q, N)` of projected gradients in the metric (R+λI)^(−1), R the stories' E[r rᵀ]."""
    values, q = torch.linalg.eigh(stories.T.double() @ stories.double() / len(stories))
    white = q / (values.clamp(min=0) + damping * values.mean()).sqrt()
    a, b = (F.normalize(rows.double() @ white) for rows in (queries, stories))
    return (a @ b.T).float()


def representations(model, stream, count: int) -> torch.Tensor:
    """The last hidden state of every sequence, mean over its real tokens, `(N, width)`."""
    means = torch.zeros(count, model.config.hidden_size)
    for batch in stream:
        with torch.no_grad():
            hidden = model(batch.input_ids, output_hidden_states=True).hidden_states[-1]
        real = batch.mask[..., None]
        means[batch.index] = ((hidden * real).sum(1) / real.sum(1)).to(means)
    return means


def loss_covariance(model, ids, recipe, questions, draws: int, spread=0.5):
    """−Cov of every story's loss and every f over trainings with random weights: `(Q, N)`.

    Needs no gradient of the trained model: weights 1 ± `spread` by chance (in the spirit of Pan
    et al. 2025, who perturb the loss's gradient). Scale is arbitrary.
    """
    draw, answers, losses = torch.Generator().manual_seed(0), [], []
    for _ in range(draws):
        signs = torch.randint(2, (len(ids),), generator=draw) * 2 - 1
        theta = retrain.train(model, ids, recipe, 0, 1 + spread * signs).theta
        answers.append(retrain.log_probs(model, questions, theta).detach())
        by_story = theta.new_zeros(len(ids))
        for batch in batches(ids, 32):
            with torch.no_grad():
                by_story[batch.index] = retrain.losses_of(model, batch, theta).sum(1)
        losses.append(by_story)
    answers, losses = (torch.stack(values) for values in (answers, losses))
    return -(answers - answers.mean(0)).T @ (losses - losses.mean(0)) / (draws - 1)


def segments(curvatures: list, gradient: dict) -> list[dict]:
    """SOURCE (Bae et al. 2024): one vector `{layer: …}` for each segment of training, first first.

    The product of each with a story's gradient in that segment, summed over the segments, is N
    times the influence. `curvatures` are EK-FAC at the mean θ of each segment, damped by the
    segment's `path_damping`; `gradient` is ∇L_q at the end. Within a segment a change grows to
    (1 − e^{−Λ/λ})/Λ of its gradient; each later segment shrinks it by e^{−Λ/λ}.
    """
    def grown(values, damping):
        ratio = (values / damping).clamp(min=1e-12)  # where Λ is 0 the change grows to 1/λ
        return -torch.expm1(-ratio) / ratio / damping

    vectors = []
    for curvature in reversed(curvatures):
        vectors.append(curvature.spectral(gradient, grown))
        gradient = curvature.spectral(
            gradient, lambda values, damping: torch.exp(-values / damping))
    return vectors[::-1]
