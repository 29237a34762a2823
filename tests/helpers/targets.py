"""Networks that give other things than logits, a target for each, and the same score as a class's logit."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from verisal.models import Classifier, ClassLogit, Contrast, Probability, Region, Similarity, targeted

SIZE = (12, 10)
NEVER = -1e4


def images_of(count: int = 3) -> Tensor:
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(4))


class Trunk(nn.Module):
    """Two stages; sub-classes have a head each."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(5, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(6, outputs, 1)

    def maps(self, images: Tensor) -> Tensor:
        return 8 * self.head(self.two(self.one(images)))


class Regressor(Trunk):
    """Age and weight, say."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, images: Tensor) -> Tensor:
        return self.maps(images).square().mean(dim=(2, 3))


class Embedder(Trunk):
    def __init__(self) -> None:
        super().__init__(7)

    def forward(self, images: Tensor) -> Tensor:
        return self.maps(images).amax(dim=(2, 3))


class Segmenter(Trunk):
    """Like those of torchvision: logits in a dictionary."""

    def __init__(self) -> None:
        super().__init__(4)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.maps(images)
        return {"out": maps, "aux": -maps}


class Many(Trunk):
    """A classifier of four classes."""

    def __init__(self) -> None:
        super().__init__(4)

    def forward(self, images: Tensor) -> Tensor:
        return self.maps(images).mean(dim=(2, 3))


EMBEDDING = torch.linspace(-1, 1, 7)
MASK = torch.zeros(SIZE, dtype=torch.bool)
MASK[2:7, 3:8] = True


@dataclass(frozen=True)
class Case:
    """A network, a target, and the score of what the network returns as it is written down."""

    make: Callable[[], nn.Module]
    target: Callable
    score: Callable

    def network(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            return self.make().eval()

    def targeted(self) -> Classifier:
        return targeted(Classifier(self.network(), ("one", "two"), normalization="none"), self.target).eval()

    def as_class(self) -> Classifier:
        """A softmax over the score and a class that is never predicted: its logit 0 is the score."""
        network = AsClass(self.network(), self.score)
        return Classifier(network, ("network.one", "network.two"), normalization="none").eval()


class AsClass(nn.Module):
    def __init__(self, network: nn.Module, score: Callable) -> None:
        super().__init__()
        self.network, self.score = network, score

    def forward(self, images: Tensor) -> Tensor:
        score = self.score(self.network(images))
        return torch.stack([score, torch.full_like(score, NEVER)], dim=1)


def cosine(embeddings: Tensor) -> Tensor:
    lengths = embeddings.square().sum(dim=1).sqrt() * EMBEDDING.square().sum().sqrt()
    return (embeddings * EMBEDDING).sum(dim=1) / lengths


def inside(outputs: dict[str, Tensor]) -> Tensor:
    # Stages are found on square images.
    maps = nn.functional.interpolate(outputs["out"], SIZE, mode="bilinear", align_corners=False)
    return maps[:, 2][:, MASK].mean(dim=1)


CASES = {
    "regression": Case(Regressor, ClassLogit(1), lambda outputs: outputs[:, 1]),
    "difference of two numbers": Case(
        Regressor,
        lambda outputs: outputs[:, 0] - outputs[:, 1],
        lambda outputs: outputs[:, 0] - outputs[:, 1],
    ),
    "embedding": Case(Embedder, Similarity(EMBEDDING), cosine),
    "segmentation": Case(Segmenter, Region(MASK, 2), inside),
    "contrast": Case(Many, Contrast(1, 3), lambda outputs: outputs[:, 1] - outputs[:, 3]),
    "probability": Case(Many, Probability(2), lambda outputs: outputs.exp()[:, 2] / outputs.exp().sum(dim=1)),
}
