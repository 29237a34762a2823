"""The validation images of ImageNet with their boxes."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import final

from verisal.data._files import NameIndex, existing_folder, image_files, image_id_of, read_text
from verisal.data._synsets import SYNSETS
from verisal.data._voc import add_voc_file
from verisal.data.listing import Annotations, ImageRecord, ImageSet, Listing, Problem
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
        paths = {image_id_of(path, root): path for path in image_files(root)}
        if not paths:
            raise DataError(f"{root}: holds no image")
        names, found = NameIndex(paths), Annotations()
        if self.boxes is not None:
            for path in sorted(existing_folder(self.boxes, "XML files of ImageNet").rglob("*.xml")):
                # The archive has the boxes of all images; a part of them is often enough on disk.
                for name in names.find(path.stem)[:1]:
                    add_voc_file(found, name, path, first=0)
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
        return Listing(records, tuple(sorted({*labels.values(), *found.class_names})), tuple(found.problems))

    def _labels(
        self, root: Path, paths: dict[str, Path], names: NameIndex, found: Annotations
    ) -> dict[str, str]:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name in SYNSETS)
        if folders:
            empty = [path.name for path in folders if not image_files(path)]
            if empty:
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
    rows = list(csv.reader(text.splitlines())) if kaggle else [line.split() for line in text.splitlines()]
    labels: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        if not row or (kaggle and number == 1):
            continue
        word = (row[1].split() or [""])[0] if len(row) == 2 else ""
        synset = SYNSETS[int(word)] if word.isdecimal() and int(word) < len(SYNSETS) else word
        if synset not in SYNSETS:
            words = f"expected an image's name and a WordNet id or index below 1000, found {row}"
            found.problems.append(Problem(f"{path} row {number}", words))
            continue
        labels |= dict.fromkeys(names.find(row[0])[:1], synset)
    return labels
