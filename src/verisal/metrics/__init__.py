"""Metrics with state: what an epoch gathers over batches and processes, and the tables made from it."""

from ._base import ImageRows as ImageRows
from ._base import ImageTable as ImageTable
from ._base import Reduced as Reduced
from ._base import SaliencyMetric as SaliencyMetric
from ._base import reduce_means as reduce_means
from ._detection_report import Role as Role
from ._detection_report import detection_curves as detection_curves
from ._detection_report import detection_histogram as detection_histogram
from ._detection_report import detection_report as detection_report
from ._detection_report import detection_thresholds as detection_thresholds
from ._detection_report import threshold_notes as threshold_notes
from ._transfer_report import Families as Families
from ._transfer_report import transfer_report as transfer_report
from .attacked_sensitivity import AttackedSensitivity as AttackedSensitivity
from .class_ranks import ClassRankScores as ClassRankScores
from .curves import CurveMetric as CurveMetric
from .curves import MeanCurve as MeanCurve
from .curves import PerturbationCurve as PerturbationCurve
from .curves import RelevanceGap as RelevanceGap
from .dabkowski_gal import DabkowskiGal as DabkowskiGal
from .detection import DetectionScores as DetectionScores
from .detection import DetectionTable as DetectionTable
from .disturbed import DisturbedScores as DisturbedScores
from .disturbed import PresentQueries as PresentQueries
from .fidelity import SaliencyFidelity as SaliencyFidelity
from .infidelity import Infidelity as Infidelity
from .localisation import EnergyInside as EnergyInside
from .localisation import MaxBoxAcc as MaxBoxAcc
from .localisation import MaxBoxAccV2 as MaxBoxAccV2
from .localisation import PointingGame as PointingGame
from .localisation import PxAP as PxAP
from .map_similarity import MapSimilarity as MapSimilarity
from .randomisation import CascadingRandomisation as CascadingRandomisation
from .road import ROAD as ROAD
from .sensitivity import SensitivityMax as SensitivityMax
from .smoothness import Smoothness as Smoothness

__all__ = [
    "ROAD",
    "AttackedSensitivity",
    "CascadingRandomisation",
    "ClassRankScores",
    "CurveMetric",
    "DabkowskiGal",
    "DetectionScores",
    "DetectionTable",
    "DisturbedScores",
    "EnergyInside",
    "Families",
    "ImageRows",
    "ImageTable",
    "Infidelity",
    "MapSimilarity",
    "MaxBoxAcc",
    "MaxBoxAccV2",
    "MeanCurve",
    "PerturbationCurve",
    "PointingGame",
    "PresentQueries",
    "PxAP",
    "Reduced",
    "RelevanceGap",
    "Role",
    "SaliencyFidelity",
    "SaliencyMetric",
    "SensitivityMax",
    "Smoothness",
    "detection_curves",
    "detection_histogram",
    "detection_report",
    "detection_thresholds",
    "reduce_means",
    "threshold_notes",
    "transfer_report",
]
