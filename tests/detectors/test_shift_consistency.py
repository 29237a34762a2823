import pytest
import torch

from verisal.detectors import ShiftConsistency


def corner(images):
    """Log probabilities of the red of the lower right pixel, and of the rest."""
    red = images[:, 0, -1, -1].clamp(1e-6, 1 - 1e-6)
    return torch.stack([red, 1 - red], dim=1).log()


def test_score_is_the_distance_between_the_answers_to_both_views():
    images = torch.zeros(3, 3, 3, 3)
    images[0, 0, 2, 2] = 0.75  # moves out of the picture; its upper left neighbour, which is black, moves in
    images[1, 0, 1, 1] = 0.5  # moves in
    images[2, 0] = 0.5  # nothing changes
    scores = ShiftConsistency().score(corner, images)
    assert scores.tolist() == pytest.approx([1.5, 1.0, 0.0], abs=1e-5)


def test_opposite_answers_are_as_far_apart_as_can_be():
    images = torch.zeros(1, 3, 2, 2)
    images[0, 0, 1, 1] = 1.0
    assert ShiftConsistency().score(corner, images).item() == pytest.approx(2.0, abs=1e-4)
