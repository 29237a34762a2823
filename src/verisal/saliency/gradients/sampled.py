"""Gradient methods averaged over random draws: noisy copies of the image, or points on the way to it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional.baselines import Baseline, Constant
from verisal.functional.scopes import images_at_once
from verisal.functional.seeding import content_ids, per_sample
from verisal.saliency.gradients.captum import Gradient
from verisal.saliency.gradients.gradient import (
    Attribution,
    GradientMethod,
    baseline_images,
    check_baseline,
    check_counts,
    in_chunks,
    sample_groups,
)
from verisal.types import AnyClassifier


@final
@dataclass(frozen=True, kw_only=True)
class SmoothGrad(GradientMethod):
    r"""Mean attribution of noisy copies, :math:`\frac1N \sum_i E(x + g_i)`, :math:`g_i \sim N(0, \sigma^2)`.

    Args:
        base: method E whose attributions are averaged.
        samples: N, noisy copies per image.
        noise: sigma as a share of each image's own range (largest minus smallest value). Copies are not
            clamped to [0, 1].
        seed: of the noise, which depends on it, the image's content and the copy's number only.
        chunk_size: noisy copies evaluated at once, fewer above 128 x 128 pixels; bounds memory, never changes
            the result beyond float rounding.

    Raises:
        ConfigError: ``samples`` or ``chunk_size`` below 1, or negative noise.

    References:
        smilkov2017
    """

    base: GradientMethod = field(default_factory=Gradient)
    samples: int = 50
    noise: float = 0.15
    seed: int = 0
    chunk_size: int = 64

    needs_module: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_noise(self)

    def attribute(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> Attribution:
        """``samples`` times the passes of the base."""
        return in_chunks(
            lambda some, query: _moments(self, classifier, some, query)[0],
            images,
            query_class,
            images_at_once(self.chunk_size, images),
        )


@final
@dataclass(frozen=True, kw_only=True)
class VarGrad(GradientMethod):
    r"""Variance of the attribution over noisy copies, :math:`\frac1N \sum_i (E(x + g_i) - \bar E)^2`.

    Args:
        base: method E whose attributions vary.
        samples: N, noisy copies per image.
        noise: as of :class:`SmoothGrad`.
        seed: as of :class:`SmoothGrad`, which draws the same noise.
        chunk_size: as of :class:`SmoothGrad`.

    Raises:
        ConfigError: ``samples`` or ``chunk_size`` below 1, or negative noise.

    References:
        adebayo2018
    """

    base: GradientMethod = field(default_factory=Gradient)
    samples: int = 50
    noise: float = 0.15
    seed: int = 0
    chunk_size: int = 64

    needs_module: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_noise(self)

    def attribute(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> Attribution:
        """``samples`` times the passes of the base; the values are variances, never negative."""
        return in_chunks(
            lambda some, query: _moments(self, classifier, some, query)[1],
            images,
            query_class,
            images_at_once(self.chunk_size, images),
        )


def _check_noise(method: SmoothGrad | VarGrad) -> None:
    check_counts(samples=method.samples, chunk_size=method.chunk_size)
    if not 0 <= method.noise < torch.inf:
        raise ConfigError(
            f"noise is a share of the image's range and must not be negative, found {method.noise}"
        )


def _moments(
    method: SmoothGrad | VarGrad, classifier: AnyClassifier, images: Tensor, query: Tensor
) -> tuple[Attribution, Attribution]:
    """Mean and variance over the copies, merged group by group so that no sum of squares is cancelled."""
    ids = content_ids(images.clamp(0, 1))
    sigma = method.noise * (images.amax(dim=(1, 2, 3)) - images.amin(dim=(1, 2, 3))).view(-1, 1, 1, 1)
    mean, squares, done = torch.zeros_like(images), torch.zeros_like(images), 0
    for group in sample_groups(method.samples, len(images), images_at_once(method.chunk_size, images)):
        noise = [
            per_sample(
                lambda generator: torch.randn(images.shape[1:], generator=generator),
                seed=method.seed,
                sample_ids=ids,
                stream=("noisy copy", index),
                device=images.device,
            )
            for index in group
        ]
        copies = torch.cat([images + sigma * one for one in noise])
        part = method.base.attribute(classifier, copies, query.repeat(len(group)))
        values = part.values.detach().view(len(group), *images.shape)
        group_mean = values.mean(dim=0)
        change, total = group_mean - mean, done + len(group)
        squares += (values - group_mean).square().sum(dim=0) + change.square() * (done * len(group) / total)
        mean += change * (len(group) / total)
        done = total
    found = replace(
        part, n_forward=method.samples * part.n_forward, n_backward=method.samples * part.n_backward
    )
    return replace(found, values=mean), replace(found, values=squares / done)


@final
@dataclass(frozen=True, kw_only=True)
class GradientSHAP(GradientMethod):
    r"""Expected gradients: :math:`\frac1N \sum_i (x - b_i) \odot \partial f_c(b_i + a_i (x - b_i))`.

    The baseline :math:`b_i` is drawn from several, :math:`a_i` uniformly from [0, 1].

    Args:
        baselines: images to draw from; None stands for black and white. For a random baseline give several of
            different seeds.
        samples: N, points per image.
        seed: of the draws, which depend on it, the image's content and the point's number only.
        chunk_size: points evaluated at once, fewer above 128 x 128 pixels; bounds memory, never changes the
            result beyond float rounding.

    Raises:
        ConfigError: no baseline, one that needs a mask, or ``samples`` or ``chunk_size`` below 1.

    References:
        lundberg2017

    Differs from:
        - Baselines are made images, not a sample of training images.
    """

    baselines: tuple[Baseline, ...] | None = None
    samples: int = 50
    seed: int = 0
    chunk_size: int = 64

    needs_module: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_counts(samples=self.samples, chunk_size=self.chunk_size)
        if self.baselines is not None and not self.baselines:
            raise ConfigError("GradientSHAP draws from baselines and found none; give one or more")
        for baseline in self._baselines:
            check_baseline(baseline, type(self).__name__)

    @property
    def _baselines(self) -> tuple[Baseline, ...]:
        return (Constant(), Constant(level=1.0)) if self.baselines is None else self.baselines

    def attribute(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> Attribution:
        """As many forward and backward passes as samples."""
        return in_chunks(
            lambda some, query: self._chunk(classifier, some, query),
            images,
            query_class,
            images_at_once(self.chunk_size, images),
        )

    def _chunk(self, classifier: AnyClassifier, images: Tensor, query: Tensor) -> Attribution:
        ids = content_ids(images.clamp(0, 1))
        choices = torch.stack(
            [baseline_images(baseline, classifier, images, query) for baseline in self._baselines]
        )
        rows = torch.arange(len(images), device=images.device)
        total = torch.zeros_like(images)
        for group in sample_groups(self.samples, len(images), images_at_once(self.chunk_size, images)):
            draws = torch.cat(
                [
                    per_sample(
                        lambda generator: torch.rand(2, generator=generator),
                        seed=self.seed,
                        sample_ids=ids,
                        stream=("point on the way", index),
                        device=images.device,
                    )
                    for index in group
                ]
            )
            share = draws[:, 0].view(-1, 1, 1, 1)
            start = choices[(draws[:, 1] * len(choices)).long(), rows.repeat(len(group))]
            way = images.repeat(len(group), 1, 1, 1) - start
            gradient = Gradient().attribute(classifier, start + share * way, query.repeat(len(group)))
            total += (way * gradient.values.detach()).view(len(group), *images.shape).sum(dim=0)
        names = "+".join(baseline.name for baseline in self._baselines)
        return Attribution(total / self.samples, self.samples, self.samples, names)
