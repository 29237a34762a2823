"""Patches that tile an image, and the images that several of them share without meeting in any feature."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verisal.saliency.decoy.receptive_field import ReceptiveField

__all__ = ["PatchLattice", "SomePatches", "patch_lattice"]


@dataclass(frozen=True)
class SomePatches:
    """Patches of several masks, each mask ``ky`` by ``kx`` patches, as 0/1 products of rows and columns.

    Attributes:
        pixel_rows: ``(m, H, ky)``, whether an image row is in a patch.
        pixel_columns: ``(m, W, kx)``.
        feature_rows: ``(m, h, ky)``, whether a row of features depends on a patch.
        feature_columns: ``(m, w, kx)``.
    """

    pixel_rows: Tensor
    pixel_columns: Tensor
    feature_rows: Tensor
    feature_columns: Tensor

    def __getitem__(self, index: Tensor) -> SomePatches:
        return SomePatches(
            self.pixel_rows[index],
            self.pixel_columns[index],
            self.feature_rows[index],
            self.feature_columns[index],
        )

    @property
    def area(self) -> Tensor:
        """``(m, ky, kx)`` pixels of every patch; 0 where the mask has none at that place."""
        return self.pixel_rows.sum(dim=1)[:, :, None] * self.pixel_columns.sum(dim=1)[:, None]

    def mask(self) -> Tensor:
        """``(m, 1, H, W)``, 1 on the patches."""
        return self.to_pixels(torch.ones_like(self.area))

    def to_pixels(self, values: Tensor) -> Tensor:
        """``(m, 1, H, W)``: every patch's value of ``(m, ky, kx)`` on its pixels, 0 elsewhere."""
        return (self.pixel_rows @ values @ self.pixel_columns.mT)[:, None]

    def to_features(self, values: Tensor) -> Tensor:
        """``(m, 1, h, w)``: every patch's value on the features that depend on it, 0 elsewhere."""
        return (self.feature_rows @ values @ self.feature_columns.mT)[:, None]

    def sum_pixels(self, values: Tensor) -> Tensor:
        """``(m, ky, kx)``: sum of ``(m, H, W)`` over every patch."""
        return self.pixel_rows.mT @ values @ self.pixel_columns

    def sum_features(self, values: Tensor) -> Tensor:
        """``(m, ky, kx)``: sum of ``(m, h, w)`` over the features that depend on every patch."""
        return self.feature_rows.mT @ values @ self.feature_columns

    def max_features(self, values: Tensor) -> Tensor:
        """``(m, ky, kx)``: largest of ``(m, h, w)``, non-negative, over the features of every patch."""
        by_column = (values[..., None] * self.feature_columns[:, None]).amax(dim=2)
        return (by_column[:, :, None] * self.feature_rows[..., None]).amax(dim=1)


@dataclass(frozen=True)
class PatchLattice:
    """All masks: one for every offset of a grid of patches ``period`` pixels apart.

    Attributes:
        rows: ``(n, H, ky)`` and ``(n, h, ky)`` of the n row offsets.
        columns: ``(n', W, kx)`` and ``(n', w, kx)`` of the column offsets.
    """

    rows: tuple[Tensor, Tensor]
    columns: tuple[Tensor, Tensor]

    def __len__(self) -> int:
        return len(self.rows[0]) * len(self.columns[0])

    def masks(self, index: Tensor) -> SomePatches:
        """The masks with these numbers ``(m,)`` int64, row by row of the offsets."""
        row, column = index // len(self.columns[0]), index % len(self.columns[0])
        return SomePatches(
            self.rows[0][row], self.columns[0][column], self.rows[1][row], self.columns[1][column]
        )


def patch_lattice(
    field: ReceptiveField, size: tuple[int, int], *, patch: int, stride: int, period: int
) -> PatchLattice:
    """Masks whose patches together are the tiling of the image with ``patch`` and ``stride``.

    Patches are cut at the lower and right border. A period that is not below the image's sides puts every
    patch into a mask of its own.
    """
    height, width = size
    return PatchLattice(
        _along(field.rows, height, patch, stride, period), _along(field.columns, width, patch, stride, period)
    )


def _along(extents: Tensor, length: int, patch: int, stride: int, period: int) -> tuple[Tensor, Tensor]:
    """Which pixels are in, and which features depend on, the patches of every offset along one side."""
    device = extents.device
    offsets = torch.arange(0, min(period, length), stride, device=device)
    starts = offsets[:, None] + torch.arange(0, length, period, device=device)
    place = torch.arange(length, device=device)[:, None]
    inside = (place >= starts[:, None]) & (place < starts[:, None] + patch)
    first, last = extents[:, 0, None], extents[:, 1, None]
    depends = (first < starts[:, None] + patch) & (last >= starts[:, None]) & (starts[:, None] < length)
    return inside.float(), depends.float()
