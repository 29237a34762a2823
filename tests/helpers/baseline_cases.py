"""One row per exported baseline, with every kind of setting that has a name of its own."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from verisal.functional.baselines import (
    Baseline,
    Blur,
    Constant,
    DatasetMean,
    GaussianNoise,
    ImageMean,
    Inpaint,
    LinearImputation,
    OtherImage,
    Shuffle,
    UniformNoise,
)

SIZES = [(16, 12), (13, 21), (1, 9), (9, 1), (1, 1)]


@dataclass(frozen=True)
class BaselineCase:
    """What the suite must know about a baseline.

    ``make`` builds it for images of a size, ``name`` is its name, ``seeded`` whether it draws at random,
    ``statistics`` whether it asks for the data set's.
    """

    make: Callable[[tuple[int, int]], Baseline]
    name: str
    seeded: Callable[[tuple[int, int], int], Baseline] | None = None
    statistics: bool = False


def _other(size: tuple[int, int], seed: int = 0) -> OtherImage:
    return OtherImage(images=toy_images(12, size, seed=9), labels=torch.arange(12) % 4, seed=seed)


CASES = {
    "Constant black": BaselineCase(lambda size: Constant(), "black"),
    "Constant grey": BaselineCase(lambda size: Constant(level=0.5), "grey"),
    "Constant white": BaselineCase(lambda size: Constant(level=1.0), "white"),
    "DatasetMean": BaselineCase(lambda size: DatasetMean(), "dataset_mean", statistics=True),
    "ImageMean": BaselineCase(lambda size: ImageMean(), "image_mean"),
    "Blur 5": BaselineCase(lambda size: Blur(), "blur5"),
    "Blur 10": BaselineCase(lambda size: Blur(sigma=10), "blur10"),
    "Blur wide": BaselineCase(lambda size: Blur(sigma=5, kernel=701), "blur5_kernel701"),
    "GaussianNoise": BaselineCase(
        lambda size: GaussianNoise(), "gauss", lambda size, seed: GaussianNoise(seed=seed), statistics=True
    ),
    "UniformNoise": BaselineCase(
        lambda size: UniformNoise(), "uniform", lambda size, seed: UniformNoise(seed=seed)
    ),
    "Shuffle": BaselineCase(lambda size: Shuffle(), "shuffle", lambda size, seed: Shuffle(seed=seed)),
    "Inpaint": BaselineCase(lambda size: Inpaint(), "inpaint"),
    "Inpaint wide": BaselineCase(lambda size: Inpaint(radius=5), "inpaint_radius5"),
    "LinearImputation": BaselineCase(
        lambda size: LinearImputation(), "linear", lambda size, seed: LinearImputation(seed=seed)
    ),
    "LinearImputation exact": BaselineCase(lambda size: LinearImputation(noise=0), "linear_noise0"),
    "OtherImage": BaselineCase(_other, "other", _other),
}


def toy_images(count: int, size: tuple[int, int] = SIZES[0], *, seed: int = 0) -> Tensor:
    """Images in [0, 1] with some black and some white pixels."""
    draws = torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))
    return (1.4 * draws - 0.2).clamp(0, 1)


def toy_masks(count: int, size: tuple[int, int] = SIZES[0]) -> Tensor:
    """About half of the pixels removed; all of them in the first image and none in the second."""
    masks = (torch.rand(count, 1, *size, generator=torch.Generator().manual_seed(3)) > 0.5).float()
    masks[:2] = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)[: len(masks[:2])]
    return masks
