import pytest
import torch
from torch import nn

from verisal.errors import ConfigError
from verisal.models import Classifier
from verisal.saliency import HierarchicalMasks, calibrate_reg_weight


class _Bright(nn.Module):
    """Class 0 is the mean brightness, class 1 is always 0.1."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Identity(), nn.Identity()

    def forward(self, images):
        bright = self.two(self.one(images)).mean(dim=(1, 2, 3))
        return torch.stack([bright, torch.full_like(bright, 0.1)], dim=1)


def bright():
    return Classifier(
        _Bright(), ["one", "two"], class_names=("bright", "dark"), image_size=8, normalization="none"
    ).eval()


def test_the_largest_lambda_that_keeps_the_output_is_chosen():
    images = torch.full((4, 3, 8, 8), 0.5)
    method = HierarchicalMasks(objective="class", steps=20)
    chosen, tried = calibrate_reg_weight(method, bright(), images, grid=(1e-4, 1e-3, 10.0))
    assert [row.reg_weight for row in tried] == [1e-4, 1e-3, 10.0]
    assert chosen == max(row.reg_weight for row in tried if row.accepted)
    # A penalty that outweighs the logit moves it by far more than 5 %.
    assert not tried[-1].accepted
    assert tried[0].accepted


def test_a_grid_without_an_acceptable_value_is_refused():
    images = torch.full((2, 3, 8, 8), 0.5)
    with pytest.raises(ConfigError, match=r"no lambda of \[10.0\] keeps 95 %"):
        calibrate_reg_weight(HierarchicalMasks(objective="class", steps=20), bright(), images, grid=(10.0,))
