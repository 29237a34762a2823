"""Rows of the hierarchical masks."""

from helpers.saliency_cases import SaliencyCase
from verisal.saliency import EvidenceMasks, HierarchicalMasks, UngatedContributions


def _masks(**settings: object) -> SaliencyCase:
    known = {"reg_weight": 0.02, "steps": 8, "learning_rate": 0.2, "shown": "gated_activation"}
    contributing = settings.get("shown") == "contribution"
    return SaliencyCase(
        lambda: HierarchicalMasks(**known | settings),
        layers=3,
        passes=(9 + contributing, 8 + contributing),
        uses_query=settings["objective"] != "output",
        channels=int(contributing),
    )


CASES = {
    "HierarchicalMasks evidence": _masks(objective="evidence"),
    "HierarchicalMasks contribution": _masks(objective="evidence", shown="contribution", fusion="sum"),
    "HierarchicalMasks class": _masks(objective="class", fusion="mean"),
    "HierarchicalMasks output": _masks(objective="output", penalty="per_layer", keep="fidelity"),
    "HierarchicalMasks mixed": _masks(objective="mixed", penalty="relative", reg_weight=2.0),
    "HierarchicalMasks least kept": _masks(objective="evidence", reg_weight=0.3, least_kept=0.75),
    "HierarchicalMasks maximise": _masks(objective="maximise", keep="last", gate_max=1.5),
    "HierarchicalMasks probability": _masks(objective="maximise_log_probability", chunk_size=2),
    "EvidenceMasks": SaliencyCase(EvidenceMasks, layers=3, passes=(13, 12), channels=1),
    "EvidenceMasks alone": SaliencyCase(
        lambda: EvidenceMasks(fall=3, settle=1, inertia=0.0, anchor=False, shown="gate"),
        layers=3,
        passes=(5, 4),
    ),
    "UngatedContributions": SaliencyCase(
        UngatedContributions, layers=3, passes=(2, 1), channels=1, late_call=1
    ),
}
