"""The validation images of ImageNet with their boxes."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import final

from verisal.data._files import (
    NameIndex,
    existing_folder,
    files_with_suffix,
    find_images,
    image_id_of,
    no_image,
    read_text,
    subfolders,
)
from verisal.data.readers.listing import Annotations, ImageRecord, ImageSet, Listing, Problem
from verisal.data.readers.synsets import SYNSETS
from verisal.data.readers.voc import VocFiles
from verisal.errors import DataError

__all__ = ["ImageNetValidation"]


@final
@dataclass(frozen=True, kw_only=True)
class ImageNetValidation(ImageSet):
    """ImageNet's 2012 validation images, in folders by WordNet id or all in one folder.

    Classes are WordNet ids. In one folder without a list, labels come from the boxes' files. Coordinates of
    boxes count from 0; the last one is taken to be behind the last pixel.

    Args:
        images: the folder, of ``n01440764/ILSVRC2012_val_00000293.JPEG`` or ``ILSVRC2012_val_00000293.JPEG``.
        boxes: folder of the XML files, or None.
        labels: for one folder, a list: ``LOC_val_solution.csv``, or lines of an image's name and its WordNet
            id or index.

    References:
        russakovsky2015imagenet
    """

    images: str
    boxes: str | None = None
    labels: str | None = None

    def listing(self) -> Listing:
        """Images in the order of their names.

        Raises:
            DataError: a folder or the list is missing, or class folders are empty.
        """
        root = existing_folder(self.images, "validation images of ImageNet")
        files = find_images(root, without=None if self.boxes is None else Path(self.boxes))
        paths = {image_id_of(path, root): path for path in files.paths}
        if not paths:
            raise no_image(root, files.left_out)
        names, found = NameIndex(paths), Annotations()
        if self.boxes is not None:
            boxes = VocFiles(found, first=0)
            for path in files_with_suffix(existing_folder(self.boxes, "XML files of ImageNet"), ".xml"):
                # The archive has the boxes of all images; a part of them is often enough on disk.
                for name in names.find(path.stem)[:1]:
                    boxes.add(name, path)
            found.close(self.boxes)
        labels = self._labels(root, paths, names, found)
        found.problems += [
            Problem(str(paths[name]), "has no label; give a list of labels or the boxes", name)
            for name in paths
            if name not in labels
        ]
        records = tuple(
            ImageRecord(
                path,
                name,
                labels.get(name),
                tuple(found.objects.get(name, ())),
                size=found.sizes.get(name),
            )
            for name, path in paths.items()
        )
        class_names = tuple(sorted({*labels.values(), *found.class_names}))
        return Listing(records, class_names, tuple(found.problems), files.left_out)

    def _labels(
        self, root: Path, paths: dict[str, Path], names: NameIndex, found: Annotations
    ) -> dict[str, str]:
        folders = [path.name for path in subfolders(root) if path.name in SYNSETS]
        if folders:
            used = {name.partition("/")[0] for name in paths}
            if empty := [name for name in folders if name not in used]:
                raise DataError(f"{root}: {len(empty)} class folders hold no image: {', '.join(empty)}")
            return {name: name.partition("/")[0] for name in paths if "/" in name}
        if self.labels is not None:
            return _listed(Path(self.labels), names, found)
        known = {name: found.main_class(name) for name in paths}
        return {name: label for name, label in known.items() if label is not None}


def _listed(path: Path, names: NameIndex, found: Annotations) -> dict[str, str]:
    """Labels of the images that are on disk."""
    text = read_text(path, "a list of labels")
    kaggle = text.startswith("ImageId,PredictionString")
    lines = text.splitlines()
    try:
        rows = list(csv.reader(lines)) if kaggle else [line.split() for line in lines]
    except csv.Error as error:
        raise DataError(f"{path}: is no CSV ({error})") from error
    labels: dict[str, str] = {}
    first: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        if not row or (kaggle and number == 1):
            continue
        word = (row[1].split() or [""])[0] if len(row) == 2 else ""
        synset = SYNSETS[int(word)] if re.fullmatch("[0-9]{1,3}", word) else word
        if synset not in SYNSETS:
            words = f"expected an image's name and a WordNet id or index below 1000, found {row}"
            found.problems.append(Problem(f"{path} row {number}", words, entry=True))
            continue
        for name in names.find(row[0])[:1]:
            if name in first:
                words = f"names image {row[0]!r} again, after row {first[name]}; keep one"
                found.problems.append(Problem(f"{path} row {number}", words, name))
            first.setdefault(name, number)
            labels.setdefault(name, synset)
    return labels
