"""Detectors of adversarial images that need no training loop of their own."""

from ._base import Detector as Detector
from .max_softmax import MaxSoftmax as MaxSoftmax
from .shift_consistency import ShiftConsistency as ShiftConsistency

__all__ = ["Detector", "MaxSoftmax", "ShiftConsistency"]
