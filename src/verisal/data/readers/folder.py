"""A folder of images, with or without classes, boxes and masks."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, final

from verisal.data.files import (
    NameIndex,
    existing_folder,
    find_images,
    image_id_of,
    left_out_words,
    no_image,
    read_text,
    subfolders,
)
from verisal.data.readers.coco import read_coco
from verisal.data.readers.listing import (
    Annotations,
    Box,
    ImageSet,
    Listing,
    ObjectRecord,
)
from verisal.data.readers.masks import IndexMask
from verisal.data.readers.values import composed, flag, numeral, twice
from verisal.data.readers.voc import read_voc_folder
from verisal.errors import ConfigError, DataError

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_COLUMNS = ("image", "class", *_CORNERS, "difficult")


def read_csv(path: Path, names: NameIndex) -> Annotations:
    """Rows ``image,class,xmin,ymin,xmax,ymax``: one object each, half-open pixel coordinates.

    The class may be missing, as a column or in a row: the object is then of its image's class. A row without
    the four coordinates gives its image a class and no object. A column ``difficult`` of 0 and 1 may follow;
    other columns are not read. Semicolons or tabs may divide the columns; with semicolons, numbers may have a
    decimal comma.
    """
    notes = Annotations()
    # Spreadsheets may name the divider in a first line of its own.
    whole = read_text(path, "a CSV file")
    text = re.sub(r"\Asep=.\r?\n", "", whole)
    divider = _divider(text)
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True, delimiter=divider)
    before = whole[: len(whole) - len(text)].count("\n")
    try:
        columns = [name.strip().lower() for name in next(reader, [])]
    except csv.Error as error:
        notes.refuse(f"{path} row 1", f"is no CSV ({error})")
        return notes
    if words := _column_problem(columns):
        notes.refuse(str(path), words)
        return notes
    table = _Table(notes, names, decimal="," if divider == ";" else ".")
    while True:
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            # Without its closing quote a row reaches to the end of the file, and nobody knows what it holds.
            place, rest = f"{path} row {reader.line_num + before}", "end of data" in str(error)
            notes.refuse(place, f"is no CSV ({error})", entry=not rest)
            continue
        if any(cell.strip() for cell in row):
            table.add(f"{path} row {reader.line_num + before}", columns, row)
    notes.close(str(path))
    return notes


@final
class _Table:
    """Adds rows to what is known; ``decimal`` is the mark before the decimals of a number."""

    def __init__(self, notes: Annotations, names: NameIndex, *, decimal: str) -> None:
        self._notes, self._names, self._decimal = notes, names, decimal
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
            image_id = self._names.one(image)
            self._same_folder(place, image_id, image)
            if len(row) > len(columns):
                raise DataError(f"has {len(row)} values, the first row {len(columns)}; put a text in quotes")
            self._add(place, image_id, cells)
        except DataError as error:
            self._notes.refuse(place, str(error), image_id, entry=image_id is None)

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
        self._notes.add(image_id, ObjectRecord(place, class_name, box, difficult=difficult), written=box)

    def _add_class(self, place: str, image_id: str, class_name: str | None) -> None:
        if class_name is None:
            raise DataError("has neither a class nor a box")
        known = self._notes.classes.setdefault(image_id, class_name)
        if known != class_name:
            raise DataError(f"calls the image {class_name}, an earlier row {known}")
        self._only_once(place, image_id, class_name, None)
        self._notes.add_class(class_name)

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


def read_masks(folder: Path, names: NameIndex) -> Annotations:
    """Masks of objects, and pictures that number objects, by image.

    ``cat/a.png`` belongs to the image ``cat/a`` of any suffix and numbers its objects: 0 is no object, 255 is
    not known. Pictures ``cat/a/*.png`` or ``cat/a_*.png`` are one object each, wherever they are not 0.
    """
    files = find_images(folder, arrays=False)
    notes = Annotations(left_out=files.left_out)
    if not files.paths:
        notes.refuse(str(folder), "holds no mask picture")
    for path in files.paths:
        name = str(PurePosixPath(image_id_of(path, folder)).with_suffix(""))
        owner, whole = _owner(name, names)
        if owner is None:
            notes.refuse(str(path), names.problem(name), entry=True)
        elif whole:
            if (first := notes.index_masks.setdefault(owner, IndexMask(path)).path) != path:
                notes.refuse(str(path), f"is the mask of {owner}, as {first} is", owner)
        else:
            notes.add(owner, ObjectRecord(str(path), mask=IndexMask(path)))
    return notes


def _owner(name: str, names: NameIndex) -> tuple[str | None, bool]:
    """The image that a mask belongs to, and whether the mask is of all of its objects."""
    part = name.rpartition("_")[0]
    guesses = (
        *((name, True, True), (name.rpartition("/")[0], True, False), (part, True, False)),
        *((name, False, True), (part, False, False)),
    )
    for guess, path_only, whole in guesses:
        if len(notes := names.find(guess, path_only=path_only)) == 1:
            return notes[0], whole
    return None, False


_READERS: dict[str, Callable[[Path, NameIndex], Annotations]] = {
    "csv": read_csv,
    "coco": read_coco,
    "voc": read_voc_folder,
    "masks": read_masks,
}


@final
@dataclass(frozen=True, kw_only=True)
class ImageFolder(ImageSet):
    """Images below one folder.

    An image's name is its path below the folder. Annotations name images by that path or by the file name,
    with or without the suffix; coordinates are those of the image as it is displayed, with its EXIF rotation.

    Args:
        root: the folder.
        labels: ``folders``, each folder in ``root`` is a class; ``annotations``, the class that they give to
            the image, else that of the largest annotated box; ``none``, classes are not known.
        annotations: a file (``csv``, ``coco``) or a folder (``voc``, ``masks``), or None.
        format: of the annotations. ``csv``: rows ``image,class,xmin,ymin,xmax,ymax``, half-open pixels.
            ``coco``: one JSON file. ``voc``: XML files named after their images, coordinates from 1, last
            pixel included. ``masks``: pictures; ``a.png`` numbers the objects of image ``a``, 0 is none and
            255 not known; ``a_1.png`` or ``a/1.png`` is one object, where it is not 0.
        mask_classes: number to class name, for pictures that number classes and not objects.

    Raises:
        ConfigError: annotations without a format or the reverse; labels from annotations that have none.
    """

    root: str
    labels: Literal["folders", "annotations", "none"] = "folders"
    annotations: str | None = None
    format: Literal["csv", "coco", "voc", "masks"] | None = None
    mask_classes: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.annotations is None) != (self.format is None):
            raise ConfigError(
                f"ImageFolder: annotations is {self.annotations!r} and format {self.format!r};"
                " give both (csv, coco, voc or masks) or neither"
            )
        if self.labels == "annotations" and self.format in (None, "masks"):
            raise ConfigError(
                f"ImageFolder: labels cannot come from annotations of format {self.format!r};"
                " expected csv, coco or voc"
            )
        if self.mask_classes and self.format != "masks":
            raise ConfigError(f"ImageFolder: mask_classes needs format masks, found {self.format!r}")

    def listing(self) -> Listing:
        """All images in the order of their names."""
        root = existing_folder(self.root, "a folder of images")
        beside = None if self.annotations is None else Path(self.annotations)
        files = find_images(root, without=beside)
        if not files.paths:
            raise no_image(root, files.left_out)
        ids = files.by_id
        annotated = self._annotated(NameIndex(ids))
        folders, unlabelled = list[str](), ""
        labels: dict[str, str | None] = {}
        if self.labels == "folders":
            folders = _class_folders(root, beside, ids, self.format)
            labels = {name: composed(name.partition("/")[0]) for name in ids if "/" in name}
            unlabelled = "lies in no class folder; move it into one, or set labels"
        elif self.labels == "annotations":
            labels = annotated.main_classes(ids)
            unlabelled = f"has no class in {self.annotations}"
        left_out = Counter(files.left_out) + Counter(annotated.left_out)
        if self.format == "voc":
            # XML files often lie beside their images.
            del left_out[".xml"]
        return annotated.listing(
            ids,
            labels,
            unlabelled=unlabelled,
            class_names=[*folders, *annotated.class_names, *self.mask_classes.values()],
            index_classes=self.mask_classes or None,
            left_out=left_out,
        )

    def _annotated(self, names: NameIndex) -> Annotations:
        if self.annotations is None or self.format is None:
            return Annotations()
        path = Path(self.annotations)
        if self.format in ("voc", "masks"):
            existing_folder(path, f"a folder of annotations in the format {self.format}")
        if self.format == "masks" and path.samefile(self.root):
            raise DataError(f"{path}: holds the images; masks need a folder of their own")
        return _READERS[self.format](path, names)


def _class_folders(root: Path, beside: Path | None, image_ids: Iterable[str], form: str | None) -> list[str]:
    """Names of the class folders, all of which hold an image."""
    apart = None if beside is None else beside.resolve()
    folders = [path for path in subfolders(root) if path.resolve() != apart]
    if not folders:
        others = {None: "none, or give annotations", "masks": "none"}.get(form, "annotations or none")
        raise DataError(f"{root}: holds no class folders; set labels to {others}")
    used = {image_id.partition("/")[0] for image_id in image_ids if "/" in image_id}
    empty = [path for path in folders if image_id_of(path, root) not in used]
    if empty:
        words = left_out_words(sum((Counter(find_images(path).left_out) for path in empty), Counter()))
        raise DataError(
            f"{root}: {len(empty)} class folders hold no image: {', '.join(path.name for path in empty)}"
            + (f"; {words}" if words else "")
        )
    return [composed(image_id_of(path, root)) for path in folders]
