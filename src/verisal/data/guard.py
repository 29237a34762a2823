"""No image may stand in two splits, whichever process reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from verisal._brief import brief
from verisal.errors import DataError
from verisal.fingerprint import row_digests
from verisal.models import Classifier

OF_CLASSIFIER = {
    "fit": "the images that the classifier was trained on",
    "val": "the images by which the classifier's weights were chosen",
}
_SHOWN = 2


@final
@dataclass(frozen=True)
class ImageDigests:
    """Digests of the images of one split, in order: 8 bytes of a hash of their pixels.

    The pixels are those that a classifier gets: decoded, upright, at its input size, rounded to 8 bits. A
    copy under another name, or in another lossless format, is the same image.

    Attributes:
        values: ``(N,)`` int64.
        names: N names, for messages.
    """

    values: Tensor
    names: Sequence[str]

    __repr__ = brief

    @classmethod
    def of(cls, images: Tensor, names: Sequence[str]) -> ImageDigests:
        """Of ``images (N, C, H, W)`` uint8."""
        values = np.frombuffer(b"".join(row_digests(images, 8)), dtype="<i8").astype(np.int64)
        return cls(torch.from_numpy(values), tuple(names))

    @classmethod
    def joined(cls, parts: Sequence[ImageDigests]) -> ImageDigests:
        """All parts as one."""
        return cls(
            torch.cat([torch.empty(0, dtype=torch.int64), *(part.values for part in parts)]),
            tuple(name for part in parts for name in part.names),
        )


@runtime_checkable
class KnowsImages(Protocol):
    """A data module that can name its images before they are used."""

    def digests(self, use: str) -> ImageDigests:
        """The clean images that ``fit``, ``val`` or ``test`` reads; made on first use."""
        ...


def different(values: Tensor) -> Tensor:
    """Each digest once, in rising order: what a checkpoint keeps."""
    return torch.from_numpy(np.unique(values.numpy()))


def guard_splits(splits: Mapping[str, Callable[[], ImageDigests] | ImageDigests]) -> None:
    """Raise if an image stands in two of the splits, which are given by name.

    Raises:
        DataError: naming both splits, the number of images and two of them.
    """
    known: dict[str, Tensor] = {}
    for split, images in splits.items():
        digests = images if isinstance(images, ImageDigests) else images()
        guard_seen(digests, split, known)
        known[split] = digests.values


def guard_classifier_data(splits: Mapping[str, Callable[[], ImageDigests]], classifier: Classifier) -> None:
    """Raise if an image stands in two splits of a detector, or trained the classifier that is attacked.

    The classifier may know the images that it was trained on, and those that chose its weights.

    Raises:
        DataError: naming both, the number of images and two of them.
    """
    guard_splits(splits)
    seen = classifier.seen_images
    for split, images in splits.items() if seen else ():
        uses = ("fit", "val") if split == "det_test" else ("fit",)
        guard_seen(images(), split, {use: seen[use] for use in uses if use in seen}, told=OF_CLASSIFIER)


def guard_seen(
    images: ImageDigests, split: str, seen: Mapping[str, Tensor], *, told: Mapping[str, str] | None = None
) -> None:
    """Raise if an image of a split was used before.

    Args:
        images: the clean ones of the split.
        split: its name.
        seen: earlier use to digests.
        told: earlier use in other words.

    Raises:
        DataError: naming split and use, the number of images and two of them.
    """
    for use, values in seen.items():
        names = shared_images(images, values)
        if names:
            raise DataError(
                f"{len(names)} of the {len(images.names)} images of {split} stand in"
                f" {(told or {}).get(use, use)} too, by their pixels: {', '.join(names[:_SHOWN])}"
                f"{', ...' if len(names) > _SHOWN else ''}; splits must share no image: take them out of one"
            )


def shared_images(images: ImageDigests, seen: Tensor) -> list[str]:
    """Names of the images that are among ``seen``."""
    places = torch.isin(images.values, seen.to(images.values.device)).nonzero()[:, 0].tolist()
    return [images.names[place] for place in places]
