import math

import pytest
import torch

from verisal.functional.statistics.detection import bootstrap_auroc, bootstrap_fpr_at_tpr
from verisal.functional.statistics.intervals import bootstrap_mean, weighted_means


def test_too_few_images_have_no_interval_to_show():
    """Counted by scripts/interval_coverage.py: percentiles hold from 30 images on, rates from 5."""
    values = torch.linspace(0.1, 0.9, 30)
    few, enough = bootstrap_mean(values[:29], resamples=50), bootstrap_mean(values, resamples=50)
    assert (few.few, few.ends, few.bracketed()) == (True, None, " [too few]")
    assert few.low < few.value < few.high
    assert enough.ends == (enough.low, enough.high)
    assert enough.bracketed() == f" [{enough.low:.3f}, {enough.high:.3f}]"
    assert bootstrap_mean(values[:1], resamples=50).bracketed() == " [too few]"
    assert bootstrap_mean(values[:9], resamples=0).bracketed() == ""
    assert bootstrap_mean((values[:5] > 0.15).double(), resamples=50).ends is not None
    for count, few in ((19, True), (20, False)):
        positive, negative = values[:count] + 0.1, values[:count]
        assert bootstrap_fpr_at_tpr(positive, negative, resamples=50).few is few
        assert not bootstrap_auroc(positive, negative, resamples=50).few


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


def test_a_rate_has_the_limits_of_one_also_at_its_ends():
    nobody = bootstrap_mean(torch.zeros(50))
    assert (nobody.value, nobody.low) == (0.0, 0.0)
    assert nobody.high == pytest.approx(1 - 0.025 ** (1 / 50))
    one = bootstrap_mean(torch.tensor([1.0] + [0.0] * 49 + [math.nan]))
    assert (one.value, one.n, one.undefined) == (0.02, 50, 1)
    # As any table of Clopper-Pearson limits has it.
    assert (one.low, one.high) == (pytest.approx(0.00051, abs=1e-5), pytest.approx(0.10647, abs=1e-5))
    assert math.isnan(bootstrap_mean(torch.zeros(50), resamples=0).high)
    assert math.isnan(bootstrap_mean(torch.ones(1)).low)


def test_a_rare_rate_is_covered_as_often_as_the_interval_says():
    """The bootstrap's interval misses a rate of .01 in three of five sets of 50 images."""
    generator = torch.Generator().manual_seed(0)
    hits = (torch.rand(400, 50, generator=generator) < 0.01).double()
    scores = [bootstrap_mean(row) for row in hits]
    assert sum(score.low <= 0.01 <= score.high for score in scores) >= 0.95 * 400


def test_equal_rates_of_two_methods_are_not_known_to_be_equal():
    none = torch.zeros(50)
    assert bootstrap_mean(none, kind="difference").high == 0.0  # one method, perhaps, and any unit
    apart = bootstrap_mean(none, kind="hit difference")
    assert (apart.value, apart.low) == (0.0, -apart.high)
    assert apart.high > 0.05
    few = bootstrap_mean(torch.tensor([1.0] + [0.0] * 99), kind="difference")
    assert few.low < 0 < few.high  # one image of a hundred says nothing
    many = bootstrap_mean(torch.tensor([1.0] * 30 + [-1.0] * 10 + [0.0] * 60), kind="difference")
    error = math.sqrt((0.4 - 0.2**2) / 100)
    assert many.value == pytest.approx(0.2)
    assert (many.low, many.high) == (
        pytest.approx(0.2 - 1.96 * error, abs=0.03),
        pytest.approx(0.2 + 1.96 * error, abs=0.03),
    )
