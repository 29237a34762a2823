"""The problem that decoys solve, what is put into the patches, and the report of what it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from verisal._brief import brief
from verisal.errors import ConfigError
from verisal.functional.seeding import content_ids, per_sample
from verisal.saliency.decoy.layer import Features, SomePatches

# Largest start of a pixel, in the direction of the sign; at 0 the objective has no slope.
_START = 2 / 255
# Rounding of a feature, in units of the largest one.
_ROUNDING = 4 * torch.finfo(torch.float32).eps
# A tolerance below so many roundings cannot be told from them.
_LEAST = 4


@dataclass(frozen=True)
class Rows:
    """One decoy a row: an image, a mask with one or more patches, a sign.

    Attributes:
        images: ``(N, C, H, W)``.
        features: ``(N, C, h, w)``, of the images.
        patches: N masks.
        sign: ``(N, 1, 1, 1)``, +1 or -1.
        epsilon: ``(N, 1, 1)``, largest change of a feature.
        spread: ``(N, 1, 1)``, deviation of the image's features, the unit of the penalty.
        slack: ``(N, 1, 1)``, rounding of the features: by how much a change may exceed epsilon.
        low: ``(N, C, H, W)``, smallest change of every pixel.
        high: ``(N, C, H, W)``, largest one.
    """

    images: Tensor
    features: Tensor
    patches: SomePatches
    sign: Tensor
    epsilon: Tensor
    spread: Tensor
    slack: Tensor
    low: Tensor
    high: Tensor

    __repr__ = brief

    def __getitem__(self, index: Tensor) -> Rows:
        return Rows(*(getattr(self, item.name)[index] for item in fields(self)))

    @property
    def unit(self) -> Tensor:
        """``(N, ky, kx)``: what turns a sum over a patch's features into a mean in their deviations."""
        ones = torch.ones_like(self.features[:, 0])
        count = self.patches.sum_features(ones) * self.features.shape[1]
        return 1 / (self.spread * count.clamp_min(1))

    def gain(self, change: Tensor) -> Tensor:
        """``(N, ky, kx)``: objective of every patch, its mean change in the direction of the sign."""
        wanted = (self.sign * change).clamp_min(0).sum(dim=1)
        return self.patches.sum_pixels(wanted) / (change.shape[1] * self.patches.area).clamp_min(1)

    def moved(self, difference: Tensor) -> Tensor:
        """``(N, ky, kx)``: largest change of a feature by every patch, from ``(N, C, h, w)``."""
        return self.patches.max_features(difference.abs().amax(dim=1))

    def feasible(self, moved: Tensor) -> Tensor:
        """``(N, ky, kx)`` bool."""
        return moved <= self.epsilon + self.slack


def rows_of(
    features: Features,
    images: Tensor,
    patches: SomePatches,
    sign: Tensor,
    *,
    epsilon: float,
    max_deviation: float | None,
) -> Rows:
    """The rows of several decoys of every image, in order (decoy, image).

    ``features`` gives the output of the layer for ``images (b, C, H, W)``; ``patches`` and ``sign (g,)`` are
    those of the decoys; ``epsilon`` is relative to the deviation of an image's features.

    Raises:
        ConfigError: an epsilon below the rounding of the features of an image.
    """
    with torch.no_grad():
        kept = features(images)
    spread, largest = kept.flatten(1).std(dim=1), kept.flatten(1).abs().amax(dim=1)
    least = _LEAST * _ROUNDING * largest / spread
    if not bool((epsilon >= least).all()):  # also where all features are equal
        worst = int(least.nan_to_num(torch.inf).argmax())
        raise ConfigError(
            f"epsilon {epsilon:g} is below the float32 rounding of the layer's features, or they do not vary:"
            f" for image {worst} their deviation is {float(spread[worst]):.3g} and the largest is"
            f" {float(largest[worst]):.3g}; the least sensible epsilon there is {float(least[worst]):.2g}"
        )
    copies, image = len(sign), torch.arange(len(images), device=images.device).repeat(len(sign))
    decoy = torch.arange(copies, device=images.device).repeat_interleave(len(images))
    repeated, bound = images[image], 1.0 if max_deviation is None else max_deviation
    some = patches[decoy]
    mask = some.mask()
    return Rows(
        images=repeated,
        features=kept[image],
        patches=some,
        sign=sign[decoy].view(-1, 1, 1, 1),
        epsilon=(epsilon * spread)[image].view(-1, 1, 1),
        spread=spread[image].view(-1, 1, 1),
        slack=(_ROUNDING * largest)[image].view(-1, 1, 1),
        low=mask * (-repeated).clamp_min(-bound),
        high=mask * (1 - repeated).clamp_max(bound),
    )


def small_start(rows: Rows, images: Tensor, *, seed: int) -> Tensor:
    """``(N, C, H, W)`` in the direction of the sign; drawn once per image, by its content."""
    drawn = per_sample(
        lambda generator: torch.rand(images.shape[1:], generator=generator),
        seed=seed,
        sample_ids=content_ids(images),
        stream="start of decoys",
        device=images.device,
    )
    copies = len(rows.images) // len(images)
    return rows.sign * _START * drawn.repeat(copies, 1, 1, 1) * rows.patches.mask()


def constant_change(rows: Rows) -> Tensor:
    """``(N, C, H, W)`` that turns the patches into the image's mean colour."""
    mean = rows.images.mean(dim=(2, 3), keepdim=True)
    return (mean - rows.images) * rows.patches.mask()


def noise_change(rows: Rows, change: Tensor, images: Tensor, *, seed: int) -> Tensor:
    """Uniform noise whose mean absolute value in every patch is that of ``change``, cut at the bounds."""
    drawn = per_sample(
        lambda generator: 2 * torch.rand(2, *images.shape[1:], generator=generator) - 1,
        seed=seed,
        sample_ids=content_ids(images),
        stream="noise instead of decoys",
        device=images.device,
    )
    image = torch.arange(len(images), device=images.device).repeat(len(change) // len(images))
    noise = drawn[image, (rows.sign.flatten() < 0).long()]
    wanted, present = (rows.patches.sum_pixels(values.abs().sum(dim=1)) for values in (change, noise))
    tiny = torch.finfo(noise.dtype).tiny
    return (rows.patches.to_pixels(wanted / present.clamp_min(tiny)) * noise).clamp(rows.low, rows.high)


@dataclass(frozen=True)
class DecoyReport:
    """Quality of the finished decoys of every image: how well they kept the features.

    Attributes:
        violation_max: ``(B,)`` largest amount by which a feature's change exceeds epsilon, in epsilons; below
            rounding for decoys, and whatever it is for the controls.
        violation_mean: ``(B,)`` mean of the same over all features and decoys, 0 where within epsilon.
        infeasible: ``(B,)`` share of patches without a feasible change, which stay as in the image; for the
            controls, of patches that move a feature by more than epsilon.
        deviation: ``(B,)`` mean absolute change of a patch's pixels, over all patches, in [0, 1] units.
        top1_agreement: ``(B,)`` share of decoys that get the image's own prediction.
        prefix_passes: ``(B,)`` runs of the layers up to the chosen one, with and without gradient.
        n_decoys: decoys per image.
        n_patches: patches per image in all of them.
    """

    violation_max: Tensor
    violation_mean: Tensor
    infeasible: Tensor
    deviation: Tensor
    top1_agreement: Tensor
    prefix_passes: Tensor
    n_decoys: int
    n_patches: int

    __repr__ = brief

    def tensors(self) -> dict[str, Tensor]:
        """The fields with one value per image."""
        named = ((item.name, getattr(self, item.name)) for item in fields(self))
        return {name: value for name, value in named if isinstance(value, Tensor)}


def measured(
    rows: Rows,
    change: Tensor,
    features: Tensor,
    *,
    missing: Tensor,
    agrees: Tensor,
    passes: Tensor,
    batch: int,
) -> DecoyReport:
    """The report of decoys whose rows are ``(decoys, batch)`` flattened.

    Args:
        rows: the problem.
        change: ``(N, C, H, W)``, of the finished decoys.
        features: ``(N, C, h, w)``, of the finished decoys.
        missing: ``(N, ky, kx)`` bool, patches that count as infeasible.
        agrees: ``(N,)`` bool, True for decoys that get the image's prediction.
        passes: ``(N,)``, spent on each row.
        batch: number of images.
    """
    area = rows.patches.area
    over = ((features - rows.features).abs() / rows.epsilon[..., None] - 1).clamp_min(0).flatten(1)
    per_patch = rows.patches.sum_pixels(change.abs().sum(dim=1)) / (change.shape[1] * area).clamp_min(1)

    def by_image(values: Tensor) -> Tensor:
        return values.view(-1, batch, *values.shape[1:])

    patches = int((area > 0).view(-1, batch, area[0].numel())[:, 0].sum())
    return DecoyReport(
        violation_max=by_image(over.amax(dim=1)).amax(dim=0),
        violation_mean=by_image(over.mean(dim=1)).mean(dim=0),
        infeasible=by_image((missing & (area > 0)).flatten(1).sum(dim=1)).sum(dim=0) / patches,
        deviation=by_image(per_patch.flatten(1).sum(dim=1)).sum(dim=0) / patches,
        top1_agreement=by_image(agrees.float()).mean(dim=0),
        prefix_passes=by_image(passes).sum(dim=0),
        n_decoys=len(change) // batch,
        n_patches=patches,
    )


def of_all_decoys(reports: Sequence[DecoyReport]) -> DecoyReport:
    """One report of several groups of decoys of the same images."""

    def stack(name: str) -> Tensor:
        return torch.stack([getattr(report, name) for report in reports])

    def mean(name: str, weight: str) -> Tensor:
        values = stack(name)
        weights = values.new_tensor([getattr(report, weight) for report in reports])
        return (weights / weights.sum()) @ values

    return DecoyReport(
        violation_max=stack("violation_max").amax(dim=0),
        violation_mean=mean("violation_mean", "n_decoys"),
        infeasible=mean("infeasible", "n_patches"),
        deviation=mean("deviation", "n_patches"),
        top1_agreement=mean("top1_agreement", "n_decoys"),
        prefix_passes=stack("prefix_passes").sum(dim=0),
        n_decoys=sum(report.n_decoys for report in reports),
        n_patches=sum(report.n_patches for report in reports),
    )


def of_all_images(reports: Sequence[DecoyReport]) -> DecoyReport:
    """One report of the same decoys of several groups of images."""
    joined = {
        name: torch.cat([report.tensors()[name] for report in reports]) for name in reports[0].tensors()
    }
    return DecoyReport(**joined, n_decoys=reports[0].n_decoys, n_patches=reports[0].n_patches)
