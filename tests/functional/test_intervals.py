import math

import pytest
import torch

from verisal.functional import bootstrap_mean, weighted_means


def test_mean_leaves_out_and_counts_the_undefined():
    score = bootstrap_mean(torch.tensor([1.0, math.nan, 3.0]))
    assert (score.value, score.n, score.undefined) == (2.0, 2, 1)
    # Of two images the resamples are 1, 2 or 3.
    assert (score.low, score.high) == (1.0, 3.0)


def test_nothing_defined_gives_no_number():
    score = bootstrap_mean(torch.full((3,), math.nan))
    assert math.isnan(score.value)
    assert (score.n, score.undefined) == (0, 3)


def test_weights_count_images_as_often_as_they_were_drawn():
    values = torch.tensor([1.0, 5.0, math.nan])
    weights = torch.tensor([[1.0, 1.0, 1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    means = weighted_means(values, weights).tolist()
    assert means[:2] == pytest.approx([3.0, 1.0])
    assert math.isnan(means[2])


def test_interval_covers_about_the_standard_error():
    values = torch.randn(400, generator=torch.Generator().manual_seed(1))
    score = bootstrap_mean(values)
    error = float(values.double().std()) / 20
    assert score.high - score.low == pytest.approx(2 * 1.96 * error, rel=0.1)
