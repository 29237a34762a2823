"""What is said of each image of a batch, of columns of the batch or of one target per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from torchvision import tv_tensors  # type: ignore[import-untyped]  # has no stubs

from verisal._brief import brief
from verisal.callbacks.formats.marks import Marks, Size, class_map, known_numbers, marks_of, upright_boxes
from verisal.callbacks.formats.parts import Parts, annotation_parts, named_values
from verisal.callbacks.formats.raw import coco_parts, voc_parts
from verisal.callbacks.formats.values import (
    WAY_OUT,
    class_number,
    class_numbers,
    items_of,
    names_of,
    shown,
    tensor_of,
)
from verisal.errors import ConfigError
from verisal.functional.label_sets import label_sets

_OWN = (
    "make the mask of the image's own object bool in the transform, e.g. mask == 1, or give labels (N,) and"
    " bool masks (N, H, W) in a dict per image"
)


@dataclass(frozen=True)
class Target:
    """What is said of one image, as it was given.

    Attributes:
        label: class of the image, None for that of its largest object.
        classes: ``(N,)`` int64 of the objects, None if all are of the image's class or the mask says them.
        boxes: of the objects, or None.
        masks: of the objects, or one of class numbers, or None.
        difficult: of the objects, or None.
        name: of the image, or None.
    """

    label: int | None = None
    classes: Tensor | None = None
    boxes: object = None
    masks: object = None
    difficult: object = None
    name: str | None = None

    __repr__ = brief

    def marks(self, size: Size) -> Marks:
        """Label and objects of the image of this size."""
        return marks_of(self.label, self.classes, self.masks, self.boxes, self.difficult, size=size)

    def numbers(self) -> Tensor | None:
        """``(H, W)`` class numbers, if the mask holds them."""
        return class_map(self.masks) if self.classes is None else None


def targets_of(parts: Parts, count: int, size: Size, names: Sequence[str] | None) -> list[Target]:
    """What is said of each of ``count`` images of one size.

    Args:
        parts: of the batch.
        count: number of images.
        size: of the images.
        names: of the classes, for labels that are words.

    Raises:
        ConfigError: another number of targets, or formats that cannot be understood.
        DataError: annotations that do not fit their images.
    """
    if parts.targets is None:
        targets = _of_columns(parts, count, size, names)
    else:
        given = _column(parts.targets, count, "targets")
        targets = [_of_target(target, size, names) for target in given]
    labels = parts.labels if parts.targets is not None else parts.label
    if labels is not None:
        known = class_numbers(labels, count, names).tolist()
        targets = [replace(target, label=label) for target, label in zip(targets, known, strict=True)]
    if parts.ids is not None:
        ids = names_of(parts.ids, count)
        targets = [replace(target, name=name) for target, name in zip(targets, ids, strict=True)]
    _check_numbers(targets)
    return targets


def without_label_sets(parts: Parts) -> tuple[Parts, Tensor | None]:
    """The parts without labels ``(B, K)`` of images with several, and these as 1, 0 and -1; None if none.

    Raises:
        ConfigError: other values.
    """
    kept, given = replace(parts, labels=None), tensor_of(parts.labels)
    if parts.label is not None:
        kept, given = replace(parts, label=None), tensor_of(parts.label)
    elif parts.targets is None and _are_of_objects(parts):
        return parts, None
    if given is None or given.ndim != 2:
        return parts, None
    return kept, label_sets(given, advice=f"; {WAY_OUT}")


def _of_columns(parts: Parts, count: int, size: Size, names: Sequence[str] | None) -> list[Target]:
    boxes = parts.boxes
    if isinstance(boxes, tv_tensors.BoundingBoxes):
        boxes = upright_boxes(boxes, size)
    columns = [
        _column(value, count, part)
        for part, value in (("boxes", boxes), ("masks", parts.masks), ("difficult", parts.difficult))
    ]
    labels: Sequence[int | None] = [None] * count
    classes: Sequence[Tensor | None] = [None] * count
    if _are_of_objects(parts):
        classes = [_class_list(column, names) for column in _column(parts.labels, count, "labels")]
    elif parts.label is not None:
        raise ConfigError(
            f"'label' and 'labels' ({shown(parts.labels)}) may both be the labels of a batch; {WAY_OUT}"
        )
    elif parts.labels is not None:
        labels = class_numbers(parts.labels, count, names).tolist()
    return [Target(*row) for row in zip(labels, classes, *columns, strict=True)]


def _are_of_objects(parts: Parts) -> bool:
    """True if the labels of a batch are those of its objects."""
    if parts.boxes is None and parts.masks is None:
        return False
    labels, boxes = tensor_of(parts.labels), tensor_of(parts.boxes)
    if labels is not None:
        return labels.ndim == 2 and boxes is not None and boxes.shape[:2] == labels.shape
    each = [tensor_of(item) for item in items_of(parts.labels) or ()]
    return any(tensor is not None and tensor.ndim == 1 for tensor in each)


def _column(value: object, count: int, part: str) -> Sequence[object]:
    if value is None:
        return [None] * count
    tensor = tensor_of(value)
    column = list(tensor.unbind()) if tensor is not None and tensor.ndim else items_of(value)
    if column is None or len(column) != count:
        raise ConfigError(
            f"{part} of a batch must be {count}, one per image, found {shown(value)}; collate targets by"
            f" tuple(zip(*samples)), or {WAY_OUT}"
        )
    return column


def _of_target(target: object, size: Size, names: Sequence[str] | None) -> Target:
    named = named_values(target)
    if named is None:
        parts = coco_parts(items_of(target) or (), size)
    elif "annotation" in named and "boxes" not in named:
        parts = voc_parts(named["annotation"], size)
    else:
        parts = annotation_parts(named)
        if named and parts == Parts():
            raise ConfigError(f"nothing is known of the names in {shown(target)}, a target; {WAY_OUT}")
    label, classes = parts.label, parts.labels
    single = tensor_of(classes)
    if isinstance(classes, str) or (single is not None and single.ndim == 0):
        label, classes = classes, None
    return Target(
        label=None if label is None else class_number(label, names),
        classes=None if classes is None else _class_list(classes, names),
        boxes=parts.boxes,
        masks=parts.masks,
        difficult=parts.difficult,
        name=None if parts.ids is None else names_of(_listed(parts.ids), 1)[0],
    )


def _listed(name: object) -> object:
    """A list of one name, which may be one already, as ``tensor([7])`` is."""
    tensor = tensor_of(name)
    return name if items_of(name) or (tensor is not None and tensor.ndim) else [name]


def _class_list(values: object, names: Sequence[str] | None) -> Tensor:
    tensor = tensor_of(values)
    count = len(items_of(values) or ()) if tensor is None else len(tensor)
    return class_numbers(values, count, names).cpu()


def _check_numbers(targets: Sequence[Target]) -> None:
    """Refuse masks that may as well hold the pixels of one object as class numbers."""
    found: list[tuple[int, set[int]]] = []
    for target in targets:
        numbers = target.numbers()
        if numbers is not None and target.label is not None and target.label >= 0:
            found.append((target.label, set(known_numbers(numbers).tolist())))
    if found and set().union(*(present for _, present in found)) <= {0, 1}:
        raise ConfigError(
            "masks of the whole numbers 0 and 1 may hold class numbers, or the pixels of one object (of class"
            f" {found[0][0]} in the first image); {_OWN}"
        )
    for label, present in found:
        if present and label not in present:
            words = ", ".join(map(str, sorted(present)[:8]))
            raise ConfigError(
                f"an image of class {label} has a mask of the class numbers {words}, without its own; {_OWN}"
            )
