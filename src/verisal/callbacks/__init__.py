"""Lightning callbacks: maps and their scores, attacks, reports, checkpoints, guards."""

from verisal.callbacks.baseline_neutrality import BaselineNeutrality
from verisal.callbacks.checkpoints import (
    BestCheckpoint,
    CheckpointFiles,
    LastCheckpoint,
    LastValidation,
    Monitored,
)
from verisal.callbacks.class_ranks import ClassRanks
from verisal.callbacks.disturbed_localization import DisturbedLocalization
from verisal.callbacks.gate_noise import GateNoise
from verisal.callbacks.guards import ImageGuard, NumericGuard
from verisal.callbacks.map_agreement import MapAgreement
from verisal.callbacks.panels import AttackedMaps, SaliencyPanels
from verisal.callbacks.report import ReportRun
from verisal.callbacks.resumed_settings import ResumedSettings
from verisal.callbacks.robust_validation import RobustValidation
from verisal.callbacks.saliency_metrics import PerturbationCurves, SaliencyMetrics

__all__ = [
    "AttackedMaps",
    "BaselineNeutrality",
    "BestCheckpoint",
    "CheckpointFiles",
    "ClassRanks",
    "DisturbedLocalization",
    "GateNoise",
    "ImageGuard",
    "LastCheckpoint",
    "LastValidation",
    "MapAgreement",
    "Monitored",
    "NumericGuard",
    "PerturbationCurves",
    "ReportRun",
    "ResumedSettings",
    "RobustValidation",
    "SaliencyMetrics",
    "SaliencyPanels",
]
