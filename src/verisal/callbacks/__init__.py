"""Lightning callbacks: maps and their scores, reports, checkpoints, the guard against bad numbers."""

from .attacked_maps import AttackedMaps as AttackedMaps
from .baseline_neutrality import BaselineNeutrality as BaselineNeutrality
from .checkpoints import CheckpointFiles as CheckpointFiles
from .checkpoints import LastCheckpoint as LastCheckpoint
from .checkpoints import LastValidation as LastValidation
from .checkpoints import Monitored as Monitored
from .checkpoints import best_checkpoint as best_checkpoint
from .class_ranks import ClassRanks as ClassRanks
from .disturbed_localization import DisturbedLocalization as DisturbedLocalization
from .gate_noise import GateNoise as GateNoise
from .image_guard import ImageGuard as ImageGuard
from .map_agreement import MapAgreement as MapAgreement
from .numeric_guard import NumericGuard as NumericGuard
from .perturbation_curves import PerturbationCurves as PerturbationCurves
from .report import ReportRun as ReportRun
from .resumed_settings import ResumedSettings as ResumedSettings
from .saliency_metrics import SaliencyMetrics as SaliencyMetrics
from .saliency_panels import SaliencyPanels as SaliencyPanels
from .study_page import StudyPage as StudyPage

__all__ = [
    "AttackedMaps",
    "BaselineNeutrality",
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
    "SaliencyMetrics",
    "SaliencyPanels",
    "StudyPage",
    "best_checkpoint",
]
