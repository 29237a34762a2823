"""Known data sets in the layout of their own archives. Nothing is downloaded unless that is asked for."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, final

from verisal.data.files import (
    NameIndex,
    existing_folder,
    files_with_suffix,
    find_images,
    no_image,
    read_text,
    subfolders,
)
from verisal.data.readers.class_map import SYNSETS
from verisal.data.readers.listing import Annotations, ImageSet, Listing, ObjectRecord
from verisal.data.readers.masks import IndexMask
from verisal.data.readers.values import numeral, twice
from verisal.data.readers.voc import VocFiles, through_torchvision
from verisal.errors import DataError


@final
@dataclass(frozen=True, kw_only=True)
class OxfordPet(ImageSet):
    """Oxford-IIIT Pet (``oxford-iiit-pet``): one animal an image, its mask from the trimap.

    The object is what the trimap calls foreground; its border, which is not classified, is no object.

    Args:
        root: the folder of ``oxford-iiit-pet``.
        part: of the images.
        download: whether to fetch the archives if they are not there.

    References:
        parkhi2012cats
    """

    root: str
    part: Literal["trainval", "test"] = "test"
    download: bool = False

    def listing(self) -> Listing:
        """Images in the order of the part's list; classes in the order of their numbers."""
        from torchvision import datasets  # type: ignore[import-untyped]  # has no annotations

        base = Path(self.root) / "oxford-iiit-pet"
        listed = base / "annotations" / f"{self.part}.txt"
        if not listed.is_file():
            through_torchvision(
                self.root, lambda: datasets.OxfordIIITPet(self.root, split=self.part, download=self.download)
            )
        notes, numbers = Annotations(), dict[str, int]()
        stems: list[str] = []
        for number, line in enumerate(read_text(listed, "lines 'name class species breed'").splitlines(), 1):
            words = line.split()
            if len(words) == 4 and re.fullmatch("[0-9]{1,9}", words[1]):
                stems.append(words[0])
                numbers[_pet_class(words[0])] = int(words[1])
            elif words:
                place = f"{listed} line {number}"
                notes.refuse(place, f"expected name, class, species and breed, found {line!r}", entry=True)
        notes.add_repeated(str(listed), [f"{stem}.jpg" for stem in stems])
        notes.class_names = sorted(numbers, key=lambda name: numbers[name])
        paths = {f"{stem}.jpg": base / "images" / f"{stem}.jpg" for stem in stems}
        labels: dict[str, str | None] = {}
        for name, path in paths.items():
            labels[name] = _pet_class(path.stem)
            trimap = base / "annotations" / "trimaps" / f"{path.stem}.png"
            notes.add(name, ObjectRecord(str(trimap), mask=IndexMask(trimap, (1,))))
        return notes.listing(paths, labels)


@final
@dataclass(frozen=True, kw_only=True)
class Imagenette(ImageSet):
    """Imagenette, ten classes of ImageNet named by their WordNet ids; no boxes.

    Args:
        root: the folder of ``imagenette2``, ``imagenette2-320`` or ``imagenette2-160``.
        size: which of them: ``full``, ``320px`` or ``160px``.
        part: of the images.
        download: whether to fetch the archive if it is not there.

    References:
        howard2019imagenette
    """

    root: str
    size: Literal["full", "320px", "160px"] = "320px"
    part: Literal["train", "val"] = "val"
    download: bool = False

    def listing(self) -> Listing:
        """Images in the order of their names."""
        from torchvision import datasets

        names = {"full": "imagenette2", "320px": "imagenette2-320", "160px": "imagenette2-160"}
        root = Path(self.root) / names[self.size] / self.part
        if not root.is_dir():
            # Only to fetch it: torchvision takes every folder for a class.
            through_torchvision(
                self.root,
                lambda: datasets.Imagenette(
                    self.root, split=self.part, size=self.size, download=self.download
                ),
            )
        files = find_images(root)
        labels = {name: name.partition("/")[0] for name in files.by_id if "/" in name}
        notes = Annotations(class_names=[path.name for path in subfolders(root)])
        words = "lies in no class folder"
        return notes.listing(files.by_id, labels, unlabelled=words, left_out=files.left_out)


@final
@dataclass(frozen=True, kw_only=True)
class CUB200(ImageSet):
    """CUB-200-2011 with its boxes, and masks where the archive of segmentations lies beside it.

    Class names lose their numbers: ``001.Black_footed_Albatross`` is ``Black footed Albatross``. A pixel is
    of the bird if at least half of the annotators marked it.

    Args:
        root: ``CUB_200_2011``, the folder of ``images.txt``.
        part: of its own division, or ``all``.

    References:
        wah2011cub
    """

    root: str
    part: Literal["train", "test", "all"] = "test"

    def listing(self) -> Listing:
        """Images in the order of ``images.txt``."""
        root = existing_folder(self.root, "CUB_200_2011")
        images, numbers = _table(root / "images.txt", 1), _table(root / "classes.txt", 1)
        labels, boxes = _table(root / "image_class_labels.txt", 1), _table(root / "bounding_boxes.txt", 4)
        division = _table(root / "train_test_split.txt", 1)
        classes = {key: name.partition(".")[2].replace("_", " ") for key, (name,) in numbers.items()}
        masks = next((path for path in (root, root.parent) if (path / "segmentations").is_dir()), None)
        if repeated := twice(classes.values()):
            raise DataError(
                f"{root / 'classes.txt'}: names the class {repeated[0]!r} twice; give each its own"
            )
        notes = Annotations(class_names=list(classes.values()))
        notes.add_repeated(str(root / "images.txt"), [name for (name,) in images.values()])
        paths, known = dict[str, Path](), dict[str, str | None]()
        for key, (name,) in images.items():
            place = f"{root / 'images.txt'} image {key}"
            if key not in division or labels.get(key, ("",))[0] not in classes or key not in boxes:
                words = "is not in all of the tables of labels, classes, boxes and division"
                notes.refuse(place, words, name)
            elif division[key][0] not in ("0", "1"):
                words = f"has {division[key][0]!r} in train_test_split.txt, expected 0 or 1"
                notes.refuse(place, words, name)
            elif self.part == "all" or (division[key][0] == "1") == (self.part == "train"):
                paths[name], known[name] = root / "images" / name, classes[labels[key][0]]
                mask = None if masks is None else _votes(masks / "segmentations" / name)
                _add_box(notes, name, ObjectRecord(place, known[name], mask=mask), boxes[key])
        notes.close(str(root / "bounding_boxes.txt"))
        return notes.listing(paths, known)


def _pet_class(stem: str) -> str:
    return " ".join(part.title() for part in stem.rsplit("_", 1)[0].split("_"))


def _votes(image: Path) -> IndexMask:
    return IndexMask(image.with_suffix(".png"), tuple(range(128, 256)))


def _add_box(notes: Annotations, name: str, bird: ObjectRecord, box: tuple[str, ...]) -> None:
    try:
        left, top, wide, high = map(numeral, box)
    except ValueError:
        notes.refuse(bird.place, f"box ({', '.join(box)}) is not four numbers", name)
        return
    whole = replace(bird, box=(left, top, left + wide, top + high))
    notes.add(name, whole, written=(left, top, wide, high))


def _table(path: Path, columns: int) -> dict[str, tuple[str, ...]]:
    """First word of each line to the words after it."""
    rows: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(read_text(path, "a table of CUB-200-2011").splitlines(), start=1):
        if not line.strip():
            continue
        key, *values = line.split(maxsplit=columns)
        if len(values) != columns or key in rows:
            raise DataError(
                f"{path} line {number}: expected a new number and {columns} values, found {line!r}"
            )
        rows[key] = tuple(values)
    return rows


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
        """Images in the order of their names."""
        root = existing_folder(self.images, "validation images of ImageNet")
        files = find_images(root, without=None if self.boxes is None else Path(self.boxes))
        paths = files.by_id
        if not paths:
            raise no_image(root, files.left_out)
        names, notes = NameIndex(paths), Annotations()
        if self.boxes is not None:
            boxes = VocFiles(notes, first=0)
            for path in files_with_suffix(existing_folder(self.boxes, "XML files of ImageNet"), ".xml"):
                # The archive has the boxes of all images; a part of them is often enough on disk.
                for name in names.find(path.stem)[:1]:
                    boxes.add(name, path)
            notes.close(self.boxes)
        labels = self._labels(root, paths, names, notes)
        return notes.listing(
            paths,
            labels,
            unlabelled="has no label; give a list of labels or the boxes",
            class_names=sorted({label for label in labels.values() if label}.union(notes.class_names)),
            left_out=files.left_out,
        )

    def _labels(
        self, root: Path, paths: Mapping[str, Path], names: NameIndex, notes: Annotations
    ) -> Mapping[str, str | None]:
        folders = [path.name for path in subfolders(root) if path.name in SYNSETS]
        if folders:
            used = {name.partition("/")[0] for name in paths}
            if empty := [name for name in folders if name not in used]:
                raise DataError(f"{root}: {len(empty)} class folders hold no image: {', '.join(empty)}")
            return {name: name.partition("/")[0] for name in paths if "/" in name}
        if self.labels is not None:
            return _listed(Path(self.labels), names, notes)
        return notes.main_classes(paths)


def _listed(path: Path, names: NameIndex, notes: Annotations) -> dict[str, str]:
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
            notes.refuse(f"{path} row {number}", words, entry=True)
            continue
        for name in names.find(row[0])[:1]:
            if name in first:
                words = f"names image {row[0]!r} again, after row {first[name]}; keep one"
                notes.refuse(f"{path} row {number}", words, name)
            first.setdefault(name, number)
            labels.setdefault(name, synset)
    return labels
