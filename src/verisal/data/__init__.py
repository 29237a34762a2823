"""Data sets, decoding, augmentation, the feature store and the Lightning data modules."""

from .datamodules import SceneData as SceneData
from .decode import decode_image as decode_image
from .decode import resize_image as resize_image
from .detection import AttackedImages as AttackedImages
from .detection import GroupTable as GroupTable
from .detection import ImageSource as ImageSource
from .detection import Processes as Processes
from .detector_data import DetectorData as DetectorData
from .features import DetectorFeatures as DetectorFeatures
from .scenes import EmojiScenes as EmojiScenes
from .store import FeatureStore as FeatureStore

__all__ = [
    "AttackedImages",
    "DetectorData",
    "DetectorFeatures",
    "EmojiScenes",
    "FeatureStore",
    "GroupTable",
    "ImageSource",
    "Processes",
    "SceneData",
    "decode_image",
    "resize_image",
]
