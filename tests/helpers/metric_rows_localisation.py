"""Rows of the localisation metrics."""

from helpers.metric_cases import MetricCase
from verisal.metrics import EnergyInside, MaxBoxAcc, MaxBoxAccV2, PointingGame, PresentQueries, PxAP

CASES: dict[str, MetricCase] = {
    "pointing_game": MetricCase(
        lambda: PointingGame(),
        ("accuracy", "image_accuracy"),
        undefined_without_object=True,
    ),
    "energy_inside": MetricCase(lambda: EnergyInside(), ("energy", "area"), undefined_without_object=True),
    "max_box_acc": MetricCase(
        lambda: MaxBoxAcc(chunk_size=2),
        ("accuracy", "maximum"),
        undefined_without_object=True,
    ),
    "max_box_acc_v2": MetricCase(
        lambda: MaxBoxAccV2(),
        ("accuracy", "iou0.3", "iou0.5", "iou0.7", "maximum"),
        undefined_without_object=True,
    ),
    "pxap": MetricCase(lambda: PxAP(), ("area",), undefined_without_object=True),
    "present_queries": MetricCase(
        lambda: PresentQueries(threshold=0.4),
        ("hit", "energy_hit", "box_hit", "empty"),
        undefined_if_constant=False,
        undefined_without_object=True,
    ),
}
