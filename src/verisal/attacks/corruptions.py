"""Benign corruptions: changes that happen to images without an attacker, which no detector should report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.attacks._base import Attack, Draw, require
from verisal.attacks._jpeg import jpeg
from verisal.attacks._victim import Victim
from verisal.functional.adversarial import scale_to_l2
from verisal.functional.filters import gaussian_matrix
from verisal.types import Norm


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


@final
@dataclass(frozen=True)
class JPEG(Attack):
    """Compression with loss, colour at half resolution; asks the classifier for its verdict only.

    Args:
        quality: 1 (worst) to 100, as of the usual encoders.

    Raises:
        ConfigError: ``quality`` out of range.

    References:
        wallace1992
    """

    norm: ClassVar[Norm] = "l2"
    quality: int = 75

    def __post_init__(self) -> None:
        require(1 <= self.quality <= 100, "JPEG.quality", self.quality, "in 1..100")

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        return jpeg(images, self.quality)


@final
@dataclass(frozen=True)
class Brightness(Attack):
    """Every value moves by ``change``, clamped to [0, 1]; asks the classifier for its verdict only.

    Args:
        change: in [-1, 1]; negative is darker.

    Raises:
        ConfigError: ``change`` out of range.
    """

    norm: ClassVar[Norm] = "linf"
    change: float = 0.1

    def __post_init__(self) -> None:
        require(-1 <= self.change <= 1, "Brightness.change", self.change, "in [-1, 1]")

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        return (images + self.change).clamp(0, 1)


@final
@dataclass(frozen=True)
class GaussianBlur(Attack):
    """Gaussian blur with reflected edges; asks the classifier for its verdict only.

    Args:
        sigma: standard deviation in pixels.

    Raises:
        ConfigError: negative ``sigma``.
    """

    norm: ClassVar[Norm] = "l2"
    sigma: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.sigma < torch.inf, "GaussianBlur.sigma", self.sigma, ">= 0 px")

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        down, across = (gaussian_matrix(length, self.sigma).to(images) for length in images.shape[2:])
        return (down @ images @ across.T).clamp(0, 1)


@final
@dataclass(frozen=True)
class Shift(Attack):
    """Moves each image into one of the eight directions, drawn per image; edges are repeated.

    Asks the classifier for its verdict only.

    Args:
        pixels: how far, along each axis that the direction moves.

    Raises:
        ConfigError: negative ``pixels``.
    """

    norm: ClassVar[Norm] = "l2"
    pixels: int = 1

    def __post_init__(self) -> None:
        require(self.pixels >= 0, "Shift.pixels", self.pixels, ">= 0")

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        height, width = images.shape[2:]
        # One of 0..8 without 4, which would stay in the middle.
        drawn: Tensor = draw(lambda rng: torch.randint(0, 8, (), generator=rng), stream="shift")
        direction = drawn + (drawn >= 4)
        padded = F.pad(images, [self.pixels] * 4, mode="replicate")
        corners = zip((direction // 3).tolist(), (direction % 3).tolist(), strict=True)
        moved = [
            image[:, self.pixels * down :, self.pixels * across :][:, :height, :width]
            for image, (down, across) in zip(padded, corners, strict=True)
        ]
        return torch.stack(moved)
