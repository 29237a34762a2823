"""Detectors of adversarial images: what they measure, how they learn, how they judge."""

from verisal.detectors._base import Detector
from verisal.detectors._masks import ChannelGates, Explains, FindsGates, SalientPixels
from verisal.detectors._outputs import Logits, ShiftedLogits
from verisal.detectors._pixels import Pixels
from verisal.detectors._pooled import PooledActivations
from verisal.detectors.attack_cost import AttackCost, StepsToFlip
from verisal.detectors.attribution_cnn import AttributionCNN
from verisal.detectors.cnn import CNNDetector
from verisal.detectors.feature_squeezing import FeatureSqueezing, SqueezedLogits
from verisal.detectors.features import DetectorFeatures
from verisal.detectors.intrinsic_dimension import LocalIntrinsicDimension
from verisal.detectors.kernel_density import KernelDensity
from verisal.detectors.learned_consistency import LearnedConsistency
from verisal.detectors.logit_scores import LogitMargin, SoftmaxEntropy
from verisal.detectors.mahalanobis import Mahalanobis
from verisal.detectors.mask_statistics import MaskForest, MaskStatistics
from verisal.detectors.max_softmax import MaxSoftmax
from verisal.detectors.shift_consistency import ShiftConsistency
from verisal.detectors.vote import Vote

__all__ = [
    "AttackCost",
    "AttributionCNN",
    "CNNDetector",
    "ChannelGates",
    "Detector",
    "DetectorFeatures",
    "Explains",
    "FeatureSqueezing",
    "FindsGates",
    "KernelDensity",
    "LearnedConsistency",
    "LocalIntrinsicDimension",
    "LogitMargin",
    "Logits",
    "Mahalanobis",
    "MaskForest",
    "MaskStatistics",
    "MaxSoftmax",
    "Pixels",
    "PooledActivations",
    "SalientPixels",
    "ShiftConsistency",
    "ShiftedLogits",
    "SoftmaxEntropy",
    "SqueezedLogits",
    "StepsToFlip",
    "Vote",
]
