"""Measurements of what the stages of a classifier give: pooled activations, gates and contributions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from verisal._checks import as_tuples
from verisal.detectors.measurements import Measurement, TracedMeasurement
from verisal.detectors.views import View, check_names
from verisal.functional.networks import staged_network
from verisal.functional.scopes import differentiated, frozen, gradient_scope
from verisal.saliency import GateMethod
from verisal.saliency.gates.contributions import channel_contributions
from verisal.types import StagedClassifier, StageOutputs, check_images


@final
@dataclass(frozen=True)
class PooledActivations(TracedMeasurement):
    """``logits (B, K)``, and per stage ``pooled/<l> (B, C_l)``: the activation's mean over positions.

    Stages are numbered from 1. A view adds ``<view>/logits``, ``<view>/pooled/<l>`` and
    ``<view>/change/pooled/<l>``, the vector of the view minus that of the image. One forward pass, and one
    more per view.

    Args:
        views: changes of the image that are measured, too.

    Raises:
        ConfigError: two views of one name.
    """

    views: tuple[View, ...] = ()

    def __post_init__(self) -> None:
        as_tuples(self)
        check_names([view.name for view in self.views])

    def _decisive(self) -> dict[str, Any]:
        return _without_unused(super()._decisive(), "views")

    def _measured(self, classifier: StagedClassifier, images: Tensor, *, graph: bool) -> dict[str, Tensor]:
        def pooled(seen: Tensor) -> dict[str, Tensor]:
            _, outputs = stage_outputs(classifier, seen, "PooledActivations", graph=graph)
            stages = enumerate(outputs.activations, start=1)
            vectors = {f"pooled/{number}": activation.mean(dim=(2, 3)) for number, activation in stages}
            return {"logits": outputs.logits} | vectors

        return _with_changes(pooled, images, self.views)


@final
@dataclass(frozen=True, kw_only=True)
class ChannelGates(Measurement):
    """``gates/<l> (B, C_l)``: the mean over positions of the gates that explain the predicted class.

    Stages are numbered from 1. One forward pass, and what the saliency takes. A view adds the same **for the
    class that is predicted on the image itself**, ``<view>/gates/<l>``, and what is different there,
    ``<view>/change/gates/<l>``, at the same cost again.

    Args:
        saliency: how the gates are found.
        contributions: also make ``contributions/<l> (B, C_l)``: what each gated channel adds to the logit of
            the class, gate times slope summed over positions, in logits. One pass more, forward and back.
        views: changes of the image that are measured, too.

    Raises:
        ConfigError: two views of one name.
    """

    saliency: GateMethod
    contributions: bool = False
    views: tuple[View, ...] = ()

    def __post_init__(self) -> None:
        as_tuples(self)
        check_names([view.name for view in self.views])

    def _decisive(self) -> dict[str, Any]:
        decisive = super()._decisive() | {"saliency": self.saliency.gate_settings()}
        return _without_unused(decisive, "contributions", "views")

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Vectors of images ``(B, C, H, W)`` in [0, 1] for the class that is predicted on each."""
        network, outputs = stage_outputs(classifier, images, "ChannelGates")
        with gradient_scope(images.device.type):
            query = outputs.logits.argmax(dim=1)

        def vectors(seen: Tensor) -> dict[str, Tensor]:
            if len(seen) == 0:
                # Nothing to explain; the activations have the channels of the gates.
                empty = [activation.mean(dim=(2, 3)) for activation in outputs.activations]
                return self._named(empty, empty)
            found = self.saliency.find(network, seen, query)
            gates = [gate.mean(dim=(2, 3)) for gate in found.gates]
            if not self.contributions:
                return self._named(gates, ())
            with differentiated(network, device=seen.device):
                added = channel_contributions(network, found.activations, found.gates, query)
            return self._named(gates, added)

        # Around all of it: what comes from inference mode can never be asked for a gradient.
        with gradient_scope(images.device.type), torch.no_grad():
            return _with_changes(vectors, images, self.views)

    def _named(self, gates: Sequence[Tensor], added: Sequence[Tensor]) -> dict[str, Tensor]:
        kinds = {"gates": gates} | ({"contributions": added} if self.contributions else {})
        return {
            f"{kind}/{number}": vector
            for kind, vectors in kinds.items()
            for number, vector in enumerate(vectors, start=1)
        }


def _with_changes(
    measure: Callable[[Tensor], dict[str, Tensor]], images: Tensor, views: Sequence[View]
) -> dict[str, Tensor]:
    """Vectors of images, of their views, and what is different in each view; logits have no such change."""
    own = measure(images)
    measured = dict(own)
    for view in views:
        seen = measure(view(images))
        measured |= {f"{view.name}/{name}": tensor for name, tensor in seen.items()}
        measured |= {
            f"{view.name}/change/{name}": tensor - own[name]
            for name, tensor in seen.items()
            if name != "logits"
        }
    return measured


def _without_unused(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    """Settings without those that are not used, so that stores from before there were any stay valid."""
    return {name: value for name, value in settings.items() if value or name not in names}


def stage_outputs(
    classifier: StagedClassifier, images: Tensor, measurement: str, *, graph: bool = False
) -> tuple[StagedClassifier, StageOutputs]:
    """The classifier without wrappers, and what its stages give for images ``(B, C, H, W)``."""
    check_images(images.detach())
    network = staged_network(classifier, f"the measurement {measurement}")
    with frozen(network), gradient_scope(images.device.type), torch.set_grad_enabled(graph):
        return network, network.stage_outputs(images.clone())
