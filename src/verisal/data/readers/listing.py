"""Images of a data set on disk with their annotations, before any of them is decoded."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from torch import Tensor

from verisal._brief import brief
from verisal.data.readers.masks import IndexMask, MaskSource
from verisal.data.readers.values import LARGEST, twice

Box = tuple[float, float, float, float]

_SHARES = "; these seem to be shares of the image, expected pixels: multiply by its width and height"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a data set.

    Attributes:
        place: the file, with a row or an object where there is one.
        words: what was found and what was expected.
        image_id: the image that cannot be used because of it; None where it is none or nobody knows which.
        entry: True if one entry of a file cannot be used, and the rest can; without an image and without
            this, the whole data set cannot be used.
    """

    place: str
    words: str
    image_id: str | None = None
    entry: bool = False

    def __str__(self) -> str:
        """One line."""
        return f"{self.place}: {self.words}"


@dataclass(frozen=True)
class ObjectRecord:
    """One annotated object, in display coordinates of the image as it is on disk.

    Attributes:
        place: the file and the row or object number that it comes from.
        class_name: its class; None for that of the image.
        box: xyxy, half-open, in pixels, or None.
        mask: where its visible pixels are written down, or None.
        difficult: True if the annotators marked it as hard to recognise.
    """

    place: str
    class_name: str | None = None
    box: Box | None = None
    mask: MaskSource | None = None
    difficult: bool = False


@dataclass(frozen=True)
class ImageRecord:
    """One image and what is marked in it.

    Attributes:
        path: the file.
        image_id: stable name, unique in the data set.
        class_name: class of the image; None if it is not known.
        objects: its annotated objects.
        index_mask: a picture that numbers the objects; every number in it is one more object.
        index_classes: number to class name, for pictures that number classes rather than objects.
        size: width and height that the annotations state, or None.
        pixels: the image itself ``(C, H, W)`` uint8, of a set that keeps no file for each; None where it is
            read from ``path``.
    """

    path: Path
    image_id: str
    class_name: str | None = None
    objects: tuple[ObjectRecord, ...] = ()
    index_mask: IndexMask | None = None
    index_classes: Mapping[int, str] | None = None
    size: tuple[int, int] | None = None
    pixels: Tensor | None = None

    __repr__ = brief


@dataclass(frozen=True)
class Listing:
    """All images of a data set.

    Attributes:
        records: the images in a fixed order.
        class_names: the classes of images and objects, in the order of the data set.
        problems: what was found to be wrong without decoding anything.
        left_out: kind of file to the number of files among the images that are none.
    """

    records: tuple[ImageRecord, ...]
    class_names: tuple[str, ...]
    problems: tuple[Problem, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Annotations:
    """Content of an annotation file by image; filled while it is read.

    Attributes:
        objects: image to its objects.
        classes: image to its class, where the file names one.
        sizes: image to the width and height that the file states.
        index_masks: image to the picture that numbers its objects.
        class_names: classes in the order of the file.
        problems: what is wrong with the file.
        left_out: kind of file to the number of files in a folder of annotations that are none.
    """

    objects: dict[str, list[ObjectRecord]] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    index_masks: dict[str, IndexMask] = field(default_factory=dict)
    class_names: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    left_out: Mapping[str, int] = field(default_factory=dict)
    _shares: list[Problem] = field(default_factory=list, init=False)
    _boxes: int = field(default=0, init=False)

    def refuse(self, place: str, words: str, image_id: str | None = None, *, entry: bool = False) -> None:
        """Keep a problem, whose attributes these are."""
        self.problems.append(Problem(place, words, image_id, entry))

    def add(self, image_id: str, found: ObjectRecord, *, written: Sequence[float] = ()) -> None:
        """Keep an object, or the reason why it cannot be used.

        ``written`` are its four numbers as they stand in the file.
        """
        if found.box is not None:
            if _are_shares(written):
                shown = ", ".join(f"{value:g}" for value in written)
                words = f"the coordinates ({shown}) lie between 0 and 1{_SHARES}"
                self._shares.append(Problem(found.place, words, image_id))
                return
            if words := _box_problem(found.box):
                self.refuse(found.place, words, image_id)
                return
            self._boxes += 1
        self.objects.setdefault(image_id, []).append(found)
        if found.class_name is not None:
            self.add_class(found.class_name)

    def close(self, place: str) -> None:
        """Judge what a file or folder says together, once all of it is read."""
        if not (self._shares or self.objects or self.classes or self.problems):
            words = "marks no object and names no class in any of the images; is it that of these images?"
            self.refuse(place, words)
        if len(self._shares) > 1 and not self._boxes:
            words = f"the coordinates of all {len(self._shares)} boxes lie between 0 and 1"
            self.refuse(place, words + _SHARES)
        else:
            self.problems += self._shares
        self._shares.clear()

    def add_class(self, name: str) -> None:
        """Keep the name of a class once."""
        if name not in self.class_names:
            self.class_names.append(name)

    def main_classes(self, image_ids: Iterable[str]) -> dict[str, str | None]:
        """Class that the file gives to each image, else that of its object with the largest box.

        Difficult objects give it only where there are no others.
        """
        return {image_id: self._main_class(image_id) for image_id in image_ids}

    def _main_class(self, image_id: str) -> str | None:
        if image_id in self.classes:
            return self.classes[image_id]
        named = [marked for marked in self.objects.get(image_id, []) if marked.class_name is not None]
        main = max(named, key=lambda marked: (not marked.difficult, _area(marked)), default=None)
        return None if main is None else main.class_name

    def add_repeated(self, place: str, names: Sequence[str]) -> None:
        """A problem for every image that a list names more than once."""
        self.problems += [Problem(place, f"names {name} twice; keep one", name) for name in twice(names)]

    def listing(
        self,
        paths: Mapping[str, Path],
        labels: Mapping[str, str | None],
        *,
        unlabelled: str = "",
        class_names: Iterable[str] | None = None,
        index_classes: Mapping[int, str] | None = None,
        left_out: Mapping[str, int] = MappingProxyType({}),
    ) -> Listing:
        """The images with these paths and classes, in this order, and what is known of each.

        Args:
            paths: image to its file.
            labels: image to its class.
            unlabelled: the problem with an image that has none; "" where that is no problem.
            class_names: of the data set, where they are not those of the annotations.
            index_classes: number to class name, for pictures that number classes.
            left_out: kind of file to the number of files among the images that are none.
        """
        for name in paths if unlabelled else ():
            if labels.get(name) is None:
                self.refuse(str(paths[name]), unlabelled, name)
        records = tuple(
            ImageRecord(
                path,
                name,
                labels.get(name),
                tuple(self.objects.get(name, ())),
                self.index_masks.get(name),
                index_classes,
                self.sizes.get(name),
            )
            for name, path in paths.items()
        )
        classes = dict.fromkeys(self.class_names if class_names is None else class_names)
        return Listing(records, tuple(classes), tuple(self.problems), left_out)


class ImageSet(ABC):
    """A data set on disk. Concrete ones are settings: where it lies and which part of it is meant."""

    @abstractmethod
    def listing(self) -> Listing:
        """Every image and all annotations, without decoding images.

        Raises:
            DataError: a folder or file without which nothing can be listed is missing.
        """


def _area(found: ObjectRecord) -> float:
    if found.box is None:
        return 0.0
    left, top, right, bottom = found.box
    return (right - left) * (bottom - top)


def _box_problem(box: Box) -> str:
    left, top, right, bottom = box
    shown = ", ".join(f"{value:g}" for value in box)
    if not all(map(math.isfinite, box)):
        return f"box ({shown}) is not finite; expected left, top, right, bottom in pixels"
    if max(map(abs, box)) > LARGEST:
        return f"box ({shown}) reaches beyond any picture; expected left, top, right, bottom in pixels"
    if right < left or bottom < top:
        return f"box ({shown}) is inverted; expected left < right and top < bottom"
    if right == left or bottom == top:
        return f"box ({shown}) is empty; expected left < right and top < bottom"
    # Sums such as left + width are not exact.
    if min(right - left, bottom - top) <= 1 + 1e-6:
        return f"box ({shown}) is not more than one pixel wide or high; mark the whole object, or remove it"
    return ""


def _are_shares(written: Sequence[float]) -> bool:
    """True for shares of the image rather than pixels; rounded ones may lie a little outside."""
    inside = all(-0.5 <= value <= 1.5 for value in written)
    return inside and any(not float(value).is_integer() for value in written)
