"""The augmentation adapter: albumentations behind our own signatures, and the only module that knows it.

albumentations keeps its own random state and is not reached by a global seed, so everything here is seeded
by the caller: :class:`Jitter` from the generators of one scene, :class:`Augmentation` from a torch generator.
"""

from __future__ import annotations

import random
from typing import final

import albumentations as A
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verisal.errors import DataError
from verisal.types import Sample

__all__ = ["Jitter", "backdrop_jitter", "object_jitter", "scene_jitter"]

Pixels = NDArray[np.uint8]


@final
class Jitter:
    """A fixed chain of random changes to one 8-bit picture; random numbers come from the caller only."""

    def __init__(self, transforms: list[A.BasicTransform | A.BaseCompose]) -> None:
        # OpenCV's thread pool costs more than it gives on small pictures and multiplies with loader workers.
        cv2.setNumThreads(0)
        self._compose = A.Compose(transforms)

    def seed(self, generator: np.random.Generator, py_random: random.Random) -> None:
        """Draw from these generators from now on; both advance with every call."""
        self._compose.set_random_state(generator, py_random)

    def __call__(self, image: Pixels) -> Pixels:
        """Changed copy of ``image (H, W, 3)``."""
        changed: Pixels = self._compose(image=image)["image"]
        return changed

    def with_alpha(self, image: Pixels, alpha: Pixels) -> tuple[Pixels, Pixels]:
        """Changed copies of ``image (H, W, 3)`` and its opacity ``alpha (H, W)``, moved together."""
        changed = self._compose(image=image, mask=alpha)
        return changed["image"], changed["mask"]


def object_jitter(*, rotate_degrees: float, colour: float) -> Jitter:
    """Rotation, shear, shrinking by up to a fifth, and colour of one drawing on its own canvas.

    Args:
        rotate_degrees: largest rotation either way.
        colour: strength of the colour changes; 1 is the usual, 0 is none.
    """
    return Jitter(
        [
            A.Affine(
                scale=(0.8, 1.0),
                rotate=(-rotate_degrees, rotate_degrees),
                shear={"x": (-0.3 * rotate_degrees, 0.3 * rotate_degrees), "y": (0, 0)},
                interpolation=cv2.INTER_LINEAR,
                mask_interpolation=cv2.INTER_LINEAR,
                p=1.0,
            ),
            A.HueSaturationValue(
                hue_shift_limit=5 * colour,
                sat_shift_limit=35 * colour,
                val_shift_limit=25 * colour,
                p=1.0 if colour > 0 else 0.0,
            ),
        ]
    )


def backdrop_jitter(*, size: int, colour: float) -> Jitter:
    """Random crop of a photograph at ``size`` x ``size``, mirrored or not, with colour changes."""
    return Jitter(
        [
            A.RandomResizedCrop(
                (size, size), scale=(0.16, 0.5), ratio=(0.8, 1.25), interpolation=cv2.INTER_AREA
            ),
            A.HorizontalFlip(p=0.5),
            A.RGBShift(
                r_shift_limit=25 * colour,
                g_shift_limit=25 * colour,
                b_shift_limit=25 * colour,
                p=1.0 if colour > 0 else 0.0,
            ),
        ]
    )


def scene_jitter(*, size: int, colour: float, blur: float) -> Jitter:
    """Exposure, contrast and blur of a finished scene; no pixel moves, so masks stay exact.

    Args:
        size: side of the scene in pixels; the blur grows with it.
        colour: strength of the exposure changes; 1 is the usual, 0 is none.
        blur: strength of the blur; at 1 the widest Gaussian has a standard deviation of 1/64 of the side.
    """
    sigma = max(blur * size / 64.0, 0.05)
    return Jitter(
        [
            A.RandomBrightnessContrast(
                brightness_limit=0.2 * colour, contrast_limit=0.25 * colour, p=1.0 if colour > 0 else 0.0
            ),
            A.GaussianBlur(blur_limit=0, sigma_limit=(0.25 * sigma, sigma), p=0.5 if blur > 0 else 0.0),
        ]
    )
