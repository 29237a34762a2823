"""What decoys did to images and to the features that they should have kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from verisal.saliency.decoy.descent import Rows

__all__ = ["DecoyReport", "measured", "of_all_decoys", "of_all_images"]


@dataclass(frozen=True)
class DecoyReport:
    """How well decoys kept what they should keep, measured on the finished decoys of every image.

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
        change: ``(N, 3, H, W)``, of the finished decoys.
        features: ``(N, C, h, w)``, of the finished decoys.
        missing: ``(N, ky, kx)`` bool, patches to be counted as infeasible.
        agrees: ``(N,)`` bool, whether the decoy gets the image's prediction.
        passes: ``(N,)``, spent on each row.
        batch: number of images.
    """
    area = rows.patches.area
    over = ((features - rows.features).abs() / rows.epsilon[..., None] - 1).clamp_min(0).flatten(1)
    per_patch = rows.patches.sum_pixels(change.abs().sum(dim=1)) / (3 * area).clamp_min(1)

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
    decoys = torch.tensor([report.n_decoys for report in reports], dtype=torch.float32)
    patches = torch.tensor([report.n_patches for report in reports], dtype=torch.float32)

    def mean(values: Sequence[Tensor], weights: Tensor) -> Tensor:
        stack = torch.stack(list(values))
        return (weights.to(stack.device) / weights.sum().to(stack.device)) @ stack

    return DecoyReport(
        violation_max=torch.stack([report.violation_max for report in reports]).amax(dim=0),
        violation_mean=mean([report.violation_mean for report in reports], decoys),
        infeasible=mean([report.infeasible for report in reports], patches),
        deviation=mean([report.deviation for report in reports], patches),
        top1_agreement=mean([report.top1_agreement for report in reports], decoys),
        prefix_passes=torch.stack([report.prefix_passes for report in reports]).sum(dim=0),
        n_decoys=int(decoys.sum()),
        n_patches=int(patches.sum()),
    )


def of_all_images(reports: Sequence[DecoyReport]) -> DecoyReport:
    """One report of the same decoys of several groups of images."""
    joined = {
        name: torch.cat([report.tensors()[name] for report in reports]) for name in reports[0].tensors()
    }
    return DecoyReport(**joined, n_decoys=reports[0].n_decoys, n_patches=reports[0].n_patches)
