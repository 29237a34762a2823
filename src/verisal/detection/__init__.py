"""Adversarial inputs as data: attacked images and their groups, the detection table and its report."""

from verisal.detection.attacked_images import AttackedImages, GroupTable, ImageSource
from verisal.detection.data import DetectorData
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
    "AttackedImages",
    "DetectionResult",
    "DetectionScores",
    "DetectionTable",
    "DetectorData",
    "Families",
    "GroupTable",
    "ImageSource",
    "build_evaluation",
    "detection_curves",
    "detection_histogram",
    "detection_report",
    "detection_thresholds",
    "threshold_notes",
    "transfer_report",
]  # fmt: skip
