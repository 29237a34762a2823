"""Rows of the faithfulness metrics."""

import torch

from helpers.metric_cases import MetricCase
from helpers.saliency_cases import toy_images
from verisal.functional.scopes import frozen, rng_preserved
from verisal.metrics import (
    CascadingRandomisation,
    DabkowskiGal,
    Infidelity,
    MapSimilarity,
    SaliencyFidelity,
    SensitivityMax,
)
from verisal.types import SaliencyResult

SIMILARITIES = ("spearman", "pearson", "ssim", "top_5", "top_10", "top_20")


def brightness(classifier, images, query_class):
    """A method whose maps depend on the classifier through its logits only."""
    with rng_preserved(), frozen(classifier), torch.no_grad():
        weights = classifier(images).gather(1, query_class[:, None]).view(-1, 1, 1, 1)
    attribution = (images * weights).cos() - 0.5
    saliency = attribution.abs().amax(dim=1, keepdim=True)
    return SaliencyResult(saliency=saliency, raw=saliency, attribution=attribution)


CASES: dict[str, MetricCase] = {
    "SaliencyFidelity": MetricCase(SaliencyFidelity, scores=("value", "floored")),
    "SaliencyFidelity p90": MetricCase(
        lambda: SaliencyFidelity(percentile=90.0, chunk_size=4), scores=("value", "floored")
    ),
    "DabkowskiGal": MetricCase(DabkowskiGal, scores=("value",)),
    "DabkowskiGal empty": MetricCase(
        lambda: DabkowskiGal(threshold=0.3, empty_probability=0.001), scores=("value",)
    ),
    "Infidelity": MetricCase(lambda: Infidelity(samples=12), scores=("value", "normalised")),
    "Infidelity all": MetricCase(
        lambda: Infidelity(samples=None, chunk_size=512), scores=("value", "normalised")
    ),
    "Infidelity gaussian": MetricCase(
        lambda: Infidelity(perturbation="gaussian", samples=5, chunk_size=7), scores=("value", "normalised")
    ),
    "SensitivityMax": MetricCase(lambda: SensitivityMax(samples=3), scores=("value",)),
    "MapSimilarity": MetricCase(
        lambda: MapSimilarity(brightness, label="brightness"), scores=(*SIMILARITIES, "floor", "control")
    ),
    "CascadingRandomisation": MetricCase(
        lambda: CascadingRandomisation(brightness, toy_images(8), steps=2),
        scores=(
            *(f"{kind}_{step}" for step in (1, 2) for kind in ("spearman", "ssim", "attribution")),
            "reference_spearman",
            "reference_ssim",
        ),
    ),
}
