"""Metrics with state: what an epoch gathers over batches and processes, and the tables made from it."""

from ._detection_report import Role as Role
from ._detection_report import detection_curves as detection_curves
from ._detection_report import detection_histogram as detection_histogram
from ._detection_report import detection_report as detection_report
from ._detection_report import detection_thresholds as detection_thresholds
from ._detection_report import threshold_notes as threshold_notes
from .detection import DetectionScores as DetectionScores
from .detection import DetectionTable as DetectionTable

__all__ = [
    "DetectionScores",
    "DetectionTable",
    "Role",
    "detection_curves",
    "detection_histogram",
    "detection_report",
    "detection_thresholds",
    "threshold_notes",
]
