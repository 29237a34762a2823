"""Metrics with state: what an epoch gathers over batches and processes, and the tables made from it."""

from ._base import ImageRows as ImageRows
from ._base import Reduced as Reduced
from ._base import SaliencyMetric as SaliencyMetric
from ._base import reduce_means as reduce_means
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
    "ImageRows",
    "Reduced",
    "Role",
    "SaliencyMetric",
    "detection_curves",
    "detection_histogram",
    "detection_report",
    "detection_thresholds",
    "reduce_means",
    "threshold_notes",
]
