"""Rows of the faithfulness metrics."""

from metric_cases import MetricCase

CASES: dict[str, MetricCase] = {}
