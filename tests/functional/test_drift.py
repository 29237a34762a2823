"""Scores compared with those that set a threshold."""

import pytest
import torch
from scipy.stats import ks_2samp

from verisal.functional.statistics import ScoreSample


def drawn(seed, count, **settings):
    generator = torch.Generator().manual_seed(seed)
    return settings.get("mean", 0.0) + torch.randn(count, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("own", "other"), [(1000, 200), (50, 1000), (200, 37)])
def test_the_distance_is_that_of_the_whole_sample_but_for_the_quantiles(own, other):
    first, second = drawn(0, own), drawn(1, other, mean=0.3)
    found = ScoreSample.of(first).drift(second)
    # Few scores are spread over 201 quantiles, where their own steps are wider.
    assert found.distance == pytest.approx(ks_2samp(first, second).statistic, abs=1 / 200 + 1 / own)


def test_scores_of_the_same_kind_hardly_ever_drift_and_others_do():
    drifts = [ScoreSample.of(drawn(2 * seed, 300)).drift(drawn(2 * seed + 1, 120)) for seed in range(400)]
    assert sum(drift.drifted for drift in drifts) <= 3
    assert all(0.05 < drift.limit < 0.3 for drift in drifts)
    moved = [
        ScoreSample.of(drawn(2 * seed, 300)).drift(drawn(2 * seed + 1, 120, mean=1.0)) for seed in range(50)
    ]
    assert all(drift.drifted for drift in moved)


def test_equal_scores_are_no_drift():
    sample = ScoreSample.of(torch.full((300,), 2.0))
    assert sample.drift(torch.full((300,), 2.0)).distance == 0
    assert sample.drift(torch.full((300,), 2.5)).distance == 1


def test_scores_that_are_none_are_left_out():
    scores = drawn(0, 100)
    holed = torch.cat([scores, torch.full((5,), torch.nan)])
    assert ScoreSample.of(holed).size == 100
    assert ScoreSample.of(holed).quantiles.equal(ScoreSample.of(scores).quantiles)
    assert ScoreSample.of(scores).drift(holed) == ScoreSample.of(scores).drift(scores)
    assert ScoreSample.of(scores).drift(holed[100:]) is None
    nothing = ScoreSample.of(holed[100:])
    assert nothing.size == 0
    assert nothing.drift(scores) is None
