"""Similarity of maps, and how maps change with image, noise and weights."""

from verisal.functional.comparison.randomisation import passes_randomisation, randomised_copies
from verisal.functional.comparison.sensitivity import map_change, sensitivity_max, uniform_noises
from verisal.functional.comparison.similarity import (
    map_agreement,
    pearson,
    postprocess,
    spearman,
    ssim,
    top_k_intersection,
)
from verisal.functional.comparison.smoothness import high_frequency_share, total_variation

__all__ = [
    "high_frequency_share",
    "map_agreement",
    "map_change",
    "passes_randomisation",
    "pearson",
    "postprocess",
    "randomised_copies",
    "sensitivity_max",
    "spearman",
    "ssim",
    "top_k_intersection",
    "total_variation",
    "uniform_noises",
]
