"""A folder of images, with or without classes, boxes and masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final

from verisal.data._files import (
    NameIndex,
    existing_folder,
    find_images,
    image_id_of,
    left_out_words,
    no_image,
    subfolders,
)
from verisal.data.readers.coco import read_coco
from verisal.data.readers.csv import read_csv
from verisal.data.readers.listing import Annotations, ImageRecord, ImageSet, Listing, Problem
from verisal.data.readers.mask_files import find_mask_files
from verisal.data.readers.mask_sources import IndexMask
from verisal.data.readers.values import composed
from verisal.data.readers.voc import read_voc_folder
from verisal.errors import ConfigError, DataError

__all__ = ["ImageFolder"]

_READERS: dict[str, Callable[[Path, NameIndex], Annotations]] = {
    "csv": read_csv,
    "coco": read_coco,
    "voc": read_voc_folder,
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
        """All images in the order of their names.

        Raises:
            DataError: the folder is missing or holds no image, a class folder is empty, or a file cannot be
            read.
        """
        root = existing_folder(self.root, "a folder of images")
        beside = None if self.annotations is None else Path(self.annotations)
        files = find_images(root, without=beside)
        if not files.paths:
            raise no_image(root, files.left_out)
        ids = {image_id_of(path, root): path for path in files.paths}
        names = NameIndex(ids)
        annotated, numbered = self._annotated(names)
        if self.labels == "folders":
            folders = _class_folders(root, beside, ids, self.format)
            classes: dict[str, str] = {name: composed(name.partition("/")[0]) for name in ids if "/" in name}
            loose = [name for name in ids if name not in classes]
            annotated.problems += [
                Problem(str(ids[name]), "lies in no class folder; move it into one, or set labels", name)
                for name in loose
            ]
        else:
            folders = []
            classes = {}
            if self.labels == "annotations":
                known = {name: annotated.main_class(name) for name in ids}
                classes = {name: found for name, found in known.items() if found is not None}
                annotated.problems += [
                    Problem(str(ids[name]), f"has no class in {self.annotations}", name)
                    for name, found in known.items()
                    if found is None
                ]
        class_names = [*folders, *annotated.class_names, *self.mask_classes.values()]
        records = tuple(
            ImageRecord(
                path,
                name,
                classes.get(name),
                tuple(annotated.objects.get(name, ())),
                numbered.get(name),
                self.mask_classes or None,
                annotated.sizes.get(name),
            )
            for name, path in ids.items()
        )
        left_out = Counter(files.left_out) + Counter(annotated.left_out)
        if self.format == "voc":
            # XML files often lie beside their images.
            del left_out[".xml"]
        return Listing(records, tuple(dict.fromkeys(class_names)), tuple(annotated.problems), left_out)

    def _annotated(self, names: NameIndex) -> tuple[Annotations, Mapping[str, IndexMask]]:
        if self.annotations is None or self.format is None:
            return Annotations(), {}
        path = Path(self.annotations)
        if self.format in ("voc", "masks"):
            existing_folder(path, f"a folder of annotations in the format {self.format}")
        if self.format == "masks":
            if path.samefile(self.root):
                raise DataError(f"{path}: holds the images; masks need a folder of their own")
            return find_mask_files(path, names)
        return _READERS[self.format](path, names), {}


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
