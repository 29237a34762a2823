import pytest
import torch
from scipy.ndimage import gaussian_filter

from verisal.functional.comparison import total_variation
from verisal.saliency.perturbation.smooth_masks import (
    area_deviation,
    blur_pyramid,
    pyramid_blend,
    smooth_max,
    smooth_max_weights,
)


def masks_of(*rows):
    return torch.tensor([rows]).unsqueeze(0)


def test_area_deviation_by_hand():
    # Sorted: .1 .2 .4 .9 against 0 0 0 1, then against 0 0 1 1.
    mask = masks_of([0.9, 0.2], [0.4, 0.1])
    assert area_deviation(mask, 1).item() == pytest.approx((0.1**2 + 0.2**2 + 0.4**2 + 0.1**2) / 4)
    assert area_deviation(mask, 2).item() == pytest.approx((0.1**2 + 0.2**2 + 0.6**2 + 0.1**2) / 4)
    assert area_deviation(mask, 4).item() == pytest.approx((0.9**2 + 0.8**2 + 0.6**2 + 0.1**2) / 4)


def test_area_deviation_is_zero_for_a_mask_of_that_area():
    mask = torch.zeros(1, 1, 4, 4)
    mask[:, :, 1:3, 1:3] = 1
    assert area_deviation(mask, 4).item() == 0
    assert area_deviation(mask, 6).item() == pytest.approx(2 / 16)


def test_equal_pixels_share_the_area_instead_of_being_ordered_by_chance():
    mask = torch.full((1, 1, 2, 2), 0.5, requires_grad=True)
    deviation = area_deviation(mask, 1)
    (gradient,) = torch.autograd.grad(deviation.sum(), mask)
    assert deviation.item() == pytest.approx(0.5**2)
    # 2 (m - r) / 4 pixels with r = 1/4 each.
    torch.testing.assert_close(gradient, torch.full_like(mask, 0.125))


def test_rounding_does_not_decide_who_is_in_the_area():
    mask = torch.full((1, 1, 2, 2), 0.5) + 1e-7 * torch.arange(4.0).view(1, 1, 2, 2)
    mask.requires_grad_()
    (gradient,) = torch.autograd.grad(area_deviation(mask, 2).sum(), mask)
    assert gradient.abs().max() < 1e-6  # r = 1/2 each


def test_gradients_of_area_and_pyramid_are_continuous():
    """Rounding errors change them by rounding errors, at a level, at the threshold and near it."""
    near = [0.3 + side * away for side in (-1, 1) for away in (1e-4, 0.01, 0.02)]
    values = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 0.3, *near]
    mask = torch.tensor(values).view(1, 1, 1, -1)
    levels = torch.rand(1, 5, 3, 1, len(values))

    def slopes(mask):
        mask = mask.clone().requires_grad_()
        (of_area,) = torch.autograd.grad(
            area_deviation(mask, sum(value >= 0.3 for value in values)).sum(), mask
        )
        (of_pyramid,) = torch.autograd.grad(pyramid_blend(levels, mask).sum(), mask)
        return of_area * len(values), of_pyramid

    for noise in 1e-6 * torch.randn(8, *mask.shape):
        for before, after in zip(slopes(mask), slopes(mask + noise), strict=True):
            assert float((before - after).abs().max()) < 0.02


def test_a_pyramid_of_two_levels_has_no_corner():
    levels = torch.tensor([0.2, 0.8]).view(1, 2, 1, 1, 1).expand(1, 2, 3, 1, 4)
    masks = torch.tensor([0.0, 0.01, 0.5, 1.0]).view(1, 1, 1, 4).requires_grad_()
    shown = pyramid_blend(levels, masks)
    torch.testing.assert_close(shown[0, 1, 0].detach(), torch.tensor([0.2, 0.206, 0.5, 0.8]))
    (slopes,) = torch.autograd.grad(shown[:, 0].sum(), masks)
    torch.testing.assert_close(slopes.flatten(), torch.full((4,), 0.6))


def test_total_variation_by_hand():
    mask = masks_of([0.0, 1.0], [0.5, 1.0])
    assert total_variation(mask, 3).item() == pytest.approx(1 + 0.5**3 + 0.5**3 + 0)
    assert total_variation(mask, 1).item() == pytest.approx(2.0)
    both = torch.cat([mask, torch.full_like(mask, 0.7)])
    assert total_variation(both, 2).tolist() == [pytest.approx(1.5), 0.0]


def test_blur_pyramid_ends_in_the_image_and_starts_at_the_largest_blur():
    images = torch.rand(2, 3, 14, 11)
    pyramid = blur_pyramid(images, levels=3, max_sigma=3.0)
    assert pyramid[:, 2].equal(images)
    for level, sigma in ((0, 3.0), (1, 1.5)):
        expected = gaussian_filter(
            images.double().numpy(), sigma, mode="mirror", radius=int(-(-3 * sigma // 1)), axes=(2, 3)
        )
        torch.testing.assert_close(pyramid[:, level].double(), torch.from_numpy(expected), rtol=0, atol=1e-6)


def test_pyramid_blend_by_hand():
    levels = torch.tensor([0.2, 0.4, 0.8]).view(1, 3, 1, 1, 1).expand(1, 3, 3, 1, 5)
    masks = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).view(1, 1, 1, 5).requires_grad_()
    shown = pyramid_blend(levels, masks)
    torch.testing.assert_close(shown[0, 1, 0].detach(), torch.tensor([0.2, 0.3, 0.4, 0.6, 0.8]))
    (slopes,) = torch.autograd.grad(shown[:, 0].sum(), masks)
    # Two intervals of width 1/2, rising by .2 and by .4; a level itself has the mean of both slopes.
    torch.testing.assert_close(slopes.flatten(), torch.tensor([0.4, 0.4, 0.6, 0.8, 0.8]))


def test_smooth_max_of_one_cell_by_hand():
    # One cell at 1 among zeros, 3 x 3 neighbours count: the pixel on it sees w = 1, those a step away
    # z = 1, w = exp(-1 / 2), and the other cells add e^0 each.
    weights = smooth_max_weights(1, 1e-3)
    assert weights.shape[-1] == 5
    values = torch.zeros(1, 1, 7, 7)
    values[0, 0, 3, 3] = 1
    pooled = smooth_max(values, weights, step=1, size=(7, 7))
    peak = torch.tensor(20.0).exp()
    expected = torch.zeros(7, 7)
    expected[3, 3] = peak / (peak + 24)
    torch.testing.assert_close(pooled[0, 0], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(12, 9), (11, 8), (10, 7)])
def test_cells_are_centred_on_the_image_whose_margin_is_pooled_too(size):
    weights = smooth_max_weights(3, 4.0)
    values = torch.rand(1, 1, 4, 3)
    inside = smooth_max(values, weights, step=3, size=size)
    plane = smooth_max(values, weights, step=3, size=size, margin=4)
    assert plane.shape == (1, 1, size[0] + 8, size[1] + 8)
    torch.testing.assert_close(plane[:, :, 4:-4, 4:-4], inside)
    if size[0] % 2 == 0 and size[1] % 2 == 1:  # blocks overlap by an even number of pixels
        mirrored = smooth_max(values.flip(2, 3), weights, step=3, size=size, margin=4)
        torch.testing.assert_close(mirrored.flip(2, 3), plane)


def test_smooth_max_reaches_the_neighbours_by_the_kernel():
    weights = smooth_max_weights(1, 1.0)
    values = torch.zeros(1, 1, 7, 7)
    values[0, 0, 3, 3] = 1
    pooled = smooth_max(values, weights, step=1, size=(7, 7))[0, 0]
    weight = torch.tensor(-2 * (1 - 0.5) ** 2).exp()
    expected = weight * (20 * weight).exp() / ((20 * weight).exp() + 24)
    assert pooled[3, 4].item() == pytest.approx(expected.item(), abs=1e-4)
    assert pooled[2, 3].item() == pytest.approx(expected.item(), abs=1e-4)
