"""Noisy linear imputation: every removed pixel is the weighted mean of its eight neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from verisal.errors import ConfigError, DataError
from verisal.functional.baselines.multigrid import solve_laplace
from verisal.functional.seeding import content_ids, per_sample

__all__ = ["linear_imputation", "removed_pixels"]


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
    images: Tensor,
    keep_masks: Tensor,
    *,
    noise: float = 0.0,
    seed: int = 0,
    tolerance: float = 3e-4,
) -> Tensor:
    r"""Fill removed pixels with the linear interpolation of what surrounds them.

    All removed pixels of an image are the solution of one sparse linear system per channel:
    :math:`x_i = \sum_j w_{ij} x_j / \sum_j w_{ij}` over the eight neighbours inside the image, with weight
    1/6 for direct and 1/12 for diagonal ones. It is solved for the whole batch at once by conjugate gradients
    with a multigrid preconditioner, on the device of the images. Every image stops by itself, so that its
    result does not depend on its batch mates.

    An image without any kept pixel leaves the system undetermined; it becomes its own mean per channel.

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
    if noise < 0 or tolerance <= 0:
        raise ConfigError(
            f"noise must be at least 0 and tolerance above 0, found noise={noise}, tolerance={tolerance}"
        )
    free = removed_pixels(images, keep_masks, who="linear imputation").to(images.dtype)
    undetermined = free.flatten(1).amin(dim=1).view(-1, 1, 1, 1) > 0
    filled = torch.where(free > 0, _kept_mean(images, free), images)
    with torch.autocast(device_type=images.device.type, enabled=False):
        solved = solve_laplace(filled, torch.where(undetermined, 0.0, free), tolerance)
    solved = torch.where(undetermined, images.mean(dim=(2, 3), keepdim=True), solved)
    if noise > 0:
        shape = tuple(images.shape[1:])
        grain = per_sample(
            lambda generator: torch.randn(shape, generator=generator),
            seed=seed,
            sample_ids=content_ids(images),
            stream="linear",
            device=images.device,
        )
        solved = solved + noise * grain * free
    return torch.where(free > 0, solved.clamp(0, 1), images)


def _kept_mean(images: Tensor, free: Tensor) -> Tensor:
    total = torch.where(free > 0, 0.0, images).sum(dim=(2, 3), keepdim=True)
    return total / (1 - free).sum(dim=(2, 3), keepdim=True).clamp_min(1)
