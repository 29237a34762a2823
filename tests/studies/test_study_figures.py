"""Pictures of studies: as wide as a page, every value in its cell, the same each time."""

import numpy as np
import pytest
import torch

from verisal.errors import DataError
from verisal_studies.figures import map_table_pixels, matrices_pixels

pytestmark = pytest.mark.slow


def maps(columns=13, **settings):
    generator = torch.Generator().manual_seed(0)
    rows = {
        name: {f"baseline_{place}": torch.rand(8, 8, generator=generator) for place in range(columns)}
        for name in ("rise", "occlusion")
    }
    known = {"title": "maps", "caption": "bright is much"}
    return map_table_pixels(torch.rand(3, 8, 8, generator=generator), rows, **known | settings)


def matrices(values, names, **settings):
    known = {"title": "t", "labels": ("map", "metric"), "scale": "area", "limits": (-1.0, 1.0)}
    return matrices_pixels(values, names, **known | settings)


def colours(pixels):
    return {tuple(one) for one in pixels.reshape(-1, 3).tolist()}


def test_pictures_are_as_wide_as_a_page_and_repeat():
    for draw in (
        maps,
        lambda: matrices({"a": torch.eye(12), "b": torch.eye(12)}, [f"n{i}" for i in range(12)]),
    ):
        pixels = draw()
        assert pixels.dtype == np.uint8
        assert 850 <= pixels.shape[1] <= 910
        assert np.array_equal(pixels, draw())


def test_every_map_has_the_scale_of_its_own_maximum():
    flat = {"rise": {"a": torch.full((4, 4), 0.2), "b": torch.full((4, 4), 9.0)}}
    pixels = map_table_pixels(torch.zeros(3, 4, 4), flat, title="t", caption="c")
    assert (253, 231, 36) in colours(pixels)  # the bright end of viridis, for both
    assert (68, 1, 84) not in colours(pixels)
    empty = {"rise": {"a": torch.zeros(4, 4)}}
    assert (68, 1, 84) in colours(map_table_pixels(torch.zeros(3, 4, 4), empty, title="t", caption="c"))


def test_colours_part_at_zero_where_the_limits_do():
    names = ["x", "y"]
    values = torch.tensor([[1.0, -1.0], [0.0, 1.0]])
    found = colours(matrices({"a": values}, names))
    assert {(5, 48, 97), (103, 0, 31)} <= found  # the blue and the red end
    assert (5, 48, 97) not in colours(matrices({"a": values}, names, limits=(0.0, 1.0)))


def test_nothing_to_draw_is_refused():
    with pytest.raises(DataError, match="at least one row"):
        map_table_pixels(torch.zeros(3, 4, 4), {}, title="t", caption="c")
    with pytest.raises(DataError, match="at least one, found none"):
        matrices({}, [])
