from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.text import Text
from PIL import Image

from verisal.errors import DataError
from verisal.pictures import OPACITY, Canvas
from verisal.reporting import Explanation, draw_contact_sheet, draw_explanation


def explanation(**changes):
    ramp = torch.linspace(0, 1, 16).expand(16, 16)
    made = Explanation(
        name="a.png",
        image=torch.full((3, 16, 16), 0.25),
        query="dog",
        disturbed="cat",
        saliency=torch.full((16, 16), 4.0),
        disturbed_saliency=torch.full((16, 16), 1.0),
        layers={"stage1": ramp, "stage2": 2 * ramp},
        classes=[("dog", 0.8), ("cat", 0.001)],
        method="Gradient",
    )
    return replace(made, **changes)


def pixels_of(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def share_of(pixels, colour):
    wanted = np.round(np.array(colour[:3]) * 255)
    return float((np.abs(pixels - wanted).max(axis=-1) <= 1).mean()) * pixels.shape[0] * pixels.shape[1]


@pytest.fixture
def words(monkeypatch):
    """Draws an explanation and gives all its texts."""
    kept, pixels = [], Canvas.pixels
    monkeypatch.setattr(Canvas, "pixels", lambda canvas: kept.append(canvas.figure) or pixels(canvas))

    def draw(shown, path):
        draw_explanation(shown, path)
        return [text.get_text() for text in kept[-1].findobj(Text)]

    return draw


def test_the_map_lies_over_the_image_in_grey_unless_nobody_wants_it(tmp_path, words):
    shown = explanation(layers={}, saliency=torch.full((16, 16), 4.0))
    assert "over the image:\ndog" in words(shown, tmp_path / "a.png")
    viridis, grey = np.array(colormaps["viridis"](1.0)[:3]), np.full(3, 64 / 255)
    mixed = OPACITY * viridis + (1 - OPACITY) * grey
    assert share_of(pixels_of(tmp_path / "a.png").astype(float), mixed) > 0.95 * 224**2
    draw_explanation(shown, tmp_path / "b.png", opacity=0.2)
    mixed = 0.2 * viridis + 0.8 * grey
    assert share_of(pixels_of(tmp_path / "b.png").astype(float), mixed) > 0.95 * 224**2
    draw_explanation(shown, tmp_path / "none.png", opacity=0.0)
    assert pixels_of(tmp_path / "none.png").shape[1] < pixels_of(tmp_path / "a.png").shape[1] - 224


def test_a_weak_map_is_pale_over_the_image_beside_a_strong_one_of_the_other_query(tmp_path):
    shown = explanation(layers={}, disturbed_saliency=torch.full((16, 16), 400.0))
    draw_explanation(shown, tmp_path / "a.png")
    dark = (np.abs(pixels_of(tmp_path / "a.png").astype(int) - 64).max(axis=-1) < 12).sum()
    # The image itself, and below the map hardly anything else.
    assert dark > 1.9 * 224**2


def test_both_queries_share_one_scale(tmp_path):
    draw_explanation(explanation(layers={}), tmp_path / "a.png")
    pixels = pixels_of(tmp_path / "a.png").astype(float)
    viridis = colormaps["viridis"]
    # A quarter of the largest value has a quarter's colour, all over its panel of 224 x 224 pixels.
    assert share_of(pixels, viridis(0.25)) > 0.95 * 224**2
    assert share_of(pixels, viridis(1.0)) > 0.95 * 224**2
    draw_explanation(explanation(layers={}, disturbed_saliency=torch.full((16, 16), 4.0)), tmp_path / "b.png")
    assert share_of(pixels_of(tmp_path / "b.png").astype(float), viridis(1.0)) > 1.9 * 224**2


def test_layers_have_a_row_of_their_own(tmp_path):
    draw_explanation(explanation(), tmp_path / "a.png")
    draw_explanation(explanation(layers={}), tmp_path / "b.png")
    assert pixels_of(tmp_path / "a.png").shape[0] > pixels_of(tmp_path / "b.png").shape[0] + 224


def test_an_alarm_is_written_in_red(tmp_path):
    for alarm in (True, False):
        words = "ALARM" if alarm else "no alarm"
        draw_explanation(explanation(verdict=words, alarm=alarm), tmp_path / f"{alarm}.png")
    red = (0xC0 / 255, 0.0, 0.0)
    assert share_of(pixels_of(tmp_path / "True.png").astype(float), red) > 20
    assert share_of(pixels_of(tmp_path / "False.png").astype(float), red) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_empty_maps_are_drawn_dark_and_those_without_a_number_white(tmp_path, words, value):
    empty = torch.full((16, 16), value)
    shown = explanation(saliency=empty, disturbed_saliency=empty, layers={"a": empty})
    note = " ".join(words(shown, tmp_path / "a")).replace("\n", " ")
    dark = share_of(pixels_of(tmp_path / "a").astype(float), colormaps["viridis"](0.0))
    assert (dark > 2.9 * 224**2) == (value == 0)
    assert (dark < 0.1 * 224**2) == (value != 0)
    # The note may go on in another line.
    assert ("White:" in note and "no number." in note) == (value != 0)
    draw_contact_sheet([shown], tmp_path / "sheet.png")


def test_equal_figures_are_equal_files(tmp_path):
    for name in ("a", "b"):
        draw_explanation(explanation(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_sheet_grows_by_rows(tmp_path):
    heights = {}
    for count in (1, 3, 4):
        draw_contact_sheet([explanation()] * count, tmp_path / f"{count}.png")
        heights[count] = pixels_of(tmp_path / f"{count}.png").shape[:2]
    assert heights[1][0] == heights[3][0] < heights[4][0]
    assert heights[1][1] < heights[3][1] == heights[4][1]
    draw_contact_sheet([explanation()] * 4, tmp_path / "alone.png", opacity=0.0)
    bright = colormaps["viridis"](1.0)
    alone, over = (pixels_of(tmp_path / f"{name}.png").astype(float) for name in ("alone", "4"))
    assert share_of(alone, bright) > 0.95 * 4 * 150**2
    assert share_of(over, bright) < 100
    # Every image is there, at 150 pixels.
    grey = (64 / 255,) * 3
    assert share_of(pixels_of(tmp_path / "4.png").astype(float), grey) > 0.95 * 4 * 150**2
    with pytest.raises(DataError, match="no images"):
        draw_contact_sheet([], tmp_path / "none.png")


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.0004, "< 0.1%"), (0.0344, "3.4%"), (0.0996, "10%"), (1.0, "100%"), (0.0, "< 0.1%")],
)
def test_shares_in_words(tmp_path, words, share, said):
    assert said in words(explanation(classes=[("dog", share), ("cat", 0.2)]), tmp_path / "a.png")
