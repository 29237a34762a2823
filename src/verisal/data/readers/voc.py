"""Boxes from the XML files of Pascal VOC, which ImageNet uses too."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, TypeVar, final
from xml.etree import ElementTree

from verisal.data.files import NameIndex, files_with_suffix, image_id_of, read_content, text_of
from verisal.data.readers.listing import Annotations, Box, ImageSet, Listing, ObjectRecord
from verisal.data.readers.masks import IndexMask
from verisal.data.readers.values import composed, flag, numeral, shown
from verisal.errors import ConfigError, DataError

_WHAT = "an XML file of Pascal VOC"
_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?\sencoding\s*=\s*["']([A-Za-z0-9._:-]+)["']""")


Data = TypeVar("Data")
_VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable"),
    *("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


class VocObject(NamedTuple):
    """One object as it is written."""

    number: int
    name: str
    box: Box
    difficult: bool


class VocFile(NamedTuple):
    """Content of one file: width and height if stated, objects, and what is wrong with others."""

    size: tuple[int, int] | None
    objects: tuple[VocObject, ...]
    problems: tuple[str, ...]


def read_voc_folder(folder: Path, names: NameIndex) -> Annotations:
    """Every ``.xml`` file below ``folder``; each belongs to the image of its own name.

    Coordinates count from 1 and include the last pixel, as in Pascal VOC.
    """
    notes = Annotations()
    paths = files_with_suffix(folder, ".xml")
    if not paths:
        notes.refuse(str(folder), "holds no .xml file")
    files = VocFiles(notes, first=1)
    for path in paths:
        name = str(PurePosixPath(image_id_of(path, folder)).with_suffix(""))
        if problem := names.problem(name):
            notes.refuse(str(path), problem, entry=True)
        else:
            files.add(names.find(name)[0], path)
    notes.close(str(folder))
    return notes


@final
class VocFiles:
    """Adds the objects of files to what is known of their images.

    ``first`` is the coordinate of the first pixel: 1 where the last one is included, 0 for half-open boxes.
    """

    def __init__(self, notes: Annotations, *, first: int) -> None:
        self._notes, self._first = notes, first
        self._paths: dict[str, Path] = {}

    def add(self, image_id: str, path: Path, *, numbers: Path | None = None) -> None:
        """Add the file of an image, of which there may be one.

        ``numbers`` is a picture with the number of the object, from 1, in each of its pixels.
        """
        if (other := self._paths.get(image_id)) is not None:
            if other != path:
                self._notes.refuse(str(path), f"is about {image_id}, as {other} is; keep one", image_id)
            return
        self._paths[image_id] = path
        try:
            content = read_voc_xml(path)
        except DataError as error:
            self._notes.refuse(str(path), str(error).removeprefix(f"{path}: "), image_id)
            return
        for words in content.problems:
            self._notes.refuse(str(path), words, image_id)
        if content.size is not None:
            self._notes.sizes[image_id] = content.size
        for number, name, written, difficult in content.objects:
            left, top, right, bottom = written
            box = (left - self._first, top - self._first, right, bottom)
            mask = None if numbers is None else IndexMask(numbers, (number,))
            record = ObjectRecord(f"{path} object {number}", name, box, mask, difficult)
            self._notes.add(image_id, record, written=written)


def read_voc_xml(path: Path) -> VocFile:
    """Content of a file with coordinates as they are written; DataError for one that is no such XML."""
    content = read_content(path, _WHAT)
    text = text_of(content, path, _WHAT, encoding=_encoding(content))
    # Entities are of no use here, and nested ones fill the memory.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError(f"{path}: declares a document type; annotations need none, remove it")
    try:
        root = ElementTree.fromstring(text)  # noqa: S314  no document type, so no entities
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path}: is no whole XML ({error})") from error
    if root.tag != "annotation":
        raise DataError(f"{path}: its root is <{root.tag}>, expected <annotation>")
    objects, problems = list[VocObject](), list[str]()
    for number, element in enumerate(root.findall("object"), start=1):
        try:
            objects.append(_object(number, element))
        except DataError as error:
            problems.append(f"object {number} {error}")
    size = None
    try:
        _text(root, "filename")
        size = _size(root)
    except DataError as error:
        problems.append(str(error))
    return VocFile(size, tuple(objects), tuple(problems))


def _encoding(content: bytes) -> str:
    """That of a file without a byte order mark: the declared one, else UTF-8."""
    if content.startswith((b"<\0", b"\0<")):
        return "utf-16-le" if content.startswith(b"<\0") else "utf-16-be"
    declared = _DECLARED.match(content)
    name = "utf-8" if declared is None else declared[1].decode("ascii")
    # The declaration could be read a byte at a time, so the text is not of two or four bytes a character.
    return "utf-8" if re.match("utf-?(16|32)|ucs|unicode", name, re.IGNORECASE) else name


def _object(number: int, element: ElementTree.Element) -> VocObject:
    boxes = element.findall("bndbox")
    if len(boxes) > 1:
        raise DataError("has <bndbox> twice; keep one")
    corners = [_text(box, key) for box in boxes for key in ("xmin", "ymin", "xmax", "ymax")]
    try:
        left, top, right, bottom = map(numeral, corners)
    except ValueError:
        raise DataError(f"has the box ({', '.join(corners)}); expected four numbers") from None
    name = composed(_text(element, "name"))
    if not name:
        raise DataError("has no <name>")
    return VocObject(
        number, name, (left, top, right, bottom), flag(_text(element, "difficult"), "<difficult>")
    )


def _text(element: ElementTree.Element, key: str) -> str:
    """Text of the one child of this name; empty where there is none."""
    texts = [child.text or "" for child in element.findall(key)]
    if len(texts) > 1:
        raise DataError(f"has <{key}> twice; keep one")
    return "".join(texts).strip()


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    elements = root.findall("size")
    if len(elements) > 1:
        raise DataError("has <size> twice; keep one")
    sides = [_side(element, key) for element in elements for key in ("width", "height")]
    # Some tools write zeros where they do not know.
    return (sides[0], sides[1]) if all(sides) and sides else None


def _side(element: ElementTree.Element, key: str) -> int:
    text = _text(element, key)
    try:
        side = numeral(text)
    except ValueError:
        side = -1.0
    if side < 0 or not side.is_integer():
        raise DataError(f"<size> has no whole width and height: {key} is {shown(text)}")
    return int(side)


@final
@dataclass(frozen=True, kw_only=True)
class PascalVOC(ImageSet):
    """Pascal VOC detection images (``VOCdevkit/VOC<year>``) with boxes, and masks where it has them.

    The label is the class of the largest box. Object ``i`` of an XML file is number ``i`` in
    ``SegmentationObject``.

    Args:
        root: the folder of ``VOCdevkit``.
        year: of the challenge.
        part: of the images; ``test`` exists for 2007 only.
        download: whether to fetch the archive if it is not there.

    References:
        everingham2010pascal
    """

    root: str
    year: Literal["2007", "2008", "2009", "2010", "2011", "2012"] = "2012"
    part: Literal["train", "trainval", "val", "test"] = "val"
    download: bool = False

    def __post_init__(self) -> None:
        if self.part == "test" and self.year != "2007":
            raise ConfigError(f"PascalVOC: only 2007 has a test part, found year {self.year}")

    def listing(self) -> Listing:
        """Images in the order of the part's list."""
        from torchvision import datasets  # type: ignore[import-untyped]  # has no annotations

        data = through_torchvision(
            self.root,
            lambda: datasets.VOCDetection(
                self.root, year=self.year, image_set=self.part, download=self.download
            ),
        )
        notes = Annotations(class_names=list(_VOC_CLASSES))
        pairs = list(zip(map(Path, data.images), map(Path, data.targets), strict=True))
        # An empty line of the list is no image.
        pairs = [(path, target) for path, target in pairs if path.name != ".jpg"]
        paths = {path.name: path for path, _ in pairs}
        notes.add_repeated(f"the list of part {self.part}", [path.name for path, _ in pairs])
        files = VocFiles(notes, first=1)
        for path, target in pairs:
            objects = path.parents[1] / "SegmentationObject" / f"{path.stem}.png"
            files.add(path.name, target, numbers=objects if os.path.isfile(objects) else None)
        notes.close(self.root)
        return notes.listing(paths, notes.main_classes(paths))


def through_torchvision(root: str, make: Callable[[], Data]) -> Data:
    """The data set that torchvision finds, or fetches where that was asked for.

    DataError if it is not there or not whole.
    """
    try:
        return make()
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(
            f"{root}: {error}; set download to fetch it, or give the folder that holds it"
        ) from error
