"""Adversarial inputs as data: attacked images and their groups, the detection table and its report."""

from verisal.detection.alarm import Alarm, Verdicts
from verisal.detection.attacked_images import AttackedImages, GroupTable, ImageSource
from verisal.detection.data import DetectorData
from verisal.detection.detector_file import load_alarm
from verisal.detection.families import Families, transfer_report
from verisal.detection.metric import DetectionScores, DetectionTable
from verisal.detection.report import DetectionResult, build_evaluation
from verisal.detection.table import (
    detection_curves,
    detection_histogram,
    detection_report,
    detection_thresholds,
    threshold_notes,
)

__all__ = [
    "Alarm",
    "AttackedImages",
    "DetectionResult",
    "DetectionScores",
    "DetectionTable",
    "DetectorData",
    "Families",
    "GroupTable",
    "ImageSource",
    "Verdicts",
    "build_evaluation",
    "detection_curves",
    "detection_histogram",
    "detection_report",
    "detection_thresholds",
    "load_alarm",
    "threshold_notes",
    "transfer_report",
]  # fmt: skip
