"""The network that predicts all gates of an image in one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verisal._numbers import check_range
from verisal.errors import ConfigError

__all__ = ["MaskNetwork"]

_SHARPNESS = 4.0


@final
class MaskNetwork(nn.Module):
    """Gates ``M_1 .. M_L`` from the classifier's own stage activations and a query class.

    From the last stage to the first: project the activation, add what came from the stage above, scale and
    shift every channel by the class, look at the neighbours (depthwise 3x3, then 1x1), and predict the gate
    with a 1x1 head. The first stage, the largest, has half the width and looks at no neighbours: it would
    cost more than the classifier otherwise. Training starts at ``M = 1``: the heads have zero weights.

    Gates end in a softplus: unlike a gate of exactly 0, a tiny one still says which of two removed places
    was the less important.

    Args:
        channels: ``C_l`` of every stage.
        num_classes: K; one more row of the class tables, number K, stands for *no class* (``output``).
        width_ratio: channels of each level of the path, as a share of the stage's own.

    Raises:
        ConfigError: no stage, or a ratio that is not positive.

    References:
        wang2020haf

    Differs from:
        - The paper optimises masks per image; a network that predicts them is ours.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, *, width_ratio: float = 1.0) -> None:
        super().__init__()
        if not channels:
            raise ConfigError("a mask network needs at least one stage, found no channels")
        check_range(1, channels=channels, num_classes=num_classes)
        check_range(0, above=True, width_ratio=width_ratio)
        self.channels, self.num_classes, self.width_ratio = tuple(channels), num_classes, width_ratio
        shares = [width_ratio / 2, *[width_ratio] * (len(channels) - 1)]
        widths = [max(4, round(count * share)) for count, share in zip(channels, shares, strict=True)]
        above = [*widths[1:], 0]
        self.levels = nn.ModuleList(
            _Level(count, width, wider, queries=num_classes + 1, spreads=index > 0)
            for index, (count, width, wider) in enumerate(zip(channels, widths, above, strict=True))
        )

    def forward(self, activations: Sequence[Tensor], query: Tensor) -> list[Tensor]:
        """Gates ``(B, C_l, H_l, W_l)``, non-negative, in the memory layout of the activations.

        Args:
            activations: ``(B, C_l, H_l, W_l)`` of the ungated classifier.
            query: ``(B,)`` int64 in 0..K.
        """
        gates: list[Tensor] = []
        path: Tensor | None = None
        for level, activation in zip(reversed(self.levels), reversed(activations), strict=True):
            path, gate = level(activation, path, query)
            gates.append(gate)
        return gates[::-1]


class _Level(nn.Module):
    """One stage's part of the path: ``above`` is the width of the level above, 0 for none."""

    def __init__(self, channels: int, width: int, above: int, *, queries: int, spreads: bool) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, width, 1)
        self.lift = nn.Conv2d(above, width, 1) if above else None
        self.modulate = nn.Embedding(queries, 2 * width)
        self.spread = nn.Conv2d(width, width, 3, padding=1, groups=width) if spreads else None
        self.mix = nn.Conv2d(width, width, 1) if spreads else None
        self.head = nn.Conv2d(width, channels, 1)
        nn.init.normal_(self.modulate.weight, std=0.3)
        nn.init.zeros_(self.head.weight)
        # Where the softplus is 1.
        nn.init.constant_(self.head.bias, math.log(math.expm1(_SHARPNESS)) / _SHARPNESS)  # type: ignore[arg-type]

    def forward(self, activation: Tensor, path: Tensor | None, query: Tensor) -> tuple[Tensor, Tensor]:
        features: Tensor = self.project(activation)
        if self.lift is not None and path is not None:
            features.add_(F.interpolate(self.lift(path), size=features.shape[-2:], mode="nearest"))
        scale, shift = self.modulate(query)[:, :, None, None].chunk(2, dim=1)
        features = torch.addcmul(shift, features, 1 + scale).relu_()
        if self.spread is not None and self.mix is not None:
            features = features + self.mix(self.spread(features)).relu_()
        return features, F.softplus(self.head(features), beta=_SHARPNESS)
