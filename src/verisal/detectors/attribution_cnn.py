"""The detector network: a simple CNN from a stack of maps to one logit per image."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from verisal._numbers import check_range

__all__ = ["AttributionCNN"]


@final
class AttributionCNN(nn.Module):
    """Four blocks (3x3 convolution of stride 2, batch normalisation, ReLU), average pooling, one logit.

    Positive logits mean *adversarial*. Inputs are standardised by per-channel statistics that are set once
    from clean fitting images (:meth:`set_input_statistics`) and travel with the weights.

    Args:
        in_channels: channels of the stack.
        in_scalars: values per image that join the pooled features; the caller standardises them.
        width: channels of the first block; later blocks have 2, 4 and 4 times as many.
        dropout: share of pooled features dropped in training; scalars are not dropped.

    Raises:
        ConfigError: values out of range.
    """

    def __init__(
        self, in_channels: int, *, in_scalars: int = 0, width: int = 16, dropout: float = 0.2
    ) -> None:
        super().__init__()
        check_range(1, in_channels=in_channels, width=width)
        check_range(0, in_scalars=in_scalars)
        check_range(0, 1, dropout=dropout)
        self.register_buffer("input_mean", torch.zeros(1, in_channels, 1, 1))
        self.register_buffer("input_std", torch.ones(1, in_channels, 1, 1))
        self.input_mean: Tensor
        self.input_std: Tensor
        widths = (width, 2 * width, 4 * width, 4 * width)
        layers: list[nn.Module] = []
        channels = in_channels
        for block_width in widths:
            layers += [
                nn.Conv2d(channels, block_width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(block_width),
                nn.ReLU(),
            ]
            channels = block_width
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels + in_scalars, 1)
        )

    def set_input_statistics(self, maps: Tensor) -> None:
        """Take mean and deviation per channel from ``maps (N, C, H, W)`` of clean fitting images."""
        self.input_mean.copy_(maps.mean(dim=(0, 2, 3)).view(1, -1, 1, 1))
        self.input_std.copy_(maps.std(dim=(0, 2, 3)).clamp_min(1e-6).view(1, -1, 1, 1))

    def forward(self, maps: Tensor, scalars: Tensor | None = None) -> Tensor:
        """Logits ``(B,)`` of stacks ``(B, C, H, W)`` and, if any, scalars ``(B, S)``."""
        pooled = self.head[:-1](self.body((maps - self.input_mean) / self.input_std))
        logits: Tensor = self.head[-1](pooled if scalars is None else torch.cat([pooled, scalars], dim=1))
        return logits[:, 0]
