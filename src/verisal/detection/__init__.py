"""Adversarial inputs as data: attacked images and their groups, the detection table and its report."""

from verisal.detection.alarm import Alarm, Verdicts
from verisal.detection.attacked_images import AttackedImages, ImageSource
from verisal.detection.data import DetectorData
from verisal.detection.detector_file import load_alarm
from verisal.detection.families import Families
from verisal.detection.metric import DetectionScores
from verisal.detection.table import detection_report, detection_thresholds

__all__ = [
    "Alarm", "AttackedImages", "DetectionScores", "DetectorData", "Families", "ImageSource", "Verdicts",
    "detection_report", "detection_thresholds", "load_alarm",
]  # fmt: skip
