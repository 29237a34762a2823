"""Metrics with state: what an epoch gathers over batches and processes, and the tables made from it."""

from verisal.metrics._base import ImageRows, ImageTable, SaliencyMetric
from verisal.metrics.attacked_sensitivity import AttackedSensitivity
from verisal.metrics.class_ranks import ClassRankScores
from verisal.metrics.curves import CurveMetric, MeanCurve, PerturbationCurve, RelevanceGap
from verisal.metrics.dabkowski_gal import DabkowskiGal
from verisal.metrics.disturbed import DisturbedScores, PresentQueries
from verisal.metrics.fidelity import SaliencyFidelity
from verisal.metrics.infidelity import Infidelity
from verisal.metrics.localisation import EnergyInside, MaxBoxAcc, MaxBoxAccV2, PointingGame, PxAP
from verisal.metrics.map_similarity import MapSimilarity
from verisal.metrics.randomisation import CascadingRandomisation
from verisal.metrics.road import ROAD
from verisal.metrics.sensitivity import SensitivityMax
from verisal.metrics.smoothness import Smoothness

__all__ = [
    "ROAD",
    "AttackedSensitivity",
    "CascadingRandomisation",
    "ClassRankScores",
    "CurveMetric",
    "DabkowskiGal",
    "DisturbedScores",
    "EnergyInside",
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
    "RelevanceGap",
    "SaliencyFidelity",
    "SaliencyMetric",
    "SensitivityMax",
    "Smoothness",
]
