import math

import pytest
import torch
from torch.nn import functional as F

from verisal.saliency.gates.masks import (
    channel_statistics,
    fuse_layers,
    gate_map,
    gate_penalty_weights,
    resize_maps,
    stack_layers,
)


def test_gate_map_is_the_mean_over_channels():
    gate = torch.tensor([[[[1.0, 0.0]], [[3.0, 2.0]]]])
    assert gate_map(gate).tolist() == [[[[2.0, 1.0]]]]


def test_channel_statistics_by_hand():
    gate = torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1, 1)
    mean, deviation, largest = channel_statistics(gate).flatten().tolist()
    # Mean 3, squares of the deviations 4 + 1 + 9 over 3 channels.
    assert (mean, largest) == (3.0, 6.0)
    assert deviation == pytest.approx(math.sqrt(14 / 3))


def test_channel_statistics_of_one_channel_have_no_deviation():
    assert channel_statistics(torch.full((2, 1, 1, 1), 5.0)).tolist() == [[[[5.0]], [[0.0]], [[5.0]]]] * 2


def test_resize_shrinks_by_averages_and_grows_bilinearly():
    maps = torch.tensor([[[[0.0, 2.0], [4.0, 6.0]]]])
    assert resize_maps(maps, (1, 1)).tolist() == [[[[3.0]]]]
    # Output centres lie at -0.25, 0.25, 0.75 and 1.25 input pixels; the ends are held.
    assert resize_maps(maps[:, :, :1], (1, 4)).flatten().tolist() == [0.0, 0.5, 1.5, 2.0]
    assert resize_maps(maps, (2, 2)) is maps
    uneven = torch.arange(12.0).view(1, 1, 3, 4)
    expected = F.interpolate(uneven, size=(6, 2), mode="bilinear", align_corners=False)
    assert resize_maps(uneven, (6, 2)).equal(expected)


def test_stack_keeps_the_order_of_layers_then_statistics():
    first = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    second = torch.tensor([4.0, 5.0]).view(1, 2, 1, 1).expand(-1, -1, 4, 4)
    stacked = stack_layers([first, second], (2, 2))
    assert stacked.shape == (1, 5, 2, 2)
    assert stacked[0, :, 1, 0].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize("fusion", ["mean", "geometric"])
def test_fusion_scales_each_image_and_layer_by_its_own_maximum(fusion):
    layers = [torch.rand(3, 1, 4, 4), torch.rand(3, 1, 4, 4)]
    fused = fuse_layers(layers, fusion)
    scales = torch.tensor([0.1, 5.0, 70.0]).view(3, 1, 1, 1)
    torch.testing.assert_close(fuse_layers([layers[0] * scales, layers[1]], fusion), fused)
    torch.testing.assert_close(fuse_layers([layers[0][1:2], layers[1][1:2]], fusion), fused[1:2])


def test_geometric_fusion_of_many_small_factors_does_not_underflow():
    layer = torch.tensor([[[[1.0, 1e-10]]]])
    assert fuse_layers([layer] * 12, "geometric").flatten().tolist() == pytest.approx([1.0, 1e-10], rel=1e-4)


def test_relative_weights_make_the_penalty_of_untouched_gates_one():
    shapes = [torch.Size([2, 8, 4, 4]), torch.Size([2, 16, 2, 3])]
    weights = gate_penalty_weights(shapes, "relative")
    whole = sum(weight * shape[1:].numel() for weight, shape in zip(weights, shapes, strict=True))
    assert whole == pytest.approx(1.0)
