import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from verisal.errors import DataError
from verisal.models import load_classifier
from verisal.reporting import draw_gallery
from verisal.saliency import SmoothGrad

ROOT = Path(__file__).parents[2]
# As in the module: edge, names above a line, panel, gap, caption.
EDGE, NAMES, PANEL, GAP, CAPTION = 10, 46, 128, 6, 26
DARKEST, BRIGHTEST = (68, 1, 84), (253, 231, 36)


def pixels_of(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def panel(path, *, column, row, line=0, rows=2):
    """``(4, 4, 3)``: what a panel of 4 x 4 fields shows at the middle of each of them."""
    top = line * (NAMES + rows * (PANEL + CAPTION)) + NAMES + row * (PANEL + CAPTION)
    left = EDGE + column * (PANEL + GAP)
    return pixels_of(path)[top + 16 : top + PANEL : 32, left + 16 : left + PANEL : 32]


def drawn(tmp_path, maps, *, columns=9):
    images = torch.zeros(2, 3, 4, 4)
    images[0, 0], images[1, 2] = 1.0, 1.0
    path = tmp_path / "gallery.png"
    draw_gallery(images, maps, path, captions=["one", "two"], columns=columns, opacity=0.0)
    return path


def close(found, expected):
    """Within what the palette may move."""
    return bool((np.abs(found - np.array(expected)) <= 4).all())


def test_images_and_maps_stand_where_they_belong_and_each_map_ends_at_its_own_maximum(tmp_path):
    maps = torch.zeros(2, 1, 4, 4)
    maps[0, 0, 1, 2], maps[1, 0, 3, 0] = 7.0, 0.001
    path = drawn(tmp_path, {"first": torch.zeros(2, 1, 4, 4), "second": maps})
    assert close(panel(path, column=0, row=0), (255, 0, 0))
    assert close(panel(path, column=0, row=1), (0, 0, 255))
    assert close(panel(path, column=1, row=0), DARKEST)  # a map without anything in it
    for row, place in enumerate([(1, 2), (3, 0)]):
        shown = panel(path, column=2, row=row)
        assert close(shown[place], BRIGHTEST)
        shown[place] = DARKEST
        assert close(shown, DARKEST)


def test_a_map_is_drawn_from_zero_and_not_from_its_minimum(tmp_path):
    flat = torch.full((2, 1, 4, 4), 0.5)
    path = drawn(tmp_path, {"flat": flat})
    assert close(panel(path, column=1, row=0), BRIGHTEST)


def test_methods_that_find_no_place_go_on_in_the_next_line_beside_the_images(tmp_path):
    maps = {f"method {number}": torch.zeros(2, 1, 4, 4) for number in range(3)}
    maps["method 2"][1] = 1.0
    path = drawn(tmp_path, maps, columns=2)
    assert pixels_of(path).shape[1] == 2 * EDGE + 3 * (PANEL + GAP) - GAP
    assert close(panel(path, column=0, row=1, line=1), (0, 0, 255))
    assert close(panel(path, column=1, row=0, line=1), DARKEST)
    assert close(panel(path, column=1, row=1, line=1), BRIGHTEST)
    assert close(panel(path, column=2, row=1, line=1), (255, 255, 255))


def test_wide_images_and_maps_that_are_not_finite(tmp_path):
    maps = torch.ones(1, 1, 2, 8)
    maps[..., :4] = torch.nan
    draw_gallery(torch.ones(1, 3, 2, 8), {"half": maps}, tmp_path / "a.png", captions=["wide"], opacity=0.0)
    shown = panel(tmp_path / "a.png", column=1, row=0, rows=1)
    assert close(shown[:, :2], (255, 255, 255))
    assert close(shown[:, 2:], BRIGHTEST)
    maps = torch.ones(1, 1, 2, 8)
    draw_gallery(torch.ones(1, 3, 2, 8), {"half": maps}, tmp_path / "b.png", captions=["wide"], opacity=0.0)
    # The note says what white is.
    assert pixels_of(tmp_path / "a.png").shape[0] > pixels_of(tmp_path / "b.png").shape[0]


def test_the_note_takes_as_many_lines_as_the_figure_is_narrow(tmp_path):
    heights = []
    for count in (1, 8):
        path = drawn(tmp_path, {f"method {number}": torch.zeros(2, 1, 4, 4) for number in range(count)})
        heights.append(pixels_of(path).shape[0] - NAMES - 2 * (PANEL + CAPTION))
        below = pixels_of(path)[NAMES + 2 * (PANEL + CAPTION) :]
        inked = (below < 160).any(axis=(0, 2)).nonzero()[0]
        assert inked[0] > EDGE
        assert inked[-1] < below.shape[1] - EDGE
    assert heights == [10 + 3 * 18, 10 + 18]


def test_over_the_image_a_map_hides_only_where_it_is_high(tmp_path):
    images = torch.full((1, 3, 4, 4), 0.5)
    images[:, 0] = 1.0
    maps = torch.zeros(1, 1, 4, 4)
    maps[..., 2, 1] = 3.0
    draw_gallery(images, {"one": maps}, tmp_path / "a.png", captions=["a"], opacity=1.0)
    assert close(panel(tmp_path / "a.png", column=0, row=0, rows=1), (255, 128, 128))
    shown = panel(tmp_path / "a.png", column=1, row=0, rows=1)
    assert close(shown[2, 1], BRIGHTEST)
    shown[2, 1] = (170, 170, 170)
    assert close(shown, (170, 170, 170))


def test_equal_galleries_are_equal_files(tmp_path):
    maps = {"noise": torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))}
    first = drawn(tmp_path, maps).read_bytes()
    assert drawn(tmp_path, maps).read_bytes() == first


def test_what_does_not_fit_is_named(tmp_path):
    images, maps, path = torch.zeros(2, 3, 4, 4), {"a": torch.zeros(2, 1, 4, 4)}, tmp_path / "a.png"
    with pytest.raises(DataError, match=r"at least one; found \(0, 3, 4, 4\)"):
        draw_gallery(images[:0], maps, path, captions=[])
    with pytest.raises(DataError, match="at least one method, found none"):
        draw_gallery(images, {}, path, captions=["", ""])
    with pytest.raises(DataError, match=r"maps of a must be \(2, 1, 4, 4\), found \(1, 1, 4, 4\)"):
        draw_gallery(images, {"a": maps["a"][:1]}, path, captions=["", ""])
    with pytest.raises(DataError, match="one caption per image, found 1 for 2"):
        draw_gallery(images, maps, path, captions=[""])


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("gallery")


def test_one_method_of_the_command_line_takes_the_place_of_those_of_the_config(script, tmp_path, capsys):
    words = ["--saliency=SmoothGrad", "--saliency.base=InputXGradient", "--saliency.samples=2"]
    config = str(ROOT / "configs" / "gallery.yaml")
    script.main([f"--config={config}", *words, f"--output={tmp_path / 'a.png'}"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["SmoothGrad", "wrote"]
    assert pixels_of(tmp_path / "a.png").shape[1] == 2 * EDGE + 2 * (PANEL + GAP) - GAP


def test_rows_explain_the_class_that_they_name(script, tmp_path):
    asked, row = [], script.Row

    class Spy:
        def __call__(self, classifier, images, query_class):
            asked.append((classifier.num_classes, images, query_class.tolist()))
            return SmoothGrad(samples=1)(classifier, images, query_class)

    rows = [
        row(index=18),
        row(index=100, objects="several", query=0),
        row(index=100, objects="several", query=1),
    ]
    script.gallery(methods={"spy": Spy()}, rows=rows, output=str(tmp_path / "a.png"))
    ((_, images, query),) = asked
    names = ["monkey", "doughnut", "tomato"]
    assert [load_classifier("emoji_scenes_64").class_names[label] for label in query] == names
    assert images[1].equal(images[2])
