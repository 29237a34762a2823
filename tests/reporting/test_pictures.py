"""Pictures of maps: one colour scale, peaks that do not hide the rest, and results that show themselves."""

import io

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from verisal.errors import ConfigError, DataError
from verisal.pictures import brightest, image_pixels, in_a_row, largest, map_pixels, overlaid, png
from verisal.types import SaliencyResult

#: Viridis at 0 and at 1.
DARK, BRIGHT = [68, 1, 84], [253, 231, 36]


def result(maps: torch.Tensor) -> SaliencyResult:
    return SaliencyResult(maps, maps)


def ramp() -> torch.Tensor:
    """A 2 x 2 map with 0, 1, 2 and 4."""
    return torch.tensor([0.0, 1.0, 2.0, 4.0]).view(1, 1, 2, 2)


def test_colours_run_from_0_to_the_end():
    pixels = map_pixels(ramp(), end=largest)
    assert pixels.shape == (1, 2, 2, 3)
    assert pixels[0, 0, 0].tolist() == DARK
    assert pixels[0, 1, 1].tolist() == BRIGHT
    # The same share has the same colour, whatever the magnitude.
    assert np.array_equal(map_pixels(ramp() * 1e-6, end=largest), pixels)


def test_values_that_are_not_finite_are_white_and_a_map_of_nothing_is_dark():
    maps = ramp()
    maps[0, 0, 1, 1], maps[0, 0, 0, 1] = torch.nan, torch.inf
    pixels = map_pixels(maps, end=largest)
    assert pixels[0, 1, 1].tolist() == pixels[0, 0, 1].tolist() == [255, 255, 255]
    assert pixels[0, 1, 0].tolist() == BRIGHT
    assert map_pixels(maps * 0, end=brightest)[0, 0, 0].tolist() == DARK


def test_a_peak_does_not_darken_the_rest():
    values = np.ones((40, 40))
    values[3, 5] = 1000.0
    assert (brightest(values), largest(values)) == (1.0, 1000.0)
    # Where the quantile says nothing, the peak is all there is.
    assert brightest(np.where(values > 1, values, 0.0)) == 1000.0


def test_an_overlay_is_the_grey_image_where_the_map_is_0_and_its_colour_where_it_is_bright():
    images = torch.zeros(1, 3, 2, 2)
    images[:, 0] = 0.6
    pictures = overlaid(images, ramp(), opacity=1.0)
    assert pictures[0, 0, 0].tolist() == [51, 51, 51]
    assert pictures[0, 1, 1].tolist() == BRIGHT
    assert overlaid(images, ramp(), opacity=0.0)[0, 1, 1].tolist() == [51, 51, 51]


def test_the_lower_a_value_the_more_of_the_photograph_is_seen():
    images = torch.full((1, 3, 2, 2), 0.5)
    low, middle, high = (
        float(np.abs(overlaid(images, ramp(), opacity=0.7)[0, row, column].astype(int) - 128).max())
        for row, column in ((0, 0), (0, 1), (1, 1))
    )
    assert low <= 1 < middle < high


def test_signed_maps_are_red_above_0_and_blue_below_and_nothing_between():
    images = torch.full((1, 3, 1, 4), 0.5)
    maps = torch.tensor([-4.0, 0.0, 4.0, torch.nan]).view(1, 1, 1, 4)
    blue, none, red, undefined = overlaid(images, maps, opacity=1.0, signed=True)[0, 0].astype(int)
    assert blue[2] > 60 + blue[0]
    assert red[0] > 60 + red[2]
    assert none.tolist() == undefined.tolist() == [128, 128, 128]
    # Below 0 there is no colour where nobody asks for one.
    assert overlaid(images, maps, opacity=1.0)[0, 0, 0].tolist() == [128, 128, 128]


def test_a_coarse_map_covers_the_image_and_several_maps_may_share_an_end():
    images = torch.zeros(2, 3, 4, 4)
    maps = torch.cat([ramp(), ramp() / 4])
    own = overlaid(images, maps, opacity=1.0)
    assert own.shape == (2, 4, 4, 3)
    assert own[0, 2, 3].tolist() == own[1, 3, 2].tolist() == BRIGHT
    shared = overlaid(images, maps, opacity=1.0, end=lambda _: 4.0)
    assert shared[0, 3, 3].tolist() == BRIGHT
    assert shared[1, 3, 3].max() < 150


def test_a_row_enlarges_small_pictures():
    row = in_a_row(image_pixels(torch.rand(3, 3, 2, 4)), side=8)
    assert row.shape == (4, 3 * 8 + 2 * 4, 3)
    assert (row[:, 8:12] == 255).all()
    assert row[0, 0].tolist() == row[1, 1].tolist()


def test_a_result_is_three_lines_and_a_picture():
    shown = SaliencyResult(
        torch.rand(3, 1, 64, 64), torch.rand(3, 1, 64, 64), torch.randn(3, 3, 64, 64), baseline="grey",
        n_forward=66, query_class=torch.tensor([1, 7, 2]),
    )  # fmt: skip
    words = repr(shown)
    assert len(words) < 3 * 80
    assert words.startswith("SaliencyResult(3 maps of 64 x 64 px, ")
    for part in ("attribution (3, 3, 64, 64)", "[1, 7, 2]", "baseline grey", "66 forward and 0 backward"):
        assert part in words
    picture = Image.open(io.BytesIO(shown._repr_png_()))
    assert picture.size == (3 * 128 + 2 * 4, 128)
    assert png(np.asarray(picture)) == shown._repr_png_()


def test_overlays_come_with_and_without_a_batch():
    images = torch.rand(1, 3, 2, 2)
    pictures = result(ramp()).overlay(images)
    assert (pictures.shape, pictures.dtype) == ((1, 2, 2, 3), np.uint8)
    assert np.array_equal(result(ramp()).overlay(images[0]), pictures[0])


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.rand(2, 3, 2, 2), "those that were explained, 1 of 2 x 2 px, found 2 of 2 x 2 px"),
        (torch.rand(1, 3, 4, 4), "found 1 of 4 x 4 px"),
        (torch.randn(1, 3, 2, 2) * 9, "look normalised"),
    ],
)
def test_other_images_are_refused(images, words):
    for show in (result(ramp()).overlay, result(ramp()).plot):
        with pytest.raises(DataError, match=words):
            show(images)
    with pytest.raises(ConfigError, match="opacity must be from 0 to 1, found 2"):
        result(ramp()).plot(opacity=2)


def test_plots_are_figures_with_a_column_per_map():
    many = SaliencyResult(ramp().repeat(9, 1, 1, 1), ramp(), query_class=torch.arange(9))
    for images, lines in ((None, 1), (torch.rand(9, 3, 2, 2), 2)):
        figure = many.plot(images)
        assert isinstance(figure, Figure)
        assert len(figure.axes) == 8 * lines
        assert figure.axes[3].get_title() == "class 3, up to 4"
