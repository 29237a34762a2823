import math

import pytest
import torch

from verisal.errors import ConfigError, DataError
from verisal.functional.regions import (
    choose_threshold,
    energy_inside,
    frozen_boxes,
    largest_component_ious,
    masks_from_boxes,
    multi_component_ious,
    pixel_average_precision,
    pointing_hits,
)
from verisal.functional.regions.localisation import (
    object_area,
    pixel_histograms,
    pointing_tolerance,
    threshold_level,
)


def peak_at(row, column, size=(6, 9)):
    saliency = torch.zeros(1, 1, *size)
    saliency[0, 0, row, column] = 1.0
    return saliency


def block(top, left, bottom, right, size=(6, 9)):
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[0, top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(
    ("size", "expected"),
    [((224, 224), 15.0), ((300, 500), 15.0), ((112, 300), 8.0), ((64, 64), 4.0), ((32, 64), 2.0)],
)
def test_tolerance_shrinks_with_the_image(size, expected):
    assert pointing_tolerance(size) == expected


def test_pointing_is_strict_about_the_tolerance():
    maps, mask = peak_at(0, 8), block(0, 0, 6, 6)  # 3 px to the right of the object
    assert pointing_hits(maps, mask, tolerance=3.0).tolist() == [0.0]
    assert pointing_hits(maps, mask, tolerance=3.1).tolist() == [1.0]
    assert pointing_hits(peak_at(2, 2), mask, tolerance=0.0).tolist() == [1.0]


def test_pointing_takes_the_first_of_equal_maxima():
    maps = peak_at(5, 8) + peak_at(0, 1)
    assert pointing_hits(maps, block(0, 0, 1, 2), tolerance=1.0).tolist() == [1.0]
    assert pointing_hits(maps, block(5, 8, 6, 9), tolerance=1.0).tolist() == [0.0]


def test_pointing_on_maps_that_are_not_square():
    assert pointing_hits(peak_at(1, 7), block(1, 7, 2, 8), tolerance=1.0).tolist() == [1.0]
    assert pointing_hits(peak_at(7, 1, (9, 6)), block(7, 1, 8, 2, (9, 6)), tolerance=1.0).tolist() == [1.0]


def test_energy_is_the_positive_share_inside():
    maps = torch.tensor([[[[1.0, 2.0, -5.0], [1.0, 0.0, 0.0]]]])
    mask = torch.tensor([[[True, False, True], [True, True, False]]])
    assert energy_inside(maps, mask).tolist() == [0.5]
    assert object_area(mask).tolist() == [4 / 6]


def test_energy_of_a_map_without_positive_values_is_undefined():
    maps = torch.tensor([[[[-1.0, -2.0], [0.0, -3.0]]]])
    assert energy_inside(maps, torch.ones(1, 2, 2, dtype=torch.bool)).isnan().all()


@pytest.mark.parametrize("score", [energy_inside, pointing_hits, pixel_histograms])
def test_empty_object_mask_is_undefined_and_no_hit(score):
    assert score(peak_at(1, 1), torch.zeros(1, 6, 9, dtype=torch.bool)).isnan().all()


@pytest.mark.parametrize("score", [energy_inside, pointing_hits, pixel_histograms])
@pytest.mark.parametrize("fill", [0.0, 0.7, math.nan, math.inf])
def test_constant_and_non_finite_maps_are_undefined(score, fill):
    maps = torch.cat([torch.full((1, 1, 6, 9), fill), peak_at(0, 0)])
    found = score(maps, block(0, 0, 2, 2).expand(2, -1, -1))
    assert found[0].isnan().all()
    assert not found[1].isnan().any()


@pytest.mark.parametrize("score", [energy_inside, pointing_hits, pixel_histograms])
def test_shapes_that_do_not_fit_are_refused(score):
    for maps, masks in (
        (torch.rand(2, 6, 9), torch.ones(2, 6, 9, dtype=torch.bool)),
        (torch.rand(2, 1, 9, 6), torch.ones(2, 6, 9, dtype=torch.bool)),
        (torch.rand(2, 1, 6, 9), torch.ones(2, 6, 9)),
    ):
        with pytest.raises(DataError, match=r"maps must be \(B, 1, H, W\) and object masks"):
            score(maps, masks)


@pytest.mark.parametrize("ious", [largest_component_ious, multi_component_ious])
def test_box_scores_refuse_and_leave_undefined(ious):
    boxes = [torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.zeros(0, 4), torch.tensor([[3.0, 1.0, 3.0, 4.0]])]
    maps = peak_at(0, 0).repeat(3, 1, 1, 1)
    assert ious(maps, boxes).isnan().all(dim=1).tolist() == [False, True, True]
    assert ious(torch.zeros(1, 1, 6, 9), boxes[:1]).isnan().all()
    with pytest.raises(DataError, match="one tensor of boxes each"):
        ious(maps[:, 0], boxes)
    with pytest.raises(DataError, match="one tensor of boxes each"):
        ious(maps, boxes[:2])
    with pytest.raises(ConfigError, match="chunk_size must be at least 1, found 0"):
        ious(maps, boxes, chunk_size=0)


@pytest.mark.parametrize("ious", [largest_component_ious, multi_component_ious])
def test_chunks_and_batch_mates_change_nothing(ious):
    maps = torch.rand(5, 1, 9, 14, generator=torch.Generator().manual_seed(0))
    boxes = [torch.tensor([[1.0 * k, 1.0, 7.0 + k, 6.0]]) for k in range(5)]
    whole = ious(maps, boxes, chunk_size=5)
    assert ious(maps, boxes, chunk_size=2).equal(whole)
    assert torch.cat([ious(maps[k : k + 1], boxes[k : k + 1]) for k in range(5)]).equal(whole)


def test_box_of_a_wide_map_has_width_before_height():
    maps = torch.zeros(1, 1, 4, 10)
    maps[0, 0, 1:3, 2:9] = 1.0
    assert largest_component_ious(maps, [torch.tensor([[2.0, 1.0, 9.0, 3.0]])]).eq(1).all()


def test_all_components_or_only_the_largest():
    maps = torch.zeros(1, 1, 4, 10)
    maps[0, 0, :, :4], maps[0, 0, 0, 8] = 0.5, 1.0
    boxes = [torch.tensor([[8.0, 0.0, 9.0, 1.0]])]
    largest, multi = largest_component_ious(maps, boxes)[0], multi_component_ious(maps, boxes)[0]
    assert multi.eq(1).all()
    assert largest.tolist() == [0.0] * 127 + [1.0] * 128


def test_masks_stand_for_boxes():
    boxes = [torch.tensor([[1.0, 0.0, 3.0, 1.0], [0.0, 1.0, 1.0, 2.0]]), torch.zeros(0, 4)]
    masks = masks_from_boxes(boxes, (2, 3))
    assert masks[0].tolist() == [[False, True, True], [True, False, False]]
    assert not masks[1].any()


def test_the_thousand_thresholds_are_all_levels():
    assert [threshold_level(index / 1000) for index in range(1000)] == [k * 255 // 1000 for k in range(1000)]
    assert {threshold_level(index / 1000) for index in range(1000)} == set(range(255))


@pytest.mark.parametrize("threshold", [-0.1, 1.0, math.nan])
def test_threshold_outside_its_range_is_refused(threshold):
    with pytest.raises(ConfigError, match=r"threshold must lie in \[0, 1\)"):
        threshold_level(threshold)


def stepped(inner, outer):
    """A core of 1 in a halo of 0.5 in a background of 0."""
    maps = torch.zeros(1, 1, 12, 12)
    maps[0, 0, outer[1] : outer[3], outer[0] : outer[2]] = 0.5
    maps[0, 0, inner[1] : inner[3], inner[0] : inner[2]] = 1.0
    return maps


def test_threshold_is_shared_by_the_set():
    """Two maps are right above their halo, one with it; each alone would be right at its own best."""
    maps = torch.cat([stepped((2, 2, 6, 6), (1, 1, 12, 12))] * 2 + [stepped((2, 2, 4, 4), (2, 2, 10, 10))])
    boxes = [torch.tensor([[2.0, 2.0, 6.0, 6.0]])] * 2 + [torch.tensor([[2.0, 2.0, 10.0, 10.0]])]
    threshold = choose_threshold(maps, boxes)
    assert threshold_level(threshold) == 127  # the first level above the halo of 127
    assert frozen_boxes(maps, threshold).tolist() == [[2, 2, 6, 6], [2, 2, 6, 6], [2, 2, 4, 4]]


def test_threshold_ignores_undefined_maps_and_needs_one_that_is_not():
    empty, box = torch.zeros(1, 1, 12, 12), torch.tensor([[2.0, 2.0, 6.0, 6.0]])
    maps = torch.cat([empty, stepped((2, 2, 6, 6), (1, 1, 12, 12))])
    assert threshold_level(choose_threshold(maps, [box, box])) == 127
    with pytest.raises(DataError, match="none of 1 maps can be scored"):
        choose_threshold(empty, [box])


def test_frozen_box_is_that_of_the_sweep():
    maps = torch.rand(3, 1, 9, 14, generator=torch.Generator().manual_seed(1))
    boxes = [torch.tensor([[1.0, 1.0, 7.0, 6.0]])] * 3
    swept = largest_component_ious(maps, boxes)
    for level in (0, 51, 153, 254):
        threshold = -(-level * 1000 // 255) / 1000
        alone = largest_component_ious(maps, [box.float()[None] for box in frozen_boxes(maps, threshold)])
        assert alone[:, level].tolist() == [1.0] * 3
        assert swept[:, level].isnan().sum() == 0


def test_frozen_box_on_the_scale_of_another_map():
    maps = stepped((2, 2, 6, 6), (1, 1, 12, 12)) * 0.4  # 0.4 in the core, 0.2 in the halo
    high = torch.tensor([1.0])
    assert frozen_boxes(maps, 0.1, high=high).tolist() == [[1, 1, 12, 12]]
    assert frozen_boxes(maps, 0.3, high=high).tolist() == [[2, 2, 6, 6]]
    assert frozen_boxes(maps, 0.5, high=high).tolist() == [[0, 0, 0, 0]]


def test_empty_maps_have_no_box():
    assert frozen_boxes(torch.full((1, 1, 4, 4), 0.5), 0.2).tolist() == [[0, 0, 0, 0]]
    assert frozen_boxes(torch.full((1, 1, 4, 4), 0.5), 0.2, high=torch.ones(1)).tolist() == [[0, 0, 0, 0]]


def test_pixel_histogram_leaves_ignored_pixels_out():
    maps = torch.tensor([[[[0.0, 0.25, 0.5, 1.0]]]])
    mask = torch.tensor([[[False, True, False, True]]])
    ignore = torch.tensor([[[False, False, True, False]]])
    assert pixel_histograms(maps, mask, bins=4).tolist() == [[[1, 0, 1, 0], [0, 1, 0, 1]]]
    assert pixel_histograms(maps, mask, ignore=ignore, bins=4).tolist() == [[[1, 0, 0, 0], [0, 1, 0, 1]]]
    assert pixel_histograms(maps, mask, ignore=mask, bins=4).isnan().all()


def test_pixel_precision_of_perfect_worst_and_even_maps():
    assert float(pixel_average_precision(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))) == 1.0
    assert float(pixel_average_precision(torch.tensor([[0.0, 3.0], [1.0, 0.0]]))) == 0.25
    assert float(pixel_average_precision(torch.tensor([[0.0, 3.0], [0.0, 1.0]]))) == 0.25
    assert pixel_average_precision(torch.tensor([[1.0, 3.0], [0.0, 0.0]])).isnan()
