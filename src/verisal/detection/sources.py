"""The clean images that a detector's splits are made of."""

from __future__ import annotations

from verisal.data.annotated import AnnotatedImages, DiskSplit, ImageSplits
from verisal.data.scenes.emoji import EmojiScenes
from verisal.detection.attacked_images import ImageSource
from verisal.errors import DataError
from verisal.models import Classifier
from verisal.types import Split

__all__ = ["image_source"]

_ON_DISK: dict[Split, DiskSplit] = {"det_fit": "fit", "det_val": "val", "det_test": "test"}


def image_source(
    splits: ImageSplits | None, split: Split, count: int, *, classifier: Classifier, seed: int
) -> ImageSource:
    """The first ``count`` images of a detector's split.

    Args:
        splits: images on disk, or None for EmojiScenes.
        split: ``det_fit``, ``det_val`` or ``det_test``; on disk ``fit``, ``val`` and ``test``.
        count: number of images.
        classifier: whose size and classes they have.
        seed: of the scenes.

    Raises:
        DataError: fewer images than ``count``, or images without a label, of which nobody knows whether the
            classifier is right.
    """
    if splits is None:
        return EmojiScenes(split, count, seed=seed, size=classifier.image_size)
    images = AnnotatedImages(splits, _ON_DISK[split], classifier=classifier, count=count)
    if -1 in images.labels:
        first = images.image_id(images.labels.index(-1))
        raise DataError(
            f"split {images.split} has images without a label, e.g. {first}; attacks need labels: give"
            " classes by folders or annotations"
        )
    return images
