"""What metrics say of images that they cannot score."""

import pytest
import torch

from verisal.functional.baselines import Blur, Constant
from verisal.metrics import EnergyInside, MaxBoxAcc, PerturbationCurve, PointingGame, RelevanceGap, Smoothness

MASKS = torch.zeros(3, 6, 8, dtype=torch.bool)
MASKS[:, 1:4, 2:5] = True
MAPS = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(0))


def test_missing_annotation_is_said_with_counts():
    metric = EnergyInside()
    masks = MASKS.clone()
    metric.update(MAPS, masks)
    assert metric.missing() == metric.unscored() == ""
    masks[1] = False
    metric.update(MAPS, masks)
    assert (
        metric.missing()
        == "EnergyInside: 1 of 6 images have no object of the explained class and are left out"
    )
    nothing, boxless = PointingGame(), MaxBoxAcc()
    nothing.update(MAPS, masks & False)
    boxless.update(MAPS, boxes=[[], [], []])
    assert nothing.missing(of="the predicted class") == (
        "PointingGame: 0 of 3 images have an object of the predicted class;"
        " without masks or boxes its scores are NaN"
    )
    assert boxless.missing().startswith(
        "MaxBoxAcc: 0 of 3 images have a box of the explained class; without boxes"
    )
    assert nothing.unscored() == boxless.unscored() == ""
    for silent in (metric, nothing, boxless):
        with pytest.warns(UserWarning, match="images have") as warned:
            value = silent.compute()
        assert [str(each.message) for each in warned] == [silent.missing()]
        assert bool(value.isnan()) == (silent is not metric)


def test_maps_that_cannot_be_scored_are_said_with_counts():
    flat, some = EnergyInside(), Smoothness()
    flat.update(MAPS * 0, MASKS)
    some.update(MAPS)
    assert flat.missing() == some.missing() == some.unscored() == ""
    said = "EnergyInside: none of 3 images can be scored, and its scores are NaN"
    assert flat.unscored().startswith(said)
    with pytest.warns(UserWarning, match=said):
        assert flat.compute().isnan()
    one = MaxBoxAcc()
    one.update(MAPS[:1], boxes=[[2, 1, 5, 4]])
    assert one.unscored().endswith(", or one image is too few")


def _of_mean(images):
    """Sure of grey images, and unsure of black ones."""
    mean = images.mean(dim=(1, 2, 3))
    return torch.stack([mean * 8, torch.zeros_like(mean)], dim=1)


@pytest.mark.parametrize(
    ("metric", "name"), [("insertion", "insertion"), ("lerf", "lerf"), (None, "relevance_gap")]
)
def test_a_baseline_that_hides_nothing_is_said(metric, name):
    def curve(baseline, **settings):
        made = (
            PerturbationCurve(metric, baseline=baseline, steps=4, **settings)
            if metric
            else RelevanceGap(baseline=baseline, steps=4)
        )
        made.update(MAPS, images=torch.full((3, 3, 6, 8), 0.5), classifier=_of_mean)
        return made

    blurred, black = curve(Blur(sigma=5)), curve(Constant(level=0.0))
    said = "images that blur5 replaces altogether keep 1.00 of their score (0.982 of 0.982)"
    assert blurred.caution().startswith(f"{name}[blur5]_steps4: {said}")
    with pytest.warns(UserWarning, match="hides next to nothing"):
        assert blurred.compute().isfinite()
    assert black.caution() == ""
    assert black.compute().isfinite()
    if metric:
        # Undefined values of such images hide nothing of it, and logits have no share.
        assert "keep 1.00" in curve(Blur(sigma=5), normalised=True).caution()
        assert curve(Blur(sigma=5), score="logit").caution() == ""


def test_a_network_that_is_unsure_of_clean_images_says_nothing_of_a_baseline():
    metric = PerturbationCurve("insertion", steps=4)
    assert metric.caution() == ""
    metric.update(MAPS, images=torch.zeros(3, 3, 6, 8), classifier=lambda x: _of_mean(x).repeat(1, 2))
    assert metric.caution() == ""
