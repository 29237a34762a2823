"""Boxes and classes from a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from verisal.data._files import NameIndex, read_text
from verisal.data.listing import Annotations, Box, ObjectRecord, Problem

__all__ = ["read_csv"]

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_csv(path: Path, names: NameIndex) -> Annotations:
    """Rows ``image,class,xmin,ymin,xmax,ymax``: one object each, half-open pixel coordinates.

    The class may be missing, as a column or in a row: the object is then of its image's class. A row without
    the four coordinates gives its image a class and no object.

    Raises:
        DataError: the file is missing or no text.
    """
    found = Annotations()
    reader = csv.DictReader(io.StringIO(read_text(path, "a CSV file"), newline=""), skipinitialspace=True)
    columns = [name.strip().lower() for name in reader.fieldnames or []]
    missing = [name for name in ("image", *_CORNERS) if name not in columns]
    if missing and not (set(missing) == set(_CORNERS) and "class" in columns):
        words = f"lacks the columns {', '.join(missing)}; its first row is {', '.join(columns) or 'empty'}"
        found.problems.append(Problem(str(path), words))
        return found
    reader.fieldnames = columns
    try:
        for row in reader:
            _add_row(found, f"{path} row {reader.line_num}", row, names)
    except csv.Error as error:
        found.problems.append(Problem(f"{path} row {reader.line_num}", f"is no CSV ({error})"))
    return found


def _add_row(found: Annotations, place: str, row: Mapping[str | None, str | None], names: NameIndex) -> None:
    image = row.get("image") or ""
    if problem := names.problem(image):
        found.problems.append(Problem(place, problem))
        return
    (image_id,) = names.find(image)
    class_name = (row.get("class") or "").strip() or None
    corners = [(row.get(name) or "").strip() for name in _CORNERS]
    if not any(corners):
        if class_name is None:
            found.problems.append(Problem(place, "has neither a class nor a box", image_id))
        elif found.classes.setdefault(image_id, class_name) != class_name:
            words = f"calls the image {class_name}, an earlier row {found.classes[image_id]}"
            found.problems.append(Problem(place, words, image_id))
        else:
            found.add_class(class_name)
        return
    try:
        left, top, right, bottom = map(float, corners)
    except ValueError:
        words = f"box ({', '.join(corners)}) is not four numbers"
        found.problems.append(Problem(place, words, image_id))
        return
    box: Box = (left, top, right, bottom)
    found.add(image_id, ObjectRecord(place, class_name, box))
