"""Rows of the curves metrics."""

from metric_cases import MetricCase

CASES: dict[str, MetricCase] = {}
