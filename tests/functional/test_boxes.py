import pytest
import torch

from verisal.errors import DataError
from verisal.functional.regions import best_ious, components, largest_boxes, map_levels
from verisal.functional.regions.boxes import nearest_ious


def test_levels_are_whole_steps_of_the_range():
    maps = torch.tensor([[[[-1.0, 0.0], [0.5, 1.0]]]])
    assert map_levels(maps).tolist() == [[[0, 127], [191, 255]]]
    assert map_levels(maps, low=torch.zeros(1), high=torch.ones(1)).tolist() == [[[0, 0], [127, 255]]]
    assert map_levels(maps, low=torch.zeros(1), high=torch.full((1,), 2.0)).tolist() == [[[0, 0], [63, 127]]]


def test_levels_of_a_constant_map_are_zero():
    assert map_levels(torch.full((1, 1, 2, 2), 0.3)).tolist() == [[[0, 0], [0, 0]]]


def test_levels_do_not_overflow_and_take_half_precision():
    wide = torch.tensor([[[[-3e38, 3e38]]]])
    assert map_levels(wide).tolist() == [[[0, 255]]]
    assert map_levels(torch.tensor([[[[0.0, 60000.0]]]], dtype=torch.float16)).tolist() == [[[0, 255]]]


def test_corners_connect():
    levels = torch.eye(5, dtype=torch.uint8)[None]
    found = components(levels, num_levels=1)
    assert found.pixels.tolist() == [5]
    assert found.box.tolist() == [[0, 0, 5, 5]]


def test_boxes_are_half_open_and_tight():
    levels = torch.zeros(1, 4, 6, dtype=torch.uint8)
    levels[0, 1:3, 2:5] = 1
    found = components(levels, num_levels=1)
    assert found.box.tolist() == [[2, 1, 5, 3]]
    assert found.first.tolist() == [8]


def test_of_equal_components_the_first_is_the_largest():
    levels = torch.tensor([[[0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0]]])
    assert largest_boxes(components(levels, num_levels=1)).tolist() == [[[3, 0, 5, 1]]]


def test_a_component_splits_as_the_level_rises():
    levels = torch.tensor([[[3, 1, 2, 1, 2]]])
    found = components(levels, num_levels=3)
    rows = sorted(zip(found.level.tolist(), found.pixels.tolist(), found.box.tolist(), strict=True))
    assert rows == [
        (0, 5, [0, 0, 5, 1]),
        (1, 1, [0, 0, 1, 1]),
        (1, 1, [2, 0, 3, 1]),
        (1, 1, [4, 0, 5, 1]),
        (2, 1, [0, 0, 1, 1]),
    ]
    assert largest_boxes(found).tolist() == [[[0, 0, 5, 1], [0, 0, 1, 1], [0, 0, 1, 1]]]


def test_nothing_above_a_level_has_no_box():
    found = components(torch.zeros(2, 3, 3, dtype=torch.uint8), num_levels=2)
    assert len(found.level) == 0
    assert largest_boxes(found).tolist() == [[[0] * 4] * 2] * 2
    assert best_ious(found, [torch.tensor([[0, 0, 3, 3]])] * 2).tolist() == [[0.0, 0.0]] * 2


def test_no_map_at_all_has_no_component():
    found = components(torch.zeros(0, 4, 4, dtype=torch.uint8))
    assert largest_boxes(found).shape == (0, 255, 4)


def test_maps_of_a_batch_do_not_touch():
    levels = torch.ones(3, 2, 2, dtype=torch.uint8)
    found = components(levels, num_levels=1)
    assert sorted(found.image.tolist()) == [0, 1, 2]
    assert found.pixels.tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (torch.zeros(1, 1, 3, 3), r"must be \(B, H, W\), found \(1, 1, 3, 3\)"),
        (torch.tensor([[[0, 3]]]), r"must lie in 0\.\.2, found 0\.\.3"),
        (torch.tensor([[[-1, 2]]]), r"must lie in 0\.\.2, found -1\.\.2"),
    ],
)
def test_levels_that_are_none_are_refused(levels, message):
    with pytest.raises(DataError, match=message):
        components(levels, num_levels=2)


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ([0, 0, 4, 2], [0, 0, 4, 2], 1.0),
        ([0, 0, 4, 2], [2, 0, 6, 2], 1 / 3),
        ([0, 0, 4, 2], [4, 0, 6, 2], 0.0),  # they share an edge, not a pixel
        ([0, 0, 10, 10], [0, 0, 5, 10], 0.5),
        ([0, 0, 0, 0], [0, 0, 0, 0], 0.0),
        ([0, 0, 5, 5], [3, 3, 3, 9], 0.0),
    ],
)
def test_overlap_of_half_open_boxes(one, two, expected):
    for first, second in ((one, two), (two, one)):
        assert nearest_ious(torch.tensor([first]), [torch.tensor([second])]).tolist() == [expected]


def test_nearest_true_box_counts():
    found = torch.tensor([[0, 0, 2, 2], [0, 0, 2, 2]])
    true = [torch.tensor([[5.0, 5.0, 6.0, 6.0], [0.0, 0.0, 2.0, 4.0]]), torch.zeros(0, 4)]
    assert nearest_ious(found, true).tolist() == [0.5, 0.0]
    assert nearest_ious(found[:, None].expand(-1, 3, -1), true).tolist() == [[0.5] * 3, [0.0] * 3]


def test_best_component_counts():
    levels = torch.tensor([[[2, 0, 1, 1], [0, 0, 1, 1]]])
    found = components(levels, num_levels=2)
    boxes = [torch.tensor([[0.0, 0.0, 1.0, 1.0]])]
    assert best_ious(found, boxes).tolist() == [[1.0, 1.0]]
    assert nearest_ious(largest_boxes(found), boxes).tolist() == [[0.0, 1.0]]
