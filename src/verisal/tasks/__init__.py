"""Lightning modules: what is trained, and how it is judged."""

from .classifier import ClassifierTask as ClassifierTask
from .detector import DetectorTask as DetectorTask

__all__ = ["ClassifierTask", "DetectorTask"]
