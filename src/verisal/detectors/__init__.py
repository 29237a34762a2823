"""Detectors of adversarial images: what they measure, how they learn, how they judge."""

from ._base import Detector as Detector
from ._masks import ChannelGates as ChannelGates
from ._masks import Explains as Explains
from ._masks import FindsGates as FindsGates
from ._masks import SalientPixels as SalientPixels
from ._outputs import Logits as Logits
from ._outputs import ShiftedLogits as ShiftedLogits
from ._pixels import Pixels as Pixels
from ._pooled import PooledActivations as PooledActivations
from .attack_cost import AttackCost as AttackCost
from .attack_cost import StepsToFlip as StepsToFlip
from .attribution_cnn import AttributionCNN as AttributionCNN
from .cnn import CNNDetector as CNNDetector
from .feature_squeezing import FeatureSqueezing as FeatureSqueezing
from .feature_squeezing import SqueezedLogits as SqueezedLogits
from .intrinsic_dimension import LocalIntrinsicDimension as LocalIntrinsicDimension
from .kernel_density import KernelDensity as KernelDensity
from .learned_consistency import LearnedConsistency as LearnedConsistency
from .logit_scores import LogitMargin as LogitMargin
from .logit_scores import SoftmaxEntropy as SoftmaxEntropy
from .mahalanobis import Mahalanobis as Mahalanobis
from .mask_statistics import MaskForest as MaskForest
from .mask_statistics import MaskStatistics as MaskStatistics
from .max_softmax import MaxSoftmax as MaxSoftmax
from .shift_consistency import ShiftConsistency as ShiftConsistency
from .vote import Vote as Vote

__all__ = [
    "AttackCost",
    "AttributionCNN",
    "CNNDetector",
    "ChannelGates",
    "Detector",
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
