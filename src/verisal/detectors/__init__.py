"""Detectors of adversarial images: what they measure, how they learn, how they judge."""

from ._base import Detector as Detector
from ._pixels import Pixels as Pixels
from ._pooled import PooledActivations as PooledActivations
from .attribution_cnn import AttributionCNN as AttributionCNN
from .cnn import CNNDetector as CNNDetector
from .feature_squeezing import FeatureSqueezing as FeatureSqueezing
from .feature_squeezing import SqueezedLogits as SqueezedLogits
from .logit_scores import LogitMargin as LogitMargin
from .logit_scores import SoftmaxEntropy as SoftmaxEntropy
from .mahalanobis import Mahalanobis as Mahalanobis
from .max_softmax import MaxSoftmax as MaxSoftmax
from .shift_consistency import ShiftConsistency as ShiftConsistency

__all__ = [
    "AttributionCNN",
    "CNNDetector",
    "Detector",
    "FeatureSqueezing",
    "LogitMargin",
    "Mahalanobis",
    "MaxSoftmax",
    "Pixels",
    "PooledActivations",
    "ShiftConsistency",
    "SoftmaxEntropy",
    "SqueezedLogits",
]
