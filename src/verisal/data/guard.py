"""No image may stand in two splits."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from verisal.errors import DataError

__all__ = ["guard_splits"]


def guard_splits(images: Mapping[str, Tensor]) -> None:
    """Raise if a clean image stands in two splits.

    Args:
        images: split to its clean images ``(N, 3, H, W)`` uint8.

    Raises:
        DataError: naming both splits.
    """
    seen: dict[bytes, str] = {}
    for split, found in images.items():
        for image in found:
            owner = seen.setdefault(image.numpy().tobytes(), split)
            if owner != split:
                raise DataError(f"a clean image stands in {owner} and in {split}; splits must share no image")
