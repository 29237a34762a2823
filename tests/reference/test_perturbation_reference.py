"""Occlusion and RISE window by window and mask by mask, as they are written down; and captum's occlusion."""

from itertools import product

import pytest
import torch
from torch.nn import functional as F

from helpers.normalizations import CENTRED
from helpers.replicates import replicates
from verisal.functional.baselines import Constant, ImageMean
from verisal.models import Classifier, SmallResNet
from verisal.saliency import RISE, Occlusion
from verisal.saliency.perturbation.rise import upsample_cells

SETTINGS = {"cells": 3, "masks": 25, "keep_probability": 0.4, "seed": 5}


def rise_masks():
    """The masks as a classifier sees them of white images on black, ``(N, 1, 16, 12)``."""
    masks = []
    spy = lambda batch: (masks.append(batch[:, :1].clone()), batch.new_zeros(len(batch), 2))[1]  # noqa: E731
    RISE(**SETTINGS, baseline=Constant())(spy, torch.ones(1, 3, 16, 12), torch.tensor([0]))
    return torch.cat(masks)


def toy():
    network = SmallResNet(4, widths=(3, 4, 5, 6)).eval()
    torch.nn.init.normal_(network.head.weight, std=10.0)  # scores that windows can move
    return Classifier(
        network, network.stage_names, class_names=tuple("abcd"), image_size=16, normalization=CENTRED
    ).eval()


def probability(classifier, image, query):
    with torch.no_grad():
        return classifier(image[None]).softmax(dim=1)[0, query]


@replicates(upsample_cells)
def slow_masks(cells, shifts, size):
    """One grid after the other: resized as a whole, then cut."""
    side = cells.shape[-1]
    height, width = (-(-length // side) for length in size)
    masks = []
    for grid, (down, right) in zip(cells, shifts.tolist(), strict=True):
        large = F.interpolate(
            grid[None, None],
            size=((side + 1) * height, (side + 1) * width),
            mode="bilinear",
            align_corners=False,
        )[0]
        masks.append(large[:, down : down + size[0], right : right + size[1]])
    return torch.stack(masks)


def starts(length, side, stride):
    found = list(range(0, length - side + 1, stride))
    return found if found[-1] == length - side else [*found, length - side]


@replicates(Occlusion.explain)
def slow_occlusion(method, classifier, image, query, channels=slice(None)):
    """One window after the other, and a list of falls for every pixel."""
    height, width = image.shape[1:]
    baseline = method.baseline(image[None])[0]
    before = probability(classifier, image, query)
    falls = [[[] for _ in range(width)] for _ in range(height)]
    tall, wide = method.window
    for top in starts(height, tall, method.stride):
        for left in starts(width, wide, method.stride):
            changed = image.clone()
            inside = (channels, slice(top, top + tall), slice(left, left + wide))
            changed[inside] = baseline[inside]
            fall = before - probability(classifier, changed, query)
            for row in range(top, top + tall):
                for column in range(left, left + wide):
                    falls[row][column].append(fall)
    return torch.stack([torch.stack([torch.stack(pixel).mean() for pixel in row]) for row in falls])


@replicates(RISE.explain)
def slow_rise(method, classifier, image, query, masks, channel=None):
    """One mask after the other; of one channel, above the score without it."""
    baseline = method.baseline(image[None])[0]
    total, floor = torch.zeros(image.shape[1:]), 0
    if channel is not None:
        without = image.clone()
        without[channel] = baseline[channel]
        floor = probability(classifier, without, query)
    for mask in masks:
        changed = mask * image + (1 - mask) * baseline
        if channel is not None:
            changed = torch.stack(
                [changed[place] if place == channel else image[place] for place in range(len(image))]
            )
        total += (probability(classifier, changed, query) - floor) * mask[0]
    return total / (len(masks) * method.keep_probability)


@pytest.mark.parametrize("side", [1, 2, 4, 7])
@pytest.mark.parametrize("size", [(7, 7), (16, 12), (23, 31)])
def test_masks_of_two_products_equal_resized_and_cut_grids(side, size):
    cells = (torch.rand(30, side, side) < 0.5).float()
    shifts = torch.stack([torch.randint(-(-length // side), (30,)) for length in size], dim=1)
    torch.testing.assert_close(
        upsample_cells(cells, shifts, size), slow_masks(cells, shifts, size), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(("window", "stride"), [((4, 4), 4), ((5, 3), 2), ((7, 12), 3)])
@pytest.mark.parametrize("baseline", [Constant(level=0.5), ImageMean()], ids=lambda b: b.name)
def test_occlusion_equals_the_literal_loop(window, stride, baseline):
    classifier, images, query = toy(), torch.rand(2, 3, 16, 12), torch.tensor([3, 1])
    method = Occlusion(window=window, stride=stride, baseline=baseline, chunk_size=7)
    fast = method(classifier, images, query).attribution
    for index in range(2):
        slow = slow_occlusion(method, classifier, images[index], int(query[index]))
        torch.testing.assert_close(fast[index, 0], slow, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 7, 64])
def test_occlusion_of_one_channel_equals_the_literal_loop(chunk_size):
    classifier, images, query = toy(), torch.rand(2, 3, 16, 12), torch.tensor([3, 1])
    method = Occlusion(window=(5, 4), stride=3, baseline=ImageMean(), chunk_size=chunk_size, per_channel=True)
    fast = method(classifier, images, query)
    assert fast.attribution.shape == images.shape
    assert fast.saliency.equal(fast.attribution.abs().amax(dim=1, keepdim=True))
    for index, channel in product(range(2), range(3)):
        slow = slow_occlusion(method, classifier, images[index], int(query[index]), channel)
        torch.testing.assert_close(fast.attribution[index, channel], slow, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("baseline", [Constant(level=0.5), ImageMean()], ids=lambda b: b.name)
def test_rise_equals_the_literal_loop_over_the_same_masks(baseline):
    classifier, images, query = toy(), torch.rand(2, 3, 16, 12), torch.tensor([3, 1])
    masks = rise_masks()
    method = RISE(**SETTINGS, baseline=baseline, chunk_size=7)
    fast = method(classifier, images, query).attribution
    for index in range(2):
        slow = slow_rise(method, classifier, images[index], int(query[index]), masks)
        torch.testing.assert_close(fast[index, 0], slow, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 7, 64])
def test_rise_of_one_channel_equals_the_literal_loop_over_the_same_masks(chunk_size):
    classifier, images, query = toy(), torch.rand(2, 3, 16, 12), torch.tensor([3, 1])
    masks = rise_masks()
    method = RISE(**SETTINGS, baseline=ImageMean(), chunk_size=chunk_size, per_channel=True)
    fast = method(classifier, images, query)
    assert fast.attribution.shape == images.shape
    assert fast.saliency.equal(fast.attribution.abs().amax(dim=1, keepdim=True))
    for index, channel in product(range(2), range(3)):
        slow = slow_rise(method, classifier, images[index], int(query[index]), masks, channel)
        torch.testing.assert_close(fast.attribution[index, channel], slow, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("window", "stride"), [((4, 4), 4), ((4, 6), 2)])
def test_occlusion_equals_captum_s_where_windows_fit_the_image(window, stride):
    captum = pytest.importorskip("captum.attr")
    classifier, images, query = toy(), torch.rand(2, 3, 16, 12), torch.tensor([3, 1])
    theirs = captum.Occlusion(classifier).attribute(
        images,
        sliding_window_shapes=(3, *window),
        strides=(3, stride, stride),
        baselines=0.5,
        target=query,
        perturbations_per_eval=4,
    )
    ours = Occlusion(window=window, stride=stride, baseline=Constant(level=0.5), score="logit")
    torch.testing.assert_close(
        ours(classifier, images, query).attribution.expand(-1, 3, -1, -1), theirs, rtol=0, atol=1e-5
    )
