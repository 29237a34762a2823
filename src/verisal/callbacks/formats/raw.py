"""Annotations of Pascal VOC and COCO as torchvision's data sets give them without a transform of targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from verisal.callbacks.formats.marks import Size
from verisal.callbacks.formats.parts import Parts
from verisal.callbacks.formats.values import shown
from verisal.data.readers.coco import mask_source
from verisal.errors import ConfigError, DataError

_WRAP = "pass the data set through torchvision.datasets.wrap_dataset_for_transforms_v2, with transforms="


def voc_parts(annotation: object, size: Size) -> Parts:
    """Parts of ``target["annotation"]`` of VOCDetection; classes are words.

    Coordinates count from 1 and include the last pixel.

    Raises:
        ConfigError: no such annotation.
        DataError: the annotation of an image of another size.
    """
    try:
        if not isinstance(annotation, Mapping):
            raise TypeError
        objects = annotation.get("object", [])
        given = int(annotation["size"]["height"]), int(annotation["size"]["width"])
        corners = [[float(one["bndbox"][key]) for key in ("xmin", "ymin", "xmax", "ymax")] for one in objects]
        names = [str(one["name"]) for one in objects]
        hard = [str(one.get("difficult", "0")) == "1" for one in objects]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"a target with annotation must be that of Pascal VOC, with size, object, name and bndbox, found"
            f" {shown(annotation)}; {_WRAP}"
        ) from error
    if given != size:
        _refuse_size(*given, size=size)
    boxes = torch.tensor(corners).reshape(-1, 4) - torch.tensor([1.0, 1.0, 0.0, 0.0])
    return Parts(labels=names, boxes=boxes, difficult=hard, ids=annotation.get("filename"))


def coco_parts(annotations: Sequence[object], size: Size) -> Parts:
    """Parts of the list of annotations that CocoDetection gives for one image.

    Boxes are left, top, width, height; category ids are the classes; polygons and run lengths are masks.

    Raises:
        ConfigError: no such annotations.
        DataError: run lengths of an image of another size.
    """
    if not annotations:
        return Parts()
    boxes, classes, hard, masks = [], [], [], []
    image_id: object = None
    for entry in annotations:
        if not isinstance(entry, Mapping) or "bbox" not in entry or "category_id" not in entry:
            raise ConfigError(
                f"a list of annotations must hold those of COCO, with bbox and category_id, found"
                f" {shown(entry)}; {_WRAP}"
            )
        left, top, width, height = map(float, entry["bbox"])
        boxes.append([left, top, left + width, top + height])
        classes.append(int(entry["category_id"]))
        hard.append(bool(entry.get("iscrowd", 0)))
        masks.append(_mask(entry, size))
        image_id = entry.get("image_id", image_id)
    return Parts(
        labels=torch.tensor(classes),
        boxes=torch.tensor(boxes),
        masks=torch.from_numpy(np.stack(masks)),
        difficult=hard,
        ids=image_id,
    )


def _mask(entry: Mapping[str, Any], size: Size) -> np.ndarray[Any, np.dtype[np.bool_]]:
    segmentation = entry.get("segmentation")
    if isinstance(segmentation, Mapping) and tuple(segmentation.get("size", size)) != size:
        _refuse_size(*segmentation["size"], size=size)
    source = mask_source(segmentation, f"annotation {entry.get('id', '')}".strip())
    return np.zeros(size, dtype=bool) if source is None else source.read(*size)


def _refuse_size(height: int, width: int, *, size: Size) -> None:
    raise DataError(
        f"an annotation is of an image of {width} x {height} pixels, found one of {size[1]} x {size[0]}: its"
        f" objects may be anywhere; {_WRAP}"
    )
