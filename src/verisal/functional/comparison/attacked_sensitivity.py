"""How far an attack moved a map, and how much of that each unit of change in the image bought."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from verisal.functional.comparison.postprocess import postprocess
from verisal.functional.comparison.similarity import defined_maps, spearman, top_k_intersection

__all__ = ["MapChange", "centre_of_mass", "map_change", "map_shares"]


@final
@dataclass(frozen=True)
class MapChange:
    """A map before and after, per image; NaN where either is undefined.

    Attributes:
        sensitivity: ``(B,)`` S_S; NaN also where the image is the same or a post-processed map constant.
        top_k: ``(B,)`` intersection over union of the k largest pixels.
        spearman: ``(B,)`` rank correlation over the pixels.
        shift: ``(B,)`` distance between the centres of mass, in pixels.
        shift_share: ``(B,)`` the same as a share of the image's diagonal.
    """

    sensitivity: Tensor
    top_k: Tensor
    spearman: Tensor
    shift: Tensor
    shift_share: Tensor


def map_change(
    attribution: Tensor,
    attacked: Tensor,
    *,
    l2: Tensor,
    percentile: float = 95.0,
    top_share: float = 0.1,
) -> MapChange:
    r"""Change of maps under an attack.

    .. math:: S_S = \lVert E(x) - E(\hat x) \rVert_2 \; / \; \lVert x - \hat x \rVert_2

    with E post-processed (:func:`postprocess`) and pixels in [0, 1]. The other values compare the largest
    absolute attribution over the channels as it is.

    Args:
        attribution: ``(B, C, H, W)`` of the images.
        attacked: ``(B, C, H, W)`` of the attacked images; the number of channels may be another.
        l2: ``(B,)`` L2 norm of the change of each image.
        percentile: where post-processing cuts.
        top_share: k as a share of the pixels.

    Raises:
        ConfigError: a percentile or share out of range.
        DataError: shapes that differ.

    References:
        lu2021decoys, ghorbani2019fragile
    """
    maps, others = (part.detach().abs().amax(dim=1, keepdim=True) for part in (attribution, attacked))
    overlap = top_k_intersection(maps, others, top_share)
    before, after = (postprocess(part, percentile=percentile) for part in (attribution, attacked))
    moved = torch.linalg.vector_norm((before.double() - after.double()).flatten(1), dim=1)
    scored = defined_maps(before) & defined_maps(after) & (l2 > 0)
    defined = defined_maps(maps) & defined_maps(others)
    shift = torch.linalg.vector_norm(centre_of_mass(maps.double()) - centre_of_mass(others.double()), dim=1)
    height, width = maps.shape[-2:]
    return MapChange(
        sensitivity=(moved / l2.double()).where(scored, torch.nan),
        top_k=overlap,
        spearman=spearman(maps, others),
        shift=shift.where(defined, torch.nan),
        shift_share=(shift / (height**2 + width**2) ** 0.5).where(defined, torch.nan),
    )


def centre_of_mass(attribution: Tensor) -> Tensor:
    """Centre of mass of each map, ``(B, 2)`` as x and y in pixels, the first pixel's middle being 0.

    Args:
        attribution: ``(B, C, H, W)``; its map is the largest absolute value over the channels. A map of zeros
            has its centre at 0.

    >>> centre_of_mass(torch.tensor([[[[0.0, 1.0, 3.0]]]])).tolist()
    [[1.75, 0.0]]
    """
    shares = map_shares(attribution)
    down, across = (
        torch.arange(length, device=shares.device, dtype=shares.dtype) for length in shares.shape[-2:]
    )
    return torch.stack([(shares.sum(dim=1) * across).sum(dim=1), (shares.sum(dim=2) * down).sum(dim=1)], 1)


def map_shares(attribution: Tensor) -> Tensor:
    """Largest absolute value over the channels, as a share of the map's sum, ``(B, H, W)``."""
    maps = attribution.abs().amax(dim=1)
    return maps / maps.sum(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
