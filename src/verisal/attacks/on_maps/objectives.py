"""What an attack on a saliency map wants of it, measured on the map's shares of its total."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional.comparison.attacked_sensitivity import centre_of_mass, map_shares

__all__ = ["MapAttackKind", "MapObjective", "map_objective", "target_side"]

MapAttackKind = Literal["top_k", "mass_centre", "target"]

# Where twin and method agree on the image, the squared shift of the centre is flat at its start. This many
# pixels off, it sends the centre the longer way, across the middle of the image.
_NUDGE = 0.01


def target_side(height: int, width: int) -> int:
    """Side of the square that the attack on a target region lights up: 4 px at 224 px, at least 2 px."""
    return max(2, round(4 * min(height, width) / 224))


@final
@dataclass(frozen=True)
class MapObjective:
    """Dissimilarity D of maps from those of the clean images; larger is what the attack wants.

    Attributes:
        kind: which of the three.
        region: ``(B, H, W)`` in {0, 1}: the pixels whose shares count, for ``top_k`` and ``target``.
        centre: ``(B, 2)`` centre of mass of the clean maps, for ``mass_centre``.
    """

    kind: MapAttackKind
    region: Tensor
    centre: Tensor

    def __call__(self, attribution: Tensor) -> Tensor:
        """``(B,)`` D of attributions ``(B, C, H, W)``, differentiable."""
        if self.kind == "mass_centre":
            return (centre_of_mass(attribution) - self.centre).square().sum(dim=1)
        inside = (map_shares(attribution) * self.region).sum(dim=(1, 2))
        return -inside if self.kind == "top_k" else inside

    def rows(self, index: Tensor) -> MapObjective:
        """That of some of the images."""
        return MapObjective(self.kind, self.region[index], self.centre[index])

    def nudged(self) -> MapObjective:
        """The same, with a slope where the centre of mass has not moved yet."""
        height, width = self.region.shape[1:]
        middle = self.centre.new_tensor([(width - 1) / 2, (height - 1) / 2])
        away = torch.where(self.centre >= middle, _NUDGE, -_NUDGE)
        return MapObjective(self.kind, self.region, self.centre + away)


def map_objective(kind: MapAttackKind, attribution: Tensor, *, top_share: float = 0.1) -> MapObjective:
    r"""D of an attack, from the maps of the clean images.

    With s the map (largest absolute value over the channels) divided by its sum:

    - ``top_k``: minus the sum of s over the k largest pixels of the clean map;
    - ``mass_centre``: squared distance in px of the centre of mass from that of the clean map;
    - ``target``: sum of s over the square in the lower right corner (:func:`target_side`).

    Args:
        kind: which of the three.
        attribution: ``(B, C, H, W)`` of the clean images.
        top_share: k as a share of the pixels, rounded, at least one pixel; of ties the first count.

    Raises:
        ConfigError: an unknown kind.

    References:
        ghorbani2019fragile

    Differs from:
        - The largest channel stands for a pixel, not the sum of the channels.
    """
    maps = attribution.detach().abs().amax(dim=1)
    height, width = maps.shape[1:]
    region = torch.zeros_like(maps)
    if kind == "top_k":
        count = max(1, round(top_share * height * width))
        order = maps.flatten(1).sort(dim=1, descending=True, stable=True).indices[:, :count]
        region.view(len(maps), -1).scatter_(1, order, 1.0)
    elif kind == "target":
        side = target_side(height, width)
        region[:, -side:, -side:] = 1.0
    elif kind != "mass_centre":
        raise ConfigError(f"kind must be top_k, mass_centre or target, found {kind!r}")
    return MapObjective(kind, region, centre_of_mass(attribution.detach()))
