"""Which pixels the features of a layer depend on, measured, and how far apart patches must stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from verisal._numbers import check_range
from verisal.errors import ConfigError
from verisal.functional.seeding import derive_seed

__all__ = ["ReceptiveField", "least_period", "receptive_field"]

# Random images on which the support is collected: what a rectifier or a pooling window hides on one of them,
# some channel, row or column of another shows.
_IMAGES = 3


@dataclass(frozen=True)
class ReceptiveField:
    """First and last pixel that every row and column of a layer's features depends on.

    Features that depend on no pixel have a first pixel behind their last one.

    Attributes:
        rows: ``(h, 2)`` int64, of the features' rows, in image rows.
        columns: ``(w, 2)`` int64, of the features' columns, in image columns.
    """

    rows: Tensor
    columns: Tensor

    @property
    def size(self) -> int:
        """Side in pixels of the largest field of any feature, whatever its place."""
        extents = torch.cat([self.rows, self.columns])
        return max(0, int((extents[:, 1] - extents[:, 0]).max()) + 1)


def receptive_field(
    features: Callable[[Tensor], Tensor],
    size: tuple[int, int],
    *,
    device: torch.device | None = None,
    chunk_size: int = 64,
) -> ReceptiveField:
    """The support of the gradient of every row and every column of features.

    A row's features of all channels and columns are summed with random weights, so that nothing cancels, and
    the pixels whose gradient is not exactly zero count, over several random images. Strides, padding,
    dilation and pooling need no special case, and a layer that looks at the whole image is found out. To be
    called where gradients are on.

    Args:
        features: images ``(B, 3, H, W)`` to features ``(B, C, h, w)``.
        size: H and W.
        device: of the images; the CPU if None.
        chunk_size: images at once; bounds memory, never changes the result.

    Raises:
        ConfigError: features that are not ``(B, C, h, w)``, or ``chunk_size`` below 1.
    """
    check_range(1, chunk_size=chunk_size)
    device = torch.device("cpu") if device is None else device
    generator = torch.Generator().manual_seed(derive_seed("receptive field"))
    images = torch.rand(_IMAGES, 3, *size, generator=generator).to(device)
    # cuDNN's fast convolutions mix neighbouring places and leave rounding where zeros belong.
    with torch.backends.cudnn.flags(enabled=False):
        with torch.no_grad():
            shape = features(images[:1]).shape
        if len(shape) != 4:
            raise ConfigError(f"features must be (B, C, h, w), found {tuple(shape)}")
        weights = torch.randn(shape, generator=generator).to(device)
        row_ends = _extents(features, images, weights, dim=2, chunk_size=chunk_size)
        column_ends = _extents(features, images, weights, dim=3, chunk_size=chunk_size)
    return ReceptiveField(row_ends, column_ends)


def least_period(field: int, patch: int, stride: int) -> int:
    """Smallest distance between patches that share no feature, rounded up to a multiple of the stride.

    A field of side r that reaches the last pixel of one patch ends r - 1 pixels further on.

    >>> least_period(11, patch=3, stride=3)
    15
    """
    return -(-(patch + field - 1) // stride) * stride


def _extents(
    features: Callable[[Tensor], Tensor], images: Tensor, weights: Tensor, *, dim: int, chunk_size: int
) -> Tensor:
    """``(n, 2)`` int64: first and last pixel along ``dim`` of each of the n places along ``dim``."""
    count, length, device = weights.shape[dim], images.shape[dim], images.device
    reached = torch.zeros(count, length, dtype=torch.bool, device=device)
    other = 5 - dim
    chosen = torch.eye(count, device=device).unsqueeze(1).unsqueeze(other)
    for image in images:
        for some in torch.split(torch.arange(count, device=device), chunk_size):
            leaf = image.expand(len(some), *image.shape).clone().requires_grad_()
            found = features(leaf)
            if found.requires_grad:
                (gradient,) = torch.autograd.grad(found, leaf, grad_outputs=weights * chosen[some])
                reached[some] |= (gradient != 0).any(dim=other).any(dim=1)
    places = torch.arange(length, device=device)
    first = torch.where(reached, places, length).amin(dim=1)
    last = torch.where(reached, places, -1).amax(dim=1)
    return torch.stack([first, last], dim=1)
