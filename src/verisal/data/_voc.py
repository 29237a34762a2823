"""Boxes from the XML files of Pascal VOC, which ImageNet uses too."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from verisal.data._files import NameIndex, read_text
from verisal.data._mask_sources import IndexMask
from verisal.data.listing import Annotations, Box, ObjectRecord, Problem
from verisal.errors import DataError

__all__ = ["VocFile", "add_voc_file", "read_voc_folder", "read_voc_xml"]


class VocFile(NamedTuple):
    """Content of one file: the image's name, its width and height if stated, classes and boxes by object."""

    image: str
    size: tuple[int, int] | None
    objects: tuple[tuple[str, Box], ...]


def read_voc_folder(folder: Path, names: NameIndex) -> Annotations:
    """Every ``.xml`` file below ``folder``; each belongs to the image of its own name.

    Coordinates count from 1 and include the last pixel, as in Pascal VOC.
    """
    found = Annotations()
    files = sorted(folder.rglob("*.xml"))
    if not files:
        found.problems.append(Problem(str(folder), "holds no .xml file"))
    for path in files:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if problem := names.problem(name):
            found.problems.append(Problem(str(path), problem))
            continue
        add_voc_file(found, names.find(name)[0], path, first=1)
    return found


def add_voc_file(
    found: Annotations,
    image_id: str,
    path: Path,
    *,
    first: int,
    numbers: Path | None = None,
) -> None:
    """Add the objects of one file to what is known of its image.

    Args:
        found: filled.
        image_id: the image.
        path: the file.
        first: the coordinate of the first pixel: 1 where the last one is included, 0 for half-open boxes.
        numbers: a picture with the number of the object, from 1, in each of its pixels; or None.
    """
    try:
        content = read_voc_xml(path)
    except DataError as error:
        found.problems.append(Problem(str(path), str(error).removeprefix(f"{path}: "), image_id))
        return
    if content.size is not None:
        found.sizes[image_id] = content.size
    for number, (name, (left, top, right, bottom)) in enumerate(content.objects, start=1):
        box = (left - first, top - first, right, bottom)
        mask = None if numbers is None else IndexMask(numbers, (number,))
        found.add(image_id, ObjectRecord(f"{path} object {number}", name, box, mask))


def read_voc_xml(path: Path) -> VocFile:
    """Coordinates as they are written.

    Raises:
        DataError: the file is missing, no XML, or lacks what an object needs; names file and object.
    """
    text = read_text(path, "an XML file of Pascal VOC")
    # Entities are of no use here, and nested ones fill the memory.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError(f"{path}: declares a document type; annotations need none, remove it")
    try:
        root = ElementTree.fromstring(text)  # noqa: S314  no document type, so no entities
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: is no whole XML ({error})") from error
    if root.tag != "annotation":
        raise DataError(f"{path}: its root is <{root.tag}>, expected <annotation>")
    objects = tuple(_objects(path, root.findall("object")))
    return VocFile(root.findtext("filename", "").strip(), _size(path, root), objects)


def _objects(path: Path, elements: Iterable[ElementTree.Element]) -> Iterable[tuple[str, Box]]:
    for number, element in enumerate(elements, start=1):
        name = element.findtext("name", "").strip()
        corners = [element.findtext(f"bndbox/{key}", "") for key in ("xmin", "ymin", "xmax", "ymax")]
        try:
            left, top, right, bottom = map(float, corners)
        except ValueError:
            raise DataError(
                f"{path}: object {number} has the box ({', '.join(corners)}); expected four numbers"
            ) from None
        if not name:
            raise DataError(f"{path}: object {number} has no <name>")
        yield name, (left, top, right, bottom)


def _size(path: Path, root: ElementTree.Element) -> tuple[int, int] | None:
    if root.find("size") is None:
        return None
    try:
        width, height = (int(root.findtext(f"size/{key}", "")) for key in ("width", "height"))
    except ValueError:
        raise DataError(f"{path}: <size> has no whole width and height") from None
    # Some tools write zeros where they do not know.
    return (width, height) if width > 0 and height > 0 else None
