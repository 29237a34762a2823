"""Rows of masks optimised per image: meaningful and extremal perturbation."""

from helpers.saliency_cases import SaliencyCase
from verisal.functional.baselines import Constant
from verisal.saliency import ExtremalPerturbation, MeaningfulPerturbation


def _extremal(**settings: object) -> ExtremalPerturbation:
    # Images are small and steps few: steps are long, and the area may not drown the reward.
    return ExtremalPerturbation(steps=6, learning_rate=0.5, area_weight=20.0, **settings)


CASES = {
    "MeaningfulPerturbation": SaliencyCase(
        lambda: MeaningfulPerturbation(steps=6, tv_weight=1e-3, mask_sigma=20.0, jitter=40),
        passes=(6, 6),
        baseline="blur10",
    ),
    "ExtremalPerturbation": SaliencyCase(_extremal, passes=(6, 6), baseline="blur_pyramid"),
    "ExtremalPerturbation two areas": SaliencyCase(
        lambda: _extremal(areas=(0.2, 0.5), chunk_size=3, grid_step=40, sigma=60.0),
        passes=(12, 12),
        baseline="blur_pyramid",
    ),
    "ExtremalPerturbation delete": SaliencyCase(
        lambda: _extremal(variant="delete", baseline=Constant(level=0.5)), passes=(6, 6), baseline="grey"
    ),
    "ExtremalPerturbation dual": SaliencyCase(
        lambda: _extremal(variant="dual", areas=(0.1, 0.3)), passes=(24, 24), baseline="blur_pyramid"
    ),
}
