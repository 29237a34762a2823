"""Measurements that ask a saliency method; which one is the user's choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from verisal.functional.networks import staged_network
from verisal.functional.outputs import ask
from verisal.functional.scopes import frozen, gradient_scope
from verisal.types import Measurement, SaliencyResult, StagedClassifier, check_images

__all__ = ["ChannelGates", "Explains", "FindsGates", "SalientPixels"]


@runtime_checkable
class FindsGates(Protocol):
    """What :class:`ChannelGates` asks of a method; every ``saliency.GateMethod`` is one."""

    def gates(self, classifier: StagedClassifier, images: Tensor, query_class: Tensor) -> tuple[Tensor, ...]:
        """Gates per stage ``(B, C_l, H_l, W_l)`` for ``query_class (B,)``."""
        ...

    def gate_settings(self) -> dict[str, Any]:
        """Everything that the gates depend on besides classifier and images, as plain data."""
        ...


@runtime_checkable
class Explains(Protocol):
    """What :class:`SalientPixels` asks of a method: a frozen dataclass, as every ``saliency.Saliency`` is."""

    def __call__(
        self,
        classifier: Any,  # noqa: ANN401 - methods differ in what they ask of it
        images: Tensor,
        query_class: Tensor,
    ) -> SaliencyResult:
        """Explain ``query_class (B,)`` on ``images (B, 3, H, W)``."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class ChannelGates(Measurement):
    """``gates/<l> (B, C_l)``: the mean over positions of the gates that explain the predicted class.

    Stages are numbered from 1. One forward pass, and what the saliency takes.

    Args:
        saliency: how the gates are found.
    """

    saliency: FindsGates

    def _decisive(self) -> dict[str, Any]:
        return {"saliency": self.saliency.gate_settings()}

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Gates of images ``(B, 3, H, W)`` in [0, 1] for the class that is predicted on each."""
        check_images(images)
        network = staged_network(classifier, f"the measurement {type(self).__name__}")
        with frozen(network), gradient_scope(images.device.type), torch.no_grad():
            outputs = network.stage_outputs(images.clone())
        if len(images) == 0:
            # Nothing to explain; the activations have the shapes of the gates.
            gates = outputs.activations
        else:
            gates = self.saliency.gates(network, images, outputs.logits.argmax(dim=1))
        return {f"gates/{number}": gate.mean(dim=(2, 3)) for number, gate in enumerate(gates, start=1)}


@final
@dataclass(frozen=True, kw_only=True)
class SalientPixels(Measurement):
    """``salient/image (B, 3, H, W)``: the image times its saliency map for the predicted class.

    In half precision. One forward pass, and what the saliency takes.

    Args:
        saliency: what makes the map.
    """

    saliency: Explains

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Weighted images ``(B, 3, H, W)`` for the class that is predicted on each."""
        check_images(images)
        if len(images) == 0:
            return {"salient/image": images.half()}
        with frozen(classifier), gradient_scope(images.device.type), torch.no_grad():
            predicted = ask(classifier, images).argmax(dim=1)
        result = self.saliency(classifier, images, predicted)
        return {"salient/image": (images * result.saliency).half()}
