"""The control of every method with gates: the same maps without any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from verisal.saliency._base import explaining, staged
from verisal.saliency.gates.masks import Shown
from verisal.saliency.gates.method import FoundGates, GateMethod


@final
@dataclass(frozen=True, kw_only=True)
class UngatedContributions(GateMethod):
    """Gradient times activation of every stage, joined as the maps of gates are: all gates stay at 1.

    What a method with gates shows beyond this is what its gates are good for. The last stage alone,
    ``OneLayer(base=UngatedContributions(), layer=-1)``, is HiResCAM.

    Args:
        shown: see :class:`HierarchicalMasks`, as is the next; ``gate`` gives flat maps.
        fusion: how per-layer maps become one.
        smoothing: sigma of a Gaussian over the fused map, in pixels of an image of side 224; 0 for none.
        chunk_size: images at once, fewer above 128 x 128 pixels; bounds memory, never changes the result
            beyond float rounding.

    Raises:
        ConfigError: values out of range.

    References:
        draelos2020
    """

    shown: Shown = "contribution"

    @property
    def uses_query(self) -> bool:
        """True: the gates are the same for all, what they contribute is not."""
        return True

    def find(self, classifier: object, images: Tensor, query_class: Tensor) -> FoundGates:
        """Gates of 1 on every stage."""
        network = staged(classifier, images, type(self).__name__)
        images = images.contiguous(memory_format=torch.channels_last)
        with explaining(network, images, query_class) as (images, _), torch.no_grad():
            activations = network.stage_outputs(images).activations
        return FoundGates(tuple(map(torch.ones_like, activations)), activations, 1, 0)
