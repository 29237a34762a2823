"""Intervals of several numbers an image: images are resampled, with all that belongs to them."""

import pytest
import torch

from verisal.errors import DataError
from verisal.functional.statistics import Bootstrap

IMAGES, EACH = 40, 5
GROUPS = torch.arange(IMAGES).repeat_interleave(EACH)


def test_copies_of_a_number_are_worth_one():
    values = torch.rand(IMAGES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alone = Bootstrap(500).jointly(IMAGES).mean(values).score()
    copies = values.repeat_interleave(EACH)
    together = Bootstrap(500, groups=GROUPS).jointly(len(copies)).mean(copies).score()
    assert (together.value, together.low, together.high) == pytest.approx(
        (alone.value, alone.low, alone.high)
    )
    assert together.n == IMAGES * EACH
    # As if they were all different, the interval is too short.
    apart = Bootstrap(500).jointly(len(copies)).mean(copies).score()
    assert apart.high - apart.low < 0.6 * (together.high - together.low)


def test_resamples_take_all_numbers_of_an_image_along():
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(len(GROUPS), generator=generator, dtype=torch.float64)
    values[3] = torch.nan
    found = Bootstrap(300, seed=2, groups=GROUPS).jointly(len(values)).mean(values)
    weights = Bootstrap(300, seed=2).weights(IMAGES).double()
    for row, drawn in enumerate(found.draws[:20]):
        numbers = [
            float(values[place])
            for place in range(len(values))
            for _ in range(int(weights[row, GROUPS[place]]))
            if place != 3
        ]
        assert float(drawn) == pytest.approx(sum(numbers) / len(numbers))
    assert (found.n, found.undefined) == (len(values) - 1, 1)


def test_hits_of_an_image_that_agree_are_worth_one_and_others_more():
    hits = (torch.arange(IMAGES) % 4 > 0).double()
    alone = Bootstrap(500).jointly(IMAGES).mean(hits).score()
    agreeing = hits.repeat_interleave(EACH)
    grouped = Bootstrap(500, groups=GROUPS).jointly(len(agreeing))
    score = grouped.mean(agreeing).score()
    assert (score.low, score.high) == pytest.approx((alone.low, alone.high), abs=0.02)
    # Every image has three hits of five, so the rate varies less than that of as many images.
    spread = (torch.arange(len(GROUPS)) % EACH < 3).double()
    narrow, plain = grouped.mean(spread).score(), Bootstrap(500).jointly(len(spread)).mean(spread).score()
    assert (narrow.low, narrow.high) == pytest.approx((plain.low, plain.high), abs=1e-6)
    # Nothing is known of how hits agree.
    rate = grouped.rate(0.75, len(agreeing)).score()
    assert (rate.low, rate.high) == pytest.approx((alone.low, alone.high))
    certain = grouped.mean(torch.ones(len(GROUPS), dtype=torch.float64)).score()
    assert certain.low == pytest.approx(Bootstrap(500).jointly(IMAGES).mean(torch.ones(IMAGES)).score().low)


def test_groups_of_another_number_are_refused():
    with pytest.raises(DataError, match="3 numbers were asked about, of which groups say 200"):
        Bootstrap(groups=GROUPS).jointly(3)
