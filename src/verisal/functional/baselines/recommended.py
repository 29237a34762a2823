"""The few baseline images over which removal curves are averaged unless told otherwise."""

from __future__ import annotations

from verisal.functional.baselines.plain import Baseline, DatasetMean, ImageMean
from verisal.functional.baselines.random import GaussianNoise

__all__ = ["recommended_baselines"]


def recommended_baselines() -> tuple[Baseline, ...]:
    """Baselines that are neutral, need neither a mask nor a pool, and together rank methods most as all do.

    Chosen by the rule of :class:`verisal_studies.BaselineChoice` on scenes that no report uses:
    docs/studies/baseline_choice.md.

    >>> [baseline.name for baseline in recommended_baselines()]
    ['dataset_mean', 'image_mean', 'gauss']
    """
    return (DatasetMean(), ImageMean(), GaussianNoise())
