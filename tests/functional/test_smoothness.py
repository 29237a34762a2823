"""How smooth maps are, against loops over pixels and frequencies, and blur that reaches a smoothness."""

import cmath
import math

import pytest
import torch

from verisal.errors import DataError
from verisal.functional.comparison import high_frequency_share
from verisal.functional.comparison.smoothness import blur_to_variation, variation_at_equal_mass


def slow_variation(one):
    rows = one.tolist()
    height, width = len(rows), len(rows[0])
    changes = sum(abs(rows[y][x + 1] - rows[y][x]) for y in range(height) for x in range(width - 1))
    changes += sum(abs(rows[y + 1][x] - rows[y][x]) for y in range(height - 1) for x in range(width))
    return math.sqrt(height * width) * changes / sum(map(sum, rows))


def slow_high_share(one, above):
    rows = one.tolist()
    height, width = len(rows), len(rows[0])
    high = total = 0.0
    for v in range(height):
        for u in range(width):
            if (v, u) == (0, 0):
                continue
            sums = sum(
                rows[y][x] * cmath.exp(-2j * cmath.pi * (v * y / height + u * x / width))
                for y in range(height)
                for x in range(width)
            )
            down, across = min(v, height - v) / height, min(u, width - u) / width
            total += abs(sums) ** 2
            high += abs(sums) ** 2 * (math.hypot(down, across) > above)
    return high / total


@pytest.fixture
def maps():
    return torch.rand(3, 1, 6, 5, generator=torch.Generator().manual_seed(2))


def test_variation_is_that_of_a_loop(maps):
    expected = [slow_variation(one[0]) for one in maps]
    assert variation_at_equal_mass(maps).tolist() == pytest.approx(expected, rel=1e-6)


def test_high_share_is_that_of_a_loop(maps):
    for above in (0.25, 0.4):
        expected = [slow_high_share(one[0], above) for one in maps]
        assert high_frequency_share(maps, above=above).tolist() == pytest.approx(expected, rel=1e-6)


def test_multiples_and_enlarged_copies_are_as_smooth(maps):
    plain = variation_at_equal_mass(maps)
    torch.testing.assert_close(variation_at_equal_mass(7 * maps), plain)
    enlarged = maps.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(variation_at_equal_mass(enlarged), plain, rtol=1e-6, atol=0)
    torch.testing.assert_close(high_frequency_share(7 * maps), high_frequency_share(maps))


def test_a_chessboard_is_as_rough_as_can_be():
    board = (torch.arange(4)[:, None] + torch.arange(4)).remainder(2).float()[None, None]
    assert high_frequency_share(board).tolist() == [pytest.approx(1.0)]
    assert variation_at_equal_mass(board).tolist() == [4 * 24 / 8]


def test_undefined_maps_have_none(maps):
    maps[0], maps[1, 0, 2, 2] = 0.5, math.nan
    for found in (variation_at_equal_mass(maps), high_frequency_share(maps)):
        assert found.isnan().tolist() == [True, True, False]


def test_blur_reaches_what_is_asked_and_no_more(maps):
    big = torch.rand(2, 1, 24, 20, generator=torch.Generator().manual_seed(3))
    rough = variation_at_equal_mass(big)
    target = torch.stack([rough[0] / 4, rough[1] * 2])
    found = blur_to_variation(big, target)
    assert variation_at_equal_mass(found)[0].item() == pytest.approx(float(target[0]), rel=1e-3)
    assert torch.equal(found[1], big[1])
    alone = blur_to_variation(big[:1], target[:1])
    assert torch.equal(alone, found[:1])


def test_without_a_target_or_a_map_nothing_is_blurred(maps):
    maps[1] = 0
    found = blur_to_variation(maps, torch.tensor([math.nan, 1.0, math.nan]))
    assert torch.equal(found, maps)


def test_maps_of_another_shape_are_refused(maps):
    with pytest.raises(DataError, match=r"\(B, 1, H, W\), found \(3, 6, 5\)"):
        variation_at_equal_mass(maps[:, 0])
    with pytest.raises(DataError, match="one target per map"):
        blur_to_variation(maps, torch.ones(2))
