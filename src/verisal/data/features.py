"""What a detector sees of an image: masks of several queries and views, activations, gradient, confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional import (
    channel_statistics,
    frozen,
    gate_map,
    gradient_scope,
    log_odds,
    shift_one_pixel,
    softmax_distance,
)
from verisal.saliency import GateMethod
from verisal.types import StagedClassifier, check_images

__all__ = ["DetectorFeatures", "Query", "View"]

Query = Literal["prediction", "runner_up"]
View = Literal["original", "shifted"]
_RANK: dict[Query, int] = {"prediction": 0, "runner_up": 1}


@final
@dataclass(frozen=True, kw_only=True)
class DetectorFeatures:
    """Turns images into the named tensors that every detector row reads.

    The class that is explained is always the one predicted **on that very input** (or its runner-up), never
    the label. Per stage l (numbered from 1) the statistics over channels are mean, deviation and maximum:

    ===================== ================== =============================================================
    name                  shape              what
    ===================== ================== =============================================================
    ``masks/<query>/<l>`` ``(B, 3, h, w)``   statistics of the learned gates
    ``gated/<query>/<l>`` ``(B, 1, h, w)``   channel mean of gate times activation, if ``gated_activation``
    ``activations/<l>``   ``(B, 3, h, w)``   statistics of the ungated activations, the control
    ``gradient``          ``(B, 3, H, W)``   gradient of the predicted logit by the image
    ``confidence``        ``(B,)``           log odds of the predicted class, float32
    ``prediction``        ``(B,)``           predicted class, int64
    ``shift_distance``    ``(B,)``           L1 distance of the softmax outputs of both views, float32
    ===================== ================== =============================================================

    The view ``shifted`` is the image moved by one pixel to the right and down. It repeats masks, gated,
    activations and gradient, **for the same classes**, under names that begin with ``shifted/``, and adds
    ``shift_distance``. Adversarial noise hardly survives the move while evidence does, so a mask that was
    learned for the predicted class then has nothing left to keep.

    Maps are half precision: a detector standardises them, and a store is half as large.

    Args:
        saliency: how the gates are learned.
        queries: which classes are explained; one entry is enough for the ``output`` objective.
        views: ``original``, or ``original`` and ``shifted``.
        gated_activation: whether ``gated/...`` is made.

    Raises:
        ConfigError: no query, a second query that the saliency does not read, or views that do not begin
            with the original.
    """

    saliency: GateMethod
    queries: tuple[Query, ...] = ("prediction", "runner_up")
    views: tuple[View, ...] = ("original",)
    gated_activation: bool = False

    def __post_init__(self) -> None:
        if not self.queries or len(set(self.queries)) != len(self.queries):
            raise ConfigError(f"queries must name prediction, runner_up or both, found {list(self.queries)}")
        if self.views not in (("original",), ("original", "shifted")):
            raise ConfigError(f"views must be [original] or [original, shifted], found {list(self.views)}")
        if not self.saliency.uses_query and len(self.queries) > 1:
            raise ConfigError(
                "this saliency does not read the query, so a second one repeats the same masks;"
                " set queries: [prediction]"
            )

    def settings(self) -> dict[str, Any]:
        """Everything that the values depend on besides classifier and images, as plain data."""
        return {
            "saliency": self.saliency.settings(),
            "queries": list(self.queries),
            "views": list(self.views),
            "gated_activation": self.gated_activation,
        }

    def mask_names(self, stages: int) -> tuple[str, ...]:
        """Names of the gate statistics, in the order in which a detector stacks them."""
        return self._names(stages, "masks")

    def gated_names(self, stages: int) -> tuple[str, ...]:
        """Names of the gated activations, in the same order; none unless they are made."""
        return self._names(stages, "gated") if self.gated_activation else ()

    def activation_names(self, stages: int) -> tuple[str, ...]:
        """Names of the activation statistics, in the same order."""
        numbers = range(1, stages + 1)
        return tuple(f"{_prefix(view)}activations/{number}" for view in self.views for number in numbers)

    def gradient_names(self) -> tuple[str, ...]:
        """Names of the gradients."""
        return tuple(f"{_prefix(view)}gradient" for view in self.views)

    def scalar_names(self) -> tuple[str, ...]:
        """Names of what is one value per image."""
        return ("confidence", "prediction", *(["shift_distance"] if "shifted" in self.views else []))

    def _names(self, stages: int, kind: str) -> tuple[str, ...]:
        return tuple(
            f"{_prefix(view)}{kind}/{query}/{number}"
            for view in self.views
            for query in self.queries
            for number in range(1, stages + 1)
        )

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Features of one batch of images ``(B, 3, H, W)`` in [0, 1], computed at once."""
        check_images(images)
        images = images.contiguous(memory_format=torch.channels_last)
        with frozen(classifier), gradient_scope(images.device.type), torch.no_grad():
            logits = classifier(images)
        ranked = logits.topk(2, dim=1).indices
        features = {"confidence": log_odds(logits), "prediction": ranked[:, 0].clone()}
        for view in self.views:
            seen = images if view == "original" else shift_one_pixel(images)
            of_view, view_logits = self._of_view(classifier, seen, ranked)
            features |= {f"{_prefix(view)}{name}": tensor for name, tensor in of_view.items()}
            if view == "shifted":
                features["shift_distance"] = softmax_distance(logits, view_logits)
        return features

    def _of_view(
        self, classifier: StagedClassifier, images: Tensor, ranked: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Features of one view, explaining the classes ``ranked (B, 2)`` of the original; its logits."""
        with frozen(classifier), gradient_scope(images.device.type):
            leaf = images.detach().clone().requires_grad_()
            predicted = classifier(leaf).gather(1, ranked[:, :1].clone()).sum()
            gradient = torch.autograd.grad(predicted, leaf)[0]
            with torch.no_grad():
                outputs = classifier.stage_outputs(images.clone())
        features = {"gradient": gradient.half()}
        for number, activation in enumerate(outputs.activations, start=1):
            features[f"activations/{number}"] = channel_statistics(activation).half()
        for query in self.queries:
            gates = self.saliency.gates(classifier, images, ranked[:, _RANK[query]].contiguous())
            features |= self._of_gates(query, gates, outputs.activations)
        return features, outputs.logits

    def _of_gates(
        self, query: Query, gates: Sequence[Tensor], activations: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        named = {
            f"masks/{query}/{number}": channel_statistics(gate).half()
            for number, gate in enumerate(gates, start=1)
        }
        if self.gated_activation:
            for number, (gate, activation) in enumerate(zip(gates, activations, strict=True), start=1):
                named[f"gated/{query}/{number}"] = gate_map(gate * activation).half()
        return named


def _prefix(view: View) -> str:
    return "" if view == "original" else f"{view}/"
