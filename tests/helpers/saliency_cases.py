"""What a row of the saliency contract says, and the small staged classifier that the suite explains.

Rows stand beside this file, one file a family: ``saliency_rows_<family>.py``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from helpers.normalizations import CENTRED
from verisal.models import Classifier
from verisal.saliency import Saliency

NUM_CLASSES = 4
SIZE = (16, 12)


@dataclass(frozen=True)
class SaliencyCase:
    """What the suite must know about a method.

    ``make`` builds it, ``layers`` is the number of its raw maps (0 if it has none), ``passes`` the forward
    and backward passes per image where fixed, ``uses_query`` whether another query gives another map,
    ``uses_classifier`` whether the network is called at all, ``late_call`` the number of a call of the
    network that must come before the end (1 for a method that calls it once), ``channels`` those of its
    attribution (0 if it has none), ``baseline`` the name in its results, ``varies_with_image`` whether
    another image gives another map.
    """

    make: Callable[[], Saliency]
    layers: int = 0
    passes: tuple[float, float] | None = None
    uses_query: bool = True
    uses_classifier: bool = True
    late_call: int = 4
    channels: int = 0
    baseline: str = ""
    varies_with_image: bool = True


class Stage(nn.Module):
    """Convolution, batch normalisation and ReLU that draws random numbers, and raises when told to.

    ``fail_at``: number of the call that raises; 0 for none.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(outputs)
        self.drop = nn.Dropout(0.5)
        self.relu = nn.ReLU()
        self.calls, self.fail_at = 0, 0

    def forward(self, maps: Tensor) -> Tensor:
        torch.rand(3)  # a network with draws of its own
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("out of order")
        return self.relu(self.drop(self.norm(self.conv(maps))))


class ToyNet(nn.Module):
    """Three stages and a linear head on images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = Stage(3, 4), Stage(4, 6), Stage(6, 8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.three(self.two(self.one(images)))).flatten(1))


def toy_classifier(kind: type[ToyNet] = ToyNet) -> Classifier:
    """Random weights with logits a few units apart, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = kind()
        for stage in (network.one, network.two, network.three):
            nn.init.normal_(stage.norm.running_mean, std=0.2)
            nn.init.uniform_(stage.norm.running_var, 0.1, 0.4)
        nn.init.normal_(network.head.weight)
    stages = ("one", "two", "three")
    return Classifier(network, stages, class_names=tuple("abcd"), image_size=16, normalization=CENTRED).eval()


def toy_images(count: int) -> Tensor:
    """Images of 16 x 12 px in [0, 1]."""
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(5))
