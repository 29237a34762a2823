"""Batches of anybody's loader, read into images, labels, names and objects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from verisal.errors import DataError
from verisal.fingerprint import state_hash
from verisal.functional.seeding import content_ids
from verisal.types import Batch, check_images

Reader = Callable[[object], object]
"""A function of the user's: the loader's batch to anything that :func:`read` takes."""


class Undoes(Protocol):
    """A normalisation that can be taken back."""

    def undo(self, images: Tensor) -> Tensor:
        """Images in [0, 1] of normalised ones."""


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
    """

    images: Tensor
    labels: Tensor
    image_ids: tuple[str, ...] | None
    object_labels: tuple[Tensor, ...]
    object_masks: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    difficult: tuple[Tensor, ...]
    batch: Batch | None = None

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


def read(batch: object, reader: Reader | None = None) -> Read:
    """Images, labels, names and objects of what a loader gave.

    Args:
        batch: of a loader.
        reader: makes something that is understood of it; None where it is understood as it is.

    Raises:
        DataError: a batch that can be read in no way, or in two; says what was found and what to do.
    """
    if reader is not None:
        batch = reader(batch)
    if isinstance(batch, Batch):
        return _read_own(batch)
    if isinstance(batch, list | tuple) and len(batch) == 2:
        images, labels = batch
        if isinstance(images, Tensor) and images.ndim == 4 and isinstance(labels, Tensor):
            return _without_objects(images, labels.to(torch.int64))
    raise DataError(f"a batch must be (images, labels), found {type(batch).__name__}; pass batch=")


def as_batch(read: Read, normalization: Undoes) -> Batch:
    """The images in [0, 1] with all that is known of them.

    An image without a name gets one from its content and from what is marked in it, the same in every
    process and every order of the images.

    Args:
        read: of a loader's batch.
        normalization: that the loader has applied to float images; 8-bit ones have none.

    Raises:
        DataError: images outside [0, 1] once the normalisation is undone.
    """
    if read.batch is not None:
        return read.batch
    images = _unit(read, normalization)
    check_images(images)
    parts = (read.object_labels, read.object_masks, read.boxes, read.difficult)
    ids = read.image_ids or _ids(images, read)
    return Batch(images, read.labels, ids, *parts)


def _unit(read: Read, normalization: Undoes) -> Tensor:
    if read.eight_bit:
        return read.pixels
    images = normalization.undo(read.pixels)
    # Normalised numbers were rounded in the type that they came in.
    slack = max(1e-5, torch.finfo(read.images.dtype).eps)
    inside = images.clamp(0.0, 1.0)
    if len(images) and not float((images - inside).abs().max()) <= slack:
        low, high = float(images.min()), float(images.max())
        raise DataError(
            "images must lie in [0, 1] once the loader's normalisation is undone, found values from"
            f" {low:.4g} to {high:.4g}; pass normalization=, what the loader has applied"
        )
    return inside


def _read_own(batch: Batch) -> Read:
    parts = (batch.object_labels, batch.object_masks, batch.boxes, batch.difficult)
    return Read(batch.images, batch.labels, batch.image_ids, *parts, batch=batch)


def _without_objects(images: Tensor, labels: Tensor) -> Read:
    count, device = len(images), images.device
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    mask = torch.zeros(0, *images.shape[2:], dtype=torch.bool, device=device)
    box, hard = torch.zeros(0, 4, device=device), torch.zeros(0, dtype=torch.bool, device=device)
    return Read(images, labels, None, (nothing,) * count, (mask,) * count, (box,) * count, (hard,) * count)


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
