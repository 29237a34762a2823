"""Saliency methods: one family a file."""

from ._base import Saliency as Saliency
from .hierarchical import GateResult as GateResult
from .hierarchical import HierarchicalMasks as HierarchicalMasks

__all__ = ["GateResult", "HierarchicalMasks", "Saliency"]
