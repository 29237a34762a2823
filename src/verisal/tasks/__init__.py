"""Lightning modules: what is trained, and how it is judged."""

from verisal.tasks.classifier import ClassifierTask, FrozenClassifierTask
from verisal.tasks.detector import DetectorTask
from verisal.tasks.masker.places import PlaceMaskerTask
from verisal.tasks.masker.task import MaskerTask
from verisal.tasks.transfer import TransferTask

__all__ = [
    "ClassifierTask",
    "DetectorTask",
    "FrozenClassifierTask",
    "MaskerTask",
    "PlaceMaskerTask",
    "TransferTask",
]
