"""Meaningful perturbation, image by image, step by step, as it is written down."""

import math

import pytest
import torch
from torch.nn import functional as F

from helpers.replicates import replicates
from helpers.saliency_cases import toy_classifier
from verisal.functional.baselines import Constant
from verisal.functional.comparison import total_variation
from verisal.saliency import MeaningfulPerturbation


@replicates(total_variation)
def slow_total_variation(mask, power):
    total = 0.0
    height, width = mask.shape
    for y in range(height):
        for x in range(width):
            if x + 1 < width:
                total = total + abs(mask[y, x + 1] - mask[y, x]) ** power
            if y + 1 < height:
                total = total + abs(mask[y + 1, x] - mask[y, x]) ** power
    return total


@pytest.mark.parametrize("power", [1, 2.5, 3])
def test_total_variation_equals_the_loop(power):
    masks = torch.rand(2, 1, 4, 5)
    expected = torch.stack([slow_total_variation(mask[0], power) for mask in masks])
    torch.testing.assert_close(total_variation(masks, power), expected)


@replicates(MeaningfulPerturbation.explain)
def slow_meaningful(method, classifier, image, query):
    """One image ``(3, H, W)`` on grey, without jitter; textbook Adam."""
    height, width = image.shape[1:]
    scale = min(height, width) / 224
    cell, sigma = round(method.mask_scale * scale), method.mask_sigma * scale
    radius = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = kernel[:, None] * kernel[None, :]
    mask = torch.ones(math.ceil(height / cell), math.ceil(width / cell))
    first, second = torch.zeros_like(mask), torch.zeros_like(mask)

    def lifted(mask):
        large = F.interpolate(mask[None, None], size=(height, width), mode="bilinear", align_corners=False)
        padded = F.pad(large, (radius,) * 4, mode="reflect")
        return F.conv2d(padded, kernel[None, None] / kernel.sum())[0]

    for step in range(1, method.steps + 1):
        mask.requires_grad_()
        large = lifted(mask)
        shown = large * image + (1 - large) * 0.5
        probability = classifier(shown[None])[0].softmax(dim=0)[query]
        removed = (1 - mask).abs().sum()
        variation = slow_total_variation(mask, method.tv_power)
        objective = method.l1_weight * removed + method.tv_weight * variation + probability
        (gradient,) = torch.autograd.grad(objective, mask)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        rate = method.learning_rate * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
        # Adam's eps stands outside the corrected root.
        moved = rate * first / (second.sqrt() + 1e-8 * (1 - 0.999**step) ** 0.5)
        mask = (mask.detach() - moved).clamp(0, 1)
    return 1 - lifted(mask)


def test_six_steps_equal_the_slow_masks():
    method = MeaningfulPerturbation(
        steps=6, jitter=0, mask_scale=50, mask_sigma=30.0, tv_weight=0.1, baseline=Constant(level=0.5)
    )
    classifier, images = toy_classifier().requires_grad_(requires_grad=False), torch.rand(2, 3, 16, 13)
    query = torch.tensor([2, 0])
    found = method(classifier, images, query).saliency
    assert float(found.std()) > 0.05
    for row in range(2):
        expected = slow_meaningful(method, classifier, images[row], int(query[row]))
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-3)
