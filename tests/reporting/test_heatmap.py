"""Tables as pictures: every number and name is there, inside the picture, and on its own."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from verisal.reporting.figures import heatmap_pixels
from verisal.reporting.words import in_words
from verisal.results import Heatmap


def heatmap(lines, columns, *, name="{}", **settings):
    rng = torch.Generator().manual_seed(0)
    known = {
        "figure": "transfer",
        "title": "AUROC of masks_activations",
        "rows": tuple(name.format(f"row_{number}") for number in range(lines)),
        "columns": tuple(name.format(f"family_{number}") for number in range(columns)),
        "values": 0.4 + 0.6 * torch.rand(lines, columns, generator=rng),
        "limits": (0.5, 1.0),
        "row_label": "fitted on",
        "column_label": "family of attacks",
        "caption": "Framed: the fit has seen attacks of this family.",
    }
    return Heatmap(**known | settings)


def texts(figure):
    """Every text that is shown, the names of rows and columns too, with the pixels that it covers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    renderer = FigureCanvasAgg(figure).get_renderer()
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return {text: text.get_window_extent(renderer) for text in shown}


@pytest.fixture
def drawn(monkeypatch):
    """Draws, and gives the figure and its pixels."""
    from matplotlib.backends import backend_agg

    kept = []

    class Kept(backend_agg.FigureCanvasAgg):
        def __init__(self, figure):
            super().__init__(figure)
            kept.append(figure)

    def draw(shown):
        with monkeypatch.context() as patch:
            patch.setattr(backend_agg, "FigureCanvasAgg", Kept)
            pixels = heatmap_pixels(shown)
        return kept[-1], pixels

    return draw


LONG = "a_rather_long_name_of_{}"
SHAPES = {
    "study": heatmap(19, 9),
    "smallest": heatmap(2, 2),
    "one cell": heatmap(1, 1),
    "long names": heatmap(3, 4, name=LONG),
    "long names of few columns": heatmap(
        2, 1, name=LONG, title="A title that is longer than one column is wide"
    ),
    "long caption": heatmap(2, 2, caption="What the frames and the numbers mean, in many words. " * 6),
    "no words": heatmap(2, 2, row_label="", column_label="", caption=""),
}


@pytest.mark.parametrize("shown", SHAPES.values(), ids=SHAPES)
def test_every_name_and_number_is_readable(drawn, shown):
    figure, pixels = drawn(shown)
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    height, width = pixels.shape[:2]
    found = texts(figure)
    for text, box in found.items():
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert inside, f"{text.get_text()!r} leaves the picture"
    words = [text.get_text() for text in found]
    numbers = [f"{value:.3f}" for value in shown.values.flatten().tolist()]
    assert sorted(word for word in words if word in set(numbers)) == sorted(numbers)
    for name in (*map(in_words, (*shown.rows, *shown.columns)), shown.title):
        assert words.count(name) == 1
    assert all(text.get_fontsize() >= 8 for text in found)


@pytest.mark.parametrize("shown", SHAPES.values(), ids=SHAPES)
def test_words_do_not_lie_on_each_other(drawn, shown):
    figure, _ = drawn(shown)
    # The slanted names of columns overlap as boxes, not as letters: they are looked at apart.
    level = {text: box for text, box in texts(figure).items() if text.get_rotation() == 0}
    for (one, first), (other, second) in combinations(level.items(), 2):
        apart = first.x1 <= second.x0 + 1 or second.x1 <= first.x0 + 1
        apart = apart or first.y1 <= second.y0 + 1 or second.y1 <= first.y0 + 1
        assert apart, f"{one.get_text()!r} lies on {other.get_text()!r}"


@pytest.mark.parametrize("shown", SHAPES.values(), ids=SHAPES)
def test_slanted_names_stay_below_the_head_line(drawn, shown):
    figure, _ = drawn(shown)
    found = texts(figure)
    slanted = [box.y1 for text, box in found.items() if text.get_rotation() == 45]
    above = [box.y0 for text, box in found.items() if text.get_text() in {shown.title, shown.column_label}]
    assert len(slanted) == len(shown.columns)
    assert max(slanted) <= min(above) + 1


def test_undefined_cells_stay_empty_and_white(drawn):
    values = torch.tensor([[0.75, math.nan], [math.inf, 0.5]])
    figure, _ = drawn(heatmap(2, 2, values=values))
    numbers = [text.get_text() for text in figure.axes[0].texts]
    assert numbers == ["0.750", "0.500"]
    image = figure.axes[0].images[0]
    shown = image.to_rgba(image.get_array())
    assert shown[0, 1, 3] == 0  # nothing is painted
    assert shown[0, 0, 3] == 1


def test_frames_stand_where_they_are_asked_for(drawn):
    marked = torch.tensor([[True, False, False], [False, False, True]])
    figure, _ = drawn(heatmap(2, 3, marked=marked))
    middles = [
        (round(frame.get_x() + frame.get_width() / 2, 6), round(frame.get_y() + frame.get_height() / 2, 6))
        for frame in figure.axes[0].patches
    ]
    assert sorted(middles) == [(0.0, 0.0), (2.0, 1.0)]


def test_numbers_stand_out_against_their_cells(drawn):
    values = torch.linspace(0.3, 1.0, 15).view(3, 5)
    figure, _ = drawn(heatmap(3, 5, values=values))
    image = figure.axes[0].images[0]
    cells = image.to_rgba(image.get_array())[..., :3] @ np.array([0.2126, 0.7152, 0.0722])
    for text in figure.axes[0].texts:
        column, line = (round(place) for place in text.get_position())
        ink = {"white": 1.0, "black": 0.0}[text.get_color()]
        assert abs(ink - cells[line, column]) > 0.4


def test_nothing_global_is_left_open(drawn):
    from matplotlib import pyplot

    # What others have left open is not ours.
    before = pyplot.get_fignums()
    drawn(heatmap(2, 2))
    assert pyplot.get_fignums() == before
