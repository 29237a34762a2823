"""Rows of the metrics of smoothness."""

from helpers.metric_cases import MetricCase
from verisal.metrics import Smoothness

CASES: dict[str, MetricCase] = {
    "Smoothness": MetricCase(Smoothness, scores=("total_variation", "high_frequencies")),
}
