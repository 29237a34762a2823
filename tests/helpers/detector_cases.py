"""One row per exported detector, and what the contract suite scores with it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from verisal.detectors import (
    AttackCost,
    ChannelGates,
    CNNDetector,
    Detector,
    FeatureSqueezing,
    Flipped,
    Forest,
    GradientScalars,
    KernelDensity,
    LearnedConsistency,
    LocalIntrinsicDimension,
    LogisticRegression,
    LogitMargin,
    LogitTrees,
    Mahalanobis,
    MaskForest,
    MaskStatistics,
    MaxSoftmax,
    Measurement,
    MultiLID,
    MultiLIDForest,
    Pixels,
    PooledActivations,
    ShiftConsistency,
    SoftmaxEntropy,
    Spectrum,
    Stack,
    StageSpectrum,
    ViewConsistency,
    Vote,
)
from verisal.functional.networks import staged_network
from verisal.models import Classifier
from verisal.saliency import FoundGates, GateMethod
from verisal.saliency.gates.masks import gate_map
from verisal.types import StagedClassifier

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


def cnn_of_residuals() -> Detector:
    """The same on residuals at full resolution, which the network takes itself."""
    return CNNDetector(
        source=Pixels(), reads=("image",), filters=("mean3", "third"), grid=None, strides=(1, 2), members=1,
        epochs=3, width=4, batch_size=16, learning_rate=0.02,
    )  # fmt: skip


@dataclass(frozen=True)
class ToyGates(GateMethod):
    """Gates that a forward pass gives: how far every activation is beyond its image's mean."""

    uses_query = False
    power: float = 1.0

    def find(self, classifier: object, images: Tensor, query_class: Tensor) -> FoundGates:
        assert len(query_class) == len(images)
        with torch.no_grad():
            activations = staged_network(classifier, "a toy").stage_outputs(images.clone()).activations
        gates = ((a / (a.mean(dim=(1, 2, 3), keepdim=True) + 1e-3)) ** self.power for a in activations)
        return FoundGates(tuple(gates), activations, n_forward=1, n_backward=0)


@dataclass(frozen=True)
class ToyMasks(Measurement):
    """Maps of the gates, named as a mask measurement names them."""

    gates: ToyGates = ToyGates()

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        gates = self.gates.gates(classifier, images, torch.zeros(len(images), dtype=torch.int64))
        return {f"masks/prediction/{n}": gate_map(gate) for n, gate in enumerate(gates, start=1)}


CASES = {
    "AttackCost": DetectorCase(AttackCost, learns=False),
    "CNNDetector": DetectorCase(cnn),
    "CNNDetector of residuals": DetectorCase(cnn_of_residuals),
    "FeatureSqueezing": DetectorCase(FeatureSqueezing, learns=False),
    "Forest of Spectrum": DetectorCase(
        lambda: Forest(source=Spectrum(limit=48), reads=("spectrum",), trees=50), distinct=4
    ),
    "Forest of StageSpectrum": DetectorCase(
        lambda: Forest(source=StageSpectrum(limit=64), reads=("spectrum/*",), trees=50), distinct=4
    ),
    "Forest of GradientScalars": DetectorCase(
        lambda: Forest(source=GradientScalars(), reads=("gradient_scalars",), trees=50), distinct=4
    ),
    "KernelDensity": DetectorCase(KernelDensity),
    "LearnedConsistency": DetectorCase(LearnedConsistency),
    "LocalIntrinsicDimension": DetectorCase(lambda: LocalIntrinsicDimension(neighbours=8)),
    "LogitMargin": DetectorCase(LogitMargin, learns=False),
    "LogitTrees": DetectorCase(lambda: LogitTrees(trees=40, share=0.5), distinct=7),
    "LogisticRegression": DetectorCase(
        lambda: LogisticRegression(
            source=PooledActivations(views=(Flipped(),)), reads=("pooled/*", "*/pooled/*", "*/change/*")
        )
    ),
    "Mahalanobis": DetectorCase(Mahalanobis),
    "MaskForest": DetectorCase(
        lambda: MaskForest(source=ChannelGates(saliency=ToyGates()), trees=50), distinct=4
    ),
    "MaskStatistics": DetectorCase(lambda: MaskStatistics(source=ToyMasks())),
    "MaxSoftmax": DetectorCase(MaxSoftmax, learns=False),
    "MultiLID": DetectorCase(lambda: MultiLID(neighbours=8)),
    "MultiLIDForest": DetectorCase(lambda: MultiLIDForest(neighbours=8, trees=50), distinct=4),
    "ShiftConsistency": DetectorCase(ShiftConsistency, learns=False),
    "SoftmaxEntropy": DetectorCase(SoftmaxEntropy, learns=False),
    "Stack": DetectorCase(
        lambda: Stack(
            parts=(
                LogisticRegression(source=PooledActivations(), reads=("pooled/*",), penalty=10.0),
                LogisticRegression(
                    source=ChannelGates(saliency=ToyGates(), contributions=True), reads=("contributions/*",)
                ),
                LogitMargin(),
            ),
            folds=2,
        )
    ),
    "ViewConsistency": DetectorCase(ViewConsistency),
    "Vote": DetectorCase(lambda: Vote(voters=(Mahalanobis(), LocalIntrinsicDimension(neighbours=5)))),
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
        image_size=12, normalization=((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    ).eval()  # fmt: skip


def toy_images(count: int, *, seed: int = 0) -> Tensor:
    """Images of 12 x 12 px in [0, 1], of very different brightness, on the 8-bit lattice."""
    rng = torch.Generator().manual_seed(seed)
    bright = torch.rand(count, 1, 1, 1, generator=rng)
    return (torch.rand(count, 3, 12, 12, generator=rng) * bright * 255).round() / 255


def fitted(case: DetectorCase, classifier: Classifier | None = None, *, seed: int = 0) -> Detector:
    """Fitted on 24 clean images, 12 noisy ones and 24 that are brighter, as if attacked."""
    detector, classifier = case.make(), classifier or toy_classifier()
    clean = toy_images(24, seed=9)
    noisy = (clean[:12] + toy_images(12, seed=10) / 8).clamp(0, 1)
    images = torch.cat([clean, noisy, (clean * 0.5 + 0.3)])
    adversarial = torch.arange(60) >= 36
    detector.fit(detector.measurement(classifier, images), adversarial, torch.arange(60) < 24, seed=seed)
    return detector
