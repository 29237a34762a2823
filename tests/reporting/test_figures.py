import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from helpers.evaluations import curve, evaluation, panel
from verisal.errors import DataError
from verisal.pictures import Canvas, write_png
from verisal.reporting import draw_curves, draw_histograms, draw_roc
from verisal.reporting.figures import panel_pixels
from verisal.reporting.lines import look
from verisal.results import Curve, Histogram


def texts(figure):
    """Every text of a figure, with the pixels that it covers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    ticks = {
        label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in axis.get_ticklabels()
    }
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    shown = [text for text in shown if text not in ticks]  # those beyond the limits exist and are not drawn
    return {text: text.get_window_extent(renderer) for text in shown}


def kept_figure(monkeypatch, draw):
    kept = []
    pixels = Canvas.pixels

    def keep(canvas):
        kept.append(canvas.figure)
        return pixels(canvas)

    monkeypatch.setattr(Canvas, "pixels", keep)
    draw()
    return kept[0]


def assert_nothing_clipped(figure):
    width, height = figure.get_size_inches() * figure.dpi
    for text, box in texts(figure).items():
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
        assert inside, f"{text.get_text()!r} leaves the figure"


def test_roc_names_every_detector_with_its_auroc(tmp_path, monkeypatch):
    curves = [curve("roc_a", f"detector_{number}") for number in range(10)]
    legend = {line.label: f"{line.label}: AUROC 0.912 [0.904, 0.919]" for line in curves}
    figure = kept_figure(
        monkeypatch, lambda: draw_roc(curves, tmp_path / "a.png", legend=legend, title="ROC against a")
    )
    words = [text.get_text() for text in texts(figure)]
    assert all(words.count(entry) == 1 for entry in legend.values())
    assert_nothing_clipped(figure)
    styles = {(line.get_marker(), line.get_linestyle()) for line in figure.axes[0].lines[:10]}
    assert len(styles) == 10
    assert all(a.marker != b.marker and a.style != b.style for a, b in pairwise(map(look, range(32))))


def test_curves(tmp_path, monkeypatch):
    lines = [curve("deletion", "masks"), replace(curve("deletion", "gradient"), n=7)]
    figure = kept_figure(
        monkeypatch, lambda: draw_curves(lines, tmp_path / "a.png", legend={}, title="deletion")
    )
    assert {"masks", "gradient (7 images)", "deletion"} <= {text.get_text() for text in texts(figure)}
    assert_nothing_clipped(figure)


def test_a_line_under_another_shows_as_its_border(tmp_path, monkeypatch):
    lines = [curve("deletion", name) for name in ("masks", "gradient", "occlusion")]
    lines[1] = replace(lines[1], y=lines[1].y.flip(0))
    figure = kept_figure(monkeypatch, lambda: draw_curves(lines, tmp_path / "a.png", legend={}, title=""))
    assert [line.get_linewidth() for line in figure.axes[0].lines] == [4.5, 2, 2]


@pytest.mark.parametrize(("count", "shown"), [(13, 13), (100, 34)])
def test_things_on_the_axis_are_named_as_far_as_there_is_room(tmp_path, monkeypatch, count, shown):
    names = tuple(f"band {number}" for number in range(count))
    line = Curve("evidence", "masks", torch.arange(count), torch.rand(count), "band", "share", ticks=names)
    figure = kept_figure(monkeypatch, lambda: draw_curves([line], tmp_path / "a.png", legend={}, title=""))
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == list(names[:: -(-count // 40)])
    assert len(labels) == shown
    assert_nothing_clipped(figure)


def test_histograms_share_one_axis_and_say_how_many_lie_beyond_the_thresholds(tmp_path, monkeypatch):
    histogram = Histogram(
        "scores",
        {"clean": torch.arange(10.0), "cw_l2": torch.tensor([5.0, 9.0, math.nan, math.inf])},
        "score",
        {"FPR 5 %": 8.5, "FPR 1 %": 8.6, "none": math.nan},
    )
    figure = kept_figure(monkeypatch, lambda: draw_histograms(histogram, tmp_path / "a.png", title="scores"))
    found = texts(figure)
    words = [text.get_text() for text in found]
    assert {"10.0% / 10.0%", "50.0% / 50.0%", "clean\nn = 10", "C&W L2\nn = 2, 2 not finite"} <= set(words)
    assert_nothing_clipped(figure)
    left, right = (
        next(box for text, box in found.items() if text.get_text() == f"alarm, {name}")
        for name in ("FPR 5 %", "FPR 1 %")
    )
    assert left.x1 <= right.x0 + 1
    bars = figure.axes[0].patches[0].get_data()
    heights = bars.values - bars.baseline
    # One bar for each of ten scores: those beyond the ends count in the outermost ones.
    assert (heights > 0).sum() == 10
    assert heights[0] > 0
    assert heights[heights > 0] == pytest.approx(heights.max())


def test_colours_of_a_histogram_say_what_the_images_are(tmp_path, monkeypatch):
    roles = {
        "cw_l2_failed": "failed",
        "pgd": "attack",
        "clean": "clean",
        "cw_l2": "attack",
        "noise": "benign",
    }
    histogram = Histogram("scores", {name: torch.arange(9.0) for name in roles}, "score", {}, roles)
    figure = kept_figure(monkeypatch, lambda: draw_histograms(histogram, tmp_path / "a.png", title="scores"))
    counted = [text.get_text().split("\n")[0] for text in figure.axes[0].texts]
    assert counted == ["clean", "noise", "PGD", "C&W L2", "C&W L2 failed"]
    strips = zip(counted, figure.axes[0].patches, strict=True)
    fills = {name: (patch.get_facecolor(), patch.get_hatch()) for name, patch in strips}
    assert fills["PGD"] == fills["C&W L2"]
    assert len(set(fills.values())) == 4
    words = [text.get_text() for text in texts(figure)]
    assert {"clean", "attacked in vain", "attacked, the classifier was fooled"} <= set(words)
    assert_nothing_clipped(figure)


def test_curves_have_the_bands_of_their_intervals(tmp_path, monkeypatch):
    line = curve("deletion", "masks")
    banded = replace(line, low=line.y - 0.1, high=line.y + 0.1, n=64)
    figure = kept_figure(
        monkeypatch, lambda: draw_curves([banded], tmp_path / "a.png", legend={}, title="deletion")
    )
    (band,) = figure.axes[0].collections
    low, high = band.get_datalim(figure.axes[0].transData).intervaly
    assert (low, high) == pytest.approx((-0.1, 1.1))
    assert figure.axes[0].get_xlabel().endswith("(mean of 64 images; bands: 95 % intervals)")


def test_dollars_in_names_are_no_formulas(tmp_path):
    line = curve(r"$\frac$", r"$\frac$")
    histogram = Histogram(r"$\frac$", {r"$\frac$": torch.arange(9.0)}, "score", {})
    draw_curves([line], tmp_path / "a.png", legend={}, title=r"$\frac$")
    draw_roc([line], tmp_path / "b.png", legend={}, title=r"$\frac$")
    draw_histograms(histogram, tmp_path / "c.png", title=r"$\frac$")
    assert len(list(tmp_path.iterdir())) == 3


def test_nothing_to_draw_is_an_error(tmp_path):
    empty = Histogram("scores", {"clean": torch.tensor([math.nan])}, "score", {})
    with pytest.raises(DataError, match=r"a.png: no finite score to draw in groups \['clean'\]"):
        draw_histograms(empty, tmp_path / "a.png", title="")
    with pytest.raises(DataError, match="no curves"):
        draw_roc([], tmp_path / "a.png", legend={}, title="")
    with pytest.raises(DataError, match="no curves"):
        draw_curves([], tmp_path / "a.png", legend={}, title="")


def test_panel_maps_share_one_scale_and_the_difference_is_ten_times_as_large(monkeypatch):
    figure = kept_figure(monkeypatch, lambda: panel_pixels(panel()))
    images = {}
    for axes in figure.axes:
        for image in axes.images:
            images.setdefault(axes.get_position(original=True).x0, []).append(image)
    columns = [images[x] for x in sorted(images)]
    # A column of maps has two colour scales; the last one shows them over the images.
    assert [len(column) for column in columns] == [3, 5, 5, 5, 3]
    difference = columns[0][2].get_array()
    assert difference[0, 0].tolist() == [0.5, 0.5, 0.5]
    assert difference[2, 2].tolist() == pytest.approx([0.7, 0.7, 0.7])
    clean, attacked, change = columns[2][:3]
    assert clean.get_clim() == attacked.get_clim() == (1.0, 3.0)
    assert change.get_clim() == (-2.0, 2.0)
    assert columns[1][2].get_clim() == (-1.0, 1.0)  # no change at all: white, in the middle of the scale
    assert_nothing_clipped(figure)


def test_a_long_caption_is_wrapped_and_not_clipped(monkeypatch):
    shown = panel(caption="a caption of many words " * 30)
    assert_nothing_clipped(kept_figure(monkeypatch, lambda: panel_pixels(shown)))


def test_maps_that_are_not_finite_are_drawn_as_gaps():
    shown = panel()
    shown.attacked_layers["stage1"].fill_(math.nan)
    assert panel_pixels(shown).std() > 0


def test_pixels_survive_the_file(tmp_path):
    from matplotlib.image import imread

    pixels = panel_pixels(panel())
    write_png(pixels, tmp_path / "new" / "a.png")
    assert np.array_equal((imread(tmp_path / "new" / "a.png")[..., :3] * 255).round(), pixels)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_equal_figures_are_equal_files(tmp_path):
    histogram = evaluation().histograms[0]
    for name in ("a.png", "b.png"):
        draw_histograms(histogram, tmp_path / name, title="scores")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
