"""The augmentation adapter: albumentations behind our own signatures, and the only module that knows it.

albumentations keeps its own random state, which no global seed reaches, so everything here is seeded by the
caller: :class:`Jitter` from the generators of one scene, :class:`Augmentation` from a torch generator.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verisal.errors import DataError
from verisal.functional.regions.boxes import boxes_around
from verisal.types import Sample, check_range

if TYPE_CHECKING:
    import albumentations as A

# Both libraries are imported where they are used: they take a second, which reading images has no need of.

Pixels = NDArray[np.uint8]

# Share of the main object's pixels that an augmentation must leave in the picture, and the draws it gets.
_KEEP = 0.5
_DRAWS = 10


@final
class Augmentation:
    """Random mirroring, rotation, scaling, colour and blur of a training sample; annotations move along.

    An object that leaves the picture is dropped from the annotation. A draw that would take more than half of
    the main object out of the picture is repeated; after ten of them the sample is returned as it was. Boxes
    are tight around the moved masks; an object that has a box but an empty mask keeps both so, and its box is
    the tight box around the moved box.

    Args:
        mirror: chance of a left-right flip.
        rotate_degrees: largest rotation either way.
        scale: largest relative change of size either way.
        colour: strength of hue, saturation, exposure and contrast changes; 1 is the usual, 0 is none.
        blur: largest standard deviation of a Gaussian blur in pixels, applied to half of the samples.

    Raises:
        ConfigError: a setting outside its range; names it.
    """

    def __init__(
        self,
        *,
        mirror: float = 0.5,
        rotate_degrees: float = 15.0,
        scale: float = 0.15,
        colour: float = 1.0,
        blur: float = 0.0,
    ) -> None:
        import albumentations as A

        check_range(0, 1, mirror=mirror)
        check_range(0, 180, rotate_degrees=rotate_degrees)
        check_range(0, 0.9, scale=scale)
        check_range(0, 2, colour=colour)
        check_range(0, 100, blur=blur)
        always = 1.0 if colour > 0 else 0.0
        self._compose = _compose(
            [
                A.HorizontalFlip(p=mirror),
                A.Affine(
                    rotate=(-rotate_degrees, rotate_degrees), scale=(1 - scale, 1 + scale), fill=0.5, p=1.0
                ),
                A.HueSaturationValue(5 * colour, 35 * colour, 25 * colour, p=always),
                A.RandomBrightnessContrast(0.2 * colour, 0.25 * colour, p=always),
                A.GaussianBlur(0, sigma_limit=(0.3 * blur, max(blur, 0.01)), p=0.5 if blur > 0 else 0.0),
            ]
        )

    def __call__(self, sample: Sample, generator: torch.Generator | None = None) -> Sample:
        """A changed copy of ``sample`` under the same name.

        Args:
            sample: any size; its objects may be none.
            generator: on the CPU. Without one, torch's own generator of this process, which loaders seed anew
                for every worker and epoch.

        Raises:
            DataError: albumentations refuses the sample; names it.
        """
        import cv2

        seed = int(torch.randint(2**62, (), generator=generator))
        self._compose.set_random_state(np.random.default_rng(seed), random.Random(seed))  # noqa: S311
        image = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
        regions = _regions(sample)
        for _ in range(_DRAWS):
            try:
                changed = self._compose(image=image, **({"masks": regions} if len(regions) else {}))
            except (ValueError, TypeError, cv2.error) as error:
                raise DataError(f"sample {sample.image_id}: cannot be augmented ({error})") from error
            moved = np.asarray(changed["masks"]) if len(regions) else regions
            if not len(regions) or moved[0].sum() >= max(_KEEP * regions[0].sum(), 1):
                return _rebuilt(sample, changed["image"], moved)
        return sample


@final
class Jitter:
    """A fixed chain of random changes to one 8-bit picture; random numbers come from the caller only."""

    def __init__(self, transforms: list[A.BasicTransform | A.BaseCompose]) -> None:
        self._compose = _compose(transforms)

    def seed(self, generator: np.random.Generator, py_random: random.Random) -> None:
        """Draw from these generators from now on; both advance with every call."""
        self._compose.set_random_state(generator, py_random)

    def __call__(self, image: Pixels) -> Pixels:
        """Changed copy of ``image (H, W, C)``; four channels are colour and opacity."""
        changed: Pixels = self._compose(image=image)["image"]
        return changed


def tint_jitter(*, colour: float) -> Jitter:
    """Hue, saturation and brightness of one drawing; ``colour`` 1 is the usual strength, 0 none."""
    import albumentations as A

    return Jitter([A.HueSaturationValue(5 * colour, 35 * colour, 25 * colour, p=1.0 if colour > 0 else 0.0)])


def turn_jitter(*, rotate_degrees: float) -> Jitter:
    """Rotation, shear up to 0.3 of it, and shrinking by up to a fifth of one drawing with its opacity."""
    import albumentations as A
    import cv2

    shear = 0.3 * rotate_degrees
    return Jitter(
        [
            A.Affine(
                scale=(0.8, 1.0),
                rotate=(-rotate_degrees, rotate_degrees),
                shear={"x": (-shear, shear), "y": (0, 0)},
                interpolation=cv2.INTER_LINEAR,
                p=1.0,
            )
        ]
    )


def backdrop_jitter(*, size: int, colour: float) -> Jitter:
    """Random crop of a photograph at ``size`` x ``size``, mirrored or not, with a colour cast."""
    import albumentations as A
    import cv2

    shift = 25 * colour
    return Jitter(
        [
            A.RandomResizedCrop(
                (size, size), scale=(0.16, 0.5), ratio=(0.8, 1.25), interpolation=cv2.INTER_AREA
            ),
            A.HorizontalFlip(p=0.5),
            A.RGBShift(shift, shift, shift, p=1.0 if colour > 0 else 0.0),
        ]
    )


def scene_jitter(*, size: int, colour: float, blur: float) -> Jitter:
    """Exposure, contrast and blur of a finished scene; no pixel moves, so masks stay exact.

    At ``blur`` 1 the widest Gaussian has a standard deviation of 1/64 of the side ``size``.
    """
    import albumentations as A

    sigma = max(blur * size / 64.0, 0.01)
    return Jitter(
        [
            A.RandomBrightnessContrast(0.2 * colour, 0.25 * colour, p=1.0 if colour > 0 else 0.0),
            A.GaussianBlur(0, sigma_limit=(0.25 * sigma, sigma), p=0.5 if blur > 0 else 0.0),
        ]
    )


def tight_boxes(masks: NDArray[np.bool_]) -> Tensor:
    """Half-open xyxy boxes ``(N, 4)`` around the true pixels of ``masks (N, H, W)``.

    DataError for a mask without one.
    """
    empty = np.flatnonzero(~masks.any(axis=(1, 2)))
    if len(empty):
        raise DataError(f"object mask {empty[0]} has no pixel; a box needs at least one")
    return boxes_around(torch.from_numpy(masks))


def _compose(transforms: list[A.BasicTransform | A.BaseCompose]) -> A.Compose:
    import albumentations as A
    import cv2

    # OpenCV's thread pool costs more than it gives on small pictures and multiplies with loader workers.
    cv2.setNumThreads(0)
    return A.Compose(transforms)


def _regions(sample: Sample) -> Pixels:
    """``(N, H, W)`` 0 or 1: the mask of every object, or its filled box where the mask is empty."""
    regions = sample.object_masks.numpy().astype(np.uint8)
    for region, box in zip(regions, sample.boxes.tolist(), strict=True):
        if not region.any():
            left, top, right, bottom = (max(round(value), 0) for value in box)
            region[top:bottom, left:right] = 1
    return regions


def _rebuilt(sample: Sample, image: NDArray[np.float32], regions: Pixels) -> Sample:
    kept = torch.from_numpy(regions.any(axis=(1, 2)))
    moved = torch.from_numpy(regions.astype(bool))
    had_mask = sample.object_masks.flatten(1).any(dim=1)
    return replace(
        sample,
        image=torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).clamp(0.0, 1.0),
        object_labels=sample.object_labels[kept],
        object_masks=(moved & had_mask[:, None, None])[kept],
        boxes=tight_boxes(moved[kept].numpy()),
        difficult=sample.difficult[kept],
    )
