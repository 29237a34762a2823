"""Saliency methods: one family a file."""

from ._base import GateMethod as GateMethod
from ._base import GateResult as GateResult
from ._base import Saliency as Saliency
from ._base import settings_of as settings_of
from .calibration import Calibration as Calibration
from .calibration import calibrate_reg_weight as calibrate_reg_weight
from .hierarchical import HierarchicalMasks as HierarchicalMasks
from .hierarchical import Objective as Objective

__all__ = [
    "Calibration",
    "GateMethod",
    "GateResult",
    "HierarchicalMasks",
    "Objective",
    "Saliency",
    "calibrate_reg_weight",
    "settings_of",
]
