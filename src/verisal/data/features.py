"""What a detector sees of an image: masks of several queries, activations, gradient and confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional import channel_statistics, frozen, gate_map, gradient_scope, log_odds
from verisal.saliency import GateMethod
from verisal.types import StagedClassifier, check_images

__all__ = ["DetectorFeatures", "Query"]

Query = Literal["prediction", "runner_up"]
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
    ===================== ================== =============================================================

    Maps are half precision: a detector standardises them, and a store is half as large.

    Args:
        saliency: how the gates are learned.
        queries: which classes are explained; one entry is enough for the ``output`` objective.
        gated_activation: whether ``gated/...`` is made.
    """

    saliency: GateMethod
    queries: tuple[Query, ...] = ("prediction", "runner_up")
    gated_activation: bool = False

    def __post_init__(self) -> None:
        if not self.queries or len(set(self.queries)) != len(self.queries):
            raise ConfigError(f"queries must name prediction, runner_up or both, found {list(self.queries)}")
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
            "gated_activation": self.gated_activation,
        }

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Features of one batch of images ``(B, 3, H, W)`` in [0, 1], computed at once."""
        check_images(images)
        with frozen(classifier), gradient_scope(images.device.type):
            leaf = images.detach().clone().requires_grad_()
            logits = classifier(leaf)
            gradient = torch.autograd.grad(logits.amax(dim=1).sum(), leaf)[0]
            with torch.no_grad():
                activations = classifier.stage_outputs(images.clone()).activations
        logits = logits.detach()
        ranked = logits.topk(2, dim=1).indices
        features = {
            "gradient": gradient.half(),
            "confidence": log_odds(logits),
            "prediction": ranked[:, 0].clone(),
            **{
                f"activations/{number}": channel_statistics(activation).half()
                for number, activation in enumerate(activations, start=1)
            },
        }
        for query in self.queries:
            gates = self.saliency.gates(classifier, images, ranked[:, _RANK[query]].contiguous()).gates
            features |= self._of_gates(query, gates, activations)
        return features

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
