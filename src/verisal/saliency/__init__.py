"""Saliency methods: one family a file."""

from ._base import GateMethod as GateMethod
from ._base import GateResult as GateResult
from ._base import Saliency as Saliency
from .hierarchical import HierarchicalMasks as HierarchicalMasks

__all__ = ["GateMethod", "GateResult", "HierarchicalMasks", "Saliency"]
