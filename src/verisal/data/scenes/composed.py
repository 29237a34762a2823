"""Scenes made of photographs, in which the place of each class is known though nobody marked it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from verisal._checks import as_tuples
from verisal.data.annotated import AnnotatedImages, DiskSplit
from verisal.data.transforms import tight_boxes
from verisal.errors import ConfigError, DataError
from verisal.fingerprint import fingerprint
from verisal.functional.regions.disturbed import mosaic_groups
from verisal.functional.seeding import derive_seed
from verisal.types import Sample, check_range

# Most cells a side: smaller photographs show nothing.
_MOST_CELLS = 8


@dataclass(frozen=True, kw_only=True)
class Composition(ABC):
    """How scenes are made of photographs; concrete ones are settings.

    Every photograph is in one scene at most, and scenes of a split are made of the photographs of that split,
    so no photograph is in two splits. Photographs without a class are left out; those of one scene have
    different classes.

    Args:
        seed: of everything that is drawn.
        split: of the data set whose photographs are taken; None for that of the photographs at hand.

    Raises:
        ConfigError: a negative seed.
    """

    seed: int = 0
    split: DiskSplit | None = None

    def __post_init__(self) -> None:
        check_range(0, seed=self.seed)

    @property
    @abstractmethod
    def photographs(self) -> int:
        """Number of photographs in one scene."""

    @abstractmethod
    def scene(self, photographs: AnnotatedImages, indices: Sequence[int], *, name: str) -> Sample:
        """The scene of this name, made of these photographs, in their order."""

    def of(self, photographs: AnnotatedImages, *, count: int | None = None) -> ComposedImages:
        """The scenes that are made of photographs, the first ``count``; None for all."""
        own = photographs if self.split in (None, photographs.split) else photographs.of_split(self.split)
        return ComposedImages(self, own, count=count)


@final
class ComposedImages(Dataset[Sample]):
    """Scenes made of the photographs of one split; read as any other data set.

    Args:
        composition: how they are made.
        photographs: of which they are made.
        count: number of scenes, the first ones; None for all that the photographs suffice for.

    Raises:
        DataError: no scene, or fewer than ``count``.
    """

    def __init__(
        self, composition: Composition, photographs: AnnotatedImages, *, count: int | None = None
    ) -> None:
        check_range(1, count=count)
        self._composition, self._photographs = composition, photographs
        self.split, self.size = photographs.split, photographs.size
        self.class_names = photographs.class_names
        known = [place for place, label in enumerate(photographs.labels) if label >= 0]
        labels = torch.tensor([photographs.labels[place] for place in known], dtype=torch.int64)
        ids = [photographs.image_id(place) for place in known]
        groups = mosaic_groups(labels, composition.photographs, image_ids=ids, seed=composition.seed)
        self._groups = [tuple(known[place] for place in group) for group in groups.tolist()][:count]
        if len(self._groups) < (count or 1):
            remedy = "add photographs, or change counts or ratios"
            if not known:
                remedy = "none of them has a class: set unlabelled of the splits to predict"
            raise DataError(
                f"{type(composition).__name__}: {len(known)} photographs with a class in split {self.split}"
                f" make {len(self._groups)} scenes, {count or 'at least 1'} asked for; {remedy}"
            )

    @property
    def labels(self) -> tuple[int, ...]:
        """Class of the first photograph of every scene."""
        return tuple(self._photographs.labels[group[0]] for group in self._groups)

    def sources(self, index: int) -> tuple[str, ...]:
        """Names of the photographs that scene ``index`` is made of."""
        return tuple(self._photographs.image_id(place) for place in self._groups[index])

    def identity(self) -> dict[str, Any]:
        """The photographs, what is made of them, and a hash over which are together."""
        return {
            "name": type(self._composition).__name__,
            "composition": fingerprint(self._composition),
            "photographs": self._photographs.identity(),
            "scenes": fingerprint([list(self.sources(index)) for index in range(len(self))]),
        }

    def image_id(self, index: int) -> str:
        """Name of scene ``index``, unique over compositions, seeds and splits."""
        kind = type(self._composition).__name__
        return f"{kind}-{self._composition.seed}-{self.split}-{index}"

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[Sample]:
        """All scenes in order."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """Scene ``index``.

        Raises:
            DataError: a photograph that cannot be read.
        """
        return self._composition.scene(self._photographs, self._groups[index], name=self.image_id(index))


@final
@dataclass(frozen=True, kw_only=True)
class Mosaics(Composition):
    """Mosaics of photographs of different classes: each cell is the one object of its photograph's class.

    Every photograph is resized to its cell from the file's own pixels, never by a factor of 1; see
    :meth:`.AnnotatedImages.resized`. The first cell is the main object. Where photographs are annotated,
    further classes in a cell are there, but asked of no map.

    Args:
        cells: in each row and column.
        seed: of which photographs come together, and where.
        split: of the data set whose photographs are taken; None for that of the photographs at hand.

    Raises:
        ConfigError: fewer than 2 or more than 8 cells, or a negative seed.
    """

    cells: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(2, _MOST_CELLS, cells=self.cells)

    @property
    def photographs(self) -> int:
        """Number of photographs in one mosaic."""
        return self.cells**2

    def scene(self, photographs: AnnotatedImages, indices: Sequence[int], *, name: str) -> Sample:
        """The mosaic of these photographs, row by row."""
        height, width = _sides(photographs.size)
        down, across = (
            list(pairwise(round(place * side / self.cells) for place in range(self.cells + 1)))
            for side in (height, width)
        )
        longest = (max(high - low for low, high in down), max(high - low for low, high in across))
        cells = [(top, bottom, left, right) for top, bottom in down for left, right in across]
        parts, masks, others = [], [], list[tuple[int, Tensor]]()
        for (top, bottom, left, right), index in zip(cells, indices, strict=True):
            photograph = photographs.resized(index, longest)
            parts.append(photograph.image[:, : bottom - top, : right - left])
            mask = torch.zeros(height, width, dtype=torch.bool)
            mask[top:bottom, left:right] = True
            masks.append(mask)
            further = {int(label) for label in photograph.object_labels} - {photograph.label}
            others += [(label, mask) for label in sorted(further)]
        image = parts[0].new_zeros(len(parts[0]), height, width)
        for (top, bottom, left, right), part in zip(cells, parts, strict=True):
            image[:, top:bottom, left:right] = part
        own = [photographs.labels[index] for index in indices]
        return _sample(image, name, list(zip(own, masks, strict=True)), others)


@final
@dataclass(frozen=True, kw_only=True)
class PastedCuts(Composition):
    """The middle of one photograph pasted into another one at a random place, its border fading.

    Nothing says where in a photograph its thing is, so the middle of it is cut, not the thing. The cut is
    the main object: the pixels of which it makes at least half. The class of the other photograph is there,
    too, somewhere around the cut; it counts as present, and no map is asked to find it. Both are resized
    from the file's own pixels, never by a factor of 1; see :meth:`.AnnotatedImages.resized`.

    Args:
        sides: least and greatest side of the cut, as a share of the image's shorter one.
        middle: share of the cut photograph's side that is taken.
        fading: share of the cut's side over which it fades into the other photograph; 0 for a hard border.
        shape: of the cut.
        seed: of which photographs come together, the side and the place.
        split: of the data set whose photographs are taken; None for that of the photographs at hand.

    Raises:
        ConfigError: shares out of range, or a negative seed.
    """

    sides: tuple[float, float] = (0.35, 0.55)
    middle: float = 0.75
    fading: float = 0.15
    shape: Literal["rectangle", "ellipse"] = "rectangle"

    def __post_init__(self) -> None:
        super().__post_init__()
        as_tuples(self)
        check_range(0.1, 1, middle=self.middle)
        check_range(0, 0.5, fading=self.fading)
        if self.shape not in ("rectangle", "ellipse"):
            raise ConfigError(f"PastedCuts: shape must be 'rectangle' or 'ellipse', found {self.shape!r}")
        if len(self.sides) != 2 or not 0.05 <= self.sides[0] <= self.sides[1] <= 0.95:
            raise ConfigError(
                f"PastedCuts: sides must be two rising shares in [0.05, 0.95], found {self.sides}"
            )

    @property
    def photographs(self) -> int:
        """One to paste, one to paste it into."""
        return 2

    def scene(self, photographs: AnnotatedImages, indices: Sequence[int], *, name: str) -> Sample:
        """The first photograph's middle in the second photograph."""
        pasted, host = indices
        height, width = _sides(photographs.size)
        generator = torch.Generator().manual_seed(derive_seed("pasted cut", self.seed, name))
        drawn = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        low, high = self.sides
        side = max(round((low + (high - low) * drawn[0]) * min(height, width)), 1)
        top, left = (
            int(share * (long - side + 1)) for share, long in zip(drawn[1:], (height, width), strict=True)
        )
        whole = photographs.resized(pasted, max(round(side / self.middle), side))
        start = (whole.image.shape[1] - side) // 2
        cut = whole.image[:, start : start + side, start : start + side]
        around = photographs.resized(host, (height, width))
        share = torch.zeros(height, width)
        share[top : top + side, left : left + side] = self.opacity(side)
        image = around.image.clone()
        part = image[:, top : top + side, left : left + side]
        own = share[top : top + side, left : left + side]
        part.copy_(torch.lerp(part, cut, own.expand_as(part)))
        further = {photographs.labels[host], *around.object_labels.tolist(), *whole.object_labels.tolist()}
        label = photographs.labels[pasted]
        others = [(int(other), share == 0) for other in sorted(further - {label})]
        return _sample(image, name, [(label, share >= 0.5)], others)

    def opacity(self, side: int) -> Tensor:
        """Share ``(side, side)`` of the cut in every pixel, 1 in the middle."""
        # Distance of the pixels' centres from the middle, 1 at the border.
        line = ((torch.arange(side) + 0.5) / side * 2 - 1).abs()
        if self.shape == "rectangle":
            reach = torch.maximum(line[:, None], line[None, :])
        else:
            reach = (line[:, None] ** 2 + line[None, :] ** 2).sqrt()
        if self.fading == 0:
            return (reach <= 1).float()
        return ((1 - reach) / (2 * self.fading)).clamp(0, 1)


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else size


def _sample(
    image: Tensor, name: str, asked: Sequence[tuple[int, Tensor]], others: Sequence[tuple[int, Tensor]]
) -> Sample:
    """A sample with the objects that maps are asked for, the main one first, and others, all with masks."""
    # A cut may cover all of the other photograph.
    objects = [*asked, *(other for other in others if bool(other[1].any()))]
    masks = torch.stack([mask for _, mask in objects])
    return Sample(
        image,
        asked[0][0],
        name,
        torch.tensor([label for label, _ in objects], dtype=torch.int64),
        masks,
        tight_boxes(masks.numpy()),
        torch.tensor([place >= len(asked) for place in range(len(objects))]),
    )
