"""How usual the last activation is among clean images of the predicted class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from verisal.detectors._base import Detector
from verisal.detectors._fitting import distances, require_rows, unfitted
from verisal.detectors._pooled import PooledActivations, pooled_stages
from verisal.errors import ConfigError
from verisal.types import Measurement

__all__ = ["KernelDensity"]

_LEAST_CLEAN = 8
# Bandwidths that are tried, in units of the median distance of two images of a class.
_GRID = tuple(2 ** (exponent / 2) for exponent in range(-10, 5))


@final
@dataclass(kw_only=True)
class KernelDensity(Detector):
    r"""Scores an image by minus the log density of its last activation, under its predicted class.

    .. math:: -\log \frac1{N_c} \sum_i (2\pi\sigma^2)^{-D/2} \exp -\frac{\|f(x) - f(x_i)\|^2}{2\sigma^2}

    over the clean fit images of class *c*, the class predicted for *x* itself. Where none was predicted as
    *c*, all clean fit images take their place.

    Args:
        bandwidth: sigma; None takes the one that makes clean fit images most likely, each under the density
            of the others.

    Raises:
        ConfigError: a bandwidth that is not above 0.

    References:
        feinman2017

    Differs from:
        - The last activation is the mean over positions of the last stage's, because networks with a pooled
          head have no hidden layer after it.
        - The paper joins the density to an estimate from dropout, which these classifiers do not have.
        - The bandwidth is chosen on clean images alone.
    """

    bandwidth: float | None = None
    _vectors: Tensor | None = field(init=False, default=None, repr=False, compare=False)
    _classes: Tensor | None = field(init=False, default=None, repr=False, compare=False)
    _sigma: float = field(init=False, default=0.0, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.bandwidth is not None and not 0 < self.bandwidth < math.inf:
            raise ConfigError(
                f"KernelDensity.bandwidth must be above 0, or null to choose it; found {self.bandwidth}"
            )

    @property
    def measurement(self) -> Measurement:
        """Pooled activations, of which the last stage's are read, and the prediction."""
        return PooledActivations()

    def fit(
        self, measured: Mapping[str, Tensor], adversarial: Tensor, clean: Tensor, *, seed: int = 0
    ) -> None:
        """Keep the clean images and choose the bandwidth; other images are not read.

        Raises:
            DataError: fewer than 8 clean images.
        """
        require_rows(self, adversarial, clean, least_clean=_LEAST_CLEAN)
        self._vectors = pooled_stages(measured)[-1][clean]
        self._classes = measured["logits"].argmax(dim=1)[clean]
        self._sigma = self._chosen() if self.bandwidth is None else self.bandwidth

    def judge(self, measured: Mapping[str, Tensor]) -> Tensor:
        """``(B,)`` float64 scores from the last ``pooled/<l> (B, C)`` and the predictions."""
        if self._vectors is None or self._classes is None:
            raise unfitted(self)
        squared = distances(pooled_stages(measured)[-1], self._vectors).square()
        same = measured["logits"].argmax(dim=1)[:, None] == self._classes
        same = same | ~same.any(dim=1, keepdim=True)
        return -_log_density(squared, same, self._sigma, self._vectors.shape[1])

    def _chosen(self) -> float:
        """The bandwidth of the grid with the largest leave-one-out likelihood."""
        if self._vectors is None or self._classes is None:
            raise unfitted(self)
        squared = distances(self._vectors, self._vectors).square()
        others = ~torch.eye(len(squared), dtype=torch.bool, device=squared.device)
        same = (self._classes[:, None] == self._classes) & others
        same = torch.where(same.any(dim=1, keepdim=True), same, others)
        # Copies of one image are no spread.
        unit = float(squared[same & (squared > 0)].median().sqrt()) if bool(squared.any()) else 1.0
        width = self._vectors.shape[1]
        likelihoods = [float(_log_density(squared, same, unit * size, width).mean()) for size in _GRID]
        return unit * _GRID[max(range(len(_GRID)), key=likelihoods.__getitem__)]


def _log_density(squared: Tensor, counted: Tensor, sigma: float, dimensions: int) -> Tensor:
    """Log of the mean Gaussian kernel over what is counted, from squared distances ``(B, N)``."""
    kernels = (-squared / (2 * sigma**2)).masked_fill(~counted, -torch.inf)
    constant = dimensions / 2 * math.log(2 * math.pi * sigma**2)
    return kernels.logsumexp(dim=1) - counted.sum(dim=1).log() - constant
