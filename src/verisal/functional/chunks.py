"""How many images are worked on at once."""

from __future__ import annotations

from torch import Tensor

__all__ = ["images_at_once"]

_SIDE = 128


def images_at_once(chunk_size: int, images: Tensor) -> int:
    """Images whose graph is held at once: ``chunk_size`` up to 128 x 128 pixels, fewer of larger ones.

    Memory grows with the number of pixels, so that a chunk size that fits small images is too large for large
    ones: 64 graphs of an EfficientNet-Lite0 take 5 GB at 224 pixels, and 20 of them 1.6 GB.

    Args:
        chunk_size: at least 1.
        images: ``(..., H, W)``.

    >>> import torch
    >>> [images_at_once(64, torch.empty(1, 3, side, side)) for side in (32, 128, 224, 2048)]
    [64, 64, 20, 1]
    """
    return max(1, min(chunk_size, chunk_size * _SIDE**2 // max(1, images.shape[-2] * images.shape[-1])))
