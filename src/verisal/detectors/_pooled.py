"""The measurement that the statistical detectors share: one pass, one vector per stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from verisal.functional.networks import staged_network
from verisal.functional.scopes import frozen, gradient_scope
from verisal.types import Measurement, StagedClassifier, check_images

__all__ = ["PooledActivations", "pooled_stages"]


@final
@dataclass(frozen=True)
class PooledActivations(Measurement):
    """``logits (B, K)``, and per stage ``pooled/<l> (B, C_l)``: the activation's mean over positions.

    Stages are numbered from 1. One forward pass.
    """

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Logits and vectors of images ``(B, 3, H, W)`` in [0, 1]."""
        check_images(images)
        network = staged_network(classifier, f"the measurement {type(self).__name__}")
        with frozen(network), gradient_scope(images.device.type), torch.no_grad():
            outputs = network.stage_outputs(images.clone())
        pooled = {
            f"pooled/{number}": activation.mean(dim=(2, 3))
            for number, activation in enumerate(outputs.activations, start=1)
        }
        return {"logits": outputs.logits} | pooled


def pooled_stages(measured: Mapping[str, Tensor]) -> list[Tensor]:
    """The vectors ``(B, C_l)`` of all stages in float64, in the order of the stages."""
    names = [name for name in measured if name.startswith("pooled/")]
    return [measured[name].double() for name in sorted(names, key=lambda name: int(name.split("/")[1]))]
