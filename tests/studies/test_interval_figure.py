import numpy as np
import pytest

from verisal.errors import DataError
from verisal.results import Score
from verisal_studies.figures import interval_pixels

NAN = float("nan")
BLUE, ORANGE = (0, 0x72, 0xB2), (0xD5, 0x5E, 0)


def panels(value=1.0):
    one, two = Score(value, value - 0.5, value + 0.5, n=3), Score(2.0, 1.5, 2.5, n=3)
    return {"fidelity": {"gradient": {"ours": one, "control": two}, "smooth": {"ours": one}}}


def columns_of(pixels, colour):
    return np.flatnonzero((pixels == np.array(colour, np.uint8)).all(axis=2).any(axis=0))


def test_larger_scores_lie_to_the_right_and_series_have_colours_of_their_own():
    pixels = interval_pixels(panels(), title="left is good", reference=0.0)
    assert pixels.dtype == np.uint8
    assert pixels.shape[1] == 900
    # The legend lies below the axes.
    axes = pixels[: round(0.7 * len(pixels))]
    assert columns_of(axes, BLUE).max() < columns_of(axes, ORANGE).max()
    assert columns_of(axes, BLUE).min() < columns_of(axes, ORANGE).min()
    assert np.array_equal(pixels, interval_pixels(panels(), title="left is good", reference=0.0))


def test_what_has_no_value_is_left_out_and_what_has_no_interval_is_a_mark():
    found = {
        "a": {"x": {"ours": Score(NAN, NAN, NAN, n=0)}, "y": {"ours": Score(1.0, NAN, NAN, n=1)}, "z": {}}
    }
    pixels = interval_pixels(found, title="t")
    assert 0 < np.ptp(columns_of(pixels, BLUE)) < 12


@pytest.mark.parametrize(
    "wrong", [{}, {"a": {}}, {"a": {"x": {}}, "b": {"y": {}}}], ids=["no panel", "no line", "other lines"]
)
def test_panels_share_lines(wrong):
    with pytest.raises(DataError, match="at least one panel, and the same lines in all"):
        interval_pixels(wrong, title="t")
