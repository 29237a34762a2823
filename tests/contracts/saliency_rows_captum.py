"""Rows of the commodity methods behind captum, and of the adapters."""

from saliency_cases import SaliencyCase

CASES: dict[str, SaliencyCase] = {}
