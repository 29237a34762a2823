"""In how many directions the neighbours of an activation lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from verisal.detectors._base import Detector
from verisal.detectors._fitting import LogisticScore, distances, require_rows, unfitted
from verisal.detectors._pooled import PooledActivations, pooled_stages
from verisal.errors import ConfigError
from verisal.types import Measurement

__all__ = ["LocalIntrinsicDimension", "local_intrinsic_dimension"]

_LEAST_ADVERSARIAL = 4
# Keeps images with neighbours at one and the same distance finite.
_LEAST_SPREAD = 1e-3


def local_intrinsic_dimension(sorted_distances: Tensor) -> Tensor:
    r"""Maximum-likelihood estimate of the local intrinsic dimension.

    .. math:: -\left(\frac1k \sum_{i=1}^k \log \frac{r_i}{r_k}\right)^{-1}

    at most 1000, which is where neighbours at one distance end.

    Args:
        sorted_distances: ``(B, k)`` to the k nearest neighbours, nearest first.

    Returns:
        ``(B,)``.

    References:
        ma2018lid
    """
    tiny = torch.finfo(sorted_distances.dtype).tiny
    near = sorted_distances.clamp_min(tiny)
    return 1 / -(near / near[:, -1:]).log().mean(dim=1).clamp_max(-_LEAST_SPREAD)


@final
@dataclass(kw_only=True)
class LocalIntrinsicDimension(Detector):
    """Logistic regression over stages on the local intrinsic dimension among clean images (LID).

    Args:
        neighbours: k.

    Raises:
        ConfigError: fewer than 2 neighbours.

    References:
        ma2018lid, lee2018mahalanobis

    Differs from:
        - Neighbours are sought among all clean fit images, where the paper draws minibatches, so that a
          score does not depend on a draw.
        - While fitting, the nearest neighbour of every image is left out (as the paper's code does): it is
          the image itself, or the clean image that it was made from, which a new image does not have.
        - Activations are pooled over positions, as in the later comparison by Lee et al.
    """

    neighbours: int = 20
    _references: tuple[Tensor, ...] = field(init=False, default=(), repr=False, compare=False)
    _logistic: LogisticScore | None = field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.neighbours < 2:
            raise ConfigError(
                f"LocalIntrinsicDimension.neighbours must be at least 2, found {self.neighbours}"
            )

    @property
    def measurement(self) -> Measurement:
        """Pooled activations of every stage."""
        return PooledActivations()

    def fit(
        self, measured: Mapping[str, Tensor], adversarial: Tensor, clean: Tensor, *, seed: int = 0
    ) -> None:
        """Keep the clean images and weigh the stages.

        Raises:
            DataError: not more clean images than neighbours, or fewer than 4 adversarial ones.
        """
        require_rows(
            self, adversarial, clean, least_clean=self.neighbours + 1, least_adversarial=_LEAST_ADVERSARIAL
        )
        self._references = tuple(vectors[clean] for vectors in pooled_stages(measured))
        self._logistic = LogisticScore.fitted(self._dimensions(measured, skipped=1), adversarial)

    def judge(self, measured: Mapping[str, Tensor]) -> Tensor:
        """``(B,)`` float64 log odds from ``pooled/<l> (B, C_l)``."""
        if self._logistic is None:
            raise unfitted(self)
        return self._logistic(self._dimensions(measured, skipped=0))

    def _dimensions(self, measured: Mapping[str, Tensor], *, skipped: int) -> Tensor:
        """``(B, L)``, leaving out the first ``skipped`` neighbours."""
        columns = []
        for vectors, reference in zip(pooled_stages(measured), self._references, strict=True):
            nearest = distances(vectors, reference).topk(self.neighbours + skipped, dim=1, largest=False)
            columns.append(local_intrinsic_dimension(nearest.values[:, skipped:]))
        return torch.stack(columns, dim=1)
