"""The same three images in the formats of many loaders."""

from collections import UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.data import default_collate
from torchvision import tv_tensors

from verisal.types import Batch, Sample

SIZE = (12, 16)
CLASSES = ("ant", "bee", "cat", "dog")


def samples() -> list[Sample]:
    """Three images on the grid of 8 bits: one, two and no objects, one of them difficult."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (3, 3, *SIZE), generator=generator).float() / 255
    objects = [[(2, (1, 2, 6, 8))], [(3, (4, 1, 15, 9)), (1, (0, 8, 4, 12))], []]
    made = []
    for row, marks in enumerate(objects):
        masks = torch.zeros(len(marks), *SIZE, dtype=torch.bool)
        for number, (_, (left, top, right, bottom)) in enumerate(marks):
            masks[number, top:bottom, left:right] = True
        made.append(
            Sample(
                images[row],
                [2, 3, -1][row],
                f"image {row}",
                torch.tensor([label for label, _ in marks], dtype=torch.int64),
                masks,
                torch.tensor([box for _, box in marks], dtype=torch.float32).reshape(-1, 4),
                torch.tensor([number == 1 for number in range(len(marks))]),
            )
        )
    return made


OWN = Batch.collate(samples())


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        made: of the batch.
        labels: True if the labels of the images are in it.
        ids: True if their names are.
        objects: True if all objects are, with boxes and classes.
        masks: True if all masks are.
        difficult: True if the difficult ones are known.
    """

    made: Callable[[Batch], object]
    labels: bool = True
    ids: bool = False
    objects: bool = False
    masks: bool = False
    difficult: bool = False


Named = namedtuple("Named", ["image", "label"])


@dataclass
class Item:
    """Of a user's own collate function."""

    inputs: torch.Tensor
    targets: torch.Tensor
    paths: list[str]


def _targets(
    own: Batch, *, masks: bool = True, kind: str = "plain", hard: str = "iscrowd"
) -> list[dict[str, Any]]:
    targets = []
    for row in range(len(own)):
        # Objects in another order: the main one is put first.
        order = list(range(len(own.boxes[row])))[::-1]
        boxes = own.boxes[row][order]
        if kind == "xywh":
            boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
        if kind == "cxcywh":
            boxes = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)
        if kind != "plain":
            boxes = tv_tensors.BoundingBoxes(boxes, format=kind.upper(), canvas_size=SIZE)
        target = {
            "boxes": boxes,
            "labels": own.object_labels[row][order],
            hard: own.difficult[row][order].long(),
        }
        if masks:
            target["masks"] = tv_tensors.Mask(own.object_masks[row][order].to(torch.uint8))
        targets.append(target)
    return targets


def _pairs(own: Batch) -> list[tuple[torch.Tensor, dict[str, Any]]]:
    return list(zip(own.images.unbind(), _targets(own), strict=True))


def _with_ids(targets: list[dict[str, Any]], own: Batch) -> list[dict[str, Any]]:
    return [{**target, "image_id": name} for target, name in zip(targets, own.image_ids, strict=True)]


def _one_hot(own: Batch) -> torch.Tensor:
    return torch.nn.functional.one_hot(own.labels.clamp(min=0), 4).float()


def _coco(own: Batch) -> list[list[dict[str, Any]]]:
    listed = []
    for row in range(len(own)):
        entries = []
        for number, (left, top, right, bottom) in enumerate(own.boxes[row].tolist()):
            corners = [left, top, right, top, right, bottom, left, bottom]
            entries.append(
                {
                    "id": 10 * row + number,
                    "bbox": [left, top, right - left, bottom - top],
                    "category_id": int(own.object_labels[row][number]),
                    "segmentation": [corners],
                    "iscrowd": int(own.difficult[row][number]),
                }
            )
        listed.append(entries)
    return listed


def _voc(own: Batch) -> list[dict[str, Any]]:
    targets = []
    for row in range(len(own)):
        objects = []
        for number, (left, top, right, bottom) in enumerate(own.boxes[row].int().tolist()):
            corners = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
            objects.append(
                {
                    "name": CLASSES[int(own.object_labels[row][number])],
                    "difficult": str(int(own.difficult[row][number])),
                    "bndbox": {name: str(value) for name, value in corners.items()},
                }
            )
        annotation = {
            "filename": own.image_ids[row],
            "size": {"width": str(SIZE[1]), "height": str(SIZE[0]), "depth": "3"},
            "object": objects,
        }
        targets.append({"annotation": annotation})
    return targets


def _class_maps(own: Batch) -> torch.Tensor:
    maps = torch.full((len(own), *SIZE), 255)
    for row, masks in enumerate(own.object_masks):
        for label, mask in zip(own.object_labels[row], masks, strict=True):
            maps[row][mask] = label
    return maps


FORMATS: dict[str, Format] = {
    "own": Format(lambda own: own, ids=True, objects=True, masks=True, difficult=True),
    "tuple": Format(lambda own: (own.images, own.labels)),
    "list, as of the default collate function": Format(
        lambda own: default_collate(list(zip(own.images.unbind(), own.labels.tolist(), strict=True)))
    ),
    "samples": Format(lambda own: list(zip(own.images.unbind(), own.labels.tolist(), strict=True))),
    "zipped samples": Format(lambda own: (tuple(own.images.unbind()), tuple(own.labels.tolist()))),
    "arrays": Format(lambda own: (own.images.numpy(), own.labels.numpy())),
    "labels of one column": Format(lambda own: (own.images, own.labels[:, None])),
    "8 bits": Format(lambda own: ((own.images * 255).to(torch.uint8), own.labels.to(torch.int32))),
    "float64": Format(lambda own: (own.images.double(), own.labels.float())),
    "image of torchvision": Format(lambda own: (tv_tensors.Image(own.images), own.labels)),
    "images alone": Format(lambda own: own.images, labels=False),
    "images in a list": Format(lambda own: [own.images], labels=False),
    "dict without labels": Format(lambda own: {"image": own.images}, labels=False),
    "targets in pairs": Format(
        lambda own: (own.images, list(zip(own.labels.tolist(), own.image_ids, strict=True))), ids=True
    ),
    "targets in columns": Format(lambda own: (own.images, [own.labels, own.image_ids]), ids=True),
    "ids as words": Format(lambda own: (own.images, own.labels, list(own.image_ids)), ids=True),
    "ids before labels": Format(lambda own: (own.images, own.image_ids, own.labels), ids=True),
    "ids as paths": Format(lambda own: (own.images, own.labels, list(map(Path, own.image_ids))), ids=True),
    "words as labels": Format(
        lambda own: (own.images, [None if label < 0 else CLASSES[label] for label in own.labels.tolist()])
    ),
    "dict": Format(lambda own: {"image": own.images, "label": own.labels}),
    "dict with ids": Format(
        lambda own: {"img": own.images, "y": own.labels, "path": own.image_ids}, ids=True
    ),
    "dict of Hugging Face": Format(lambda own: UserDict({"pixel_values": own.images, "labels": own.labels})),
    "dict and labels": Format(lambda own: ({"pixel_values": own.images}, own.labels)),
    "images and dict": Format(
        lambda own: (own.images, {"label": own.labels, "id": list(own.image_ids)}), ids=True
    ),
    "dicts of samples": Format(
        lambda own: [
            {"X": image, "target": int(label)} for image, label in zip(own.images, own.labels, strict=True)
        ]
    ),
    "named tuple": Format(lambda own: Named(own.images, own.labels)),
    "named tuples of samples": Format(
        lambda own: [Named(*pair) for pair in zip(own.images, own.labels.tolist(), strict=True)]
    ),
    "dataclass": Format(lambda own: Item(own.images, own.labels, list(own.image_ids)), ids=True),
    "object": Format(lambda own: SimpleNamespace(x=own.images, y=own.labels)),
    "our samples": Format(
        lambda own: samples()[: len(own)], ids=True, objects=True, masks=True, difficult=True
    ),
    "detection": Format(lambda own: (own.images, _targets(own)), objects=True, masks=True, difficult=True),
    "detection with ids": Format(
        lambda own: (list(own.images), tuple(_with_ids(_targets(own), own))),
        ids=True,
        objects=True,
        masks=True,
        difficult=True,
    ),
    "detection zipped": Format(
        lambda own: tuple(zip(*_pairs(own), strict=True)), objects=True, masks=True, difficult=True
    ),
    "detection in samples": Format(_pairs, objects=True, masks=True, difficult=True),
    "detection without masks": Format(
        lambda own: (own.images, _targets(own, masks=False, hard="difficult")), objects=True, difficult=True
    ),
    "detection in xywh": Format(
        lambda own: (own.images, _targets(own, kind="xywh")), objects=True, masks=True, difficult=True
    ),
    "detection in cxcywh": Format(
        lambda own: (own.images, _targets(own, kind="cxcywh")), objects=True, masks=True, difficult=True
    ),
    "detection with labels of the images": Format(
        lambda own: (
            own.images,
            [{**target, "label": label} for target, label in zip(_targets(own), own.labels, strict=True)],
        ),
        objects=True,
        masks=True,
        difficult=True,
    ),
    "dict of lists of objects": Format(
        lambda own: {
            "images": own.images,
            "labels": own.object_labels,
            "boxes": own.boxes,
            "masks": own.object_masks,
            "difficult": own.difficult,
        },
        objects=True,
        masks=True,
        difficult=True,
    ),
    "dict of boxes without masks": Format(
        lambda own: {
            "images": own.images,
            "label": own.labels,
            "labels": own.object_labels,
            "bboxes": own.boxes,
        },
        objects=True,
    ),
    "annotations of COCO": Format(
        lambda own: (list(own.images), _coco(own)), objects=True, masks=True, difficult=True
    ),
    "annotations of Pascal VOC": Format(
        lambda own: (list(own.images), _voc(own)), ids=True, objects=True, difficult=True
    ),
    "class numbers in masks": Format(
        lambda own: (own.images, _class_maps(own)), labels=False, objects=True, masks=True
    ),
    "class numbers in masks, and labels": Format(
        lambda own: (own.images, [own.labels, tv_tensors.Mask(_class_maps(own)[:, None].to(torch.uint8))]),
        objects=True,
        masks=True,
    ),
}
"""Name to format; each is tried on the first one, two and three of the images."""
