"""Intervals over images, rates, detection scores and rankings."""

from verisal.functional.statistics.detection import (
    auroc,
    fpr_at_tpr95,
    negatives_needed,
    pair_by_image,
    rate_above,
    roc_curve,
    threshold_at_fpr,
)
from verisal.functional.statistics.drift import Drift, ScoreSample
from verisal.functional.statistics.limits import rate_limits
from verisal.functional.statistics.ranking import (
    kendall_tau_b,
    rank_correlation,
    ranking_agreement,
    ranking_stability,
)
from verisal.functional.statistics.resampled import Bootstrap, Resampled

__all__ = [
    "Bootstrap",
    "Drift",
    "Resampled",
    "ScoreSample",
    "auroc",
    "fpr_at_tpr95",
    "kendall_tau_b",
    "negatives_needed",
    "pair_by_image",
    "rank_correlation",
    "ranking_agreement",
    "ranking_stability",
    "rate_above",
    "rate_limits",
    "roc_curve",
    "threshold_at_fpr",
]
