"""Detectors of adversarial images: what they measure, how they learn, how they judge."""

from verisal.detectors.base import Detector, TrainedDetector
from verisal.detectors.consistency import LearnedConsistency, LogitTrees, ViewConsistency
from verisal.detectors.dimension import MultiLID, MultiLIDForest
from verisal.detectors.features import DetectorFeatures
from verisal.detectors.forests import Forest
from verisal.detectors.gradients import GradientScalars
from verisal.detectors.masks import MaskForest, MaskStatistics
from verisal.detectors.measurements import (
    Logits,
    Measurement,
    Pixels,
    SalientPixels,
    ShiftedLogits,
    StepsToFlip,
    ViewLogits,
)
from verisal.detectors.network import CNNDetector
from verisal.detectors.spectrum import Spectrum, StageSpectrum
from verisal.detectors.squeezing import SqueezedLogits
from verisal.detectors.stack import Combined, Stack
from verisal.detectors.stages import ChannelGates, PooledActivations
from verisal.detectors.statistical import (
    KernelDensity,
    LocalIntrinsicDimension,
    Mahalanobis,
)
from verisal.detectors.untrained import (
    AttackCost,
    FeatureSqueezing,
    LogitMargin,
    MaxSoftmax,
    ShiftConsistency,
    SoftmaxEntropy,
)
from verisal.detectors.vectors import LogisticRegression
from verisal.detectors.views import (
    Flipped,
    MeanFiltered,
    MedianFiltered,
    Moved,
    Noised,
    ReEncoded,
    Scaled,
    View,
)
from verisal.detectors.vote import Vote, default_detector

__all__ = [
    "AttackCost",
    "CNNDetector",
    "ChannelGates",
    "Combined",
    "Detector",
    "DetectorFeatures",
    "FeatureSqueezing",
    "Flipped",
    "Forest",
    "GradientScalars",
    "KernelDensity",
    "LearnedConsistency",
    "LocalIntrinsicDimension",
    "LogisticRegression",
    "LogitMargin",
    "LogitTrees",
    "Logits",
    "Mahalanobis",
    "MaskForest",
    "MaskStatistics",
    "MaxSoftmax",
    "MeanFiltered",
    "Measurement",
    "MedianFiltered",
    "Moved",
    "MultiLID",
    "MultiLIDForest",
    "Noised",
    "Pixels",
    "PooledActivations",
    "ReEncoded",
    "SalientPixels",
    "Scaled",
    "ShiftConsistency",
    "ShiftedLogits",
    "SoftmaxEntropy",
    "Spectrum",
    "SqueezedLogits",
    "Stack",
    "StageSpectrum",
    "StepsToFlip",
    "TrainedDetector",
    "View",
    "ViewConsistency",
    "ViewLogits",
    "Vote",
    "default_detector",
]
