"""Rows of occlusion, RISE and the controls."""

from saliency_cases import SaliencyCase

CASES: dict[str, SaliencyCase] = {}
