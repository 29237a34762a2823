"""Images: data sets on disk, drawn scenes, decoding, and the Lightning data module."""

from importlib import import_module
from typing import TYPE_CHECKING

from verisal.data.annotated import AnnotatedImages, DiskSplit, ImagesLike, ImageSplits
from verisal.data.check import check_data
from verisal.data.decode import decode_image, resize_image
from verisal.data.readers.catalogue import CUB200, Imagenette, ImageNetValidation, OxfordPet
from verisal.data.readers.coco import COCO
from verisal.data.readers.digits import Digits
from verisal.data.readers.folder import ImageFolder
from verisal.data.readers.listing import ImageSet
from verisal.data.readers.packed import CIFAR10, CIFAR100, MNIST, STL10, SVHN, FashionMNIST
from verisal.data.readers.voc import PascalVOC
from verisal.data.reading import ImageReader
from verisal.data.scenes.composed import ComposedImages, Composition, Mosaics, PastedCuts
from verisal.data.scenes.emoji import EmojiScenes, OtherScene
from verisal.data.sizes import SizeGroups

if TYPE_CHECKING:
    from verisal.data.image_data import ImageData

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "COCO",
    "CUB200",
    "MNIST",
    "STL10",
    "SVHN",
    "AnnotatedImages",
    "ComposedImages",
    "Composition",
    "Digits",
    "DiskSplit",
    "EmojiScenes",
    "FashionMNIST",
    "ImageData",
    "ImageFolder",
    "ImageNetValidation",
    "ImageReader",
    "ImageSet",
    "ImageSplits",
    "Imagenette",
    "ImagesLike",
    "Mosaics",
    "OtherScene",
    "OxfordPet",
    "PascalVOC",
    "PastedCuts",
    "SizeGroups",
    "check_data",
    "decode_image",
    "resize_image",
]


def __getattr__(name: str) -> object:
    """The data module, imported when it is first asked for: Lightning takes seconds."""
    if name != "ImageData":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("verisal.data.image_data").ImageData
