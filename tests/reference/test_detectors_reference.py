"""Slow, literal forms of what detectors compute fast."""

import math

import pytest
import torch

from helpers.replicates import replicates
from verisal.detectors.squeezing import median_filter, non_local_means
from verisal.detectors.statistical import local_intrinsic_dimension


def at(image, row, column):
    """Pixel ``(C,)``, edge pixels repeated outwards."""
    height, width = image.shape[-2:]
    return image[:, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]


@replicates(median_filter)
def slow_median(images, size):
    result = torch.empty_like(images)
    window = range(-(size // 2), size - size // 2)
    for image, filled in zip(images, result, strict=True):
        for row in range(image.shape[1]):
            for column in range(image.shape[2]):
                around = torch.stack([at(image, row + y, column + x) for y in window for x in window])
                filled[:, row, column] = around.sort(dim=0).values[size**2 // 2]
    return result


@replicates(non_local_means)
def slow_non_local_means(images, *, search, patch, strength):
    result = torch.empty_like(images)
    reach, border = range(-(search // 2), search // 2 + 1), range(-(patch // 2), patch // 2 + 1)
    offsets = [(y, x) for y in border for x in border]
    for image, filled in zip(images, result, strict=True):
        for row in range(image.shape[1]):
            for column in range(image.shape[2]):
                total, weights = torch.zeros(image.shape[0]), 0.0
                for p, q in ((row + y, column + x) for y in reach for x in reach):
                    apart = [
                        (at(image, p + y, q + x) - at(image, row + y, column + x)).square().mean().item()
                        for y, x in offsets
                    ]
                    weight = math.exp(-sum(apart) / len(apart) / strength**2)
                    total += weight * at(image, p, q)
                    weights += weight
                filled[:, row, column] = total / weights
    return result


@replicates(local_intrinsic_dimension)
def slow_dimension(sorted_distances):
    logarithms = [[math.log(near / row[-1]) for near in row] for row in sorted_distances.tolist()]
    return torch.tensor([-len(row) / sum(row) for row in logarithms], dtype=sorted_distances.dtype)


def images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_median(size):
    assert median_filter(images(2, 3, 5, 7), size).equal(slow_median(images(2, 3, 5, 7), size))


@pytest.mark.parametrize(("search", "patch"), [(3, 1), (5, 3), (3, 5)])
def test_non_local_means(search, patch):
    given = {"search": search, "patch": patch, "strength": 0.3}
    fast, slow = (
        non_local_means(images(1, 2, 4, 5), **given),
        slow_non_local_means(images(1, 2, 4, 5), **given),
    )
    torch.testing.assert_close(fast, slow)


def test_dimension():
    rows = images(6, 9).sort(dim=1).values
    torch.testing.assert_close(local_intrinsic_dimension(rows), slow_dimension(rows))
