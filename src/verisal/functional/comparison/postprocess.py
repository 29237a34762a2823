"""One post-processing for all maps that are compared with each other."""

from __future__ import annotations

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional.comparison.similarity import defined_maps
from verisal.types import SaliencyResult

__all__ = ["attribution_of", "postprocess"]


def attribution_of(result: SaliencyResult) -> Tensor:
    """The signed attribution ``(B, C, H, W)``, or the saliency map where the method has none."""
    return result.saliency if result.attribution is None else result.attribution


def postprocess(attribution: Tensor, *, percentile: float = 95.0) -> Tensor:
    """Absolute value, maximum over channels, winsorised above, scaled linearly to [0, 1].

    Args:
        attribution: ``(B, C, H, W)`` signed attribution or saliency map.
        percentile: in (0, 100]; larger values are cut down to it (linear interpolation between order
            statistics). 100 cuts nothing.

    Returns:
        ``(B, 1, H, W)`` in [0, 1], of the dtype of the attribution. All zeros where the map is constant, or
        becomes so by the cut; NaN where it is not finite: :func:`defined_maps` finds both.

    Raises:
        ConfigError: a percentile outside (0, 100].

    References:
        lu2021decoys
    """
    if not 0.0 < percentile <= 100.0:
        raise ConfigError(f"percentile must lie in (0, 100], found {percentile}; the 95th is 95.0")
    found = attribution.detach().abs().amax(dim=1, keepdim=True)
    rows = found.flatten(1)
    ordered = rows.sort(dim=1).values
    place = percentile / 100 * (rows.shape[1] - 1)
    below = int(place)
    above = min(below + 1, rows.shape[1] - 1)
    limit = torch.lerp(ordered[:, below], ordered[:, above], place - below)
    rows = rows.minimum(limit[:, None])
    low, high = rows.aminmax(dim=1, keepdim=True)
    scaled = torch.where(defined_maps(rows)[:, None], (rows - low) / (high - low), 0.0)
    finite = attribution.detach().flatten(1).isfinite().all(dim=1)
    return scaled.where(finite[:, None], torch.nan).view_as(found)
