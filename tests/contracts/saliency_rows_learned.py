"""Rows of the mask model."""

from saliency_cases import SaliencyCase

CASES: dict[str, SaliencyCase] = {}
