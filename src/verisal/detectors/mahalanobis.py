"""Distance of the activations to the nearest class, in units of how classes spread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from verisal.detectors._base import Detector
from verisal.detectors._fitting import LogisticScore, require_rows, unfitted
from verisal.detectors._pooled import PooledActivations, pooled_stages
from verisal.types import Measurement

__all__ = ["Mahalanobis"]

_LEAST_CLEAN, _LEAST_ADVERSARIAL = 8, 4


@dataclass(frozen=True)
class _Gaussians:
    """Class means ``(K', C)`` and the Cholesky factor ``(C, C)`` of the covariance that they share."""

    means: Tensor
    factor: Tensor

    def nearest(self, vectors: Tensor) -> Tensor:
        """Squared Mahalanobis distance ``(B,)`` of ``vectors (B, C)`` to the nearest class."""
        apart = (vectors[:, None] - self.means).flatten(0, 1)
        white: Tensor = torch.linalg.solve_triangular(self.factor, apart.T, upper=False)
        return white.square().sum(dim=0).view(len(vectors), len(self.means)).amin(dim=1)


@final
@dataclass(kw_only=True)
class Mahalanobis(Detector):
    r"""Logistic regression over stages on the distance to the nearest class-conditional Gaussian.

    .. math:: M_l(x) = \min_c\, (f_l(x) - \mu_{l,c})^\top \Sigma_l^{-1} (f_l(x) - \mu_{l,c})

    Means and the covariance that the classes share come from clean fit images; the regression from all.

    References:
        lee2018mahalanobis

    Differs from:
        - No gradient step on the image before it is measured (the paper's optional input preprocessing).
        - The covariance is shrunk after Ledoit and Wolf, because there are fewer images than the paper had.
        - Classes are the classifier's predictions, which for clean images are right; the regression has the
          library's default weight of its penalty, where the paper chooses it by cross-validation.
    """

    _gaussians: tuple[_Gaussians, ...] | None = field(init=False, default=None, repr=False, compare=False)
    _logistic: LogisticScore | None = field(init=False, default=None, repr=False, compare=False)

    @property
    def measurement(self) -> Measurement:
        """Pooled activations of every stage."""
        return PooledActivations()

    def fit(
        self, measured: Mapping[str, Tensor], adversarial: Tensor, clean: Tensor, *, seed: int = 0
    ) -> None:
        """Learn the Gaussians of clean images and weigh the stages.

        Raises:
            DataError: fewer than 8 clean or 4 adversarial images.
        """
        require_rows(self, adversarial, clean, least_clean=_LEAST_CLEAN, least_adversarial=_LEAST_ADVERSARIAL)
        predicted = measured["logits"].argmax(dim=1)
        stages = pooled_stages(measured)
        self._gaussians = tuple(_gaussians(vectors[clean], predicted[clean]) for vectors in stages)
        self._logistic = LogisticScore.fitted(self._distances(measured), adversarial)

    def judge(self, measured: Mapping[str, Tensor]) -> Tensor:
        """``(B,)`` float64 log odds from ``pooled/<l> (B, C_l)``."""
        if self._logistic is None:
            raise unfitted(self)
        return self._logistic(self._distances(measured))

    def _distances(self, measured: Mapping[str, Tensor]) -> Tensor:
        """``(B, L)``."""
        pairs = zip(self._gaussians or (), pooled_stages(measured), strict=True)
        return torch.stack([gaussians.nearest(vectors) for gaussians, vectors in pairs], dim=1)


def _gaussians(vectors: Tensor, classes: Tensor) -> _Gaussians:
    from sklearn.covariance import LedoitWolf

    present, index = torch.unique(classes, return_inverse=True)
    totals = vectors.new_zeros(len(present), vectors.shape[1]).index_add_(0, index, vectors)
    means = totals / torch.bincount(index)[:, None]
    residuals = vectors - means[index]
    covariance = LedoitWolf(assume_centered=True).fit(residuals.cpu().numpy()).covariance_
    # A network whose stage is dead has no spread at all.
    jitter = 1e-12 * torch.eye(vectors.shape[1], dtype=torch.float64, device=vectors.device)
    return _Gaussians(
        means, torch.linalg.cholesky(torch.as_tensor(covariance, device=vectors.device) + jitter)
    )
