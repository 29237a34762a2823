"""Local intrinsic dimension, neighbour by neighbour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from verisal.detectors.base import require_rows
from verisal.detectors.forests import ForestDetector
from verisal.detectors.measurements import Measured, Measurement
from verisal.detectors.stages import PooledActivations
from verisal.detectors.statistical import (
    LogisticDetector,
    growth,
    nearest_distances,
    require_neighbours,
    stage_references,
)


@final
@dataclass(kw_only=True)
class MultiLID(LogisticDetector):
    """Logistic regression on the :func:`.growth` of distances to every clean neighbour, stage by stage.

    :class:`.LocalIntrinsicDimension` reads one over their mean; each of its terms is read here.

    Args:
        neighbours: k; there are k - 1 numbers a stage.

    Raises:
        ConfigError: fewer than 2 neighbours.

    References:
        lorenz2022multilid, ma2018lid

    Differs from:
        - Neighbours are sought among all clean fit images, where the paper's code has batches of 100.
        - Activations of stages are pooled over positions, where the paper flattens those of chosen layers.
        - The term of the last neighbour, which is 0, is left out.
    """

    source: Measurement = field(default_factory=PooledActivations)
    neighbours: int = 20

    def __post_init__(self) -> None:
        require_neighbours(self, self.neighbours)

    def fit(
        self,
        measured: Measured,
        adversarial: Tensor,
        clean: Tensor,
        *,
        images: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        """Keep the clean images, more than there are neighbours, and weigh the terms."""
        require_rows(self, adversarial, clean, least_clean=self.neighbours + 1)
        self._learned = stage_references(measured, clean)
        self._weigh(_terms(measured, self._learned, self.neighbours, skipped=1), adversarial, images)

    def _numbers(self, measured: Measured) -> Tensor:
        return _terms(measured, self._learned, self.neighbours)


@final
@dataclass(kw_only=True)
class MultiLIDForest(ForestDetector):
    """A random forest on what :class:`MultiLID` reads, the learner that its paper recommends.

    Args:
        neighbours: k; there are k - 1 numbers a stage.
        trees: of the forest.
        least_leaf: fewest fit images in a leaf; above 1, so that a tree answers with shares, not with votes.

    Raises:
        ConfigError: fewer than 2 neighbours, or settings out of range.

    References:
        lorenz2022multilid

    Differs from:
        as :class:`MultiLID`; and the score is continuous, where the paper has hard decisions.
    """

    source: Measurement = field(default_factory=PooledActivations)
    neighbours: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        require_neighbours(self, self.neighbours)

    def fit(
        self,
        measured: Measured,
        adversarial: Tensor,
        clean: Tensor,
        *,
        images: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        """Keep the clean images, more than there are neighbours, and grow the forest."""
        require_rows(self, adversarial, clean, least_clean=self.neighbours + 1)
        self._learned = stage_references(measured, clean)
        self._grow(_terms(measured, self._learned, self.neighbours, skipped=1), adversarial, images, seed)

    def _numbers(self, measured: Measured) -> Tensor:
        return _terms(measured, self._learned, self.neighbours)


def _terms(measured: Measured, learned: Mapping[str, Tensor], neighbours: int, *, skipped: int = 0) -> Tensor:
    """``(B, stages * (neighbours - 1))``, leaving out the first ``skipped`` neighbours."""
    near = nearest_distances(measured, learned, neighbours, skipped=skipped)
    return torch.cat([growth(distances)[:, :-1] for distances in near], dim=1)
