"""One row per exported detector, and what the contract suite scores with it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from verisal.detectors import Detector, MaxSoftmax, ShiftConsistency

NUM_CLASSES = 5


@dataclass(frozen=True)
class DetectorCase:
    """What the suite must know about a detector: how it is built around a classifier."""

    make: Callable[[nn.Module], Detector]


CASES = {"MaxSoftmax": DetectorCase(MaxSoftmax), "ShiftConsistency": DetectorCase(ShiftConsistency)}


class ToyNet(nn.Module):
    """A convolution and a head, confident on some images and not on others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
        self.head = nn.Linear(6, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv(images).relu().mean(dim=(2, 3)) * 20)


def toy_classifier() -> ToyNet:
    """Random weights, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return ToyNet().eval()


def toy_images(count: int, *, seed: int = 0) -> Tensor:
    """Images of 12 x 10 px in [0, 1], of very different brightness."""
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 12, 10, generator=rng) * torch.rand(count, 1, 1, 1, generator=rng)
