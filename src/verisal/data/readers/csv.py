"""Boxes and classes from a CSV file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

from verisal.data._files import NameIndex, read_text
from verisal.data.readers.listing import Annotations, Box, ObjectRecord, Problem
from verisal.data.readers.values import composed, flag, numeral, twice
from verisal.errors import DataError

__all__ = ["read_csv"]

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_COLUMNS = ("image", "class", *_CORNERS, "difficult")


def read_csv(path: Path, names: NameIndex) -> Annotations:
    """Rows ``image,class,xmin,ymin,xmax,ymax``: one object each, half-open pixel coordinates.

    The class may be missing, as a column or in a row: the object is then of its image's class. A row without
    the four coordinates gives its image a class and no object. A column ``difficult`` of 0 and 1 may follow;
    other columns are not read. Semicolons or tabs may divide the columns; with semicolons, numbers may have a
    decimal comma.

    Raises:
        DataError: the file is missing or no text.
    """
    found = Annotations()
    # Spreadsheets may name the divider in a first line of its own.
    whole = read_text(path, "a CSV file")
    text = re.sub(r"\Asep=.\r?\n", "", whole)
    divider = _divider(text)
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True, delimiter=divider)
    before = whole[: len(whole) - len(text)].count("\n")
    try:
        columns = [name.strip().lower() for name in next(reader, [])]
    except csv.Error as error:
        found.problems.append(Problem(f"{path} row 1", f"is no CSV ({error})"))
        return found
    if words := _column_problem(columns):
        found.problems.append(Problem(str(path), words))
        return found
    table = _Table(found, names, decimal="," if divider == ";" else ".")
    while True:
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            # Without its closing quote a row reaches to the end of the file, and nobody knows what it holds.
            place, rest = f"{path} row {reader.line_num + before}", "end of data" in str(error)
            found.problems.append(Problem(place, f"is no CSV ({error})", entry=not rest))
            continue
        if any(cell.strip() for cell in row):
            table.add(f"{path} row {reader.line_num + before}", columns, row)
    found.close(str(path))
    return found


@final
class _Table:
    """Adds rows to what is known.

    Args:
        found: filled.
        names: of the images.
        decimal: mark before the decimals of a number.
    """

    def __init__(self, found: Annotations, names: NameIndex, *, decimal: str) -> None:
        self._found, self._names, self._decimal = found, names, decimal
        # What a row says to the row that said it first; what gives an image its class has no box.
        self._seen: dict[tuple[str, str | None, Box | None], str] = {}
        # Image to the folder that the first row with one names it in, and that row.
        self._folders: dict[str, tuple[str, str]] = {}

    def add(self, place: str, columns: Sequence[str], row: Sequence[str]) -> None:
        """Take one row, or say why not."""
        image_id: str | None = None
        try:
            cells = {column: cell.strip() for column, cell in zip(columns, row, strict=False)}
            image = cells.get("image", "")
            if problem := self._names.problem(image):
                raise DataError(problem)
            image_id = self._names.find(image)[0]
            self._same_folder(place, image_id, image)
            if len(row) > len(columns):
                raise DataError(f"has {len(row)} values, the first row {len(columns)}; put a text in quotes")
            self._add(place, image_id, cells)
        except DataError as error:
            self._found.problems.append(Problem(place, str(error), image_id, entry=image_id is None))

    def _add(self, place: str, image_id: str, cells: Mapping[str, str]) -> None:
        class_name = composed(cells.get("class", "")) or None
        corners = [cells.get(name, "") for name in _CORNERS]
        if not any(corners):
            self._add_class(place, image_id, class_name)
            return
        try:
            left, top, right, bottom = (numeral(corner.replace(self._decimal, ".")) for corner in corners)
        except ValueError:
            raise DataError(f"box ({', '.join(corners)}) is not four numbers") from None
        box: Box = (left, top, right, bottom)
        self._only_once(place, image_id, class_name, box)
        difficult = flag(cells.get("difficult", ""), "difficult")
        self._found.add(image_id, ObjectRecord(place, class_name, box, difficult=difficult), written=box)

    def _add_class(self, place: str, image_id: str, class_name: str | None) -> None:
        if class_name is None:
            raise DataError("has neither a class nor a box")
        known = self._found.classes.setdefault(image_id, class_name)
        if known != class_name:
            raise DataError(f"calls the image {class_name}, an earlier row {known}")
        self._only_once(place, image_id, class_name, None)
        self._found.add_class(class_name)

    def _same_folder(self, place: str, image_id: str, image: str) -> None:
        """Images of one name in two folders, of which one is not on disk, must not become one."""
        folder = image.replace("\\", "/").rpartition("/")[0]
        if not folder:
            return
        first, row = self._folders.setdefault(image_id, (folder, place))
        if not f"/{first}".endswith(f"/{folder}") and not f"/{folder}".endswith(f"/{first}"):
            raise DataError(
                f"names {image_id} in the folder {folder!r}, row {row.rpartition(' ')[2]} in {first!r};"
                " write its path below the folder of the images"
            )

    def _only_once(self, place: str, image_id: str, class_name: str | None, box: Box | None) -> None:
        first = self._seen.setdefault((image_id, class_name, box), place)
        if first != place:
            raise DataError(f"says the same as row {first.rpartition(' ')[2]}; remove one")


def _divider(text: str) -> str:
    """The mark that makes the most of the expected columns out of the first row."""
    line = text.lstrip().partition("\n")[0]
    return max(
        ",;\t", key=lambda mark: sum(cell.strip(' "\r').lower() in _COLUMNS for cell in line.split(mark))
    )


def _column_problem(columns: Sequence[str]) -> str:
    missing = [name for name in ("image", *_CORNERS) if name not in columns]
    if missing and not (set(missing) == set(_CORNERS) and "class" in columns):
        return f"lacks the columns {', '.join(missing)}; its first row is {', '.join(columns) or 'empty'}"
    if repeated := twice(name for name in columns if name):
        places = (str(number) for number, name in enumerate(columns, start=1) if name == repeated[0])
        return f"has the column {repeated[0]} twice (columns {', '.join(places)}); remove or rename one"
    return ""
