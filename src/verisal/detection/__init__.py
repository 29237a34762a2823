"""Adversarial inputs as data: attacked images and their groups, the detection table, and adaptive judging."""

from verisal.detection.attacked_images import AttackedImages, GroupTable, ImageSource
from verisal.detection.detector_data import DetectorData
from verisal.detection.families import Families, transfer_report
from verisal.detection.metric import DetectionScores, DetectionTable
from verisal.detection.table import (
    Role,
    detection_curves,
    detection_histogram,
    detection_report,
    detection_thresholds,
    threshold_notes,
)
from verisal.detection.transfer_data import TransferData

__all__ = [
    "AttackedImages",
    "DetectionScores",
    "DetectionTable",
    "DetectorData",
    "Families",
    "GroupTable",
    "ImageSource",
    "Role",
    "TransferData",
    "detection_curves",
    "detection_histogram",
    "detection_report",
    "detection_thresholds",
    "threshold_notes",
    "transfer_report",
]
