"""Classical learners on learned masks: dispersion of the maps, and forests on channel gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from verisal.detectors._base import Detector
from verisal.detectors._fitting import LogisticScore, matching, require_rows, unfitted
from verisal.errors import ConfigError
from verisal.functional.seeding import derive_seed
from verisal.types import Measurement

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

__all__ = ["MaskForest", "MaskStatistics", "map_dispersion"]

_LEAST = 4


def map_dispersion(maps: Tensor) -> Tensor:
    r"""How a map's values spread: six statistics per image.

    Mean, largest value, standard deviation (biased), interquartile range, entropy
    :math:`-\sum_i p_i \log p_i` of the values scaled to sum 1, and total variation: the mean absolute
    difference of neighbours across and down.

    Args:
        maps: ``(B, h, w)``, non-negative.

    Returns:
        ``(B, 6)``, in this order.
    """
    flat = maps.flatten(1)
    ranked = flat.sort(dim=1).values
    share = flat / flat.sum(dim=1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    across, down = maps.diff(dim=2).abs().flatten(1), maps.diff(dim=1).abs().flatten(1)
    steps = torch.cat([across, down], dim=1)
    variation = steps.sum(dim=1) / max(steps.shape[1], 1)
    mean = flat.mean(dim=1)
    # Not ``std``, which warns where there is no image.
    deviation = (flat - mean[:, None]).square().mean(dim=1).sqrt()
    spread = _quantile(ranked, 0.75) - _quantile(ranked, 0.25)
    entropy = torch.special.entr(share).sum(dim=1)
    return torch.stack([mean, ranked[:, -1], deviation, spread, entropy, variation], dim=1)


def _quantile(ranked: Tensor, share: float) -> Tensor:
    """Linear interpolation between ranks; unlike ``torch.quantile`` of any size, and of no row too."""
    at = share * (ranked.shape[1] - 1)
    below = int(at)
    above = min(below + 1, ranked.shape[1] - 1)
    return torch.lerp(ranked[:, below], ranked[:, above], at - below)


@final
@dataclass(kw_only=True)
class MaskStatistics(Detector):
    """Logistic regression on the dispersion of every mask: mean, maximum, deviation, IQR, entropy, variation.

    Args:
        source: what is measured of an image.
        reads: names of the masks ``(B, S, h, w)``, with ``*`` and ``?`` standing for anything. The first of
            their S channels is read, which is the mean over the channels of a gate.

    Raises:
        ConfigError: no name to read.
    """

    source: Measurement
    reads: tuple[str, ...] = ("masks/*",)
    _logistic: LogisticScore | None = field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.reads:
            raise ConfigError("MaskStatistics.reads must name a mask, such as masks/*, found none")

    @property
    def measurement(self) -> Measurement:
        """The source."""
        return self.source

    def fit(
        self, measured: Mapping[str, Tensor], adversarial: Tensor, clean: Tensor, *, seed: int = 0
    ) -> None:
        """Weigh the statistics.

        Raises:
            DataError: fewer than 4 clean or 4 adversarial images.
            ConfigError: a name that matches nothing.
        """
        require_rows(self, adversarial, clean, least_clean=_LEAST, least_adversarial=_LEAST)
        self._logistic = LogisticScore.fitted(self._dispersion(measured), adversarial)

    def judge(self, measured: Mapping[str, Tensor]) -> Tensor:
        """``(B,)`` float64 log odds from the masks."""
        if self._logistic is None:
            raise unfitted(self)
        return self._logistic(self._dispersion(measured))

    def _dispersion(self, measured: Mapping[str, Tensor]) -> Tensor:
        """``(B, 6 * masks)`` float64."""
        names = matching(measured, self.reads)
        return torch.cat([map_dispersion(measured[name][:, 0].double()) for name in names], dim=1)


@final
@dataclass(kw_only=True)
class MaskForest(Detector):
    """A random forest on channel gates; the score is the mean share of adversarial images in the leaves.

    Args:
        source: what is measured of an image; :class:`ChannelGates` for the paper's inputs.
        reads: names of vectors ``(B, C)``, with ``*`` and ``?`` standing for anything.
        trees: of the forest.
        least_leaf: fewest fit images in a leaf; above 1, so that a tree answers with shares, not with votes.

    Raises:
        ConfigError: no name to read, or settings out of range.

    References:
        wang2018cdrp

    Differs from:
        - The paper learns one gate per channel; here gates are full maps, of which the channel means are
          read.
        - Both classes weigh the same.
        - The authors' code gives hard predictions to its AUC; the score here is continuous.
    """

    source: Measurement
    reads: tuple[str, ...] = ("gates/*",)
    trees: int = 200
    least_leaf: int = 2
    _forest: RandomForestClassifier | None = field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.reads or self.trees < 1 or self.least_leaf < 1:
            raise ConfigError(
                "MaskForest needs a name to read and at least 1 tree and 1 image in a leaf; found"
                f" reads={list(self.reads)}, trees={self.trees}, least_leaf={self.least_leaf}"
            )

    @property
    def measurement(self) -> Measurement:
        """The source."""
        return self.source

    def fit(
        self, measured: Mapping[str, Tensor], adversarial: Tensor, clean: Tensor, *, seed: int = 0
    ) -> None:
        """Grow the forest.

        Raises:
            DataError: fewer than 4 clean or 4 adversarial images.
            ConfigError: a name that matches nothing.
        """
        from sklearn.ensemble import RandomForestClassifier

        require_rows(self, adversarial, clean, least_clean=_LEAST, least_adversarial=_LEAST)
        forest = RandomForestClassifier(
            self.trees,
            min_samples_leaf=self.least_leaf,
            class_weight="balanced",
            random_state=derive_seed(seed, "mask forest") % 2**32,
        )
        self._forest = forest.fit(self._vectors(measured).numpy(), adversarial.cpu().numpy())

    def judge(self, measured: Mapping[str, Tensor]) -> Tensor:
        """``(B,)`` float64 scores in [0, 1] from the vectors."""
        if self._forest is None:
            raise unfitted(self)
        vectors = self._vectors(measured)
        device = next(iter(measured.values())).device
        if len(vectors) == 0:
            return torch.zeros(0, dtype=torch.float64, device=device)
        return torch.as_tensor(self._forest.predict_proba(vectors.numpy())[:, 1], device=device)

    def _vectors(self, measured: Mapping[str, Tensor]) -> Tensor:
        """``(B, F)`` float32 on the CPU, where the forest grows."""
        return torch.cat([measured[name].float().cpu() for name in matching(measured, self.reads)], dim=1)
