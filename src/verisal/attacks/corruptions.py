"""Benign changes: noise as large as an attack's, and what happens to images without an attacker.

No detector should report them. All of them ask the classifier for its verdict only.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import ClassVar, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from verisal.attacks._base import Attack, Draw, check_ball, check_settings
from verisal.attacks._victim import Victim
from verisal.functional.adversarial import round_to_8bit, scale_to_l2
from verisal.functional.filters import gaussian_blur
from verisal.types import Norm

_COLOURS, _HALF_COLOUR = 3, 2


@final
@dataclass(frozen=True)
class GaussianNoise(Attack):
    """Gaussian noise of a given L2 norm, in whole 8-bit steps.

    To copy the norm of each attacked image use :func:`.gaussian_noise`.

    Args:
        l2: L2 norm over all values of an image; reached from below within about one 8-bit step.

    Raises:
        ConfigError: negative ``l2``.
    """

    norm: ClassVar[Norm] = "l2"
    l2: float

    def __post_init__(self) -> None:
        check_settings(self, "l2", least=0)

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        shape = images.shape[1:]
        directions: Tensor = draw(lambda rng: torch.randn(shape, generator=rng), stream="gaussian noise")
        return scale_to_l2(images, directions, images.new_full((len(images),), self.l2))


@final
@dataclass(frozen=True)
class SignNoise(Attack):
    """Every value moves by ``eps`` up or down at random.

    Args:
        eps: change of every value in [0, 1], before clamping to [0, 1].

    Raises:
        ConfigError: ``eps`` outside [0, 1].
    """

    norm: ClassVar[Norm] = "linf"
    eps: float

    def __post_init__(self) -> None:
        check_ball(self, self.eps)

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        shape = images.shape[1:]
        bits: Tensor = draw(lambda rng: torch.randint(0, 2, shape, generator=rng), stream="sign noise")
        return (images + self.eps * (2 * bits - 1)).clamp(0, 1)


@final
@dataclass(frozen=True)
class JPEG(Attack):
    """Encoded and decoded by Pillow, rounded to 8 bits before and after.

    Three channels are encoded as colour, at half resolution; of any other number, each as a grey picture.

    Args:
        quality: 1 (worst) to 100, as of the usual encoders.

    Raises:
        ConfigError: ``quality`` out of range.

    References:
        wallace1992
    """

    rules = 2
    norm: ClassVar[Norm] = "l2"
    quality: int = 75

    def __post_init__(self) -> None:
        check_settings(self, "quality", least=1, most=100)

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        return jpeg_copies(images, self.quality)


def jpeg_copies(images: Tensor, quality: int) -> Tensor:
    """Images ``(B, C, H, W)`` in [0, 1] as :class:`JPEG` gives them back, without a graph."""
    if len(images) == 0:
        return images.detach().clone()
    colour = images.shape[1] == _COLOURS
    levels = round_to_8bit(images.detach()).cpu()
    pixels = levels.permute(0, 2, 3, 1) if colour else levels.flatten(0, 1)
    decoded = torch.from_numpy(np.stack([_decoded(image, quality) for image in pixels.numpy()])) / 255
    shaped = decoded.permute(0, 3, 1, 2) if colour else decoded.view_as(images)
    return shaped.contiguous().to(images)


def _decoded(image: np.ndarray, quality: int) -> np.ndarray:
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=_HALF_COLOUR)
    with Image.open(file) as picture:
        return np.asarray(picture)


@final
@dataclass(frozen=True)
class Brightness(Attack):
    """Every value moves by ``change``, clamped to [0, 1].

    Args:
        change: in [-1, 1]; negative is darker.

    Raises:
        ConfigError: ``change`` out of range.
    """

    norm: ClassVar[Norm] = "linf"
    change: float = 0.1

    def __post_init__(self) -> None:
        check_settings(self, "change", least=-1, most=1)

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        return (images + self.change).clamp(0, 1)


@final
@dataclass(frozen=True)
class GaussianBlur(Attack):
    """Gaussian blur with reflected edges.

    Args:
        sigma: standard deviation in pixels.

    Raises:
        ConfigError: negative ``sigma``.
    """

    norm: ClassVar[Norm] = "l2"
    sigma: float = 1.0

    def __post_init__(self) -> None:
        check_settings(self, "sigma", least=0)

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        return gaussian_blur(images, self.sigma).clamp(0, 1)


@final
@dataclass(frozen=True)
class Shift(Attack):
    """Moves each image into one of the eight directions, drawn per image; edges are repeated.

    Args:
        pixels: how far, along each axis that the direction moves.

    Raises:
        ConfigError: negative ``pixels``.
    """

    norm: ClassVar[Norm] = "l2"
    pixels: int = 1

    def __post_init__(self) -> None:
        check_settings(self, "pixels", least=0)

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
