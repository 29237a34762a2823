"""One row per exported detector, and what the contract suite scores with it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from verisal.detectors import (
    CNNDetector,
    Detector,
    FeatureSqueezing,
    LogitMargin,
    Mahalanobis,
    MaxSoftmax,
    Pixels,
    ShiftConsistency,
    SoftmaxEntropy,
)
from verisal.models import Classifier

NUM_CLASSES = 5


@dataclass(frozen=True)
class DetectorCase:
    """What the suite must know about a detector: how it is made, and whether it must be fitted first.

    ``distinct``: least number of different scores of nine images; fewer than nine for one that counts.
    """

    make: Callable[[], Detector]
    learns: bool = True
    distinct: int = 9


def cnn() -> Detector:
    """Small and quick; the toy measurement gives it vectors as scalars and the image itself as its map."""
    return CNNDetector(
        source=Pixels(), reads=("image",), scalars=("logits",), grid=4, members=2, epochs=3, width=4,
        batch_size=16, learning_rate=0.02,
    )  # fmt: skip


CASES = {
    "CNNDetector": DetectorCase(cnn),
    "FeatureSqueezing": DetectorCase(FeatureSqueezing, learns=False),
    "LogitMargin": DetectorCase(LogitMargin, learns=False),
    "Mahalanobis": DetectorCase(Mahalanobis),
    "MaxSoftmax": DetectorCase(MaxSoftmax, learns=False),
    "ShiftConsistency": DetectorCase(ShiftConsistency, learns=False),
    "SoftmaxEntropy": DetectorCase(SoftmaxEntropy, learns=False),
}


class ToyNet(nn.Module):
    """Two convolutions and a head, confident on some images and not on others."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(8, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.second(self.first(images)).mean(dim=(2, 3)) * 20)


def toy_classifier() -> Classifier:
    """Random weights, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = ToyNet()
    return Classifier(
        network, ["first", "second"], class_names=[f"class {index}" for index in range(NUM_CLASSES)],
        image_size=12, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25),
    ).eval()  # fmt: skip


def toy_images(count: int, *, seed: int = 0) -> Tensor:
    """Images of 12 x 12 px in [0, 1], of very different brightness, on the 8-bit lattice."""
    rng = torch.Generator().manual_seed(seed)
    bright = torch.rand(count, 1, 1, 1, generator=rng)
    return (torch.rand(count, 3, 12, 12, generator=rng) * bright * 255).round() / 255
