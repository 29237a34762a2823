"""Slow, literal definitions beside the fast detection scores."""

import pytest
import scipy.stats
import torch

from helpers.replicates import replicates
from verisal.functional.statistics import (
    Bootstrap,
    auroc,
    fpr_at_tpr95,
    rate_limits,
    roc_curve,
    threshold_at_fpr,
)
from verisal.functional.statistics.detection import resampled_auroc, resampled_fpr_at_tpr95, resampled_mean


def slow_auroc(positive, negative):
    wins = sum(1.0 if p > q else 0.5 if p == q else 0.0 for p in positive for q in negative)
    return wins / (len(positive) * len(negative))


def slow_fpr_at_tpr95(positive, negative):
    best = 1.0
    for level in positive:
        tpr = sum(p >= level for p in positive) / len(positive)
        if tpr >= 0.95 - 1e-9:
            best = min(best, sum(q >= level for q in negative) / len(negative))
    return best


def slow_threshold(negative, fpr):
    fitting = [t for t in negative if sum(q > t for q in negative) <= fpr * len(negative) + 1e-9]
    return min(fitting)


def draw(seed, positives, negatives, levels):
    generator = torch.Generator().manual_seed(seed)
    positive, negative = (
        torch.randn(positives, generator=generator),
        torch.randn(negatives, generator=generator),
    )
    if levels:
        return (positive * levels).round() + 1, (negative * levels).round()
    return positive + 1, negative


@pytest.mark.parametrize("levels", [0, 1, 4], ids=["continuous", "many ties", "some ties"])
@pytest.mark.parametrize(("positives", "negatives"), [(1, 1), (7, 3), (40, 23)])
def test_auroc_and_fpr(positives, negatives, levels):
    for seed in range(4):
        positive, negative = draw(seed, positives, negatives, levels)
        if len(torch.cat([positive, negative]).unique()) == 2 and positives > 1:
            continue
        assert auroc(positive, negative) == pytest.approx(
            slow_auroc(positive.tolist(), negative.tolist()), abs=1e-12
        )
        assert fpr_at_tpr95(positive, negative) == pytest.approx(
            slow_fpr_at_tpr95(positive.tolist(), negative.tolist()), abs=1e-12
        )


@pytest.mark.parametrize("levels", [0, 2])
@pytest.mark.parametrize("count", [200, 217])
def test_threshold(count, levels):
    _, negative = draw(0, 1, count, levels)
    assert threshold_at_fpr(negative, 0.05) == slow_threshold(negative.tolist(), 0.05)


@pytest.mark.parametrize("levels", [0, 2])
def test_resampled_values(levels):
    """The weighted forms against drawing the images and scoring the drawn copies."""
    positive, negative = draw(3, 24, 24, levels)
    weights = Bootstrap(12, seed=9).weights(24)
    areas = resampled_auroc(positive, negative, weights)
    rates = resampled_fpr_at_tpr95(positive, negative, weights)
    alarms = resampled_mean((positive > 1.0).double(), weights)
    for row, weight in enumerate(weights):
        images = [i for i in range(24) for _ in range(int(weight[i]))]
        drawn = [float(positive[i]) for i in images], [float(negative[i]) for i in images]
        assert float(areas[row]) == pytest.approx(slow_auroc(*drawn), abs=1e-12)
        assert float(rates[row]) == pytest.approx(slow_fpr_at_tpr95(*drawn), abs=1e-12)
        assert float(alarms[row]) == pytest.approx(sum(p > 1.0 for p in drawn[0]) / 24, abs=1e-7)


@replicates(rate_limits)
def slow_limits(rate, images, miss=0.025):
    """By the quantiles of scipy's beta distributions."""
    hits = rate * images
    low = 0.0 if hits == 0 else scipy.stats.beta.ppf(miss, hits, images - hits + 1)
    high = 1.0 if hits == images else scipy.stats.beta.ppf(1 - miss, hits + 1, images - hits)
    return low, high


def slow_share(value, resampled, images, miss=0.025):
    """Limits of a rate among as many images as give the variance of the resamples."""
    mean = sum(resampled) / len(resampled)
    variance = sum((drawn - mean) ** 2 for drawn in resampled) / len(resampled)
    worth = (value * (1 - value) + 0.5 / images) / (variance + 0.5 / images**2)
    return slow_limits(value, worth, miss)


@pytest.mark.parametrize("images", [1.5, 7, 50, 333.3, 5000])
def test_limits_of_rates_are_those_of_beta_distributions(images):
    for rate in (0.0, 1e-4, 0.01, 0.3, 0.5, 0.97, 1.0):
        for miss in (0.025, 0.001):
            assert rate_limits(rate, images, miss=miss) == pytest.approx(
                slow_limits(rate, images, miss), abs=1e-9
            )


def test_intervals_are_those_of_rates_that_vary_as_the_resamples_do():
    positive, negative = draw(1, 30, 30, 0)
    weights = Bootstrap(200, seed=4).weights(30)
    for score, resampled in (
        (
            Bootstrap(200, seed=4).auroc(positive, negative).score(),
            resampled_auroc(positive, negative, weights),
        ),
        (
            Bootstrap(200, seed=4).fpr_at_tpr95(positive, negative).score(),
            resampled_fpr_at_tpr95(positive, negative, weights),
        ),
    ):
        expected = slow_share(score.value, resampled.tolist(), 30)
        assert (score.low, score.high) == pytest.approx(expected, abs=1e-9)
    alarms = Bootstrap().rate_above(positive, 0.3).score()
    assert (alarms.low, alarms.high) == pytest.approx(slow_limits(alarms.value, 30), abs=1e-9)


def test_against_scikit_learn():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    for levels in (0, 3):
        positive, negative = draw(2, 80, 61, levels)
        labels = torch.cat([torch.ones(80), torch.zeros(61)]).numpy()
        scores = torch.cat([positive, negative]).numpy()
        assert auroc(positive, negative) == pytest.approx(
            sklearn_metrics.roc_auc_score(labels, scores), abs=1e-12
        )
        fpr, tpr, _ = sklearn_metrics.roc_curve(labels, scores, drop_intermediate=False)
        ours = roc_curve(positive, negative)
        assert torch.allclose(ours[0], torch.from_numpy(fpr))
        assert torch.allclose(ours[1], torch.from_numpy(tpr))
