import math

import pytest
import torch

from verisal.functional.statistics import Bootstrap, rate_limits
from verisal.functional.statistics.detection import resampled_mean
from verisal.functional.statistics.limits import difference_limits, hit_difference_limits


def test_too_few_images_have_no_interval_to_show():
    """Counted by scripts/interval_coverage.py: percentiles hold from 30 images on, rates from 5."""
    values = torch.linspace(0.1, 0.9, 30)
    few, enough = Bootstrap(50).mean(values[:29]).score(), Bootstrap(50).mean(values).score()
    assert (few.few, few.ends, few.bracketed()) == (True, None, " [too few]")
    assert few.low < few.value < few.high
    assert enough.ends == (enough.low, enough.high)
    assert enough.bracketed() == f" [{enough.low:.3f}, {enough.high:.3f}]"
    assert Bootstrap(50).mean(values[:1]).score().bracketed() == " [too few]"
    assert Bootstrap(0).mean(values[:9]).score().bracketed() == ""
    assert Bootstrap(50).mean((values[:5] > 0.15).double()).score().ends is not None
    for count, few in ((19, True), (20, False)):
        positive, negative = values[:count] + 0.1, values[:count]
        assert Bootstrap(50).fpr_at_tpr95(positive, negative).score().few is few
        assert not Bootstrap(50).auroc(positive, negative).score().few


def test_mean_leaves_out_and_counts_the_undefined():
    score = Bootstrap().mean(torch.tensor([1.0, math.nan, 3.0])).score()
    assert (score.value, score.n, score.undefined) == (2.0, 2, 1)
    # Of two images the resamples are 1, 2 or 3.
    assert (score.low, score.high) == (1.0, 3.0)


def test_nothing_defined_gives_no_number():
    score = Bootstrap().mean(torch.full((3,), math.nan)).score()
    assert math.isnan(score.value)
    assert (score.n, score.undefined) == (0, 3)


def test_weights_count_images_as_often_as_they_were_drawn():
    values = torch.tensor([1.0, 5.0, math.nan])
    weights = torch.tensor([[1.0, 1.0, 1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    means = resampled_mean(values, weights).tolist()
    assert means[:2] == pytest.approx([3.0, 1.0])
    assert math.isnan(means[2])


def test_interval_covers_about_the_standard_error():
    values = torch.randn(400, generator=torch.Generator().manual_seed(1))
    score = Bootstrap().mean(values).score()
    error = float(values.double().std()) / 20
    assert score.high - score.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_a_rate_has_the_limits_of_one_also_at_its_ends():
    nobody = Bootstrap().mean(torch.zeros(50)).score()
    assert (nobody.value, nobody.low) == (0.0, 0.0)
    assert nobody.high == pytest.approx(1 - 0.025 ** (1 / 50))
    one = Bootstrap().mean(torch.tensor([1.0] + [0.0] * 49 + [math.nan])).score()
    assert (one.value, one.n, one.undefined) == (0.02, 50, 1)
    # As any table of Clopper-Pearson limits has it.
    assert (one.low, one.high) == (pytest.approx(0.00051, abs=1e-5), pytest.approx(0.10647, abs=1e-5))
    assert math.isnan(Bootstrap(0).mean(torch.zeros(50)).score().high)
    assert math.isnan(Bootstrap().mean(torch.ones(1)).score().low)


def test_a_rare_rate_is_covered_as_often_as_the_interval_says():
    """The bootstrap's interval misses a rate of .01 in three of five sets of 50 images."""
    generator = torch.Generator().manual_seed(0)
    hits = (torch.rand(400, 50, generator=generator) < 0.01).double()
    scores = [Bootstrap().mean(row).score() for row in hits]
    assert sum(score.low <= 0.01 <= score.high for score in scores) >= 0.95 * 400


def test_equal_rates_of_two_methods_are_not_known_to_be_equal():
    none = torch.zeros(50)
    assert Bootstrap().mean(none, kind="difference").score().high == 0.0  # one method, perhaps, and any unit
    apart = Bootstrap().mean(none, kind="hit difference").score()
    assert (apart.value, apart.low) == (0.0, -apart.high)
    assert apart.high > 0.05
    few = Bootstrap().mean(torch.tensor([1.0] + [0.0] * 99), kind="difference").score()
    assert few.low < 0 < few.high  # one image of a hundred says nothing
    many = Bootstrap().mean(torch.tensor([1.0] * 30 + [-1.0] * 10 + [0.0] * 60), kind="difference").score()
    error = math.sqrt((0.4 - 0.2**2) / 100)
    assert many.value == pytest.approx(0.2)
    assert (many.low, many.high) == (
        pytest.approx(0.2 - 1.96 * error, abs=0.03),
        pytest.approx(0.2 + 1.96 * error, abs=0.03),
    )


def test_limits_of_a_difference_worked_by_hand():
    first, second = (0.8, 0.7, 0.85), (0.6, 0.5, 0.75)
    low, high = difference_limits(first, second, correlation=0.3)
    assert low == pytest.approx(0.2 - math.sqrt(0.1**2 + 0.15**2 - 0.6 * 0.1 * 0.15))
    assert high == pytest.approx(0.2 + math.sqrt(0.05**2 + 0.1**2 - 0.6 * 0.05 * 0.1))
    # Turned round, so are the limits.
    turned = difference_limits(second, first, correlation=0.3)
    assert turned == (pytest.approx(-high), pytest.approx(-low))


def test_limits_of_a_difference_at_the_ends():
    # What varies alike has no spread of its own, whatever the rounding.
    assert difference_limits((0.7, 0.6, 0.8), (0.3, 0.2, 0.4), correlation=1.0) == (
        pytest.approx(0.4),
        pytest.approx(0.4),
    )
    assert difference_limits((0.5, 0.4, 0.6), (0.5, 0.4, 0.6), correlation=1 + 1e-9) == (0.0, 0.0)
    assert difference_limits((0.9, 0.1, 1.0), (0.1, 0.0, 0.9), correlation=-1.0) == (-0.8, 1.0)
    assert difference_limits((0.1, 0.0, 0.9), (0.9, 0.1, 1.0), correlation=-1.0) == (-1.0, 0.8)
    known, unknown = (0.5, 0.4, 0.6), (0.5, math.nan, math.nan)
    for pair in ((known, unknown), (unknown, known)):
        assert all(map(math.isnan, difference_limits(*pair, correlation=0.0)))


def test_limits_of_a_difference_of_hits():
    for gained, lost, images in ((3, 1, 20), (0, 4, 9), (0, 0, 5), (6, 0, 6), (0, 6, 6), (3, 3, 6)):
        rates = gained / images, lost / images
        parts = [(rate, *rate_limits(rate, images)) for rate in rates]
        # Shares of one draw among three kinds of image.
        spread = [rate * (1 - rate) for rate in rates]
        expected = -rates[0] * rates[1] / math.sqrt(spread[0] * spread[1]) if min(spread) > 0 else 0.0
        found = hit_difference_limits(gained, lost, images)
        assert found == pytest.approx(difference_limits(*parts, correlation=expected))
