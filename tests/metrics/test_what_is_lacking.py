"""What metrics say of images that they cannot score."""

import pytest
import torch

from verisal.metrics import EnergyInside, MaxBoxAcc, PointingGame, Smoothness

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
