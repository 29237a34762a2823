"""Base of the methods that find gates, and the maps that they show."""

# Annotations are not postponed: whoever reads the hints of a sub-class finds the names of its module alone.
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from verisal._brief import brief
from verisal.functional.per_image import joined_results
from verisal.functional.scopes import differentiated, gradient_scope, images_at_once, in_chunks
from verisal.saliency._base import Saliency, staged
from verisal.saliency.gates.contributions import Contributions, contributions, in_pixels, mean_of
from verisal.saliency.gates.masks import Fusion, Shown, fused_maps, raw_maps
from verisal.types import SaliencyResult, StagedClassifier, check_query_class, check_range

# Settings that change no gate.
_OF_MAPS = ("chunk_size", "fusion", "same_weights", "shown", "smoothing")


@dataclass(frozen=True)
class Joining:
    """What enters the fused map of contributions beside the stages' own.

    Attributes:
        weights: per stage ``(B, 1, h_l, w_l)`` factors of its contributions; 1 if there are none.
        further: ``(B, 1, h, w)`` contributions of stages more, such as those of the last one without gates.
    """

    weights: tuple[Tensor, ...] = ()
    further: tuple[Tensor, ...] = ()

    __repr__ = brief

    def fused(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """The positive contributions that are to be fused."""
        positive = [stage.clamp_min(0) for stage in (*stages, *self.further)]
        for place, weight in enumerate(self.weights):
            positive[place] = positive[place] * weight
        return positive


@dataclass(frozen=True)
class FoundGates:
    """Gates of one batch, and what finding them took.

    Attributes:
        gates: per stage ``(B, C_l, H_l, W_l)``, non-negative.
        activations: per stage, ungated, of the same shapes.
        n_forward: network forward passes per image.
        n_backward: network backward passes per image.
        earlier: contributions of gates on the way: the map of contributions is the mean over these and those
            of ``gates``.
        joining: of contributions in the fused map.
    """

    gates: tuple[Tensor, ...]
    activations: tuple[Tensor, ...]
    n_forward: int
    n_backward: int
    earlier: tuple[Contributions, ...] = ()
    joining: Joining = Joining()

    __repr__ = brief


@dataclass(frozen=True, kw_only=True)
class GateMethod(Saliency):
    """A method that finds gates on the stages, by optimisation or by a network; the detector reads them.

    The settings are those of the maps; :class:`HierarchicalMasks` describes them.

    Raises:
        ConfigError: values out of range.
    """

    shown: Shown | None = "gated_activation"
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
        """Fused map in ``saliency``, mean of raw maps in ``raw``, upsampled raw maps in ``raw_layers``.

        Shown as ``contribution``, maps are in logits per pixel. The fused one adds up to the evidence kept,
        so that maps of two queries have one scale, and is the raw one, too. ``attribution`` ``(B, 1, H, W)``
        is the mean of the stages' signed contributions, negative where a place speaks against the query;
        ``diagnostics`` say what it should add up to (``evidence_kept``, in logits) and which share of that
        it does (``completeness``).
        """
        network = staged(classifier, images, type(self).__name__)
        check_query_class(query_class, len(images), network.num_classes)
        results = []
        with gradient_scope(images.device.type):
            for some, query in in_chunks(images, query_class, images_at_once(self.chunk_size, images)):
                found = self.find(network, some, query)
                size = (images.shape[-2], images.shape[-1])
                results.append(self.show(network, found, query, size))
        return joined_results(results)

    @property
    def suited(self) -> Shown:
        """What is shown where ``shown`` is None."""
        return "gated_activation"

    @final
    def show(
        self, network: StagedClassifier, found: FoundGates, query: Tensor, size: tuple[int, int]
    ) -> SaliencyResult:
        """The maps of gates of any origin, as :meth:`explain` has them; counts what it costs."""
        shown = self.shown or self.suited
        if shown == "contribution":
            return self._contributing(network, found, query, size)
        layers = raw_maps(found.gates, found.activations, size, shown)
        return self._joined(found, layers, layers)

    def _contributing(
        self, network: StagedClassifier, found: FoundGates, query: Tensor, size: tuple[int, int]
    ) -> SaliencyResult:
        with differentiated(network, device=query.device):
            last = contributions(network, found.activations, found.gates, query.clone())
        made = mean_of([*found.earlier, last])
        layers = [in_pixels(stage.clamp_min(0), size) for stage in made.stages]
        fused = [in_pixels(stage, size) for stage in found.joining.fused(made.stages)]
        result = self._joined(found, layers, fused)
        signed = torch.stack([in_pixels(stage, size) for stage in made.stages]).mean(dim=0)
        total = result.saliency.sum(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
        in_logits = result.saliency * (made.kept.clamp_min(0)[:, None, None, None] / total)
        return replace(
            result,
            saliency=in_logits,
            raw=in_logits,
            attribution=signed,
            n_forward=found.n_forward + 1,
            n_backward=found.n_backward + 1,
            diagnostics={"evidence_kept": made.kept, "completeness": made.completeness()},
        )

    def _joined(self, found: FoundGates, layers: Sequence[Tensor], fused: Sequence[Tensor]) -> SaliencyResult:
        return SaliencyResult(
            fused_maps(fused, self.fusion, self.smoothing),
            torch.stack(list(layers)).mean(dim=0),
            raw_layers=tuple(layers),
            n_forward=found.n_forward,
            n_backward=found.n_backward,
        )
