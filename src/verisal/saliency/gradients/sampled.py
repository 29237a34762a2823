"""Gradients averaged over several images: points on the way from a baseline, and noisy copies."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from verisal._checks import as_tuples
from verisal.errors import ConfigError
from verisal.functional.baselines import Baseline, Constant
from verisal.functional.scopes import images_at_once, in_chunks
from verisal.functional.seeding import content_ids, per_sample
from verisal.saliency.gradients.gradient import (
    Attribution,
    Gradient,
    GradientMethod,
    baseline_images,
    captum_methods,
    check_baseline,
    joined,
    sample_groups,
    scores_of,
)
from verisal.types import AnyClassifier, check_range


@final
@dataclass(frozen=True, kw_only=True)
class IntegratedGradients(GradientMethod):
    r"""Gradients along the line from a baseline, times the difference from the baseline.

    .. math:: (x - b) \odot \frac1T \sum_{t=1}^{T} \frac{\partial f_c}{\partial x}
        \Bigl(b + \tfrac{t - 1/2}{T} (x - b)\Bigr)

    Sums to :math:`f_c(x) - f_c(b)` as T grows.

    Args:
        baseline: image at the start of the line.
        steps: T, midpoints on the line.
        chunk_size: images and points on the line evaluated at once, fewer above 128 x 128 pixels; bounds
            memory, never changes the result beyond float rounding.

    Raises:
        ConfigError: ``steps`` below 2, ``chunk_size`` below 1, or a baseline that needs a mask.

    References:
        sundararajan2017

    Differs from:
        - Midpoints instead of right ends; the baseline is black in pixel space.
    """

    baseline: Baseline = field(default_factory=Constant)
    steps: int = 50
    chunk_size: int = 64

    def __post_init__(self) -> None:
        check_range(1, chunk_size=self.chunk_size)
        check_baseline(self.baseline, type(self).__name__)
        if self.steps < 2:
            raise ConfigError(f"steps must be at least 2, found {self.steps}")

    def attribute(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> Attribution:
        """As many forward and backward passes as steps."""
        at_once = images_at_once(self.chunk_size, images)
        values = []
        for some, query in in_chunks(images, query_class, at_once):
            method = captum_methods().IntegratedGradients(scores_of(classifier, query))
            part = method.attribute(
                some,
                baselines=baseline_images(self.baseline, classifier, some, query),
                target=query,
                n_steps=self.steps,
                method="riemann_middle",
                internal_batch_size=at_once,
            )
            values.append(part.detach())
        return Attribution(torch.cat(values), self.steps, self.steps, self.baseline.name)


@dataclass(frozen=True, kw_only=True)
class NoisyCopies(GradientMethod):
    """Base of the methods that read the attributions of noisy copies, by their mean and variance.

    Raises:
        ConfigError: ``samples`` or ``chunk_size`` below 1, or negative noise.
    """

    base: GradientMethod = field(default_factory=Gradient)
    samples: int = 50
    noise: float = 0.15
    seed: int = 0
    chunk_size: int = 64

    def __post_init__(self) -> None:
        check_range(1, samples=self.samples, chunk_size=self.chunk_size)
        if not 0 <= self.noise < torch.inf:
            raise ConfigError(
                f"noise is a share of the image's range and must not be negative, found {self.noise}"
            )

    @abstractmethod
    def read(self, mean: Tensor, variance: Tensor) -> Tensor:
        """The values, from mean and variance over the copies."""

    @final
    def attribute(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> Attribution:
        """``samples`` times the passes of the base."""
        at_once = images_at_once(self.chunk_size, images)
        return joined(
            self._chunk(classifier, some, query) for some, query in in_chunks(images, query_class, at_once)
        )

    def _chunk(self, classifier: AnyClassifier, images: Tensor, query: Tensor) -> Attribution:
        """Groups of copies are merged one by one, so that no sum of squares is cancelled."""
        ids = content_ids(images.clamp(0, 1))
        sigma = self.noise * (images.amax(dim=(1, 2, 3)) - images.amin(dim=(1, 2, 3))).view(-1, 1, 1, 1)
        mean, squares, done = torch.zeros_like(images), torch.zeros_like(images), 0
        for group in sample_groups(self.samples, len(images), images_at_once(self.chunk_size, images)):
            noise = [
                per_sample(
                    lambda generator: torch.randn(images.shape[1:], generator=generator),
                    seed=self.seed,
                    sample_ids=ids,
                    stream=("noisy copy", index),
                    device=images.device,
                )
                for index in group
            ]
            copies = torch.cat([images + sigma * drawn for drawn in noise])
            part = self.base.attribute(classifier, copies, query.repeat(len(group)))
            values = part.values.detach().view(len(group), *images.shape)
            group_mean = values.mean(dim=0)
            change, total = group_mean - mean, done + len(group)
            spread = change.square() * (done * len(group) / total)
            squares += (values - group_mean).square().sum(dim=0) + spread
            mean += change * (len(group) / total)
            done = total
        passes = (self.samples * part.n_forward, self.samples * part.n_backward)
        return Attribution(self.read(mean, squares / done), *passes, part.baseline)


@final
@dataclass(frozen=True, kw_only=True)
class SmoothGrad(NoisyCopies):
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

    def read(self, mean: Tensor, variance: Tensor) -> Tensor:
        """The mean."""
        return mean


@final
@dataclass(frozen=True, kw_only=True)
class VarGrad(NoisyCopies):
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

    def read(self, mean: Tensor, variance: Tensor) -> Tensor:
        """The variance, never negative."""
        return variance


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

    def __post_init__(self) -> None:
        as_tuples(self)
        check_range(1, samples=self.samples, chunk_size=self.chunk_size)
        if self.baselines is not None and not self.baselines:
            raise ConfigError("GradientSHAP draws from baselines and found none; give one or more")
        for baseline in self._baselines:
            check_baseline(baseline, type(self).__name__)

    @property
    def _baselines(self) -> tuple[Baseline, ...]:
        return (Constant(), Constant(level=1.0)) if self.baselines is None else self.baselines

    def attribute(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> Attribution:
        """As many forward and backward passes as samples."""
        at_once = images_at_once(self.chunk_size, images)
        return joined(
            self._chunk(classifier, some, query) for some, query in in_chunks(images, query_class, at_once)
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
