"""Slow, literal definitions beside the fast detection scores."""

import math

import pytest
import torch

from verisal.functional import (
    auroc,
    bootstrap_auroc,
    bootstrap_fpr_at_tpr,
    bootstrap_rate,
    bootstrap_weights,
    fpr_at_tpr95,
    roc_curve,
    threshold_at_fpr,
    weighted_auroc,
    weighted_fpr_at_tpr,
    weighted_rate,
)


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


def slow_percentile(values, share):
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


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
    weights = bootstrap_weights(24, resamples=12, seed=9)
    areas = weighted_auroc(positive, negative, weights)
    rates = weighted_fpr_at_tpr(positive, negative, weights)
    alarms = weighted_rate(positive > 1.0, weights)
    for row, weight in enumerate(weights):
        images = [i for i in range(24) for _ in range(int(weight[i]))]
        drawn = [float(positive[i]) for i in images], [float(negative[i]) for i in images]
        assert float(areas[row]) == pytest.approx(slow_auroc(*drawn), abs=1e-12)
        assert float(rates[row]) == pytest.approx(slow_fpr_at_tpr95(*drawn), abs=1e-12)
        assert float(alarms[row]) == pytest.approx(sum(p > 1.0 for p in drawn[0]) / 24, abs=1e-7)


def test_intervals_are_the_percentiles_of_the_resampled_values():
    positive, negative = draw(1, 30, 30, 0)
    weights = bootstrap_weights(30, resamples=200, seed=4)
    for score, resampled in (
        (
            bootstrap_auroc(positive, negative, resamples=200, seed=4),
            weighted_auroc(positive, negative, weights),
        ),
        (
            bootstrap_fpr_at_tpr(positive, negative, resamples=200, seed=4),
            weighted_fpr_at_tpr(positive, negative, weights),
        ),
        (bootstrap_rate(positive, 0.3, resamples=200, seed=4), weighted_rate(positive > 0.3, weights)),
    ):
        assert score.low == pytest.approx(slow_percentile(resampled.tolist(), 0.025), abs=1e-9)
        assert score.high == pytest.approx(slow_percentile(resampled.tolist(), 0.975), abs=1e-9)


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
