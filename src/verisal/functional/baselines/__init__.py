"""Baseline images: what replaces removed pixels."""

from verisal.functional.baselines.filling import Inpaint, LinearImputation
from verisal.functional.baselines.neutrality import neutrality
from verisal.functional.baselines.plain import (
    Baseline,
    Blur,
    Constant,
    DatasetMean,
    ImageMean,
    bound,
    compose,
)
from verisal.functional.baselines.random import (
    GaussianNoise,
    OtherImage,
    Shuffle,
    UniformNoise,
    recommended_baselines,
)

__all__ = [
    "Baseline",
    "Blur",
    "Constant",
    "DatasetMean",
    "GaussianNoise",
    "ImageMean",
    "Inpaint",
    "LinearImputation",
    "OtherImage",
    "Shuffle",
    "UniformNoise",
    "bound",
    "compose",
    "neutrality",
    "recommended_baselines",
]
