"""Baseline images that fill removed pixels from the kept ones, so that they depend on the mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from verisal._numbers import check_range
from verisal.functional.baselines.impute import linear_imputation, removed_pixels
from verisal.functional.baselines.inpaint import telea_inpainting
from verisal.functional.baselines.plain import Baseline, seeded_name

__all__ = ["Inpaint", "LinearImputation"]


@final
@dataclass(frozen=True, kw_only=True)
class Inpaint(Baseline):
    """Removed regions filled from their rim inwards.

    Args:
        radius: of the neighbourhood that a filled pixel is made from, in pixels.

    Raises:
        ConfigError: a radius below 1, or no masks.

    References:
        telea2004
    """

    radius: float = 3.0

    needs_mask: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range(1, radius=self.radius)

    @property
    def name(self) -> str:
        """``inpaint``, followed by ``_radius<pixels>`` for a radius other than 3."""
        return "inpaint" if self.radius == 3 else f"inpaint_radius{self.radius:g}"

    def __call__(
        self, images: Tensor, masks: Tensor | None = None, *, query_class: Tensor | None = None
    ) -> Tensor:
        """The images with removed pixels filled, and kept pixels as they are."""
        return telea_inpainting(images, removed_pixels(images, masks, who="Inpaint"), radius=self.radius)


@final
@dataclass(frozen=True, kw_only=True)
class LinearImputation(Baseline):
    """Every removed pixel is the weighted mean of its eight neighbours, plus a little Gaussian noise.

    Args:
        noise: standard deviation of the noise on removed pixels, on [0, 1].
        seed: of the noise.

    Raises:
        ConfigError: a negative noise, or no masks.

    References:
        rong2022road
    """

    noise: float = 0.01
    seed: int = 0

    needs_mask: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range(0, noise=self.noise)

    @property
    def name(self) -> str:
        """``linear``, followed by ``_noise<sd>`` for other noise than 0.01, and by a seed other than 0."""
        return seeded_name("linear" if self.noise == 0.01 else f"linear_noise{self.noise:g}", self.seed)

    def __call__(
        self, images: Tensor, masks: Tensor | None = None, *, query_class: Tensor | None = None
    ) -> Tensor:
        """The images with removed pixels imputed, and kept pixels as they are."""
        removed = removed_pixels(images, masks, who="LinearImputation")
        return linear_imputation(images, (~removed).to(images), noise=self.noise, seed=self.seed)
