"""Base of the methods that find gates, and the maps that they show."""

# Annotations are not postponed: whoever reads the hints of a sub-class finds the names of its module alone.
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from verisal._brief import brief
from verisal.functional.scopes import gradient_scope, images_at_once, in_chunks
from verisal.saliency._base import Saliency, staged
from verisal.saliency.gates.masks import Fusion, Shown, fused_maps, raw_maps
from verisal.types import SaliencyResult, StagedClassifier, check_query_class, check_range

# Settings that change no gate.
_OF_MAPS = ("chunk_size", "fusion", "same_weights", "shown", "smoothing")


@dataclass(frozen=True)
class FoundGates:
    """Gates of one batch, and what finding them took.

    Attributes:
        gates: per stage ``(B, C_l, H_l, W_l)``, non-negative.
        activations: per stage, ungated, of the same shapes.
        n_forward: network forward passes per image.
        n_backward: network backward passes per image.
    """

    gates: tuple[Tensor, ...]
    activations: tuple[Tensor, ...]
    n_forward: int
    n_backward: int

    __repr__ = brief


@dataclass(frozen=True, kw_only=True)
class GateMethod(Saliency):
    """A method that finds gates on the stages, by optimisation or by a network; the detector reads them.

    The settings are those of the maps; :class:`HierarchicalMasks` describes them.

    Raises:
        ConfigError: values out of range.
    """

    shown: Shown = "gated_activation"
    fusion: Fusion = "geometric"
    smoothing: float = 5.0
    chunk_size: int = 64

    needs_module = True

    def __post_init__(self) -> None:
        check_range(0, smoothing=self.smoothing)
        check_range(1, chunk_size=self.chunk_size)

    @property
    @abstractmethod
    def uses_query(self) -> bool:
        """True if the gates depend on the query class."""

    @abstractmethod
    def find(self, classifier: object, images: Tensor, query_class: Tensor) -> FoundGates:
        """Gates for ``query_class (B,)``, all images at once, each independent of its batch mates."""

    @final
    def gates(self, classifier: StagedClassifier, images: Tensor, query_class: Tensor) -> tuple[Tensor, ...]:
        """Gates per stage ``(B, C_l, H_l, W_l)`` for ``query_class (B,)``, all images at once."""
        return self.find(classifier, images, query_class).gates

    @final
    def gate_settings(self) -> dict[str, Any]:
        """The settings but for those of the maps, which change no gate."""
        return {name: value for name, value in self.settings().items() if name not in _OF_MAPS}

    @final
    def explain(self, classifier: object, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """Fused map in ``saliency``, mean of raw maps in ``raw``, upsampled raw maps in ``raw_layers``."""
        network = staged(classifier, images, type(self).__name__)
        check_query_class(query_class, len(images), network.num_classes)
        size = (images.shape[-2], images.shape[-1])
        with gradient_scope(images.device.type):
            parts = []
            for some, query in in_chunks(images, query_class, images_at_once(self.chunk_size, images)):
                learned = self.find(network, some, query)
                parts.append(raw_maps(learned.gates, learned.activations, size, self.shown))
            layers = tuple(torch.cat(layer) for layer in zip(*parts, strict=True))
            return SaliencyResult(
                fused_maps(layers, self.fusion, self.smoothing),
                torch.stack(layers).mean(dim=0),
                raw_layers=layers,
                n_forward=learned.n_forward,
                n_backward=learned.n_backward,
            )
