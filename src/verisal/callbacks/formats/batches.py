"""Batches of anybody's loader, read into images, labels, names and objects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from verisal._brief import brief
from verisal.callbacks.formats.parts import parts_of
from verisal.callbacks.formats.targets import targets_of, without_label_sets
from verisal.callbacks.formats.values import stacked_images
from verisal.errors import DataError
from verisal.fingerprint import state_hash
from verisal.functional.seeding import content_ids
from verisal.models import Bounds, Normalization
from verisal.types import Batch, Sample, check_images

Reader = Callable[[object], object]
"""A function of the user's: the loader's batch to anything that :func:`read` takes."""

_OVERSHOOT = 0.3
"""Bicubic resizing of a black and white edge goes beyond [0, 1] by less."""


@dataclass(frozen=True)
class Read:
    """What a batch of a loader holds.

    Attributes:
        images: ``(B, C, H, W)`` as the loader gave them, of any float type or uint8.
        labels: ``(B,)`` int64 on the images' device, -1 where a label is not known.
        image_ids: names of the images, or None where the batch has none.
        object_labels: per image ``(N,)`` int64, the class of every object, the main one first.
        object_masks: per image ``(N, H, W)`` bool, all False for an object without a mask.
        boxes: per image ``(N, 4)`` float32 xyxy pixels, half-open.
        difficult: per image ``(N,)`` bool, objects that no map is asked to find.
        batch: the loader's own :class:`~verisal.types.Batch`, if it gave one.
        label_sets: ``(B, K)`` int64 of images with several labels, as of :class:`~verisal.types.Batch`.
    """

    images: Tensor
    labels: Tensor
    image_ids: tuple[str, ...] | None
    object_labels: tuple[Tensor, ...]
    object_masks: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    difficult: tuple[Tensor, ...]
    batch: Batch | None = None
    label_sets: Tensor | None = None

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.images)

    @property
    def eight_bit(self) -> bool:
        """True if the images are uint8, so that nothing can have normalised them yet."""
        return self.images.dtype == torch.uint8

    @property
    def pixels(self) -> Tensor:
        """``(B, C, H, W)`` float32: the images, 8-bit ones divided by 255."""
        return self.images.float().div(255) if self.eight_bit else self.images.float()


def read(
    batch: object,
    reader: Reader | None = None,
    *,
    class_names: Sequence[str] | None = None,
    several: bool = False,
    labelled: bool = True,
) -> Read:
    """Images, labels, names and objects of what a loader gave.

    Args:
        batch: of a loader, or a list of samples.
        reader: makes something that is understood of it; None where it is understood as it is.
        class_names: of the classes in their order, for labels that are words.
        several: True if labels ``(B, K)`` say of every class whether it is there: 1, 0, or -1 or NaN where
            that is not known.
        labelled: False if labels of images are not read, whatever they are.

    Raises:
        ConfigError: a batch that can be read in no way, or in two; says what was found and what to do.
        DataError: annotations that do not fit their images.
    """
    if reader is not None:
        batch = reader(batch)
    if isinstance(batch, Batch):
        return _read_own(batch)
    if isinstance(batch, list | tuple) and batch and all(isinstance(item, Sample) for item in batch):
        return _read_own(Batch.collate(batch))
    parts = parts_of(batch)
    images = stacked_images(parts.images)
    if not labelled:
        parts = replace(parts, labels=None, label=None)
    parts, sets = without_label_sets(parts) if several else (parts, None)
    count, size = len(images), (images.shape[2], images.shape[3])
    targets = targets_of(parts, count, size, class_names)
    marks = [target.marks(size) for target in targets]
    names = tuple(target.name for target in targets if target.name is not None)
    device = images.device
    return Read(
        images=images,
        labels=torch.tensor([each.label for each in marks], dtype=torch.int64, device=device),
        image_ids=names if len(names) == count else None,
        object_labels=tuple(each.classes.to(device) for each in marks),
        object_masks=tuple(each.masks.to(device) for each in marks),
        boxes=tuple(each.boxes.to(device) for each in marks),
        difficult=tuple(each.difficult.to(device) for each in marks),
        label_sets=None if sets is None else sets.to(device),
    )


def as_batch(read: Read, normalization: Normalization, *, bounds: Bounds | None = None) -> Batch:
    """The images in [0, 1] with all that is known of them.

    An image without a name gets one from its content and from what is marked in it, the same in every
    process and every order of the images.

    Args:
        read: of a loader's batch.
        normalization: that the loader has applied to float images; 8-bit ones have none.
        bounds: of the values that the loader has normalised; None for [0, 1].

    Raises:
        DataError: images outside [0, 1] once the normalisation is undone.
    """
    if read.batch is not None:
        return read.batch
    images = _unit(read, normalization, bounds)
    check_images(images)
    parts = (read.object_labels, read.object_masks, read.boxes, read.difficult)
    ids = read.image_ids or _ids(images, read)
    return Batch(images, read.labels, ids, *parts, label_sets=read.label_sets)


@final
class KnownIds:
    """Names of the images of one epoch, none of which may stand for two images."""

    def __init__(self) -> None:
        self._contents: dict[str, str] = {}

    def check(self, batch: Batch) -> None:
        """Note the images of a batch.

        Raises:
            DataError: a name that stands for another image already.
        """
        for name, content in zip(batch.image_ids, content_ids(batch.images), strict=True):
            if self._contents.setdefault(name, content) != content:
                raise DataError(
                    f"the id {name!r} stands for two images of the evaluation that differ, of which one would"
                    " not count; give each image its own id, or leave ids out, e.g. by batch=, so that images"
                    " are told apart by their content"
                )


def _unit(read: Read, normalization: Normalization, bounds: Bounds | None) -> Tensor:
    if read.eight_bit:
        return read.pixels
    images = normalization.undo(read.pixels)
    # Normalised numbers were rounded in the type that they came in.
    slack = max(1e-5, torch.finfo(read.images.dtype).eps)
    inside = images.clamp(0.0, 1.0)
    if len(images) and not float((images - inside).abs().max()) <= slack:
        low, high = float(images.min()), float(images.max())
        if bounds is not None:
            low, high = (value * bounds.width + bounds.low for value in (low, high))
            raise DataError(bounds.left(low, high))
        near = low > -_OVERSHOOT and high < 1 + _OVERSHOOT
        what = (
            "resizing of float images goes beyond by as much; resize them as uint8, or clamp them after it"
            if near
            else "pass normalization=, what the loader has applied to images in [0, 1]"
        )
        raise DataError(
            "images must lie in [0, 1] once the loader's normalisation is undone, found values from"
            f" {low:.4g} to {high:.4g}; {what}"
        )
    return inside


def _read_own(batch: Batch) -> Read:
    parts = (batch.object_labels, batch.object_masks, batch.boxes, batch.difficult)
    return Read(batch.images, batch.labels, batch.image_ids, *parts, batch=batch)


def _ids(images: Tensor, read: Read) -> tuple[str, ...]:
    """Names made of the images to 8 bits, their labels and their objects."""
    objects = zip(read.object_labels, read.object_masks, read.boxes, read.difficult, strict=True)
    marks = [_digest(label, parts) for label, parts in zip(read.labels.tolist(), objects, strict=True)]
    pairs = zip(content_ids(images), marks, strict=True)
    return tuple(
        hashlib.blake2b(f"{content} {mark}".encode(), digest_size=12).hexdigest() for content, mark in pairs
    )


def _digest(label: int, objects: Sequence[Tensor]) -> str:
    known = {str(place): tensor for place, tensor in enumerate(objects) if len(objects[0])}
    return f"{label} {state_hash(known)}"
