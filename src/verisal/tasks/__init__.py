"""Lightning modules: what is trained, and how it is judged."""

from .classifier import ClassifierTask as ClassifierTask
from .detector import DetectorTask as DetectorTask
from .frozen import FrozenClassifierTask as FrozenClassifierTask
from .masker import MaskerTask as MaskerTask
from .transfer import TransferTask as TransferTask

__all__ = ["ClassifierTask", "DetectorTask", "FrozenClassifierTask", "MaskerTask", "TransferTask"]
