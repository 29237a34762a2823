"""Localisation as it is written down: one threshold after the other, each labelled afresh by scipy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from torch.nn import functional as F

from helpers.replicates import replicates
from verisal.functional.regions import (
    components,
    largest_boxes,
    largest_component_ious,
    map_levels,
    multi_component_ious,
    pixel_average_precision,
    pointing_hits,
)
from verisal.functional.regions.localisation import pixel_histograms

SIZE = (19, 26)


@replicates(components)
def slow_components(levels, threshold):
    """Size, first pixel and box of every 8-connected component, in the order of their first pixels."""
    labelled, _ = ndimage.label(levels > threshold, structure=np.ones((3, 3)))
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labelled), start=1):
        places = np.flatnonzero(labelled == number)
        box = [columns.start, rows.start, columns.stop, rows.stop]
        found.append((len(places), int(places[0]), box))
    return sorted(found, key=lambda item: item[1])


@replicates(largest_boxes)
def slow_largest_box(levels, threshold):
    found = slow_components(levels, threshold)
    sizes = [size for size, _, _ in found]
    return found[sizes.index(max(sizes))][2] if found else [0, 0, 0, 0]


def slow_iou(one, two):
    width = max(0.0, min(one[2], two[2]) - max(one[0], two[0]))
    height = max(0.0, min(one[3], two[3]) - max(one[1], two[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    shared = width * height
    return shared / (sum(areas) - shared) if shared else 0.0


@replicates(map_levels)
def slow_levels(saliency):
    values = saliency[0].double().tolist()
    low, high = min(map(min, values)), max(map(max, values))
    return np.array([[int((value - low) / (high - low) * 255) for value in row] for row in values])


@replicates(largest_component_ious)
def slow_largest(saliency, boxes):
    """One overlap for each of the 1000 thresholds."""
    levels = slow_levels(saliency)
    found = [slow_largest_box(levels, index * 255 // 1000) for index in range(1000)]
    return [max(slow_iou(one, box) for box in boxes.tolist()) for one in found]


@replicates(multi_component_ious)
def slow_multi(saliency, boxes):
    levels = slow_levels(saliency)
    best = []
    for index in range(1000):
        found = slow_components(levels, index * 255 // 1000)
        best.append(max(slow_iou(one, box) for _, _, one in found for box in boxes.tolist()))
    return best


def maps(kind, count=3):
    generator = torch.Generator().manual_seed(7)
    if kind == "noise":
        return torch.rand(count, 1, *SIZE, generator=generator)
    if kind == "few levels":
        return torch.randint(0, 4, (count, 1, *SIZE), generator=generator).float()
    coarse = torch.rand(count, 1, 5, 4, generator=generator)
    return F.interpolate(coarse, SIZE, mode="bilinear", align_corners=False)


BOXES = [
    torch.tensor([[3.0, 2.0, 14.0, 11.0]]),
    torch.tensor([[0.0, 0.0, 26.0, 19.0], [20.0, 1.0, 25.0, 18.0]]),
    torch.tensor([[10.5, 8.25, 20.0, 17.0]]),
]
KINDS = pytest.mark.parametrize("kind", ["noise", "few levels", "smooth"])


def rows_of(found, image, level):
    chosen = (found.image == image) & (found.level == level)
    rows = zip(*(part[chosen].tolist() for part in (found.pixels, found.first, found.box)), strict=True)
    return sorted(rows, key=lambda item: item[1])


@KINDS
def test_components_are_those_of_one_labelling_per_level(kind):
    levels = map_levels(maps(kind))
    found = components(levels)
    for image, one in enumerate(levels.numpy()):
        for level in range(0, 255, 5):
            assert rows_of(found, image, level) == slow_components(one, level)


@given(
    arrays(
        np.uint8,
        st.tuples(st.integers(1, 2), st.integers(1, 7), st.integers(1, 7)),
        elements=st.integers(0, 3),
    )
)
def test_components_of_any_small_map(levels):
    found = components(torch.from_numpy(levels), num_levels=3)
    boxes = largest_boxes(found)
    for image, one in enumerate(levels):
        for level in range(3):
            assert rows_of(found, image, level) == slow_components(one, level)
            assert boxes[image, level].tolist() == slow_largest_box(one, level)


@KINDS
def test_overlaps_are_those_of_a_thousand_thresholds(kind):
    stack = maps(kind)
    of_threshold = [index * 255 // 1000 for index in range(1000)]
    for fast, slow in ((largest_component_ious, slow_largest), (multi_component_ious, slow_multi)):
        found = fast(stack, BOXES)[:, of_threshold]
        expected = [slow(saliency, boxes) for saliency, boxes in zip(stack[:2], BOXES, strict=False)]
        torch.testing.assert_close(found[:2], torch.tensor(expected, dtype=torch.float64))


@replicates(pixel_histograms)
def slow_histogram(saliency, mask):
    values = saliency[0].double().tolist()
    low, high = min(map(min, values)), max(map(max, values))
    counts = [[0] * 1000, [0] * 1000]
    for row, inside in zip(values, mask.tolist(), strict=True):
        for value, on in zip(row, inside, strict=True):
            counts[on][min(int((value - low) / (high - low) * 1000), 999)] += 1
    return counts


@replicates(pixel_average_precision)
def slow_average_precision(off, on):
    """Precision and recall of all pixels from a bin on, for one bin after the other."""
    area, recall_before = 0.0, 0.0
    for first in reversed(range(len(on))):
        true, false = sum(on[first:]), sum(off[first:])
        recall = true / sum(on)
        if true:
            area += true / (true + false) * (recall - recall_before)
        recall_before = recall
    return area


def test_pixel_precision_of_a_set_is_that_of_its_pixels():
    stack = maps("noise")
    masks = torch.zeros(3, *SIZE, dtype=torch.bool)
    masks[0, 2:9, 3:8], masks[1, 5:], masks[2, :, 20:] = True, True, True
    found = pixel_histograms(stack, masks)
    expected = torch.tensor(
        [slow_histogram(saliency, mask) for saliency, mask in zip(stack, masks, strict=True)]
    )
    assert found.tolist() == expected.double().tolist()
    pooled = found.sum(dim=0)
    area = slow_average_precision(*pooled.tolist())
    assert float(pixel_average_precision(pooled)) == pytest.approx(area, abs=1e-12)


@replicates(pointing_hits)
def slow_hit(saliency, mask, tolerance):
    height, width = mask.shape
    values = saliency[0].flatten().tolist()
    row, column = divmod(values.index(max(values)), width)
    distances = [math.hypot(row - y, column - x) for y in range(height) for x in range(width) if mask[y, x]]
    return min(distances) < tolerance or min(distances) == 0


@pytest.mark.parametrize("tolerance", [0.0, 1.0, 3.0, 5.0])
@KINDS
def test_pointing_is_that_of_every_distance(kind, tolerance):
    stack = maps(kind, count=8)
    masks = torch.zeros(8, *SIZE, dtype=torch.bool)
    for index in range(8):
        masks[index, index : index + 6, 2 * index : 2 * index + 4] = True
    expected = [slow_hit(saliency, mask, tolerance) for saliency, mask in zip(stack, masks, strict=True)]
    assert pointing_hits(stack, masks, tolerance=tolerance).tolist() == [float(hit) for hit in expected]
