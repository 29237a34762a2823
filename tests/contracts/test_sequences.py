"""A list and a tuple say the same, in every class that takes several values."""

import inspect
import re
from collections.abc import Callable, Iterator

import pytest

import verisal
from helpers.strangers import TinyNet
from verisal.data import EmojiScenes, ImageFolder, ImagesLike, ImageSplits, PastedCuts, SizeGroups
from verisal.detectors import (
    ChannelGates,
    CNNDetector,
    Combined,
    DetectorFeatures,
    Flipped,
    Forest,
    LogisticRegression,
    Logits,
    LogitTrees,
    MaskForest,
    MaskStatistics,
    MaxSoftmax,
    Moved,
    Pixels,
    PooledActivations,
    ShiftConsistency,
    SoftmaxEntropy,
    Stack,
    ViewConsistency,
    ViewLogits,
    Vote,
)
from verisal.fingerprint import Configured, fingerprint
from verisal.functional import baselines
from verisal.functional.baselines import Constant, DatasetMean, GaussianNoise
from verisal.metrics import ROAD, BandRemoval, ClassRankScores
from verisal.models import Classifier, ClassifierSource, Normalization, SmallResNet
from verisal.reporting import WandbSettings
from verisal.saliency import (
    Explainer,
    ExtremalPerturbation,
    GradCAM,
    GradientSHAP,
    HierarchicalMasks,
    MaskNetwork,
    Occlusion,
    PlaceNetwork,
    Tiled,
)

ROOMS = (baselines, *(getattr(verisal, name) for name in ("saliency", "attacks", "detectors", "metrics")))
# Made by the package, or bases.
RECORDS = {"CurveMetric", "FoundGates", "ImageRows", "ImageTable", "SaliencyMetric"}
STAGES, THIRDS = ("layer1", "layer2"), (0.3, 0.4, 0.5)

CASES: dict[type, Callable[[type], object]] = {
    Classifier: lambda of: Classifier(
        TinyNet(), of(STAGES), normalization=of([of(THIRDS), of(THIRDS)]), class_names=of("abcd")
    ),
    ClassifierSource: lambda of: ClassifierSource(
        name="torchvision:resnet18",
        stages=of(STAGES),
        mean=of(THIRDS),
        std=of(THIRDS),
        class_names=of("abcd"),
    ),
    BandRemoval: lambda of: BandRemoval(of(["red", "infrared"])),
    CNNDetector: lambda of: CNNDetector(
        source=Pixels(),
        reads=of(["image"]),
        scalars=of(["logits"]),
        folds=of(["image"]),
        statistics=of(["std"]),
        filters=of(["first"]),
        strides=of([1, 2]),
    ),
    ClassRankScores: lambda of: ClassRankScores(of(["rank2", "rank3"])),
    DatasetMean: lambda of: DatasetMean(mean=of(THIRDS)),
    DetectorFeatures: lambda of: DetectorFeatures(
        queries=of(["prediction"]), views=of(["original", "shifted"]), logits_views=of([Moved(), Flipped()])
    ),
    EmojiScenes: lambda of: EmojiScenes("det_fit", 2, size=32, area=of([0.1, 0.2]), distractors=of([1, 2])),
    Combined: lambda of: Combined(sources=of([Logits(), Pixels()])),
    LogisticRegression: lambda of: LogisticRegression(source=Pixels(), reads=of(["pooled/*"])),
    PooledActivations: lambda of: PooledActivations(of([Moved(), Flipped()])),
    Stack: lambda of: Stack(parts=of([MaxSoftmax(), SoftmaxEntropy()])),
    ChannelGates: lambda of: ChannelGates(saliency=HierarchicalMasks(), views=of([Moved()])),
    LogitTrees: lambda of: LogitTrees(reads=of(["*/logits"])),
    ShiftConsistency: lambda of: ShiftConsistency(reads=of(["*/logits"])),
    ViewConsistency: lambda of: ViewConsistency(reads=of(["*/logits"])),
    ViewLogits: lambda of: ViewLogits(of([Moved(), Flipped()])),
    Explainer: lambda of: Explainer(TinyNet(), GradCAM(), stages=of(STAGES), normalization="none"),
    ExtremalPerturbation: lambda of: ExtremalPerturbation(areas=of([0.1, 0.2])),
    Forest: lambda of: Forest(source=Pixels(), reads=of(["logits"])),
    GaussianNoise: lambda of: GaussianNoise(mean=of(THIRDS), std=of(THIRDS)),
    GradientSHAP: lambda of: GradientSHAP(baselines=of([Constant(), DatasetMean()])),
    ImageSplits: lambda of: ImageSplits(images=ImageFolder(root="pictures"), ratios=of([0.5, 0.25, 0.25])),
    MaskForest: lambda of: MaskForest(source=Pixels(), reads=of(["gates/*"])),
    MaskNetwork: lambda of: MaskNetwork(of([4, 8]), num_classes=3),
    MaskStatistics: lambda of: MaskStatistics(source=Pixels(), reads=of(["masks/*"])),
    ImagesLike: lambda of: ImagesLike(class_names=of("ab"), image_size=32),
    Normalization: lambda of: Normalization(of(THIRDS), of(THIRDS)),
    PlaceNetwork: lambda of: PlaceNetwork(of([4, 8])),
    Occlusion: lambda of: Occlusion(window=of([8, 12]), stride=4),
    ROAD: lambda of: ROAD(shares=of([0.2, 0.4])),
    SizeGroups: lambda of: SizeGroups(of([of([4, 4]), of([4, 6]), of([4, 4])]), 2),
    Tiled: lambda of: Tiled(base=Occlusion(), tile=of([8, 12])),
    SmallResNet: lambda of: SmallResNet(3, widths=of([4, 4, 8, 8])),
    PastedCuts: lambda of: PastedCuts(sides=of([0.3, 0.4])),
    Vote: lambda of: Vote(voters=of([MaxSoftmax(), SoftmaxEntropy()])),
    WandbSettings: lambda of: WandbSettings(tags=of(["a", "b"])),
}
ELSEWHERE = {
    BandRemoval: lambda made: (made.columns, made.band_names, repr(made)),
    Classifier: lambda made: (made.stages, made.class_names, made.normalization),
    ClassRankScores: lambda made: made.table.columns,
    EmojiScenes: lambda made: made[0].image.tolist(),
    Explainer: lambda made: made.classifier.stages,
    MaskNetwork: lambda made: (made.channels, str(made)),
    PlaceNetwork: lambda made: (made.channels, str(made)),
    ROAD: lambda made: (made.name, made.fractions),
    SizeGroups: lambda made: list(made),
    SmallResNet: str,
}
"""What those say that are no plain settings."""


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_lists_and_tuples_are_the_same(kind: type):
    listed, written = CASES[kind](list), CASES[kind](tuple)
    if kind in ELSEWHERE:
        assert ELSEWHERE[kind](listed) == ELSEWHERE[kind](written)
    else:
        assert listed == written
        assert repr(listed) == repr(written)
    if isinstance(listed, Configured):
        assert fingerprint(listed) == fingerprint(written)
        assert listed.__hash__ is None or hash(listed) == hash(written)


def taking_sequences() -> Iterator[type]:
    rooms = (*ROOMS, verisal.data, verisal.models)
    for kind in {getattr(room, name) for room in rooms for name in room.__all__}:
        if isinstance(kind, type):
            words = [str(each.annotation) for each in inspect.signature(kind.__init__).parameters.values()]
            # Callables that give tuples take none.
            if any(re.search(r"^(?!.*Callable).*\b(tuple|list|Sequence)\[", word) for word in words):
                yield kind


def test_no_class_that_takes_sequences_is_left_out():
    found = {kind.__name__ for kind in taking_sequences()}
    assert found - {kind.__name__ for kind in CASES} == RECORDS
