"""What is put into the patches: decoys proper, and the controls of equal size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional.seeding import content_ids, per_sample
from verisal.saliency.decoy.descent import Rows
from verisal.saliency.decoy.patch_lattice import SomePatches

__all__ = ["constant_change", "noise_change", "problem", "small_start"]

# Largest start of a pixel, in the direction of the sign; at 0 the objective has no slope.
_START = 2 / 255
# Rounding of a feature, in units of the largest one.
_ROUNDING = 4 * torch.finfo(torch.float32).eps
# A tolerance below so many roundings cannot be told from them.
_LEAST = 4


def problem(
    features: Callable[[Tensor], Tensor],
    images: Tensor,
    patches: SomePatches,
    sign: Tensor,
    *,
    epsilon: float,
    max_deviation: float | None,
) -> Rows:
    """The rows of several decoys of every image, in order (decoy, image).

    Args:
        features: images to the output of the layer.
        images: ``(b, 3, H, W)``.
        patches: of the g decoys.
        sign: ``(g,)``, of the decoys.
        epsilon: relative to the deviation of an image's features.
        max_deviation: of a pixel, or None.

    Raises:
        ConfigError: an epsilon below the rounding of the features of an image.
    """
    with torch.no_grad():
        kept = features(images)
    spread, largest = kept.flatten(1).std(dim=1), kept.flatten(1).abs().amax(dim=1)
    least = _LEAST * _ROUNDING * largest / spread
    if not bool((epsilon >= least).all()):  # also where all features are equal
        worst = int(least.nan_to_num(torch.inf).argmax())
        raise ConfigError(
            f"epsilon {epsilon:g} is below the float32 rounding of the layer's features, or they do not vary:"
            f" for image {worst} their deviation is {float(spread[worst]):.3g} and the largest is"
            f" {float(largest[worst]):.3g}; the least sensible epsilon there is {float(least[worst]):.2g}"
        )
    copies, image = len(sign), torch.arange(len(images), device=images.device).repeat(len(sign))
    decoy = torch.arange(copies, device=images.device).repeat_interleave(len(images))
    repeated, bound = images[image], 1.0 if max_deviation is None else max_deviation
    some = patches[decoy]
    mask = some.mask()
    return Rows(
        images=repeated,
        features=kept[image],
        patches=some,
        sign=sign[decoy].view(-1, 1, 1, 1),
        epsilon=(epsilon * spread)[image].view(-1, 1, 1),
        spread=spread[image].view(-1, 1, 1),
        slack=(_ROUNDING * largest)[image].view(-1, 1, 1),
        low=mask * (-repeated).clamp_min(-bound),
        high=mask * (1 - repeated).clamp_max(bound),
    )


def small_start(rows: Rows, images: Tensor, *, seed: int) -> Tensor:
    """``(N, 3, H, W)`` in the direction of the sign; drawn once per image, by its content."""
    drawn = per_sample(
        lambda generator: torch.rand(images.shape[1:], generator=generator),
        seed=seed,
        sample_ids=content_ids(images),
        stream="start of decoys",
        device=images.device,
    )
    copies = len(rows.images) // len(images)
    return rows.sign * _START * drawn.repeat(copies, 1, 1, 1) * rows.patches.mask()


def constant_change(rows: Rows) -> Tensor:
    """``(N, 3, H, W)`` that turns the patches into the image's mean colour."""
    mean = rows.images.mean(dim=(2, 3), keepdim=True)
    return (mean - rows.images) * rows.patches.mask()


def noise_change(rows: Rows, change: Tensor, images: Tensor, *, seed: int) -> Tensor:
    """Uniform noise whose mean absolute value in every patch is that of ``change``, cut at the bounds."""
    drawn = per_sample(
        lambda generator: 2 * torch.rand(2, *images.shape[1:], generator=generator) - 1,
        seed=seed,
        sample_ids=content_ids(images),
        stream="noise instead of decoys",
        device=images.device,
    )
    image = torch.arange(len(images), device=images.device).repeat(len(change) // len(images))
    noise = drawn[image, (rows.sign.flatten() < 0).long()]
    wanted, present = (rows.patches.sum_pixels(values.abs().sum(dim=1)) for values in (change, noise))
    tiny = torch.finfo(noise.dtype).tiny
    return (rows.patches.to_pixels(wanted / present.clamp_min(tiny)) * noise).clamp(rows.low, rows.high)
