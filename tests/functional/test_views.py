import math

import pytest
import torch

from verisal.functional.filters import shift_one_pixel
from verisal.functional.outputs import softmax_distance


def test_pixels_move_right_and_down_and_the_rim_is_repeated():
    images = torch.arange(6.0).view(1, 1, 2, 3)
    assert shift_one_pixel(images).tolist() == [[[[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]]]
    several = torch.rand(2, 3, 4, 5)
    moved = shift_one_pixel(several)
    assert moved.shape == several.shape
    assert moved[..., 1:, 1:].equal(several[..., :-1, :-1])
    assert moved[..., 0, 1:].equal(several[..., 0, :-1])
    assert moved[..., 1:, 0].equal(several[..., :-1, 0])
    assert moved[..., 0, 0].equal(several[..., 0, 0])


def test_distance_by_hand():
    # Probabilities 3/4, 1/4 and 1/4, 3/4 differ by 1/2 twice.
    three = math.log(3.0)
    assert softmax_distance(
        torch.tensor([[three, 0.0]]), torch.tensor([[0.0, three]])
    ).item() == pytest.approx(1.0)
    far = softmax_distance(torch.tensor([[99.0, 0.0]]), torch.tensor([[0.0, 99.0]]))
    assert far.item() == pytest.approx(2.0)
    same = torch.randn(3, 4)
    assert softmax_distance(same, same).tolist() == [0.0] * 3
