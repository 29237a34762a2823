"""Boxes of torchvision's kind, which say their format and their image, as corners."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from verisal.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torchvision.tv_tensors import BoundingBoxes  # type: ignore[import-untyped]  # has no stubs

_UPRIGHT = ("XYXY", "XYWH", "CXCYWH")


def corners_of(boxes: BoundingBoxes, size: tuple[int, int] | None, *, beside: str = "one") -> Tensor:
    """``(N, 4)`` xyxy, on the device and of the dtype of the boxes.

    Args:
        boxes: upright, of any of torchvision's formats.
        size: height and width that their image must have; None for any.
        beside: what has this size, named in the error.

    Raises:
        ConfigError: rotated boxes.
        DataError: boxes of an image of another size.
    """
    height, width = boxes.canvas_size
    if size is not None and (height, width) != size:
        raise DataError(
            f"boxes are of an image of {width} x {height} pixels, found {beside} of {size[1]} x {size[0]};"
            " resize both together: let the transform move them with the image, e.g."
            " torchvision.datasets.wrap_dataset_for_transforms_v2 with transforms="
        )
    kind = boxes.format.value
    if kind not in _UPRIGHT:
        raise ConfigError(
            f"boxes must be upright, found the format {kind}; convert them to one of {', '.join(_UPRIGHT)}:"
            " torchvision.transforms.v2.ConvertBoundingBoxFormat"
        )
    # Late, as whoever has such boxes has torchvision imported already.
    from torchvision.ops import box_convert  # type: ignore[import-untyped]  # has no stubs

    corners: Tensor = box_convert(boxes.as_subclass(Tensor), kind.lower(), "xyxy")
    return corners
