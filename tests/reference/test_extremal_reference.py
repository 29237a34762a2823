"""Extremal perturbation, one mask at a time, step by step, as it is written down."""

import math

import pytest
import torch
from torch.nn import functional as F

from helpers.replicates import replicates
from helpers.saliency_cases import toy_classifier
from verisal.saliency import ExtremalPerturbation
from verisal.saliency.perturbation.smooth_masks import area_deviation, smooth_max, smooth_max_weights


@replicates(smooth_max)
def slow_smooth_max(cells, step, sigma, size, margin=0):
    """Neighbours of every pixel of the image and its margin; one mask."""
    radius = 1 + math.ceil(sigma / step)
    reach = torch.arange(-radius, radius + 1)
    around = math.ceil(margin / step) + radius
    padded = F.pad(cells, (around,) * 4)
    # The blocks of all cells overlap the image equally on both sides.
    first = [(length * step - wanted) // 2 for length, wanted in zip(cells.shape, size, strict=True)]
    rows = []
    for y in range(first[0] - margin, first[0] + size[0] + margin):
        for x in range(first[1] - margin, first[1] + size[1] + margin):
            i, j = y // step + reach, x // step + reach
            values = padded[around + i][:, around + j]
            centres = [(index + 0.5).double() * step - 0.5 for index in (i, j)]
            distance = ((centres[0][:, None] - y) ** 2 + (centres[1][None, :] - x) ** 2).sqrt()
            weighted = (torch.exp(-2 * (distance / sigma - 0.5).clamp(min=0) ** 2) * values).flatten()
            rows.append((weighted * (20 * weighted).softmax(dim=0)).sum())
    return torch.stack(rows).view([length + 2 * margin for length in size])


@pytest.mark.parametrize("kind", ["uniform", "binary", "faint"])
@pytest.mark.parametrize(("step", "sigma"), [(7, 21.0), (1, 1.125), (3, 3.0), (4, 17.0)])
@pytest.mark.parametrize("margin", [0, 3])
def test_smooth_max_and_its_gradient_equal_the_formula(step, sigma, kind, margin):
    size = (2 * step + 1, 3 * step)
    cells = torch.rand(3, 3)
    cells = {"uniform": cells, "binary": cells.round(), "faint": cells / 20}[kind]
    slow, fast = cells.double().requires_grad_(), cells.clone().requires_grad_()
    expected = slow_smooth_max(slow, step, sigma, size, margin)
    weights = smooth_max_weights(step, sigma)
    found = smooth_max(fast[None, None], weights, step=step, size=size, margin=margin)[0, 0]
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)
    direction = torch.randn(expected.shape)
    (wanted,) = torch.autograd.grad((expected * direction).sum(), slow)
    (gradient,) = torch.autograd.grad((found * direction).sum(), fast)
    torch.testing.assert_close(gradient.double(), wanted, rtol=0, atol=2e-3 * float(wanted.abs().max()))


@replicates(area_deviation)
def slow_area_deviation(mask, count):
    """A full sort. In the gradient alone, values within 0.01 of the threshold are in the area with equal
    probability, which goes over into 0 or 1 until 0.02.
    """
    values = mask.flatten().sort().values
    ordered = torch.zeros_like(values)
    ordered[len(values) - count :] = 1
    certain, equal = [], []
    for away in (values - values[len(values) - count]).detach().div(0.01).tolist():
        certain.append(min(max(away - 1, 0), 1))
        equal.append(1 - min(max(abs(away) - 1, 0), 1))
    left = (count - sum(certain)) / sum(equal)
    target = values.new_tensor([one + left * other for one, other in zip(certain, equal, strict=True)])
    value = (values - ordered).square().mean()
    gradient = 2 * (values - target).detach() / len(values)
    return value.detach() + (gradient * (values - values.detach())).sum()


@pytest.mark.parametrize("count", [1, 13, 30, 60])
@pytest.mark.parametrize("digits", [1, 2, 7])  # many ties, or none
def test_area_deviation_equals_the_sort(count, digits):
    mask = torch.rand(1, 1, 6, 10).mul(10**digits).round().div(10**digits).requires_grad_()
    fast, slow = area_deviation(mask, count)[0], slow_area_deviation(mask, count)
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(*(torch.autograd.grad(value, mask)[0] for value in (fast, slow)))


@pytest.mark.parametrize("count", [1, 13, 30])
def test_gradient_of_pixels_that_lie_apart_is_that_of_the_sort(count):
    mask = torch.linspace(0, 1, 30)[torch.randperm(30)].view(1, 1, 5, 6).requires_grad_()
    ordered = torch.cat([torch.zeros(30 - count), torch.ones(count)])
    slow = (mask.flatten().sort().values - ordered).square().mean()
    fast = area_deviation(mask, count)[0]
    torch.testing.assert_close(*(torch.autograd.grad(value, mask)[0] for value in (fast, slow)))


@replicates(ExtremalPerturbation.masks)
def slow_extremal(method, classifier, image, query, area):
    """One image ``(3, H, W)``, one area: textbook ascent, in double precision but for the network.

    The area is counted on a plane with a margin of sigma, of which the network sees the inside.
    """
    height, width = image.shape[1:]
    scale = min(height, width) / 224
    step, sigma, blur = round(7 * scale) or 1, method.sigma * scale, method.pyramid_sigma * scale
    levels, margin = method.pyramid_levels, math.ceil(sigma)
    pyramid = [_blurred(image, blur * (1 - level / (levels - 1))) for level in range(levels)]
    count = math.ceil(area * height * width - 1e-6)
    cells = torch.ones(math.ceil(height / step), math.ceil(width / step), dtype=torch.float64)
    velocity, weight = None, method.area_weight
    for index in range(method.steps):
        cells.requires_grad_()
        plane = slow_smooth_max(cells, step, sigma, (height, width), margin)
        mask = plane[margin : margin + height, margin : margin + width]

        def logit(mask, flipped=index % 2 == 0):
            shown = slow_blend(pyramid, mask * (levels - 1))
            shown = shown[None].float()
            return classifier(shown.flip(3) if flipped else shown)[0, query].double()

        kept, left = logit(mask), logit(1 - mask)
        reward = {"preserve": kept, "delete": -left, "dual": kept - left}[method.variant]
        energy = reward - weight * slow_area_deviation(plane, count)
        (gradient,) = torch.autograd.grad(energy, cells)
        velocity = gradient if velocity is None else 0.9 * velocity + 0.1 * gradient
        cells = (cells.detach() + method.learning_rate * velocity).clamp(0, 1)
        weight *= 1.0035
    return slow_smooth_max(cells, step, sigma, (height, width))


def slow_blend(pyramid, place):
    """Linear between levels; the slope is the mean of the linear slopes within 0.02 levels."""

    def linear(place):
        return sum((1 - (place - k).abs()).clamp(min=0) * pyramid[k] for k in range(len(pyramid)))

    # Beyond the first and the last level the slope goes on.
    inside = place.detach().clamp(0.02, len(pyramid) - 1.02)
    slope = (linear(inside + 0.02) - linear(inside - 0.02)) / 0.04
    return linear(place.detach()) + slope * (place - place.detach())


def _blurred(image, sigma):
    if sigma == 0:
        return image.double()
    radius = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).double() / sigma) ** 2)
    kernel = (kernel[:, None] * kernel[None, :]) / kernel.sum() ** 2
    padded = F.pad(image.double()[:, None], (radius,) * 4, mode="reflect")
    return F.conv2d(padded, kernel[None, None])[:, 0]


@pytest.mark.parametrize("variant", ["preserve", "delete", "dual"])
def test_five_steps_equal_the_slow_masks(variant):
    method = ExtremalPerturbation(
        areas=(0.1, 0.35), variant=variant, steps=5, learning_rate=0.3, area_weight=20.0, sigma=60.0
    )
    classifier, images = toy_classifier().requires_grad_(requires_grad=False), torch.rand(2, 3, 16, 13)
    query = torch.tensor([2, 0])
    masks = method.masks(classifier, images, query)
    assert float(masks.std()) > 0.02
    for row, area in enumerate(method.areas):
        expected = slow_extremal(method, classifier, images[row], int(query[row]), area)
        # Steps repeat the pooling's error of up to 1e-4.
        torch.testing.assert_close(masks[row, row].double(), expected, rtol=0, atol=1e-3)
