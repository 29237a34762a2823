"""A classifier and its alarm under attack: losses, scores and their image gradients, counted per sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor

from verisal._brief import brief
from verisal.attacks._victim import ImageToLogits, Victim, cross_entropy, wide
from verisal.errors import ConfigError, NumericError
from verisal.types import check_range

ImageToScore = Callable[[Tensor], Tensor]


@final
@dataclass(frozen=True, kw_only=True)
class Defence:
    """A classifier and its alarm, as far as an adaptive attack may differentiate them.

    Attributes:
        classifier: maps images ``(B, C, H, W)`` in [0, 1] to logits ``(B, K)``.
        alarm: maps such images to scores ``(B,)``, higher means more adversarial, each of its image alone;
            differentiable with respect to the images. A stand-in will do where the detector itself is not
            differentiable; then ask the detector about the result.
        embed: maps such images to features ``(B, ...)``; only feature matching asks for it.
    """

    classifier: ImageToLogits
    alarm: ImageToScore | EvidenceInside
    embed: Callable[[Tensor], Tensor] | None = None


@final
@dataclass(frozen=True)
class EvidenceInside:
    """An alarm for patches: the share of a map inside the patch, which a localising defender would look at.

    Attributes:
        maps: maps images ``(B, C, H, W)`` in [0, 1] to maps ``(B, 1, H, W)``, each of its image alone;
            differentiable with respect to the images. Of a map the positive part counts.
    """

    maps: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor, inside: Tensor) -> Tensor:
        """Shares ``(B,)`` of the map that lie ``inside (B, 1, H, W)`` bool; 0 of an empty map.

        Raises:
            ConfigError: maps of another shape.
        """
        maps = self.maps(images)
        if maps.shape != inside.shape:
            raise ConfigError(
                f"EvidenceInside.maps must give one map per image, {tuple(inside.shape)}, found"
                f" {tuple(maps.shape)}; take the mean over the channels"
            )
        positive = maps.clamp_min(0)
        return (positive * inside).sum(dim=(1, 2, 3)) / positive.sum(dim=(1, 2, 3)).clamp_min(1e-12)


@final
@dataclass(frozen=True)
class Judged:
    """Verdict on ``n`` iterates.

    Attributes:
        fooled: ``(n,)`` bool, the classifier errs.
        score: ``(n,)`` of the alarm where fooled; elsewhere it may be anything.
        loss: ``(n,)`` cross-entropy of the label.
    """

    fooled: Tensor
    score: Tensor
    loss: Tensor

    __repr__ = brief


@final
class Target:
    """A defence with the labels of one chunk of images.

    ``rows`` always says which samples of the chunk a batch holds.

    Args:
        defence: under attack.
        labels: ``(B,)`` int64, the true classes.
        guides: ``(B, C, H, W)``, images to imitate, or None.
        inside: ``(B, 1, H, W)`` bool, where the noise of each may be, or None for everywhere.
    """

    def __init__(
        self, defence: Defence, labels: Tensor, guides: Tensor | None, inside: Tensor | None = None
    ) -> None:
        if isinstance(defence.alarm, EvidenceInside) and inside is None:
            raise ConfigError(
                "EvidenceInside asks for the evidence in a patch, and the noise may be anywhere; give"
                " AdaptivePGD a share, or another alarm"
            )
        self.inside = inside
        self.victim = Victim(defence.classifier, labels, targeted=False)
        self.n_alarm_fwd = torch.zeros_like(labels)
        self.n_alarm_bwd = torch.zeros_like(labels)
        self._defence = defence
        self._wanted = None if guides is None else self._embedded(guides).detach()

    def judge(self, images: Tensor, rows: Tensor) -> Judged:
        """Verdict without gradients; the alarm is asked about fooled samples only."""
        with torch.no_grad():
            logits = self.victim.logits(images, rows, later=True)
            fooled = self.victim.reached(logits, rows)
            score = images.new_zeros(len(images))
            asked = self.victim.left(fooled)
            if len(asked):
                score[asked] = self._scored(images[asked], rows[asked])
        return Judged(fooled, score, cross_entropy(logits, self.victim.labels[rows]))

    def error_slope(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Verdict ``(n,)``, True if fooled, the cross-entropy ``(n,)`` and its gradient ``(n, C, H, W)``."""
        loss, gradient, logits = self.victim.gradient(images, rows, cross_entropy, later=True)
        return self.victim.reached(logits, rows), loss, gradient

    def alarm_slope(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The alarm's scores ``(n,)`` and their gradient ``(n, C, H, W)``; nothing is asked of no samples.

        Raises:
            ConfigError: scores that do not depend on the image in a differentiable way.
        """
        if len(images) == 0:
            return images.new_zeros(0), images
        leaf = images.detach().requires_grad_()
        score = self._scored(leaf, rows)
        if not score.requires_grad:
            raise ConfigError(
                "the alarm's scores carry no gradient to the image, which an adaptive attack needs; remove"
                " no_grad, detach and conversions to numpy, and let gradients pass through the gates if the"
                " alarm reads nothing else"
            )
        # A score may be constant in the image and in a graph for another reason.
        (gradient,) = torch.autograd.grad(score.sum(), leaf, allow_unused=True)
        self.n_alarm_bwd[rows] += 1
        slope = torch.zeros_like(leaf) if gradient is None else gradient.detach()
        return score.detach(), self.victim.sound(slope, "alarm")

    def match_slope(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared distance ``(n,)`` of the features from the guide's, and its gradient."""
        if self._wanted is None:
            raise ConfigError("feature matching needs guides: give one image of a wrong class per image")
        leaf = images.detach().requires_grad_()
        distance = (self._embedded(leaf) - self._wanted[rows]).square().flatten(1).mean(dim=1)
        (gradient,) = torch.autograd.grad(distance.sum(), leaf)
        self.victim.n_fwd[rows] += 1
        self.victim.n_bwd[rows] += 1
        return distance.detach(), self.victim.sound(gradient.detach(), "feature distance")

    def _scored(self, images: Tensor, rows: Tensor) -> Tensor:
        # Copies, as the functions may work in place.
        alarm = self._defence.alarm
        if isinstance(alarm, EvidenceInside):
            if self.inside is None:
                raise RuntimeError("an alarm that looks inside a patch is asked where there is none")
            score = alarm(images.clone(), self.inside[rows])
        else:
            score = alarm(images.clone())
        if tuple(score.shape) != (len(images),):
            raise ConfigError(
                f"the alarm must map {len(images)} images to scores ({len(images)},),"
                f" found {tuple(score.shape)}"
            )
        self.victim.due(~score.isnan().any(), partial(_refuse, score.detach()))
        self.n_alarm_fwd[rows] += 1
        return score.float()

    def _embedded(self, images: Tensor) -> Tensor:
        if self._defence.embed is None:
            raise ConfigError(
                "feature matching needs features to match: give Defence(embed=...), a function of the images"
            )
        return self._defence.embed(images.clone())


class Aim(ABC):
    """Chooses, sample by sample, the direction of the next step."""

    @property
    @abstractmethod
    def name(self) -> str:
        """For reports; different for different settings."""

    @abstractmethod
    def ascent(self, target: Target, images: Tensor, rows: Tensor) -> tuple[Judged, Tensor]:
        """Verdict on ``images (n, C, H, W)``, and what to climb from there, of the same shape, any length."""


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
            _, gradient, _ = target.victim.gradient(images, rows, cross_entropy, later=True)
            return target.judge(images, rows), gradient
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
        asked = target.victim.left(fooled)
        score[asked], alarm = target.alarm_slope(images[asked], rows[asked])
        ascent[asked] = -alarm
        return Judged(fooled, score, loss), ascent


@final
@dataclass(frozen=True, kw_only=True)
class Orthogonal(Aim):
    """Steps of :class:`Selective` without the part that would undo the other aim.

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


def _refuse(score: Tensor) -> None:
    raise NumericError(f"the alarm gave NaN for {int(score.isnan().sum())} of {len(score)} images")


def _without(vectors: Tensor, other: Tensor) -> Tensor:
    """Each sample's vector less its part along ``other``; all of it where that is 0."""
    # In double precision: what is left may be much smaller than what is taken away.
    first, second = vectors.double().flatten(1), other.double().flatten(1)
    largest = second.abs().amax(dim=1, keepdim=True)
    second = second / torch.where(largest > 0, largest, 1)
    length = second.square().sum(dim=1, keepdim=True)
    share = (first * second).sum(dim=1, keepdim=True) / torch.where(length > 0, length, 1)
    return (first - share * second).to(vectors.dtype).view_as(vectors)
