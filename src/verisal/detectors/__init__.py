"""Detectors of adversarial images: what they measure, how they learn, how they judge."""

from verisal.detectors.base import Detector, TrainedDetector
from verisal.detectors.dimension import MultiLID, MultiLIDForest
from verisal.detectors.features import DetectorFeatures
from verisal.detectors.forests import Forest
from verisal.detectors.gradients import GradientScalars
from verisal.detectors.masks import MaskForest, MaskStatistics
from verisal.detectors.measurements import (
    ChannelGates,
    Logits,
    Measurement,
    Pixels,
    PooledActivations,
    SalientPixels,
    ShiftedLogits,
    StepsToFlip,
)
from verisal.detectors.network import CNNDetector
from verisal.detectors.spectrum import Spectrum, StageSpectrum
from verisal.detectors.squeezing import SqueezedLogits
from verisal.detectors.statistical import (
    KernelDensity,
    LearnedConsistency,
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
from verisal.detectors.vote import Vote

__all__ = [
    "AttackCost",
    "CNNDetector",
    "ChannelGates",
    "Detector",
    "DetectorFeatures",
    "FeatureSqueezing",
    "Forest",
    "GradientScalars",
    "KernelDensity",
    "LearnedConsistency",
    "LocalIntrinsicDimension",
    "LogitMargin",
    "Logits",
    "Mahalanobis",
    "MaskForest",
    "MaskStatistics",
    "MaxSoftmax",
    "Measurement",
    "MultiLID",
    "MultiLIDForest",
    "Pixels",
    "PooledActivations",
    "SalientPixels",
    "ShiftConsistency",
    "ShiftedLogits",
    "SoftmaxEntropy",
    "Spectrum",
    "SqueezedLogits",
    "StageSpectrum",
    "StepsToFlip",
    "TrainedDetector",
    "Vote",
]
