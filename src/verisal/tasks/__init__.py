"""Lightning modules: what is trained, and how it is judged."""

from .classifier import ClassifierTask as ClassifierTask
from .detector import DetectorTask as DetectorTask
from .frozen import FrozenClassifierTask as FrozenClassifierTask
from .masker import MaskerTask as MaskerTask

__all__ = ["ClassifierTask", "DetectorTask", "FrozenClassifierTask", "MaskerTask"]
