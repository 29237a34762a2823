"""Baseline images: what replaces removed pixels."""

from verisal.functional.baselines.filling import Inpaint, LinearImputation
from verisal.functional.baselines.plain import Baseline, Blur, Constant, DatasetMean, ImageMean
from verisal.functional.baselines.random import GaussianNoise, OtherImage, Shuffle, UniformNoise

__all__ = [
    "Baseline", "Blur", "Constant", "DatasetMean", "GaussianNoise", "ImageMean", "Inpaint",
    "LinearImputation", "OtherImage", "Shuffle", "UniformNoise",
]  # fmt: skip
