"""LDS and its interval: scipy's Spearman, a bootstrap written out."""
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from helpers import measure
from helpers.judging.report import lds_interval


@pytest.fixture(scope="module")
def runs():
    """Predictions of two methods and the truth, (12 subsets, 3 queries); one has ties."""
    draw = torch.Generator().manual_seed(1)
    actual, noise, other = torch.randn(3, 12, 3, generator=draw, dtype=torch.float64)
    return actual + 0.5 * noise, actual, (other * 2).round()


def by_scipy(predicted, actual):
    return [spearmanr(predicted[:, q], actual[:, q]).statistic for q in range(actual.shape[1])]


def test_lds_is_spearmans_correlation_by_query_with_ties(runs):
    close, actual, rough = runs
    assert len(rough[:, 0].unique()) < 12
    for predicted in (close, rough, -close):
        assert measure.lds(predicted, actual).tolist() == pytest.approx(by_scipy(predicted, actual))
    both = measure.lds(torch.stack([close, rough]), torch.stack([actual, actual]))
    assert both.shape == (2, 3) and both[1].tolist() == pytest.approx(by_scipy(rough, actual))


def test_a_prediction_that_is_the_same_for_all_subsets_says_nothing(runs):
    assert measure.lds(torch.full((12, 3), 0.1), runs[1]).tolist() == [0, 0, 0]


def test_the_interval_is_a_paired_bootstrap_over_subsets_and_queries(runs):
    close, actual, rough = runs
    draw, one, less = torch.Generator().manual_seed(0), [], []
    for _ in range(300):
        rows, queries = (torch.randint(n, (n,), generator=draw) for n in (12, 3))
        truth = actual[rows][:, queries]
        mine, its = (by_scipy(method[rows][:, queries], truth) for method in (close, rough))
        one.append(np.mean(mine))
        less.append(np.mean(mine) - np.mean(its))
    for found, values in ((lds_interval(close, actual), one),
                          (lds_interval(close, actual, rough), less)):
        assert found == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist())
        assert found[0] < np.mean(values) < found[1]
    assert lds_interval(close, actual, close) == [0, 0]
