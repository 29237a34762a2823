"""Rows of the metrics that attack maps."""

from helpers.metric_cases import MetricCase
from verisal.attacks.on_maps.attack import MapAttack
from verisal.attacks.on_maps.surrogates import IntegratedGradientsSurrogate, SmoothGradSurrogate
from verisal.metrics import AttackedSensitivity
from verisal.saliency import Gradient

CHANGES = ("sensitivity", "top_k", "spearman", "shift", "shift_share", "confidence", "not_found")
SCORES = (*CHANGES, *(f"control_{name}" for name in CHANGES), "clean_confidence")

CASES: dict[str, MetricCase] = {
    "AttackedSensitivity top k": MetricCase(
        lambda: AttackedSensitivity(MapAttack(kind="top_k", steps=3, judge_every=2)), scores=SCORES
    ),
    "AttackedSensitivity mass centre": MetricCase(
        lambda: AttackedSensitivity(
            MapAttack(kind="mass_centre", surrogate=SmoothGradSurrogate(samples=2), steps=2, chunk_size=6)
        ),
        scores=SCORES,
    ),
    "AttackedSensitivity aimed at another method": MetricCase(
        lambda: AttackedSensitivity(MapAttack(kind="top_k", steps=2, judge_every=2), aim=Gradient()),
        scores=SCORES,
    ),
    "AttackedSensitivity target": MetricCase(
        lambda: AttackedSensitivity(
            MapAttack(kind="target", surrogate=IntegratedGradientsSurrogate(steps=2), steps=2, chunk_size=4),
            percentile=90.0,
        ),
        scores=SCORES,
    ),
}
