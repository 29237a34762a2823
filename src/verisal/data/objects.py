"""The annotated objects of one image, in the crop that the classifier sees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verisal.data.decode import Frame
from verisal.data.readers.listing import Box, ImageRecord, ObjectRecord
from verisal.data.readers.masks import IndexMask
from verisal.data.transforms import tight_boxes
from verisal.errors import DataError

_NOT_KNOWN = 255


class _Object(NamedTuple):
    class_name: str | None
    mask: NDArray[np.bool_] | None
    box: Box | None
    difficult: bool = False


def check_record(record: ImageRecord, height: int, width: int) -> tuple[int, list[str]]:
    """Read everything that is marked in an image of this size: number of objects, and every problem."""
    alone = replace(record, objects=(), index_mask=None)
    parts = [
        alone,
        *(replace(alone, objects=(mark,)) for mark in record.objects),
        replace(alone, index_mask=record.index_mask, index_classes=record.index_classes),
    ]
    count, problems = 0, list[str]()
    for part in parts:
        try:
            # One mask at a time: those of a large picture with many objects would fill the memory.
            count += sum(1 for _ in _objects(part, height, width))
        except DataError as error:
            problems.append(str(error))
            if part is alone:
                break
    return count, problems


def objects_of(
    record: ImageRecord,
    frame: Frame,
    *,
    label: int,
    classes: Mapping[str, int | None],
    difficult: Literal["leave_out", "keep"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Labels ``(N,)``, masks ``(N, H, W)``, boxes ``(N, 4)`` and ``(N,)`` bool of the frame's objects.

    The last says which of them are difficult, of which there are none if they are kept as any others.

    Args:
        record: what is known of the image.
        frame: how its pixels get into the crop.
        label: class of the image; the largest object of it comes first.
        classes: class name to index, None for classes that are left out.
        difficult: what is done with objects that the annotators marked as hard to recognise.

    Raises:
        DataError: annotations of another size than the image, a mask that cannot be read, a box that lies
            outside; names the file and the row or object.
    """
    labels, masks, boxes, hard = [], [], [], []
    for mark in _objects(record, frame.height, frame.width):
        index = label if mark.class_name is None else classes[mark.class_name]
        if index is None:
            continue
        mask = torch.zeros(frame.size, dtype=torch.bool)
        box = torch.zeros(4)
        if mark.mask is not None:
            mask = frame.masks(torch.from_numpy(mark.mask)[None])[0]
            if mask.any():
                box = tight_boxes(mask.numpy()[None])[0]
        elif mark.box is not None:
            box = frame.boxes(torch.tensor([mark.box]))[0]
        if box[2] > box[0] and box[3] > box[1]:
            labels.append(index)
            masks.append(mask)
            boxes.append(box)
            hard.append(mark.difficult and difficult == "leave_out")
    if not labels:
        nothing = torch.zeros(0, *frame.size, dtype=torch.bool)
        empty = torch.zeros(0, dtype=torch.bool)
        return torch.zeros(0, dtype=torch.int64), nothing, torch.zeros(0, 4), empty
    areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in boxes]
    main = max(range(len(labels)), key=lambda row: (labels[row] == label, not hard[row], areas[row]))
    order = [main, *(row for row in range(len(labels)) if row != main)]
    return (
        torch.tensor([labels[row] for row in order]),
        torch.stack([masks[row] for row in order]),
        torch.stack([boxes[row] for row in order]),
        torch.tensor([hard[row] for row in order]),
    )


def _objects(record: ImageRecord, height: int, width: int) -> Iterator[_Object]:
    """Objects in the coordinates of the image."""
    if record.size is not None and record.size != (width, height):
        rotated = record.size == (height, width)
        raise DataError(
            f"{record.path}: is {width} x {height} pixels as displayed, its annotations say"
            f" {record.size[0]} x {record.size[1]}"
            + ("; they seem to leave out its EXIF rotation" if rotated else "")
        )
    for mark in record.objects:
        box = _clipped(mark, height, width)
        mask = None if mark.mask is None else mark.mask.read(height, width)
        if mask is not None and not mask.any():
            if box is None:
                raise DataError(f"{mark.place}: the mask is empty; remove it or mark the object's pixels")
            mask = None
        yield _Object(mark.class_name, mask, box, mark.difficult)
    if record.index_mask is not None:
        yield from _numbered(record, record.index_mask, height, width)


def _numbered(record: ImageRecord, mask: IndexMask, height: int, width: int) -> Iterator[_Object]:
    numbers = mask.numbers(height, width)
    classes = record.index_classes or {}
    everything = np.unique(numbers).tolist()
    present = [number for number in everything if number != 0 and (number != _NOT_KNOWN or number in classes)]
    if not present and _NOT_KNOWN in everything:
        raise DataError(
            f"{mask.path}: holds no numbers but 0 and {_NOT_KNOWN} (not known); number the objects from"
            " 1, or name a picture of one object after its image with _1 or the like"
        )
    for number in present:
        name = None
        if record.index_classes is not None:
            name = record.index_classes.get(number)
            if name is None:
                known = ", ".join(map(str, record.index_classes))
                raise DataError(f"{mask.path}: holds the number {number}; mask_classes has {known}")
        yield _Object(name, numbers == number, None)


def _clipped(mark: ObjectRecord, height: int, width: int) -> Box | None:
    if mark.box is None:
        return None
    left, top, right, bottom = mark.box
    box = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
    if box[2] <= box[0] or box[3] <= box[1]:
        shown = ", ".join(f"{value:g}" for value in mark.box)
        raise DataError(f"{mark.place}: box ({shown}) lies outside its image of {width} x {height} pixels")
    # One that only reaches outside is cut off; rounding may put it a pixel over each side.
    if right - left > width + 2 and bottom - top > height + 2:
        shown = ", ".join(f"{value:g}" for value in mark.box)
        raise DataError(
            f"{mark.place}: box ({shown}) is larger than its image of {width} x {height} pixels;"
            " was the image made smaller since?"
        )
    return box
