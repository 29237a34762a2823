"""Designs of RISE's masks, the noise of a map and the stop at a noise, as they are written down."""

import pytest
import torch

from helpers.replicates import replicates
from verisal.functional.baselines import Constant
from verisal.saliency import RISE
from verisal.saliency.perturbation.designs import orthogonal_array
from verisal.saliency.perturbation.halves import split_half_noise

SIZE = (12, 16)


@replicates(orthogonal_array)
def slow_orthogonal_array(cells, generator):
    """Sylvester's doubling, its columns and rows taken one by one; -1 keeps where nothing is switched."""
    hadamard = [[1]]
    while len(hadamard) <= cells**2:
        hadamard = [row + row for row in hadamard] + [row + [-entry for entry in row] for row in hadamard]
    order = len(hadamard)
    columns = (torch.randperm(order - 1, generator=generator)[: cells**2] + 1).tolist()
    signs = (1 - 2 * torch.randint(2, (cells**2,), generator=generator)).tolist()
    rows = torch.randperm(order, generator=generator).tolist()
    kept = [
        [hadamard[row][column] * sign < 0 for column, sign in zip(columns, signs, strict=True)]
        for row in rows
    ]
    return torch.tensor(kept).view(order, cells, cells)


@pytest.mark.parametrize("cells", [1, 2, 3, 4, 7, 8])
def test_parities_of_shared_bits_are_hadamard_s_matrix(cells):
    fast, slow = (
        make(cells, torch.Generator().manual_seed(cells))
        for make in (orthogonal_array, slow_orthogonal_array)
    )
    assert fast.equal(slow)


@replicates(split_half_noise)
def slow_noise(first, second, counts):
    """One image, pixel by pixel."""
    whole, apart = 0.0, 0.0
    for one, other in zip(first, second, strict=True):
        one, other = one.flatten().double(), other.flatten().double()
        for a, b in zip((one - one.mean()).tolist(), (other - other.mean()).tolist(), strict=True):
            whole += ((counts[0] * a + counts[1] * b) / sum(counts)) ** 2
            apart += (a - b) ** 2
    # Each mask's share has variance v: halves differ by v / n1 + v / n2, and the mean of all has v / n.
    variance = apart / (1 / counts[0] + 1 / counts[1])
    return (variance / sum(counts)) ** 0.5 / whole**0.5


@pytest.mark.parametrize("counts", [(64, 64), (3, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_noise_equals_the_literal_sum(counts, channels):
    first, second = torch.rand(2, 4, channels, 5, 3)
    found = split_half_noise(first, second, counts)
    for index in range(4):
        assert float(found[index]) == pytest.approx(slow_noise(first[index], second[index], counts), rel=1e-5)


def classify(images):
    """A curved function of two places, of another steepness for every image's red corner."""
    steep = 6 * images[:, 2, 0, 0]
    light = images[:, 0, 2:5, 3:7].mean(dim=(1, 2)) * images[:, 1, 8:11, 9:14].mean(dim=(1, 2))
    return torch.stack([steep * light, torch.full_like(light, 0.5)], dim=1)


def masks_of(method):
    """The masks as the classifier sees them of a white image on black."""
    seen = []
    spy = lambda batch: (seen.append(batch[:, 0].clone()), batch.new_zeros(len(batch), 2))[1]  # noqa: E731
    method(spy, torch.ones(1, 3, *SIZE), torch.tensor([0]))
    return torch.cat(seen)


def slow_map(image, masks):
    scores = [classify(image[None] * mask).softmax(dim=1)[0, 0] for mask in masks]
    return sum(score * mask for score, mask in zip(scores, masks, strict=True)) / (len(masks) * 0.5)


@pytest.mark.parametrize(
    ("sampling", "cells", "block"), [("plain", 3, 256), ("sobol", 3, 128), ("orthogonal", 3, 32)]
)
@pytest.mark.parametrize("chunk_size", [5, 64])
def test_every_image_stops_at_the_first_block_whose_halves_agree(sampling, cells, block, chunk_size):
    settings = {"cells": cells, "masks": 600, "baseline": Constant(), "sampling": sampling}
    masks = masks_of(RISE(**settings))
    images = torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    images[:, 2, 0, 0] = torch.tensor([0.0, 0.4, 1.0])
    until = {"plain": 0.84, "sobol": 0.1, "orthogonal": 0.15}[sampling]
    result = RISE(**settings, until=until, chunk_size=chunk_size)(classify, images, 0)
    taken = result.diagnostics["masks"].tolist()
    for index, image in enumerate(images):
        ends = [*range(block, 600, block), 600]
        noises = []
        for end in ends:
            halves = [slow_map(image, masks[start:end:2])[None] for start in (0, 1)]
            noises.append(slow_noise(*halves, (end // 2, end // 2)))
            if noises[-1] <= until:
                break
        assert taken[index] == end
        assert float(result.diagnostics["noise"][index]) == pytest.approx(noises[-1], rel=1e-3)
        torch.testing.assert_close(
            result.attribution[index, 0], slow_map(image, masks[:end]), rtol=0, atol=1e-5
        )
    assert len(set(taken)) > 1
    assert result.n_forward == sum(taken) / 3
