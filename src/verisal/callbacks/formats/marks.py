"""Masks, boxes and classes of one image's objects, of any of their formats."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors  # type: ignore[import-untyped]  # has no stubs

from verisal._brief import brief
from verisal.callbacks.formats.values import WAY_OUT, items_of, shown, tensor_of
from verisal.errors import ConfigError, DataError
from verisal.functional.regions.boxes import boxes_around
from verisal.functional.regions.corners import corners_of

Size = tuple[int, int]
"""Height and width."""
UNKNOWN = 255
"""Class number of pixels of which nobody knows the class."""
_MOVE = (
    "let the transform move them with the image, e.g. torchvision.datasets.wrap_dataset_for_transforms_v2"
    " with transforms="
)


@dataclass(frozen=True)
class Marks:
    """What is known of one image: its label, and N objects as in :class:`~verisal.types.Batch`."""

    label: int
    classes: Tensor
    masks: Tensor
    boxes: Tensor
    difficult: Tensor

    __repr__ = brief


def marks_of(
    label: int | None, classes: Tensor | None, masks: object, boxes: object, difficult: object, *, size: Size
) -> Marks:
    """Label and objects of one image on the CPU; objects without a pixel or an area are left out.

    Args:
        label: class of the image; None for that of its largest object, -1 if nobody knows.
        classes: ``(N,)`` of the objects; None if all are of the image's class, or the mask says them.
        masks: of the objects, or one of class numbers, or None.
        boxes: of the objects, or None.
        difficult: of the objects, or None.
        size: of the image.

    Raises:
        ConfigError: formats that cannot be understood.
        DataError: annotations that do not fit the image.
    """
    numbers = class_map(masks) if classes is None else None
    found = None if boxes is None else _boxes(boxes, size)
    if numbers is not None:
        if found is not None:
            raise ConfigError(
                f"a mask of class numbers ({shown(masks)}) cannot be divided among boxes; leave one of them"
                " out, or give bool masks (N, H, W), one per box"
            )
        _check_size(numbers, size)
        classes = known_numbers(numbers)
        pixels: Tensor | None = numbers == classes[:, None, None]
        # The class of most pixels is often that of the background.
        label = -1 if label is None else label
    else:
        pixels = None if masks is None else _object_masks(masks, size)
    count = max(0 if part is None else len(part) for part in (classes, found, pixels))
    if classes is None and count:
        if label is None or label < 0:
            raise ConfigError(
                f"{count} boxes or masks of an image without a class, neither labels of theirs nor one of the"
                f" image; {WAY_OUT}"
            )
        classes = torch.full((count,), label, dtype=torch.int64)
    classes = torch.zeros(0, dtype=torch.int64) if classes is None else classes
    pixels = torch.zeros(count, *size, dtype=torch.bool) if pixels is None else pixels
    edges = boxes_around(pixels) if found is None else found
    hard = _flags(difficult, count)
    for name, part in (("labels", classes), ("masks", pixels), ("boxes", edges), ("difficult", hard)):
        if len(part) != count:
            raise ConfigError(f"an image has {count} objects and {len(part)} {name} of objects; {WAY_OUT}")
    return _ordered(label, classes, pixels, edges, hard)


def class_map(masks: object) -> Tensor | None:
    """``(H, W)`` on the CPU of one mask of whole numbers, which are classes; None of anything else."""
    tensor = tensor_of(masks)
    if tensor is None or tensor.dtype == torch.bool or tensor.is_floating_point():
        return None
    if tensor.ndim == 3 and len(tensor) == 1:
        tensor = tensor[0]
    return tensor.cpu().to(torch.int64) if tensor.ndim == 2 else None


def known_numbers(numbers: Tensor) -> Tensor:
    """The class numbers ``(N,)`` in a mask but for 255 and negative ones, which stand for unknown pixels."""
    found: Tensor = torch.unique(numbers)
    return found[(found >= 0) & (found != UNKNOWN)]


def _ordered(label: int | None, classes: Tensor, masks: Tensor, boxes: Tensor, hard: Tensor) -> Marks:
    """The objects with an area, the main one first: of the image's class, not difficult, the largest."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = torch.nonzero(areas > 0)[:, 0].tolist()
    if kept:
        main = max(kept, key=lambda row: (int(classes[row]) == label, not hard[row], float(areas[row])))
        kept = [main, *(row for row in kept if row != main)]
        label = int(classes[main]) if label is None else label
    return Marks(-1 if label is None else label, classes[kept], masks[kept], boxes[kept], hard[kept])


def _object_masks(masks: object, size: Size) -> Tensor:
    """``(N, H, W)`` bool of masks of 0 and 1 of any type."""
    tensor = _stacked(masks)
    if tensor.numel() == 0:
        return torch.zeros(0, *size, dtype=torch.bool)
    tensor = tensor[None] if tensor.ndim == 2 else tensor
    if tensor.ndim != 3:
        raise ConfigError(f"masks of an image must be (N, H, W), found {shown(masks)}; {WAY_OUT}")
    _check_size(tensor, size)
    if not bool(((tensor == 0) | (tensor == 1)).all()):
        low, high = float(tensor.min()), float(tensor.max())
        raise ConfigError(
            f"masks of objects must be bool or hold 0 and 1, found values from {low:g} to {high:g}; compare"
            " them in the transform, e.g. mask > 0, and resize masks with nearest neighbours"
        )
    return tensor == 1


def _check_size(masks: Tensor, size: Size) -> None:
    if tuple(masks.shape[-2:]) != size:
        raise DataError(
            f"masks must be as large as their images, found {masks.shape[-1]} x {masks.shape[-2]} and"
            f" {size[1]} x {size[0]} pixels; {_MOVE}"
        )


def _flags(difficult: object, count: int) -> Tensor:
    if difficult is None:
        return torch.zeros(count, dtype=torch.bool)
    return _stacked(difficult).reshape(-1).to(torch.bool)


def _boxes(given: object, size: Size) -> Tensor:
    """``(N, 4)`` float32 xyxy within the image."""
    height, width = size
    boxes = upright_boxes(given, size)
    inverted = ~(boxes[:, 2:] >= boxes[:, :2]).all(dim=1)
    if bool(inverted.any()):
        raise DataError(
            f"a box must be left, top, right, bottom, found ({_words(boxes[inverted])}); convert boxes in the"
            " transform, e.g. torchvision.ops.box_convert(boxes, 'xywh', 'xyxy')"
        )
    if bool((boxes[:, 2:] > boxes[:, :2]).any()) and float(boxes.max()) <= 1 < min(size):
        raise DataError(
            f"a box must be in pixels, found ({_words(boxes)}), which seem to be shares of the image;"
            " multiply by its width and height in the transform"
        )
    limit = torch.tensor([width, height, width, height], dtype=torch.float32)
    outside = ((boxes < -1) | (boxes > limit + 1)).any(dim=1)
    if bool(outside.any()):
        raise DataError(
            f"box ({_words(boxes[outside])}) reaches outside its image of {width} x {height} pixels; {_MOVE}"
        )
    return boxes.minimum(limit).clamp(min=0)


def upright_boxes(given: object, size: Size | None = None) -> Tensor:
    """``(..., 4)`` float32 xyxy on the CPU, as they are but for their format.

    Raises:
        ConfigError: rotated boxes, or something other than boxes.
        DataError: boxes of an image of another size.
    """
    if isinstance(given, tv_tensors.BoundingBoxes):
        return corners_of(given, size).cpu().float()
    boxes = _stacked(given).float()
    if boxes.numel() == 0:
        return torch.zeros(0, 4)
    boxes = boxes[None] if boxes.ndim == 1 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ConfigError(f"boxes of an image must be (N, 4), found {shown(given)}; {WAY_OUT}")
    return boxes


def _words(boxes: Tensor) -> str:
    return ", ".join(f"{value:g}" for value in boxes[0].tolist())


def _stacked(values: object) -> Tensor:
    """A tensor on the CPU, of a tensor or of nested lists of numbers and tensors."""
    if (tensor := tensor_of(values)) is not None:
        return tensor.cpu()
    items = items_of(values)
    if items is None:
        raise ConfigError(f"numbers or tensors were expected, found {shown(values)}; {WAY_OUT}")
    parts = [_stacked(item) for item in items]
    if len({part.shape for part in parts}) > 1:
        raise ConfigError(f"tensors of one shape were expected, found {shown(values)}; {WAY_OUT}")
    return torch.stack(parts) if parts else torch.zeros(0)
