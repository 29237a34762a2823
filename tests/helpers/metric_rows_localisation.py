"""Rows of the localisation metrics."""

from helpers.metric_cases import MetricCase
from verisal.metrics import EnergyInside, MaxBoxAcc, MaxBoxAccV2, PointingGame, PresentQueries, PxAP

CASES: dict[str, MetricCase] = {
    "pointing_game": MetricCase(
        lambda: PointingGame(resamples=100),
        ("accuracy", "image_accuracy"),
        undefined_without_object=True,
    ),
    "energy_inside": MetricCase(
        lambda: EnergyInside(resamples=100), ("energy", "area"), undefined_without_object=True
    ),
    "max_box_acc": MetricCase(
        lambda: MaxBoxAcc(resamples=100, chunk_size=2),
        ("accuracy", "maximum"),
        undefined_without_object=True,
    ),
    "max_box_acc_v2": MetricCase(
        lambda: MaxBoxAccV2(resamples=100),
        ("accuracy", "iou0.3", "iou0.5", "iou0.7", "maximum"),
        undefined_without_object=True,
    ),
    "pxap": MetricCase(lambda: PxAP(resamples=100), ("area",), undefined_without_object=True),
    "present_queries": MetricCase(
        lambda: PresentQueries(threshold=0.4, resamples=100),
        ("hit", "energy_hit", "box_hit", "empty"),
        undefined_if_constant=False,
        undefined_without_object=True,
    ),
}
