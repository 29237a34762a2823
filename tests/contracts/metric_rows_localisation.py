"""Rows of the localisation metrics."""

from metric_cases import MetricCase

CASES: dict[str, MetricCase] = {}
