"""Choice of lambda: how much may be removed before the classifier's output moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional.outputs import ask
from verisal.functional.scopes import images_at_once
from verisal.saliency.gates.hierarchical import HierarchicalMasks
from verisal.types import StagedClassifier

__all__ = ["Calibration", "calibrate_reg_weight"]


@final
@dataclass(frozen=True)
class Calibration:
    """What one lambda does to the calibration images.

    Attributes:
        reg_weight: the lambda tried.
        unchanged: share of images whose predicted class is the same with gates.
        relative_change: median of the query logit's change over the spread of the image's logits.
        zero_share: mean share of gates at 0.
        accepted: at least 95 % unchanged and a median change of at most 5 %.
    """

    reg_weight: float
    unchanged: float
    relative_change: float
    zero_share: float
    accepted: bool


def calibrate_reg_weight(
    method: HierarchicalMasks,
    classifier: StagedClassifier,
    images: Tensor,
    *,
    grid: Sequence[float] = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
) -> tuple[float, tuple[Calibration, ...]]:
    """Largest lambda of a grid that keeps the output, on clean images that no report uses.

    A value that suits one network empties or ignores the gates of another, so lambda belongs to a network,
    its stages, an objective and a number of steps.

    Args:
        method: all other settings.
        classifier: with stages.
        images: ``(N, 3, H, W)`` in [0, 1]; the class explained is the predicted one.
        grid: values to try, rising.

    Returns:
        The chosen lambda, and what every value of the grid does.

    Raises:
        ConfigError: no value of the grid is accepted.
    """
    with torch.no_grad():
        logits = ask(classifier, images)
    query = logits.argmax(dim=1)
    spread = logits.amax(dim=1) - logits.amin(dim=1)
    at_once = images_at_once(method.chunk_size, images)
    tried = []
    for reg_weight in sorted(grid):
        candidate = replace(method, reg_weight=reg_weight)
        results = [
            candidate.learn(
                classifier,
                images[start : start + at_once],
                query[start : start + at_once],
            )
            for start in range(0, len(images), at_once)
        ]
        unchanged = float(torch.cat([result.unchanged for result in results]).float().mean())
        change = torch.cat([result.query_change for result in results]).abs() / spread
        zeros = float(torch.cat([result.zero_share for result in results]).mean())
        median = float(change.median())
        tried.append(Calibration(reg_weight, unchanged, median, zeros, unchanged >= 0.95 and median <= 0.05))
    accepted = [calibration.reg_weight for calibration in tried if calibration.accepted]
    if not accepted:
        raise ConfigError(
            f"no lambda of {sorted(grid)} keeps 95 % of the predictions and the logit within 5 %;"
            " add smaller values or steps"
        )
    return max(accepted), tuple(tried)
