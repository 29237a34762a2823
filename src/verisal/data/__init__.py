"""Data sets, decoding, augmentation, the feature store and the Lightning data modules."""

from importlib import import_module
from typing import TYPE_CHECKING

from verisal.data.annotated import AnnotatedImages, ImageSplits
from verisal.data.check import CheckReport, check_data
from verisal.data.decode import decode_image, resize_image
from verisal.data.files import find_images, image_id_of, left_out_words, no_image
from verisal.data.guard import (
    OF_CLASSIFIER,
    ImageDigests,
    KnowsImages,
    different,
    guard_seen,
    guard_splits,
    shared_images,
)
from verisal.data.readers.catalogue import CUB200, Imagenette, ImageNetValidation, OxfordPet
from verisal.data.readers.coco import COCO
from verisal.data.readers.folder import ImageFolder
from verisal.data.readers.listing import ImageSet
from verisal.data.readers.voc import PascalVOC
from verisal.data.scenes.emoji import EmojiScenes, OtherScene

if TYPE_CHECKING:
    from verisal.data.image_data import ImageData

__all__ = [
    "COCO",
    "CUB200",
    "OF_CLASSIFIER",
    "AnnotatedImages",
    "CheckReport",
    "EmojiScenes",
    "ImageData",
    "ImageDigests",
    "ImageFolder",
    "ImageNetValidation",
    "ImageSet",
    "ImageSplits",
    "Imagenette",
    "KnowsImages",
    "OtherScene",
    "OxfordPet",
    "PascalVOC",
    "check_data",
    "decode_image",
    "different",
    "find_images",
    "guard_seen",
    "guard_splits",
    "image_id_of",
    "left_out_words",
    "no_image",
    "resize_image",
    "shared_images",
]


def __getattr__(name: str) -> object:
    """The data module, imported when it is first asked for: Lightning takes seconds."""
    if name != "ImageData":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("verisal.data.image_data").ImageData
