"""Boxes and masks from the JSON files of COCO."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

from verisal.data.files import NameIndex, existing_folder, find_images, read_text
from verisal.data.readers.listing import Annotations, ImageSet, Listing, ObjectRecord
from verisal.data.readers.masks import MaskSource, PolygonMask, RunLengthMask, counts_of_text
from verisal.data.readers.values import (
    Repeated,
    entry_of,
    flag,
    given,
    identity,
    json_of,
    name_of,
    numbers,
    shown,
    whole,
)
from verisal.errors import DataError

_LISTS = ("images", "annotations", "categories")


class _Image(NamedTuple):
    """An entry of ``images``: the image on disk or why there is none, width and height."""

    image_id: str | None
    problem: str
    size: tuple[int, int]


def read_coco(path: Path, names: NameIndex) -> Annotations:
    """``images``, ``annotations`` and ``categories``; boxes are left, top, width, height from 0.

    Polygons and run lengths, plain or compressed, become masks. Regions of a crowd are no single object and
    are left out. Objects with ``difficult`` or ``ignore`` are difficult. Images of the file that are not on
    disk are a problem only if the file says something of them. An id that two entries have means neither.
    """
    text = read_text(path, "a JSON file of COCO")
    notes = Annotations()
    try:
        images, annotations, categories = _lists(json_of(text))
    except DataError as error:
        notes.refuse(str(path), str(error))
        return notes
    _Reader(path, names, notes).read(images, annotations, categories)
    notes.close(str(path))
    return notes


def _lists(content: object) -> Iterable[list[Any]]:
    if not isinstance(content, dict):
        raise DataError(
            f"is no COCO file: expected an object with {', '.join(_LISTS)}, found {shown(content)}"
        )
    if isinstance(content, Repeated):
        entry_of(content)
    for key in _LISTS:
        if not isinstance(content.get(key), list):
            words = f"found {key} as {shown(content[key])}" if key in content else f"{key} is not there"
            raise DataError(f"is no COCO file: expected {', '.join(_LISTS)} as lists, {words}")
    return [content[key] for key in _LISTS]


class _Category(NamedTuple):
    """An entry of ``categories``."""

    number: int
    name: str


@final
class _Ids:
    """Entries of one list, ``kind``, by their ids, of which each may stand once."""

    def __init__(self, path: Path, kind: str, notes: Annotations) -> None:
        self._path, self._kind, self._notes = path, kind, notes
        # Ids that look alike, as 1 and "1" do, are one.
        self._entries: dict[str, tuple[int, int | str, str | None]] = {}
        self._unusable: set[str] = set()

    def place(self, number: int) -> str:
        return f"{self._path} {self._kind} {number}"

    def refuse(self, number: int, words: str, image_id: str | None) -> None:
        self._notes.refuse(self.place(number), words, image_id, entry=image_id is None)

    def add(self, number: int, key: int | str, image_id: str | None) -> None:
        """Keep the id of an entry that is about an image, or of one that is not."""
        if (earlier := self._entries.get(str(key))) is None:
            self._entries[str(key)] = (number, key, image_id)
            return
        first, other, first_image = earlier
        words = "has the id {}, as {} {} has; give each its own"
        if str(key) not in self._unusable:
            self.refuse(first, words.format(shown(other), self._kind, number), first_image)
        self.refuse(number, words.format(shown(key), self._kind, first), image_id)
        self._unusable.add(str(key))

    def spoil(self, key: int | str) -> None:
        """The entry of this id cannot be used, for a reason that was given."""
        self._unusable.add(str(key))

    def usable(self, key: int | str) -> bool:
        return str(key) not in self._unusable

    def missing(self, key: int | str) -> str:
        """Reason why an id stands for no entry; empty if it stands for one."""
        entry = self._entries.get(str(key))
        if entry is None:
            return f"no {self._kind} has the id {shown(key)}"
        if entry[1] != key:
            return f"no {self._kind} has the id {shown(key)}, but one has {shown(entry[1])}; write ids alike"
        return ""


@final
class _Reader:
    """Reads the lists of one file."""

    def __init__(self, path: Path, names: NameIndex, notes: Annotations) -> None:
        self._path, self._names, self._notes = path, names, notes
        self._image_ids = _Ids(path, "image", notes)
        self._category_ids = _Ids(path, "category", notes)
        self._annotation_ids = _Ids(path, "annotation", notes)
        self._images: dict[int | str, _Image] = {}
        self._categories: dict[int | str, _Category] = {}
        # Name of a class to the categories of that name that occur.
        self._used: dict[str, set[int | str]] = {}
        # Whether every box could as well be two corners, and the first that then fits its image only so.
        self._corners, self._fits_as_corners = True, ""

    def read(self, images: list[Any], annotations: list[Any], categories: list[Any]) -> None:
        owners: dict[str, tuple[int, int | str]] = {}
        for number, entry in enumerate(images):
            self._read_image(number, entry, owners)
        for number, entry in enumerate(categories):
            self._read_category(number, entry)
        # Numbers by size, then texts.
        for key in sorted(self._categories, key=lambda key: (isinstance(key, str), key)):
            self._notes.add_class(self._categories[key].name)
        for number, entry in enumerate(annotations):
            self._read_annotation(number, entry)
        self._compare_names()
        if self._corners and self._fits_as_corners:
            words = (
                "boxes seem to be left, top, right and bottom, as that of "
                f"{self._fits_as_corners} reaches outside its image if not; expected left, top, width, height"
            )
            self._notes.refuse(str(self._path), words)

    def _read_image(self, number: int, entry: object, owners: dict[str, tuple[int, int | str]]) -> None:
        key: int | str | None = None
        image_id: str | None = None
        try:
            fields = entry_of(entry)
            file_name = name_of(fields, "file_name")
            problem = self._names.problem(file_name)
            image_id = None if problem else self._names.find(file_name)[0]
            key = identity(fields, "id")
            sides = [whole(given(fields, side), side, least=1) for side in ("width", "height")]
        except DataError as error:
            self._image_ids.refuse(number, str(error), image_id)
            if key is not None:
                self._image_ids.add(number, key, image_id)
                self._image_ids.spoil(key)
            return
        self._image_ids.add(number, key, image_id)
        self._images[key] = _Image(image_id, problem, (sides[0], sides[1]))
        if image_id is not None:
            first, other = owners.setdefault(image_id, (number, key))
            if other != key:
                self._image_ids.refuse(number, f"is the file {file_name}, as image {first} is", image_id)

    def _read_category(self, number: int, entry: object) -> None:
        try:
            fields = entry_of(entry)
            key, name = identity(fields, "id"), name_of(fields, "name")
        except DataError as error:
            self._category_ids.refuse(number, str(error), None)
            return
        self._category_ids.add(number, key, None)
        self._categories[key] = _Category(number, name)

    def _read_annotation(self, number: int, entry: object) -> None:
        image_id: str | None = None
        try:
            fields = entry_of(entry)
            image_id = self._image_of(fields)
            if "id" in fields:
                self._annotation_ids.add(number, identity(fields, "id"), image_id)
            if flag(fields.get("iscrowd", 0), "iscrowd"):
                return
            self._add(number, fields)
        except DataError as error:
            self._annotation_ids.refuse(number, str(error), image_id)

    def _image_of(self, fields: Mapping[str, Any]) -> str | None:
        """The image that is meant, without a judgement."""
        try:
            image = self._images.get(identity(fields, "image_id"))
        except DataError:
            return None
        return None if image is None else image.image_id

    def _add(self, number: int, fields: Mapping[str, Any]) -> None:
        of_image, of_category = identity(fields, "image_id"), identity(fields, "category_id")
        if not self._image_ids.usable(of_image):
            # Said where the image stands.
            return
        missing = self._image_ids.missing(of_image) or self._category_ids.missing(of_category)
        if missing:
            raise DataError(f"image {of_image} or category {of_category} is not in the file: {missing}")
        if not self._category_ids.usable(of_category):
            raise DataError(f"category {of_category} is the id of two categories")
        image, category = self._images[of_image], self._categories[of_category].name
        if image.image_id is None:
            raise DataError(image.problem)
        self._notes.sizes[image.image_id] = image.size
        place = self._annotation_ids.place(number)
        try:
            box = numbers(given(fields, "bbox"), "bbox", "a list of left, top, width and height")
            if len(box) != 4:
                raise DataError(f"bbox has {len(box)} values, expected left, top, width and height")
            mask = mask_source(fields.get("segmentation"), place)
            key = "difficult" if "difficult" in fields else "ignore"
            difficult = flag(fields.get(key, 0), key)
        except DataError as error:
            raise DataError(f"cannot be read: {error}") from None
        left, top, wide, high = box
        self._look_for_corners(number, box, image.size)
        record = ObjectRecord(place, category, (left, top, left + wide, top + high), mask, difficult)
        self._notes.add(image.image_id, record, written=(left, top, wide, high))
        self._used.setdefault(category, set()).add(of_category)

    def _look_for_corners(self, number: int, box: Sequence[float], size: tuple[int, int]) -> None:
        """Boxes of other formats reach outside now and then, which alone would be cut off."""
        left, top, right, bottom = box
        # Rounding may put a box a pixel over each side.
        width, height = size[0] + 2, size[1] + 2
        self._corners &= left < right <= width and top < bottom <= height
        if self._corners and (left + right > width or top + bottom > height):
            self._fits_as_corners = self._fits_as_corners or f"annotation {number}"

    def _compare_names(self) -> None:
        """Two categories of one name that both occur may be two classes, and no one can tell."""
        for name, keys in self._used.items():
            first, *others = sorted(self._categories[key].number for key in keys)
            for number in others:
                words = f"has the name {name!r}, as category {first} has; give each its own"
                self._category_ids.refuse(number, words, None)


def mask_source(segmentation: object, place: str) -> MaskSource | None:
    """Pixels of the polygons or run lengths of an annotation; None where it has none.

    Args:
        segmentation: the annotation's entry.
        place: of the annotation, for messages.

    Raises:
        DataError: something else.
    """
    if segmentation is None or segmentation == []:
        return None
    if isinstance(segmentation, dict):
        fields = entry_of(segmentation)
        size = numbers(given(fields, "size"), "size of segmentation", "a list of height and width")
        if len(size) != 2:
            raise DataError(f"size of segmentation has {len(size)} values, expected height and width")
        height, width = (whole(side, "size of segmentation", least=1) for side in size)
        return RunLengthMask(_runs(given(fields, "counts")), height, width, place)
    if not isinstance(segmentation, list):
        raise DataError(f"segmentation is {shown(segmentation)}, expected polygons or run lengths")
    # Some tools write an empty polygon where there is none.
    polygons = tuple(numbers(each, "polygon", "a list of numbers") for each in segmentation if each != [])
    if not polygons:
        return None
    if any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise DataError("a polygon needs three corners or more, two numbers each")
    return PolygonMask(polygons)


def _runs(counts: object) -> tuple[int, ...]:
    if isinstance(counts, str):
        try:
            return counts_of_text(counts)
        except ValueError as error:
            raise DataError(str(error)) from None
    values = numbers(counts, "counts", "a list of run lengths or their compressed text")
    return tuple(whole(value, "a run length", least=0) for value in values)


@final
@dataclass(frozen=True, kw_only=True)
class COCO(ImageSet):
    """COCO images with boxes and masks; the label is the class of the largest box.

    Images without any annotation are left out: they have no label.

    Args:
        images: folder of one part, e.g. ``val2017``.
        annotations: its file, e.g. ``annotations/instances_val2017.json``.

    References:
        lin2014coco
    """

    images: str
    annotations: str

    def listing(self) -> Listing:
        """Annotated images in the order of their names."""
        root = existing_folder(self.images, "the images of one part of COCO")
        files = find_images(root, without=Path(self.annotations))
        notes = read_coco(Path(self.annotations), NameIndex(files.by_id))
        labels = notes.main_classes(files.by_id)
        kept = {name: path for name, path in files.by_id.items() if labels[name] is not None}
        return notes.listing(kept, labels, left_out=files.left_out)
