"""From gates to maps: what of a stage is shown, and how stages become one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from verisal.functional.filters import gaussian_blur
from verisal.saliency.gates.masks import Fusion, fuse_layers, gate_map, resize_maps

__all__ = ["Shown", "fused_maps", "maps_of_gates", "raw_maps"]

Shown = Literal["gated_activation", "gate"]
# Smoothing is stated for images of this side, and scaled to others.
_SIDE = 224


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
    """One map ``(B, 1, H, W)`` in [0, 1] of the raw maps of all stages.

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
