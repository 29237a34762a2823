import pytest
import torch
from torch import nn

from verisal.detectors import AttackCost, StepsToFlip
from verisal.errors import ConfigError


class Slope(nn.Module):
    """Two logits: the sum of the red values minus an offset, and its negative."""

    def __init__(self, offset):
        super().__init__()
        self.offset = offset
        self.calls = []

    def forward(self, images):
        self.calls.append(len(images))
        level = images[:, 0].sum(dim=(1, 2)) - self.offset
        return torch.stack([level, -level], dim=1)


def steps_of(values, *, offset=0.5, **settings):
    images = torch.zeros(len(values), 3, 1, 1)
    images[:, 0, 0, 0] = torch.tensor(values)
    network = Slope(offset)
    return StepsToFlip(**settings)(network, images)["steps"], network.calls


def test_steps_are_the_distance_to_the_border_in_steps_with_a_fraction():
    # Margin 2 * |red - 0.5|, falling by 2 * step each time: the border is |red - 0.5| / step away.
    steps, _ = steps_of([0.6, 0.55, 0.375, 0.5], step=0.04, max_steps=10)
    assert steps.tolist() == pytest.approx([2.5, 1.25, 3.125, 0.0], abs=1e-4)


def test_those_that_do_not_flip_are_ordered_by_the_margin_that_is_left():
    # After 2 steps of 0.1 the margins are 0.2 and 0.6.
    steps, _ = steps_of([0.8, 1.0], step=0.1, max_steps=2)
    assert steps.tolist() == pytest.approx([2 + 0.2 / 1.2, 2 + 0.6 / 1.6], abs=1e-4)


def test_finished_images_take_part_in_no_further_pass():
    _, calls = steps_of([0.52, 0.58, 0.9], step=0.04, max_steps=3)
    # The first pass predicts; then per step one with gradient and one after the move.
    assert calls == [3, 3, 3, 2, 2, 1, 1]


def test_images_stay_within_their_range():
    # The border lies beyond white: no number of steps reaches it.
    steps, _ = steps_of([0.9], offset=1.2, step=0.1, max_steps=4)
    assert steps.item() == pytest.approx(4 + 0.4 / 1.4, abs=1e-4)


def test_score_rises_with_how_little_it_takes():
    assert AttackCost().judge({"steps": torch.tensor([1.5, 9.0])}).tolist() == [-1.5, -9.0]


@pytest.mark.parametrize("wrong", [{"step": 0.0}, {"step": 2.0}, {"max_steps": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="StepsToFlip needs"):
        AttackCost(source=StepsToFlip(**wrong))
