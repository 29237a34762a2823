"""Metrics with state: what an epoch gathers over batches and processes."""

from verisal.metrics._base import SaliencyMetric
from verisal.metrics._mean_curves import MeanCurve
from verisal.metrics._table import ImageRows, ImageTable
from verisal.metrics.attacked_sensitivity import AttackedSensitivity
from verisal.metrics.bands import BandRemoval
from verisal.metrics.comparison import CascadingRandomisation, MapSimilarity, SensitivityMax, Smoothness
from verisal.metrics.curves import ROAD, CurveMetric, PerturbationCurve, RelevanceGap
from verisal.metrics.faithfulness import DabkowskiGal, Infidelity, SaliencyFidelity
from verisal.metrics.localisation import EnergyInside, MaxBoxAcc, MaxBoxAccV2, PointingGame, PxAP
from verisal.metrics.queries import ClassRankScores, DisturbedScores, PresentQueries

__all__ = [
    "ROAD", "AttackedSensitivity", "BandRemoval", "CascadingRandomisation", "ClassRankScores", "CurveMetric",
    "DabkowskiGal", "DisturbedScores", "EnergyInside", "ImageRows", "ImageTable", "Infidelity",
    "MapSimilarity", "MaxBoxAcc", "MaxBoxAccV2", "MeanCurve", "PerturbationCurve", "PointingGame",
    "PresentQueries", "PxAP", "RelevanceGap", "SaliencyFidelity", "SaliencyMetric", "SensitivityMax",
    "Smoothness",
]  # fmt: skip
