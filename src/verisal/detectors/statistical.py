"""Statistical detectors: Gaussians of classes, kernel density, intrinsic dimension, regression."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from verisal.detectors.base import Detector, matching, require_rows, row_weights, unfitted
from verisal.detectors.measurements import Measured, Measurement
from verisal.detectors.stages import PooledActivations
from verisal.errors import ConfigError

# Keeps images with neighbours at one and the same distance finite.
_LEAST_SPREAD = 1e-3
# Bandwidths that are tried, in units of the median distance of two images of a class.
_BANDWIDTHS = tuple(2 ** (exponent / 2) for exponent in range(-10, 5))


class LogisticDetector(Detector):
    """Logistic regression on standardised numbers of an image; the score is the log odds.

    Rows weigh as :func:`.row_weights` says. The optimum is unique, so the seed is not read.

    Attributes:
        penalty: factor of half the squared length of the weights, beside the sum of the losses; a setting in
            some sub-classes.
    """

    # Without annotation: it becomes a setting where a sub-class annotates it.
    penalty = 1.0

    def fit(
        self,
        measured: Measured,
        adversarial: Tensor,
        clean: Tensor,
        *,
        images: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        """Weigh the numbers of at least 4 clean and 4 adversarial images."""
        require_rows(self, adversarial, clean)
        self._weigh(self._numbers(measured), adversarial, images)

    @final
    def judge(self, measured: Measured) -> Tensor:
        """``(B,)`` float64 log odds."""
        if "bias" not in self._learned:
            raise unfitted(self)
        mean, scale, weight, bias = (self._learned[name] for name in ("mean", "scale", "weight", "bias"))
        return ((self._numbers(measured).double() - mean) / scale * weight).sum(dim=1) + bias

    @abstractmethod
    def _numbers(self, measured: Measured) -> Tensor:
        """``(B, F)``, what the regression weighs."""

    @final
    def _weigh(self, numbers: Tensor, adversarial: Tensor, images: Tensor | None) -> None:
        """Learn mean, deviation and weight ``(F,)`` of each number, and the bias, all in float64."""
        # Imported here: it takes as long as everything else of this room together.
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler()
        scaled = scaler.fit_transform(numbers.double().cpu().numpy())
        model = LogisticRegression(C=1 / self.penalty, max_iter=2000)
        weights = row_weights(adversarial, images).cpu().numpy()
        model.fit(scaled, adversarial.cpu().numpy(), sample_weight=weights)
        parts = {"mean": scaler.mean_, "scale": scaler.scale_, "weight": model.coef_[0]}
        self._learned |= {
            name: torch.as_tensor(part, dtype=torch.float64, device=numbers.device)
            for name, part in (parts | {"bias": model.intercept_[0]}).items()
        }


@final
@dataclass(kw_only=True)
class Mahalanobis(LogisticDetector):
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

    source: Measurement = field(default_factory=PooledActivations)

    def fit(
        self,
        measured: Measured,
        adversarial: Tensor,
        clean: Tensor,
        *,
        images: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        """Learn the Gaussians of at least 8 clean images, and weigh the stages."""
        require_rows(self, adversarial, clean, least_clean=8)
        predicted = measured["logits"].argmax(dim=1)[clean]
        self._learned = {}
        for number, vectors in enumerate(_pooled_stages(measured), start=1):
            means, factor = _gaussians(vectors[clean], predicted)
            self._learned |= {f"means/{number}": means, f"factor/{number}": factor}
        self._weigh(self._numbers(measured), adversarial, images)

    def _numbers(self, measured: Measured) -> Tensor:
        """Squared Mahalanobis distance to the nearest class, ``(B, stages)``."""
        columns = []
        for number, vectors in enumerate(_pooled_stages(measured), start=1):
            means, factor = self._learned[f"means/{number}"], self._learned[f"factor/{number}"]
            apart = (vectors[:, None] - means).flatten(0, 1)
            white: Tensor = torch.linalg.solve_triangular(factor, apart.T, upper=False)
            columns.append(white.square().sum(dim=0).view(len(vectors), len(means)).amin(dim=1))
        return torch.stack(columns, dim=1)


def _gaussians(vectors: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Class means ``(K', C)`` and the Cholesky factor ``(C, C)`` of the covariance that they share."""
    from sklearn.covariance import LedoitWolf

    present, index = torch.unique(classes, return_inverse=True)
    totals = vectors.new_zeros(len(present), vectors.shape[1]).index_add_(0, index, vectors)
    means = totals / torch.bincount(index)[:, None]
    residuals = vectors - means[index]
    covariance = LedoitWolf(assume_centered=True).fit(residuals.cpu().numpy()).covariance_
    # A network whose stage is dead has no spread at all.
    jitter = 1e-12 * torch.eye(vectors.shape[1], dtype=torch.float64, device=vectors.device)
    return means, torch.linalg.cholesky(torch.as_tensor(covariance, device=vectors.device) + jitter)


@final
@dataclass(kw_only=True)
class LocalIntrinsicDimension(LogisticDetector):
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
        """Keep the clean images, more than there are neighbours, and weigh the stages."""
        require_rows(self, adversarial, clean, least_clean=self.neighbours + 1)
        self._learned = stage_references(measured, clean)
        self._weigh(self._numbers(measured, skipped=1), adversarial, images)

    def _numbers(self, measured: Measured, *, skipped: int = 0) -> Tensor:
        """``(B, stages)``, leaving out the first ``skipped`` neighbours."""
        near = nearest_distances(measured, self._learned, self.neighbours, skipped=skipped)
        return torch.stack([local_intrinsic_dimension(distances) for distances in near], dim=1)


def require_neighbours(detector: Detector, neighbours: int) -> None:
    """Raise unless there are at least 2 neighbours.

    Raises:
        ConfigError: fewer.
    """
    if neighbours < 2:
        raise ConfigError(f"{type(detector).__name__}.neighbours must be at least 2, found {neighbours}")


def stage_references(measured: Measured, clean: Tensor) -> dict[str, Tensor]:
    """The clean images' pooled activations, by stage: ``references/<l> (N, C_l)`` float64."""
    stages = enumerate(_pooled_stages(measured), start=1)
    return {f"references/{number}": vectors[clean] for number, vectors in stages}


def nearest_distances(
    measured: Measured, learned: Mapping[str, Tensor], neighbours: int, *, skipped: int = 0
) -> list[Tensor]:
    """Distances ``(B, neighbours)`` to the nearest references of every stage, nearest first.

    Args:
        measured: with ``pooled/<l> (B, C_l)``.
        learned: with the :func:`stage_references`.
        neighbours: how many.
        skipped: how many nearer ones are left out.
    """
    found = []
    for number, vectors in enumerate(_pooled_stages(measured), start=1):
        apart = _distances(vectors, learned[f"references/{number}"])
        found.append(apart.topk(neighbours + skipped, dim=1, largest=False).values[:, skipped:])
    return found


def growth(sorted_distances: Tensor) -> Tensor:
    r"""Log growth of the distances to the k nearest neighbours, :math:`-\log (r_i / r_k)`.

    Args:
        sorted_distances: ``(B, k)``, nearest first.

    Returns:
        ``(B, k)``, at least 0; 0 throughout where all neighbours are at one distance.

    References:
        lorenz2022multilid
    """
    near = sorted_distances.clamp_min(torch.finfo(sorted_distances.dtype).tiny)
    return -(near / near[:, -1:]).log()


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
    return 1 / growth(sorted_distances).mean(dim=1).clamp_min(_LEAST_SPREAD)


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

    source: Measurement = field(default_factory=PooledActivations)
    bandwidth: float | None = None

    def __post_init__(self) -> None:
        if self.bandwidth is not None and not 0 < self.bandwidth < math.inf:
            raise ConfigError(
                f"KernelDensity.bandwidth must be above 0, or null to choose it; found {self.bandwidth}"
            )

    def fit(
        self,
        measured: Measured,
        adversarial: Tensor,
        clean: Tensor,
        *,
        images: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        """Keep the clean images, at least 8, and choose the bandwidth; other images are not read."""
        require_rows(self, adversarial, clean, least_clean=8, least_adversarial=0)
        vectors = _pooled_stages(measured)[-1][clean]
        classes = measured["logits"].argmax(dim=1)[clean]
        sigma = _likeliest_bandwidth(vectors, classes) if self.bandwidth is None else self.bandwidth
        self._learned = {"vectors": vectors, "classes": classes, "sigma": vectors.new_tensor(sigma)}

    def judge(self, measured: Measured) -> Tensor:
        """``(B,)`` float64 scores from the last ``pooled/<l> (B, C)`` and the predictions."""
        if not self._learned:
            raise unfitted(self)
        vectors, classes, sigma = (self._learned[name] for name in ("vectors", "classes", "sigma"))
        squared = _distances(_pooled_stages(measured)[-1], vectors).square()
        same = measured["logits"].argmax(dim=1)[:, None] == classes
        same = same | ~same.any(dim=1, keepdim=True)
        return -_log_density(squared, same, float(sigma), vectors.shape[1])


def _likeliest_bandwidth(vectors: Tensor, classes: Tensor) -> float:
    """The bandwidth with the largest leave-one-out likelihood."""
    squared = _distances(vectors, vectors).square()
    others = ~torch.eye(len(squared), dtype=torch.bool, device=squared.device)
    same = (classes[:, None] == classes) & others
    same = torch.where(same.any(dim=1, keepdim=True), same, others)
    # Copies of one image are no spread.
    unit = float(squared[same & (squared > 0)].median().sqrt()) if bool(squared.any()) else 1.0
    sizes = [unit * size for size in _BANDWIDTHS]
    return max(sizes, key=lambda sigma: float(_log_density(squared, same, sigma, vectors.shape[1]).mean()))


def _log_density(squared: Tensor, counted: Tensor, sigma: float, dimensions: int) -> Tensor:
    """Log of the mean Gaussian kernel over what is counted, from squared distances ``(B, N)``."""
    kernels = (-squared / (2 * sigma**2)).masked_fill(~counted, -torch.inf)
    constant = dimensions / 2 * math.log(2 * math.pi * sigma**2)
    return kernels.logsumexp(dim=1) - counted.sum(dim=1).log() - constant


def _pooled_stages(measured: Measured) -> list[Tensor]:
    """The vectors ``(B, C_l)`` of all stages in float64, in the order of the stages."""
    pooled = matching(measured, ("pooled/*",))
    return [pooled[name].double() for name in sorted(pooled, key=lambda name: int(name.split("/")[1]))]


def _distances(vectors: Tensor, references: Tensor) -> Tensor:
    """Euclidean distances ``(B, N)`` of ``(B, C)`` to ``(N, C)``, the same whatever else is in the batch."""
    # The faster way by a matrix product loses small distances, and changes with the batch.
    return torch.cdist(vectors, references, compute_mode="donot_use_mm_for_euclid_dist")
