import numpy as np
import pytest

from verisal.data.readers.masks import PolygonMask, RunLengthMask
from verisal.errors import DataError


def drawn(*rows):
    return np.array([[mark == "#" for mark in row] for row in rows])


def test_pixels_whose_centre_lies_inside_a_triangle():
    mask = PolygonMask(((0, 0, 4, 0, 0, 4),)).read(4, 5)
    # The long side passes through the centres of its diagonal, which counts as outside.
    assert (mask == drawn("###..", "##...", "#....", ".....")).all()


def test_a_concave_polygon_and_one_that_crosses_itself():
    notch = PolygonMask(((0, 0, 5, 0, 5, 3, 3, 3, 3, 1, 2, 1, 2, 3, 0, 3),)).read(3, 5)
    assert (notch == drawn("#####", "##.##", "##.##")).all()
    # Drawn twice over, the overlap is outside by the even-odd rule.
    twice = PolygonMask(((0, 0, 3, 0, 3, 2, 0, 2, 0, 0, 2, 0, 2, 2, 0, 2),)).read(2, 3)
    assert (twice == drawn("..#", "..#")).all()


def test_several_polygons_are_one_object_and_may_reach_outside():
    mask = PolygonMask(((-5, -5, 2, -5, 2, 2, -5, 2), (3, 1, 9, 1, 9, 9, 3, 9))).read(3, 5)
    assert (mask == drawn("##...", "##.##", "...##")).all()
    assert not PolygonMask(((10, 10, 12, 10, 12, 12),)).read(3, 5).any()


@pytest.mark.parametrize("seed", range(5))
def test_any_polygon_agrees_with_winding_through_each_pixel(seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-2, 14, (7, 2))
    mask = PolygonMask((tuple(corners.ravel().tolist()),)).read(11, 12)
    for row in range(11):
        for column in range(12):
            crossings = 0
            for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
                if (y1 > row + 0.5) != (y2 > row + 0.5):
                    share = (row + 0.5 - y1) / (y2 - y1)
                    crossings += column + 0.5 < x1 + share * (x2 - x1)
            assert mask[row, column] == crossings % 2


def test_runs_go_down_the_columns():
    assert (RunLengthMask((1, 3, 2), 2, 3, "x").read(2, 3) == drawn(".#.", "##.")).all()
    with pytest.raises(DataError, match="x: run lengths fill 5 pixels of 3 x 2"):
        RunLengthMask((1, 4), 2, 3, "x").read(2, 3)
    with pytest.raises(DataError, match="x: run lengths fill 6 pixels of 3 x 2, the image is 2 x 3"):
        RunLengthMask((1, 5), 2, 3, "x").read(3, 2)
