"""Baseline images that fill removed pixels from the kept ones, so that they depend on the mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from verisal.errors import ConfigError, DataError
from verisal.functional.baselines.multigrid import solve_laplace
from verisal.functional.baselines.plain import Baseline, Given, seeded_name
from verisal.functional.seeding import per_image
from verisal.types import check_range


@final
@dataclass(frozen=True, kw_only=True)
class Inpaint(Baseline):
    """Removed regions filled from their rim inwards by the fast marching method.

    OpenCV works on one 8-bit image at a time on the CPU, so that filled pixels are multiples of 1/255. An
    image without any kept pixel becomes its own mean per channel.

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

    def __call__(self, images: Tensor, masks: Given = None, *, query_class: Given = None) -> Tensor:
        """The images with removed pixels filled, and kept pixels as they are."""
        removed = removed_pixels(images, masks, who="Inpaint")
        if len(images) == 0:
            return images.clone()
        filled = torch.where(
            removed.flatten(1).all(dim=1).view(-1, 1, 1, 1),
            images.mean(dim=(2, 3), keepdim=True),
            _telea(images, removed, self.radius),
        )
        return torch.where(removed, filled, images)


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

    def __call__(self, images: Tensor, masks: Given = None, *, query_class: Given = None) -> Tensor:
        """The images with removed pixels imputed, and kept pixels as they are."""
        removed = removed_pixels(images, masks, who="LinearImputation")
        return linear_imputation(images, (~removed).to(images), noise=self.noise, seed=self.seed)


def removed_pixels(images: Tensor, keep_masks: Tensor | None, *, who: str) -> Tensor:
    """``(B, 1, H, W)`` bool: the pixels that a mask below 0.5 removes.

    Raises:
        ConfigError: no masks.
        DataError: masks that do not fit the images.
    """
    batch, _, height, width = images.shape
    if keep_masks is None:
        raise ConfigError(
            f"{who} depends on which pixels are removed, and no masks were given;"
            f" give masks ({batch}, 1, {height}, {width}) in [0, 1], 1 keeps"
        )
    if tuple(keep_masks.shape) != (batch, 1, height, width):
        raise DataError(
            f"{who} needs one mask per image, ({batch}, 1, {height}, {width}),"
            f" found {tuple(keep_masks.shape)}"
        )
    return keep_masks < 0.5


@torch.no_grad()
def linear_imputation(
    images: Tensor, keep_masks: Tensor, *, noise: float = 0.0, seed: int = 0, tolerance: float = 3e-4
) -> Tensor:
    r"""Fill removed pixels with the linear interpolation of what surrounds them.

    All removed pixels of an image are the solution of one sparse linear system per channel:
    :math:`x_i = \sum_j w_{ij} x_j / \sum_j w_{ij}` over the eight neighbours inside the image, with weight
    1/6 for direct and 1/12 for diagonal ones; see :func:`.solve_laplace`. An image without any kept pixel
    becomes its own mean per channel.

    Args:
        images: ``(B, 3, H, W)`` float32 in [0, 1].
        keep_masks: ``(B, 1, H, W)``; pixels below 0.5 are removed.
        noise: standard deviation of the Gaussian noise added to removed pixels, on [0, 1].
        seed: of the noise, which also depends on the content of the image, and not on the mask.
        tolerance: largest estimated error of a pixel at which an image counts as solved.

    Returns:
        ``(B, 3, H, W)`` in [0, 1], kept pixels as they are.

    Raises:
        ConfigError: a negative noise or a tolerance that is not positive.
        DataError: masks that do not fit the images.
        NumericError: pixels that are not finite.

    References:
        rong2022road

    Differs from:
        rong2022road: iterative instead of a sparse factorisation; an image without kept pixels is defined;
        values are clamped to [0, 1] after the noise.
    """
    check_range(0, noise=noise)
    check_range(0, above=True, tolerance=tolerance)
    free = removed_pixels(images, keep_masks, who="linear imputation").to(images.dtype)
    undetermined = free.flatten(1).amin(dim=1).view(-1, 1, 1, 1) > 0
    filled = torch.where(free > 0, _kept_mean(images, free), images)
    with torch.autocast(device_type=images.device.type, enabled=False):
        solved = solve_laplace(filled, torch.where(undetermined, 0.0, free), tolerance)
    solved = torch.where(undetermined, images.mean(dim=(2, 3), keepdim=True), solved)
    if noise > 0:
        shape = tuple(images.shape[1:])
        grain = per_image(lambda rng: torch.randn(shape, generator=rng), images, seed=seed, stream="linear")
        solved = solved + noise * grain * free
    return torch.where(free > 0, solved.clamp(0, 1), images)


def _kept_mean(images: Tensor, free: Tensor) -> Tensor:
    total = torch.where(free > 0, 0.0, images).sum(dim=(2, 3), keepdim=True)
    return total / (1 - free).sum(dim=(2, 3), keepdim=True).clamp_min(1)


def _telea(images: Tensor, removed: Tensor, radius: float) -> Tensor:
    # Only this function needs OpenCV, and importing it costs more than most baselines.
    import cv2

    coded = images.detach().mul(255).round_().to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous().numpy()
    holes = removed[:, 0].to(torch.uint8).cpu().numpy()
    rows = [
        torch.from_numpy(cv2.inpaint(image, hole, radius, cv2.INPAINT_TELEA))
        for image, hole in zip(coded, holes, strict=True)
    ]
    return torch.stack(rows).permute(0, 3, 1, 2).to(images) / 255
