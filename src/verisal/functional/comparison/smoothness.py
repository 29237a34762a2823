"""Smoothness of a map, and plain blur as a control for methods that are smooth."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verisal.errors import DataError
from verisal.functional.comparison.similarity import defined_maps
from verisal.functional.filters import fourier, gaussian_blur

_HIGH = 0.25
_HALVINGS = 20
_SMALLEST = 0.05


def total_variation(masks: Tensor, power: float) -> Tensor:
    r""":math:`\sum |\partial_x m|^\beta + |\partial_y m|^\beta` over neighbouring pixels.

    Args:
        masks: ``(N, 1, H, W)``.
        power: beta.

    Returns:
        ``(N,)``.
    """
    parts = [masks.diff(dim=dim).abs().pow(power).flatten(1).sum(dim=1) for dim in (2, 3)]
    return parts[0] + parts[1]


def variation_at_equal_mass(maps: Tensor) -> Tensor:
    r"""Total variation of each map divided by its sum, in units of one over the image's side.

    .. math:: \sqrt{H W} \, \frac{\sum |\partial_x S| + |\partial_y S|}{\sum S}

    A map and its multiple, and a map and its copy at twice the size, have the same. Low is smooth.

    Args:
        maps: ``(B, 1, H, W)``, not negative.

    Returns:
        ``(B,)`` float64; NaN where the map is undefined (:func:`.defined_maps`).

    Raises:
        DataError: maps of another shape.

    References:
        rudin1992

    >>> spot = torch.zeros(1, 1, 4, 4).index_fill(2, torch.tensor([1]), 1.0)
    >>> variation_at_equal_mass(spot).tolist()
    [8.0]
    """
    _check(maps)
    values = maps.detach().double()
    mass = values.sum(dim=(1, 2, 3))
    side = math.sqrt(maps.shape[-2] * maps.shape[-1])
    return (side * total_variation(values, 1.0) / mass).where(defined_maps(maps) & (mass > 0), torch.nan)


def high_frequency_share(maps: Tensor, *, above: float = _HIGH) -> Tensor:
    r"""Share of each map's energy, its mean left out, at frequencies above a limit.

    Args:
        maps: ``(B, 1, H, W)``.
        above: limit in cycles per pixel, of the length of the frequency vector; half of what a pixel grid
            can show by default.

    Returns:
        ``(B,)`` float64 in [0, 1]; NaN where the map is undefined.

    Raises:
        DataError: maps of another shape.
    """
    _check(maps)
    defined = defined_maps(maps)
    values = maps.detach().double().where(defined.view(-1, 1, 1, 1), 0.0)
    power = fourier(values).abs().square()
    power[..., 0, 0] = 0
    down, across = (
        torch.fft.fftfreq(length, dtype=torch.float64, device=maps.device) for length in maps.shape[-2:]
    )
    high = torch.hypot(down[:, None], across) > above
    share: Tensor = (power * high).sum(dim=(1, 2, 3)) / power.sum(dim=(1, 2, 3))
    return share.where(defined, torch.nan)


def blur_to_variation(maps: Tensor, target: Tensor) -> Tensor:
    """Each map under the narrowest Gaussian that makes it as smooth as asked.

    The deviation, in pixels, is found by halving between 0.05 and the image's longer side. A map that is that
    smooth already, an undefined one, and one without a target stay as they are.

    Args:
        maps: ``(B, 1, H, W)``, not negative.
        target: ``(B,)``, largest :func:`variation_at_equal_mass` of the result.

    Raises:
        DataError: maps of another shape, or another number of targets.
    """
    _check(maps)
    if tuple(target.shape) != (len(maps),):
        raise DataError(f"there must be one target per map, found {tuple(target.shape)} for {len(maps)} maps")
    rough = variation_at_equal_mass(maps) > target
    parts = [
        _blurred_to(single, float(own)) if wanted else single
        for single, own, wanted in zip(torch.split(maps, 1), target.tolist(), rough.tolist(), strict=True)
    ]
    return torch.cat(parts) if parts else maps


def _blurred_to(single: Tensor, target: float) -> Tensor:
    low, high = math.log(_SMALLEST), math.log(max(single.shape[-2:]))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        smooth = not bool(variation_at_equal_mass(gaussian_blur(single, math.exp(middle))) > target)
        low, high = (low, middle) if smooth else (middle, high)
    return gaussian_blur(single, math.exp(high))


def _check(maps: Tensor) -> None:
    if maps.ndim != 4 or maps.shape[1] != 1:
        raise DataError(f"smoothness is that of maps (B, 1, H, W), found {tuple(maps.shape)}")
