"""Noise controls: random changes as large as an attack's, which no detector should call adversarial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from verisal.attacks._base import Attack, Draw, require
from verisal.attacks._victim import Victim
from verisal.functional.adversarial import scale_to_l2
from verisal.types import Norm

__all__ = ["GaussianNoise", "SignNoise"]


@final
@dataclass(frozen=True)
class GaussianNoise(Attack):
    """Gaussian noise of a given L2 norm, in whole 8-bit steps; asks the classifier for its verdict only.

    To copy the norm of each attacked image use :func:`.gaussian_noise`, which this class
    calls with one norm for all.

    Args:
        l2: L2 norm over all values of an image; reached from below within about one 8-bit step.

    Raises:
        ConfigError: negative ``l2``.
    """

    norm: ClassVar[Norm] = "l2"
    l2: float

    def __post_init__(self) -> None:
        require(0 <= self.l2 < torch.inf, "GaussianNoise.l2", self.l2, ">= 0")

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        shape = images.shape[1:]
        directions: Tensor = draw(lambda rng: torch.randn(shape, generator=rng), stream="gaussian noise")
        return scale_to_l2(images, directions, images.new_full((len(images),), self.l2))


@final
@dataclass(frozen=True)
class SignNoise(Attack):
    """Every value moves by ``eps`` up or down at random; asks the classifier for its verdict only.

    Args:
        eps: change of every value in [0, 1], before clamping to [0, 1].

    Raises:
        ConfigError: ``eps`` outside [0, 1].
    """

    norm: ClassVar[Norm] = "linf"
    eps: float

    def __post_init__(self) -> None:
        require(
            0 <= self.eps <= 1, "SignNoise.eps", self.eps, "in [0, 1] pixel units, such as 0.0157 for 4/255"
        )

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        shape = images.shape[1:]
        bits: Tensor = draw(lambda rng: torch.randint(0, 2, shape, generator=rng), stream="sign noise")
        return (images + self.eps * (2 * bits - 1)).clamp(0, 1)
