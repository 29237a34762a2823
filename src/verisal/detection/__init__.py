"""Adversarial inputs as data: attacked images and their groups, the detection table and its report."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from verisal.detection.alarm import Alarm, Verdicts
from verisal.detection.detector_file import load_alarm

if TYPE_CHECKING:
    from verisal.detection.attacked_images import AttackedImages
    from verisal.detection.data import DetectorData
    from verisal.detection.families import Families
    from verisal.detection.groups import ImageSource
    from verisal.detection.guard import Guard, Guarded
    from verisal.detection.metric import DetectionScores
    from verisal.detection.table import detection_report, detection_thresholds

# Lightning and torchmetrics, which these import, take seconds: whoever explains images needs neither.
_LATER = {
    "AttackedImages": "attacked_images", "DetectionScores": "metric", "DetectorData": "data",
    "Families": "families", "Guard": "guard", "Guarded": "guard", "ImageSource": "groups",
    "detection_report": "table", "detection_thresholds": "table",
}  # fmt: skip

__all__ = [
    "Alarm", "AttackedImages", "DetectionScores", "DetectorData", "Families", "Guard", "Guarded",
    "ImageSource", "Verdicts", "detection_report", "detection_thresholds", "load_alarm",
]  # fmt: skip


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a class or a function
    """Import what was not needed before."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"verisal.detection.{_LATER[name]}"), name)
