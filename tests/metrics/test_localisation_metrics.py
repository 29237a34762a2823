import math
from dataclasses import replace

import pytest
import torch

from helpers.metric_cases import part_of, toy_explained, with_saliency
from verisal.errors import ConfigError, DataError
from verisal.functional.regions import pixel_average_precision
from verisal.functional.regions.localisation import pixel_histograms
from verisal.functional.seeding import derive_seed
from verisal.functional.statistics import Bootstrap, rate_limits
from verisal.metrics import EnergyInside, ImageRows, MaxBoxAcc, MaxBoxAccV2, PointingGame, PxAP

EVERY = (PointingGame, EnergyInside, MaxBoxAcc, MaxBoxAccV2, PxAP)


def scores(metric, *parts):
    for part in parts:
        metric.update(part)
    return metric.scores(Bootstrap(50))


def with_maps(maps, boxes, classes=None):
    """Toy images of 16 x 12 px with these maps and one box each, which is the object."""
    count = len(maps)
    explained = with_saliency(part_of(toy_explained(), range(count)), maps)
    masks = torch.zeros(count, 16, 12, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    query = explained.query_class if classes is None else torch.tensor(classes)
    return replace(
        explained,
        object_masks=masks,
        boxes=tuple(torch.tensor([box], dtype=torch.float32) for box in boxes),
        query_class=query,
    )


def filled(*boxes):
    """Maps of 1 inside the box and 0 outside."""
    maps = torch.zeros(len(boxes), 1, 16, 12)
    for one, (left, top, right, bottom) in zip(maps, boxes, strict=True):
        one[0, top:bottom, left:right] = 1.0
    return maps


def test_pointing_is_averaged_over_classes():
    """Class 0 hits one of three, class 1 its only one: (1/3 + 1) / 2, not 2 / 4."""
    box = (0, 0, 4, 4)
    maps = filled(box, (8, 8, 9, 9), (8, 8, 9, 9), box)
    found = scores(PointingGame(), with_maps(maps, [box] * 4, classes=[0, 0, 0, 1]))
    assert found["accuracy"].value == pytest.approx(2 / 3)
    assert found["image_accuracy"].value == 0.5
    assert found["accuracy"].n == 4


def test_pointing_skips_a_class_that_is_undefined():
    box = (0, 0, 4, 4)
    maps = filled(box, box)
    maps[1] = 0
    found = scores(PointingGame(), with_maps(maps, [box] * 2, classes=[0, 1]))
    assert found["accuracy"].value == 1.0
    assert (found["accuracy"].n, found["accuracy"].undefined) == (1, 1)


def test_pointing_names_its_tolerance():
    assert PointingGame().name == "pointing_game[15px@224]"
    assert PointingGame(tolerance=8).name == "pointing_game[8px@224]"
    with pytest.raises(ConfigError, match="tolerance must be at least 0, found -1"):
        PointingGame(tolerance=-1)


def test_tolerance_is_scaled_to_the_image():
    # 12 px: a tolerance of 15 px at 224 px is 1 px, one of 56 px is 3 px. The maximum is 2 px off.
    explained = with_maps(filled((6, 0, 7, 1)), [(0, 0, 5, 4)])
    assert scores(PointingGame(), explained)["accuracy"].value == 0.0
    assert scores(PointingGame(tolerance=56), explained)["accuracy"].value == 1.0


def test_boxes_stand_in_for_masks():
    explained = with_maps(filled((0, 0, 4, 4), (2, 0, 6, 4)), [(0, 0, 4, 4)] * 2)
    boxed = replace(explained, object_masks=None)
    for kind in (PointingGame, EnergyInside, PxAP):
        assert scores(kind(), boxed) == scores(kind(), explained)
        some = replace(
            explained, object_masks=explained.object_masks & torch.tensor([True, False])[:, None, None]
        )
        assert scores(kind(), some) == scores(kind(), explained)


def test_energy_stands_beside_the_area():
    found = scores(EnergyInside(), with_maps(filled((2, 0, 6, 4)), [(0, 0, 4, 4)]))
    assert found["energy"].value == 0.5
    assert found["area"].value == pytest.approx(16 / (16 * 12))


def test_threshold_is_shared_by_the_set_and_never_best_per_image():
    """One map is right only below its halo, the other only above it: one of two at any shared threshold."""
    core, halo = (2, 2, 6, 6), (1, 1, 11, 15)
    stepped = (filled(core) + filled(halo)) / 2
    explained = with_maps(torch.cat([stepped, stepped]), [core, halo])
    for kind in (MaxBoxAcc, MaxBoxAccV2):
        found = scores(kind(), explained)
        assert found["maximum"].value == 0.5
        assert math.isnan(found["maximum"].low)
        # What is right for the one is wrong for the other.
        assert (found["accuracy"].value, found["accuracy"].n) == (0.0, 2)
        alone = [scores(kind(), part_of(explained, [row])) for row in (0, 1)]
        assert [one["maximum"].value for one in alone] == [1.0, 1.0]
        # One image has no other to choose a threshold on.
        assert all(math.isnan(one["accuracy"].value) for one in alone)
        assert [(one["accuracy"].n, one["accuracy"].undefined) for one in alone] == [(0, 1), (0, 1)]


def hits_of(metric, hits):
    """Scores of a table of hits ``(n, L)``; the rest of the levels never hit."""
    rows = torch.zeros(len(hits), len(metric.columns), dtype=torch.float64)
    rows[:, : hits.shape[1]] = hits
    return metric.scores_of(ImageRows(tuple(f"{index:04d}" for index in range(len(hits))), rows), Bootstrap())


def test_box_accuracy_is_judged_at_the_level_that_is_best_on_the_other_half():
    hits = torch.rand(60, 12, generator=torch.Generator().manual_seed(3)) < 0.5
    found = hits_of(MaxBoxAcc(seed=2), hits)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(derive_seed(2, "halves"))).tolist()
    halves, right = (order[:30], order[30:]), 0
    for own, other in (halves, halves[::-1]):
        counts = hits[other].sum(dim=0).tolist()
        best = [level for level, count in enumerate(counts) if count == max(counts)]
        right += int(hits[own][:, best[(len(best) - 1) // 2]].sum())
    assert found["accuracy"].value == pytest.approx(right / 60)
    assert found["maximum"].value == pytest.approx(float(hits.double().mean(dim=0).max()))
    assert found["maximum"].value > found["accuracy"].value + 0.05
    # From the lower limit of what was judged to the upper one of what the best level could be.
    assert found["accuracy"].low == pytest.approx(rate_limits(right / 60, 60)[0])
    assert found["accuracy"].high == pytest.approx(rate_limits(found["maximum"].value, 60)[1])


def test_box_accuracy_of_independent_levels_is_neither_too_high_nor_too_sure():
    """Every level is right for 70 % of all images: the published maximum is 17 points too high."""
    generator = torch.Generator().manual_seed(0)
    values, covered, highest = [], 0, []
    for _ in range(100):
        found = hits_of(MaxBoxAcc(), torch.rand(50, 255, generator=generator) < 0.7)
        values.append(found["accuracy"].value)
        highest.append(found["maximum"].value)
        covered += found["accuracy"].low <= 0.7 <= found["accuracy"].high
    assert sum(values) / 100 == pytest.approx(0.7, abs=0.02)
    assert sum(highest) / 100 > 0.85
    assert covered >= 92


def test_classes_of_one_image_leave_the_mean_over_classes_unsure():
    """Four classes, one of them of one image: never an interval that has no width, nor one of all images."""
    metric = PointingGame()
    classes = torch.tensor([0] * 20 + [1] * 20 + [2] * 20 + [3])
    rows = torch.stack([torch.ones(61), classes.float()], dim=1).double()
    found = metric.scores_of(ImageRows(tuple(f"{index:04d}" for index in range(61)), rows), Bootstrap())
    assert (found["accuracy"].value, found["accuracy"].high) == (1.0, 1.0)
    # 4^2 / (1 / 20 + 1 / 20 + 1 / 20 + 1) images.
    assert found["accuracy"].low == pytest.approx(rate_limits(1.0, 16 / 1.15)[0])
    assert found["image_accuracy"].low == pytest.approx(rate_limits(1.0, 61)[0])
    rows[60, 0] = 0.0
    missed = metric.scores_of(ImageRows(tuple(f"{index:04d}" for index in range(61)), rows), Bootstrap())
    assert missed["accuracy"].value == 0.75
    assert missed["accuracy"].low < 0.6
    assert missed["accuracy"].high > 0.9


def test_v1_and_v2_are_named_apart_and_differ():
    """A large component off the object and a small one on it."""
    off, on = (0, 0, 12, 6), (1, 9, 5, 13)
    explained = with_maps(filled(off) + filled(on), [on])
    assert MaxBoxAcc().name == "max_box_acc[iou0.5]"
    assert MaxBoxAccV2().name == "max_box_acc_v2"
    assert scores(MaxBoxAcc(), explained)["maximum"].value == 0.0
    assert scores(MaxBoxAccV2(), explained)["maximum"].value == 1.0


def test_v2_is_the_mean_over_overlaps():
    # 4 x 4 found, 8 x 4 true: an overlap of exactly one half, in half-open boxes.
    one = filled((0, 0, 4, 4))
    found = scores(MaxBoxAccV2(), with_maps(torch.cat([one, one]), [(0, 0, 8, 4)] * 2))
    assert [found[name].value for name in ("iou0.3", "iou0.5", "iou0.7")] == [1.0, 1.0, 0.0]
    assert found["accuracy"].value == pytest.approx(2 / 3)


def test_overlap_asked_for_is_part_of_the_name():
    explained = with_maps(filled((0, 0, 4, 4)), [(0, 0, 8, 4)])
    assert scores(MaxBoxAcc(iou=0.5), explained)["maximum"].value == 1.0
    assert scores(MaxBoxAcc(iou=0.6), explained)["maximum"].value == 0.0
    assert MaxBoxAcc(iou=0.6).name == "max_box_acc[iou0.6]"
    with pytest.raises(ConfigError, match=r"iou must lie in \(0, 1\], found 0"):
        MaxBoxAcc(iou=0)


def test_any_true_box_counts():
    explained = with_maps(filled((0, 0, 4, 4)), [(6, 6, 9, 9)])
    both = replace(explained, boxes=(torch.tensor([[6.0, 6.0, 9.0, 9.0], [0.0, 0.0, 4.0, 4.0]]),))
    assert scores(MaxBoxAcc(), explained)["maximum"].value == 0.0
    assert scores(MaxBoxAcc(), both)["maximum"].value == 1.0


def test_pixel_precision_pools_the_pixels_of_the_set():
    explained = toy_explained()
    histograms = pixel_histograms(explained.result.saliency, explained.object_masks)
    found = scores(PxAP(), part_of(explained, [0, 3]), part_of(explained, [1, 2, 4, 5]))
    assert found["area"].value == pytest.approx(float(pixel_average_precision(histograms.sum(dim=0))))
    perfect = scores(PxAP(), with_maps(filled((2, 2, 6, 6)), [(2, 2, 6, 6)]))
    assert perfect["area"].value == 1.0


@pytest.mark.parametrize("kind", EVERY)
def test_all_undefined_is_counted_and_not_a_number(kind):
    explained = with_maps(torch.zeros(3, 1, 16, 12), [(0, 0, 4, 4)] * 3)
    for score in scores(kind(), explained).values():
        assert (score.n, score.undefined) == (0, 3)
        assert math.isnan(score.value)


@pytest.mark.parametrize("kind", EVERY)
def test_one_image_is_enough(kind):
    explained = with_maps(filled((2, 2, 6, 6)), [(2, 2, 6, 6)])
    found = scores(kind(), explained)
    if kind in (MaxBoxAcc, MaxBoxAccV2):
        found = {"maximum": found["maximum"]}  # the others need a second image
    for name, score in found.items():
        assert score.value == (pytest.approx(1 / 12) if name == "area" and kind is EnergyInside else 1.0)


@pytest.mark.parametrize("kind", EVERY)
def test_what_cannot_be_asked_is_refused(kind):
    bare = replace(toy_explained(), object_masks=None, boxes=None)
    with pytest.raises(DataError, match="leave it out on this data set"):
        kind().update(bare)
