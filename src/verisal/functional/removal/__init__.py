"""Scores from removing or keeping pixels."""

from verisal.functional.removal.bands import BandScores, band_evidence, band_removal
from verisal.functional.removal.curves import (
    aopc,
    curve_area,
    normalised_curve_area,
    perturbation_curve,
    removal_scores,
)
from verisal.functional.removal.faithfulness import dabkowski_gal, saliency_fidelity
from verisal.functional.removal.infidelity import gaussian_noises, infidelity, responses, square_responses

__all__ = [
    "BandScores",
    "aopc",
    "band_evidence",
    "band_removal",
    "curve_area",
    "dabkowski_gal",
    "gaussian_noises",
    "infidelity",
    "normalised_curve_area",
    "perturbation_curve",
    "removal_scores",
    "responses",
    "saliency_fidelity",
    "square_responses",
]
