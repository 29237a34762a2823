"""Lightning callbacks: maps and their scores, attacks, reports, checkpoints, guards."""

from verisal.callbacks.baseline_neutrality import BaselineNeutrality
from verisal.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from verisal.callbacks.class_ranks import ClassRanks
from verisal.callbacks.disturbed_localization import DisturbedLocalization
from verisal.callbacks.fit_alarm import FitAlarm
from verisal.callbacks.gate_noise import GateNoise
from verisal.callbacks.guards import ImageGuard, NumericGuard
from verisal.callbacks.map_agreement import MapAgreement
from verisal.callbacks.panels import AttackedMaps, SaliencyPanels
from verisal.callbacks.patched_images import PatchedImages
from verisal.callbacks.report import ReportRun
from verisal.callbacks.robust_validation import RobustValidation
from verisal.callbacks.saliency_metrics import PerturbationCurves, SaliencyMetrics
from verisal.callbacks.scene_queries import SceneQueries

__all__ = [
    "AttackedMaps",
    "BaselineNeutrality",
    "BestCheckpoint",
    "ClassRanks",
    "DisturbedLocalization",
    "FitAlarm",
    "GateNoise",
    "ImageGuard",
    "LastCheckpoint",
    "MapAgreement",
    "NumericGuard",
    "PatchedImages",
    "PerturbationCurves",
    "ReportRun",
    "RobustValidation",
    "SaliencyMetrics",
    "SaliencyPanels",
    "SceneQueries",
]
