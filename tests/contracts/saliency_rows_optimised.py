"""Rows of masks optimised per image: meaningful and extremal perturbation."""

from saliency_cases import SaliencyCase

CASES: dict[str, SaliencyCase] = {}
