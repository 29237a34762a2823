"""Linear imputation as one sparse system per image, written down pixel by pixel and solved directly."""

import numpy as np
import pytest
import torch
from scipy.sparse import csc_matrix, lil_matrix
from scipy.sparse.linalg import spsolve
from torch.nn import functional as F

from helpers.replicates import replicates
from verisal.functional.baselines.filling import linear_imputation

NEIGHBOURS = {
    (row, column): 1 / 6 if row == 0 or column == 0 else 1 / 12
    for row in (-1, 0, 1)
    for column in (-1, 0, 1)
    if (row, column) != (0, 0)
}


@replicates(linear_imputation)
def slow_linear_imputation(image, keep):
    """``image (3, H, W)``, ``keep (H, W)`` bool, as arrays; some pixel must be kept."""
    channels, height, width = image.shape
    unknown = {tuple(place): index for index, place in enumerate(np.argwhere(~keep))}
    matrix, known = lil_matrix((len(unknown), len(unknown))), np.zeros((len(unknown), channels))
    for (row, column), index in unknown.items():
        for (down, right), weight in NEIGHBOURS.items():
            place = (row + down, column + right)
            if not (0 <= place[0] < height and 0 <= place[1] < width):
                continue
            matrix[index, index] += weight
            if place in unknown:
                matrix[index, unknown[place]] -= weight
            else:
                known[index] += weight * image[:, place[0], place[1]]
    filled = image.astype(np.float64)
    if unknown:
        filled[:, ~keep] = spsolve(csc_matrix(matrix), known).reshape(len(unknown), channels).T
    return filled


def toy_image(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 5, generator=generator)
    smooth = F.interpolate(coarse, size=size, mode="bilinear")
    return 0.7 * smooth + 0.3 * torch.rand(1, 3, *size, generator=generator)


def smooth_mask(size, share, seed=1):
    coarse = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(coarse, size=size, mode="bicubic").flatten()
    return (smooth.argsort().argsort() >= share * len(smooth)).float().view(1, 1, *size)


def scattered_mask(size, share):
    return (torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(2)) >= share).float()


def single_pixel_mask(size, _):
    mask = torch.zeros(1, 1, *size)
    mask[0, 0, size[0] // 3, -1] = 1
    return mask


def spiral_mask(size, _):
    """One-pixel walls, which coarse grids cannot see."""
    mask = torch.zeros(1, 1, *size)
    mask[..., ::6, :-2] = 1
    mask[..., 3::6, 2:] = 1
    return mask


def assert_solved(image, mask):
    fast = linear_imputation(image, mask)[0].numpy()
    slow = slow_linear_imputation(image[0].numpy(), mask[0, 0].numpy() > 0.5)
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-3)
    # 1e-3 is what is asked for; the estimate that ends the iterations leaves room.
    assert np.abs(fast - slow).max() < 3e-4


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("make", [smooth_mask, scattered_mask])
def test_equal_to_the_direct_solution_at_every_removed_share(make, share):
    assert_solved(toy_image((33, 40)), make((33, 40), share))


@pytest.mark.parametrize("make", [single_pixel_mask, spiral_mask])
def test_equal_to_the_direct_solution_on_hard_masks(make):
    assert_solved(toy_image((32, 27)), make((32, 27), None))


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (2, 200), (1, 1), (2, 3), (17, 16), (3, 90)])
def test_equal_to_the_direct_solution_at_odd_sizes(size):
    mask = scattered_mask(size, 0.7)
    mask[0, 0, 0, 0] = 1
    assert_solved(toy_image(size), mask)


def test_equal_to_the_direct_solution_over_a_region_as_wide_as_the_image():
    """A small rounding error at every pixel would add up over such a region."""
    mask = torch.zeros(1, 1, 64, 96)
    mask[..., -1] = 1
    assert_solved(toy_image((64, 96)), mask)
