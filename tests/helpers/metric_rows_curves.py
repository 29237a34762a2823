"""Rows of the curves metrics."""

from helpers.metric_cases import MetricCase
from verisal.functional.baselines import Constant, Inpaint, LinearImputation
from verisal.metrics import ROAD, BandRemoval, PerturbationCurve, RelevanceGap

COMMON = ("clean_score", "ties")
REMOVAL = ("auc", "aopc", *COMMON)

CASES: dict[str, MetricCase] = {
    "Insertion": MetricCase(lambda: PerturbationCurve("insertion", steps=7), ("auc", *COMMON)),
    "Deletion": MetricCase(lambda: PerturbationCurve("deletion", steps=7, chunk_size=5), REMOVAL),
    "MoRF": MetricCase(
        lambda: PerturbationCurve("morf", steps=5, block_size=3, baseline=Inpaint(), chunk_size=4), REMOVAL
    ),
    "LeRF": MetricCase(
        lambda: PerturbationCurve("lerf", steps=5, baseline=Constant(), score="logit", normalised=True),
        ("auc", "normalised_auc", *COMMON),
    ),
    "RelevanceGap": MetricCase(
        lambda: RelevanceGap(steps=6), ("gap", "morf_auc", "lerf_auc", "aopc", *COMMON)
    ),
    "BandRemoval": MetricCase(
        lambda: BandRemoval(["red", "green", "blue"], random_orders=2, chunk_size=5),
        (
            "auc",
            "gain",
            "random_auc",
            "fall_auc",
            "clean_score",
            "evidence_red",
            "evidence_green",
            "evidence_blue",
            "fall_red",
            "fall_green",
            "fall_blue",
        ),
        reads_map=False,
    ),
    "ROAD": MetricCase(lambda: ROAD(chunk_size=5), ("probability", "accuracy", "ties")),
    "ROADLeRF": MetricCase(
        lambda: ROAD("lerf", baseline=LinearImputation(noise=0), shares=[0.2, 0.6]),
        ("probability", "accuracy", "ties"),
    ),
}
