"""Data sets, decoding, augmentation, the feature store and the Lightning data modules."""

from importlib import import_module
from typing import TYPE_CHECKING

from ._files import find_images as find_images
from ._files import image_files as image_files
from ._files import image_id_of as image_id_of
from ._files import left_out_words as left_out_words
from ._files import no_image as no_image
from .annotated import AnnotatedImages as AnnotatedImages
from .annotated import ImageSplits as ImageSplits
from .catalogue import COCO as COCO
from .catalogue import CUB200 as CUB200
from .catalogue import Imagenette as Imagenette
from .catalogue import OxfordPet as OxfordPet
from .catalogue import PascalVOC as PascalVOC
from .check import CheckReport as CheckReport
from .check import check_data as check_data
from .decode import decode_image as decode_image
from .decode import resize_image as resize_image
from .features import DetectorFeatures as DetectorFeatures
from .folder import ImageFolder as ImageFolder
from .guard import OF_CLASSIFIER as OF_CLASSIFIER
from .guard import ImageDigests as ImageDigests
from .guard import KnowsImages as KnowsImages
from .guard import different as different
from .guard import guard_seen as guard_seen
from .guard import guard_splits as guard_splits
from .guard import shared_images as shared_images
from .imagenet import ImageNetValidation as ImageNetValidation
from .listing import ImageSet as ImageSet
from .other_scene import OtherScene as OtherScene
from .scenes import EmojiScenes as EmojiScenes
from .store import FeatureStore as FeatureStore

if TYPE_CHECKING:
    from .datamodules import SceneData as SceneData
    from .detection import AttackedImages as AttackedImages
    from .detection import GroupTable as GroupTable
    from .detection import ImageSource as ImageSource
    from .detection import Processes as Processes
    from .detector_data import DetectorData as DetectorData
    from .image_data import ImageData as ImageData
    from .transfer_data import TransferData as TransferData

__all__ = [
    "COCO",
    "CUB200",
    "OF_CLASSIFIER",
    "AnnotatedImages",
    "AttackedImages",
    "CheckReport",
    "DetectorData",
    "DetectorFeatures",
    "EmojiScenes",
    "FeatureStore",
    "GroupTable",
    "ImageData",
    "ImageDigests",
    "ImageFolder",
    "ImageNetValidation",
    "ImageSet",
    "ImageSource",
    "ImageSplits",
    "Imagenette",
    "KnowsImages",
    "OtherScene",
    "OxfordPet",
    "PascalVOC",
    "Processes",
    "SceneData",
    "TransferData",
    "check_data",
    "decode_image",
    "different",
    "find_images",
    "guard_seen",
    "guard_splits",
    "image_files",
    "image_id_of",
    "left_out_words",
    "no_image",
    "resize_image",
    "shared_images",
]

# Lightning and torchmetrics take seconds to import, which a command that only reads images need not wait for.
_SLOW = {
    "AttackedImages": "detection",
    "DetectorData": "detector_data",
    "GroupTable": "detection",
    "ImageData": "image_data",
    "ImageSource": "detection",
    "Processes": "detection",
    "SceneData": "datamodules",
    "TransferData": "transfer_data",
}


def __getattr__(name: str) -> object:
    """What needs Lightning or torchmetrics, imported when it is first asked for."""
    if name not in _SLOW:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_SLOW[name]}", __name__), name)
