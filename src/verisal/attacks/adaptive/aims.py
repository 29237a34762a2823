"""Where an adaptive attack steps: one class per way to weigh the classifier's loss against the alarm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from verisal._numbers import check_range
from verisal.attacks._vectors import wide
from verisal.attacks._victim import cross_entropy
from verisal.attacks.adaptive.target import Judged, Target

__all__ = ["Aim", "FeatureMatching", "Orthogonal", "Selective", "Weighted"]


class Aim(ABC):
    """Chooses, sample by sample, the direction of the next step."""

    @property
    @abstractmethod
    def name(self) -> str:
        """For reports; different for different settings."""

    @abstractmethod
    def ascent(self, target: Target, images: Tensor, rows: Tensor) -> tuple[Judged, Tensor]:
        """Verdict on ``images (n, 3, H, W)``, and what to climb from there, of the same shape, any length."""


@final
@dataclass(frozen=True, kw_only=True)
class Weighted(Aim):
    r"""Climbs :math:`\ell(f(x), y) - \mu\,d(x)`, the cross-entropy and the alarm's score at once.

    Args:
        mu: weight of the score, at least 0; with 0 the alarm is asked only about what to keep.

    References:
        carlini2017bypass
    """

    mu: float

    def __post_init__(self) -> None:
        check_range(0, mu=self.mu)

    @property
    def name(self) -> str:
        """``weighted_mu<mu>``."""
        return f"weighted_mu{self.mu:g}"

    def ascent(self, target: Target, images: Tensor, rows: Tensor) -> tuple[Judged, Tensor]:
        """The sum's gradient."""
        if self.mu == 0:
            return _kept_on_fooled(target, images, rows)
        fooled, loss, error = target.error_slope(images, rows)
        score, alarm = target.alarm_slope(images, rows)
        return Judged(fooled, score, loss), error - self.mu * alarm


@final
@dataclass(frozen=True, kw_only=True)
class Selective(Aim):
    """Climbs the cross-entropy until the classifier is fooled, and lowers the score as long as it is.

    References:
        bryniarski2021
    """

    @property
    def name(self) -> str:
        """``selective``."""
        return "selective"

    def ascent(self, target: Target, images: Tensor, rows: Tensor) -> tuple[Judged, Tensor]:
        """One of the two gradients; the alarm is asked about fooled samples only."""
        fooled, loss, ascent = target.error_slope(images, rows)
        score = torch.zeros_like(loss)
        score[fooled], alarm = target.alarm_slope(images[fooled], rows[fooled])
        ascent[fooled] = -alarm
        return Judged(fooled, score, loss), ascent


@final
@dataclass(frozen=True, kw_only=True)
class Orthogonal(Aim):
    """As :class:`Selective`, without the part of the step that would undo the other aim.

    The other gradient's direction is projected out, so that to first order lowering the alarm does not
    change the loss, and raising the loss does not change the alarm. A sign step afterwards would bring some
    of it back; use ``shape="l2"``.

    References:
        bryniarski2021
    """

    @property
    def name(self) -> str:
        """``orthogonal``."""
        return "orthogonal"

    def ascent(self, target: Target, images: Tensor, rows: Tensor) -> tuple[Judged, Tensor]:
        """One of the two gradients, orthogonal to the other."""
        fooled, loss, error = target.error_slope(images, rows)
        score, alarm = target.alarm_slope(images, rows)
        ascent = torch.where(wide(fooled), -_without(alarm, error), _without(error, alarm))
        return Judged(fooled, score, loss), ascent


@final
@dataclass(frozen=True, kw_only=True)
class FeatureMatching(Aim):
    """Makes the features those of a guide, a clean image of a wrong class; the alarm only says what is kept.

    References:
        sabour2016, tramer2020
    """

    @property
    def name(self) -> str:
        """``feature_matching``."""
        return "feature_matching"

    def ascent(self, target: Target, images: Tensor, rows: Tensor) -> tuple[Judged, Tensor]:
        """Towards the guide's features."""
        _, gradient = target.match_slope(images, rows)
        return target.judge(images, rows), -gradient


def _kept_on_fooled(target: Target, images: Tensor, rows: Tensor) -> tuple[Judged, Tensor]:
    _, gradient, _ = target.victim.gradient(images, rows, cross_entropy)
    return target.judge(images, rows), gradient


def _without(vectors: Tensor, other: Tensor) -> Tensor:
    """Each sample's vector less its part along ``other``; all of it where that is 0."""
    # In double precision: what is left may be much smaller than what is taken away.
    first, second = vectors.double().flatten(1), other.double().flatten(1)
    largest = second.abs().amax(dim=1, keepdim=True)
    second = second / torch.where(largest > 0, largest, 1)
    length = second.square().sum(dim=1, keepdim=True)
    share = (first * second).sum(dim=1, keepdim=True) / torch.where(length > 0, length, 1)
    return (first - share * second).to(vectors.dtype).view_as(vectors)
