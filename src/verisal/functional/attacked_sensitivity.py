"""How far an attack moved a map, and how much of that each unit of change in the image bought."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ._map_attack_objectives import centre_of_mass
from .postprocess import postprocess
from .similarity import defined_maps, spearman, top_k_intersection

__all__ = ["MapChange", "map_change"]


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
