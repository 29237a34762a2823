"""Gates of several layers: penalty, maps, fusion of the maps, and statistics over channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.functional.filters import gaussian_blur

Fusion = Literal["mean", "geometric", "sum"]
GatePenalty = Literal["per_layer", "per_channel", "relative"]
CHANNEL_STATISTICS = ("mean", "std", "max")


Shown = Literal["contribution", "gated_activation", "gate"]
# Smoothing is stated for images of this side, and scaled to others.
_SIDE = 224
# Share of the largest of some numbers below which their deviation is rounding.
_ROUNDING = 1e-6


def gate_penalty_weights(shapes: Sequence[torch.Size], penalty: GatePenalty) -> list[float]:
    r"""Weights ``t_l`` of ``R(M) = sum_l t_l * ||M_l||_1`` for one image.

    - ``per_layer``: :math:`t_l = 1/\sqrt{H_l W_l}`, the form known from third-party code.
    - ``per_channel``: :math:`t_l = 1/\sqrt{C_l H_l W_l}`, so that wide layers do not dominate.
    - ``relative``: ``per_layer`` divided by ``R(1)``, so that a weight means the same on every network.

    Args:
        shapes: ``(B, C_l, H_l, W_l)`` or ``(C_l, H_l, W_l)`` of every gate.
        penalty: which form.

    >>> gate_penalty_weights([torch.Size([4, 2, 2])], "per_layer")
    [0.5]
    """
    areas = [shape[-1] * shape[-2] for shape in shapes]
    channels = [shape[-3] for shape in shapes]
    if penalty == "per_channel":
        return [1 / math.sqrt(area * channel) for area, channel in zip(areas, channels, strict=True)]
    weights = [1 / math.sqrt(area) for area in areas]
    if penalty == "relative":
        whole = sum(channel * math.sqrt(area) for area, channel in zip(areas, channels, strict=True))
        return [weight / whole for weight in weights]
    return weights


def gate_map(gate: Tensor) -> Tensor:
    """Mean of a gate over its channels: ``(B, C, h, w)`` to ``(B, 1, h, w)``."""
    return gate.mean(dim=1, keepdim=True)


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring maps ``(B, C, h, w)`` to ``size``: bilinear where they grow, area-averaged where they shrink."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    if maps.shape[-2] >= size[0] and maps.shape[-1] >= size[1]:
        return F.interpolate(maps, size=size, mode="area")
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def fuse_layers(layers: Sequence[Tensor], fusion: Fusion) -> Tensor:
    r"""Fuse upsampled per-layer maps ``(B, 1, H, W)`` into one map of the same shape.

    ``mean``: :math:`\frac1L \sum_l U_l / \max U_l`, the published form.
    ``geometric``: :math:`(\prod_l U_l / \max U_l)^{1/L}`, ours: late, coarse layers do not blur it.
    ``sum``: :math:`\sum_l U_l`, ours: in the unit of the layers, near 0 everywhere where they hold nothing.
    The first two lie in [0, 1]: a layer whose maximum is 0 contributes zeros and still counts in L; the
    maximum is per image.
    """
    if fusion == "sum":
        return torch.stack(list(layers)).sum(dim=0)
    scaled = [layer / layer.amax(dim=(-2, -1), keepdim=True).clamp_min(1e-12) for layer in layers]
    stacked = torch.stack(scaled)
    if fusion == "mean":
        return stacked.mean(dim=0)
    # The root is taken factor by factor: a product of many small factors would underflow.
    return stacked.pow(1 / len(layers)).prod(dim=0)


def channel_statistics(gate: Tensor) -> Tensor:
    """Mean, standard deviation (biased) and maximum over channels: ``(B, C, h, w)`` to ``(B, 3, h, w)``.

    The gradient of the deviation is 0 where all channels are equal.
    """
    mean, most = gate.mean(dim=1, keepdim=True), gate.amax(dim=1)
    # torch.var_mean takes two to ten times as long, and the root of its variance has no gradient at 0.
    deviation = torch.linalg.vector_norm(gate - mean, dim=1) / gate.shape[1] ** 0.5
    # What rounding leaves of equal channels.
    deviation = deviation.masked_fill(deviation <= _ROUNDING * most.abs(), 0.0)
    return torch.stack([mean[:, 0], deviation, most], dim=1)


def stack_layers(layers: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Resize per-layer maps ``(B, S, h_l, w_l)`` to one grid and join them: ``(B, S * L, *size)``."""
    return torch.cat([resize_maps(layer, size) for layer in layers], dim=1)


def raw_maps(
    gates: Sequence[Tensor], activations: Sequence[Tensor], size: tuple[int, int], shown: Shown
) -> list[Tensor]:
    """Channel mean of every stage's gates, or of gate times activation: ``(B, 1, *size)`` each."""
    if shown == "gate":
        return [resize_maps(gate_map(gate), size) for gate in gates]
    pairs = zip(gates, activations, strict=True)
    # An activation without a final ReLU can be negative; a map cannot.
    return [resize_maps(gate_map(gate * activation).clamp_min(0), size) for gate, activation in pairs]


def fused_maps(layers: Sequence[Tensor], fusion: Fusion, smoothing: float) -> Tensor:
    """One map ``(B, 1, H, W)`` of the raw maps of all stages.

    Args:
        layers: ``(B, 1, H, W)`` each.
        fusion: how they become one.
        smoothing: sigma of a Gaussian in pixels of an image of side 224; 0 for none.
    """
    fused = fuse_layers(layers, fusion)
    if not smoothing:
        return fused
    return gaussian_blur(fused, smoothing * min(fused.shape[-2:]) / _SIDE)


def maps_of_gates(gates: Sequence[Tensor], activations: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """The map ``(B, 1, *size)`` that :class:`HierarchicalMasks` shows of gates with its default settings."""
    return fused_maps(raw_maps(gates, activations, size, "gated_activation"), "geometric", smoothing=5.0)
