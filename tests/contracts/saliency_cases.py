"""One row per exported saliency method, and the small staged classifier that the contract suite explains."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from verisal.models import Classifier
from verisal.saliency import HierarchicalMasks, Saliency

NUM_CLASSES = 4
SIZE = (16, 12)


@dataclass(frozen=True)
class SaliencyCase:
    """What the suite must know about a method.

    ``make`` builds it, ``layers`` is the number of its raw maps (0 if it has none), ``passes`` the forward
    and backward passes per image where fixed, ``uses_query`` whether another query gives another map.
    """

    make: Callable[[], Saliency]
    layers: int = 0
    passes: tuple[float, float] | None = None
    uses_query: bool = True


def _masks(**settings: object) -> SaliencyCase:
    known = {"reg_weight": 0.02, "steps": 8, "learning_rate": 0.2}
    return SaliencyCase(
        lambda: HierarchicalMasks(**known | settings),
        layers=3,
        passes=(9, 8),
        uses_query=settings["objective"] != "output",
    )


CASES = {
    "HierarchicalMasks evidence": _masks(objective="evidence"),
    "HierarchicalMasks class": _masks(objective="class", fusion="mean"),
    "HierarchicalMasks output": _masks(objective="output", penalty="per_layer", keep="fidelity"),
    "HierarchicalMasks mixed": _masks(objective="mixed", penalty="relative", reg_weight=2.0),
    "HierarchicalMasks maximise": _masks(objective="maximise", keep="last", gate_max=1.5),
    "HierarchicalMasks probability": _masks(objective="maximise_log_probability", chunk_size=2),
}


class Stage(nn.Module):
    """Convolution, batch normalisation and ReLU that draws random numbers, and raises when told to.

    ``fail_at``: number of the call that raises; 0 for none.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(outputs)
        self.drop = nn.Dropout(0.5)
        self.calls, self.fail_at = 0, 0

    def forward(self, maps: Tensor) -> Tensor:
        torch.rand(3)  # a network with draws of its own
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("out of order")
        return self.drop(self.norm(self.conv(maps))).relu()


class ToyNet(nn.Module):
    """Three stages and a linear head on images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = Stage(3, 4), Stage(4, 6), Stage(6, 8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.three(self.two(self.one(images)))).flatten(1))


def toy_classifier() -> Classifier:
    """Random weights with logits a few units apart, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = ToyNet()
        for stage in (network.one, network.two, network.three):
            nn.init.normal_(stage.norm.running_mean, std=0.2)
            nn.init.uniform_(stage.norm.running_var, 0.1, 0.4)
        nn.init.normal_(network.head.weight)
    stages = ("one", "two", "three")
    return Classifier(network, stages, class_names=tuple("abcd"), image_size=16).eval()


def toy_images(count: int) -> Tensor:
    """Images of 16 x 12 px in [0, 1]."""
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(5))
