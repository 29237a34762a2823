"""Known data sets in the layout of their own archives. Nothing is downloaded unless that is asked for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar, final

from torchvision import datasets  # type: ignore[import-untyped]  # has no annotations

from verisal.data._files import (
    NameIndex,
    existing_folder,
    find_images,
    image_id_of,
    read_text,
    subfolders,
)
from verisal.data.readers.coco import read_coco
from verisal.data.readers.listing import Annotations, ImageRecord, ImageSet, Listing, ObjectRecord, Problem
from verisal.data.readers.mask_sources import IndexMask
from verisal.data.readers.values import numeral, twice
from verisal.data.readers.voc import VocFiles
from verisal.errors import ConfigError, DataError

__all__ = ["COCO", "CUB200", "Imagenette", "OxfordPet", "PascalVOC"]

Data = TypeVar("Data")

_VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable"),
    *("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


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
        data = _through_torchvision(
            self.root,
            lambda: datasets.VOCDetection(
                self.root, year=self.year, image_set=self.part, download=self.download
            ),
        )
        found = Annotations(class_names=list(_VOC_CLASSES))
        pairs = list(zip(map(Path, data.images), map(Path, data.targets), strict=True))
        # An empty line of the list is no image.
        pairs = [(path, target) for path, target in pairs if path.name != ".jpg"]
        paths = {path.name: path for path, _ in pairs}
        _add_repeated(found, f"the list of part {self.part}", [path.name for path, _ in pairs])
        files = VocFiles(found, first=1)
        for path, target in pairs:
            objects = path.parents[1] / "SegmentationObject" / f"{path.stem}.png"
            files.add(path.name, target, numbers=objects if os.path.isfile(objects) else None)
        found.close(self.root)
        return _listing(paths, {name: found.main_class(name) for name in paths}, found)


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
        paths = {image_id_of(path, root): path for path in files.paths}
        found = read_coco(Path(self.annotations), NameIndex(paths))
        labels = {name: found.main_class(name) for name in paths}
        kept = {name: path for name, path in paths.items() if labels[name] is not None}
        return _listing(kept, labels, found, files.left_out)


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
        base = Path(self.root) / "oxford-iiit-pet"
        listed = base / "annotations" / f"{self.part}.txt"
        if not listed.is_file():
            _through_torchvision(
                self.root, lambda: datasets.OxfordIIITPet(self.root, split=self.part, download=self.download)
            )
        found, numbers = Annotations(), dict[str, int]()
        stems: list[str] = []
        for number, line in enumerate(read_text(listed, "lines 'name class species breed'").splitlines(), 1):
            words = line.split()
            if len(words) == 4 and re.fullmatch("[0-9]{1,9}", words[1]):
                stems.append(words[0])
                numbers[_pet_class(words[0])] = int(words[1])
            elif words:
                place = f"{listed} line {number}"
                found.problems.append(
                    Problem(place, f"expected name, class, species and breed, found {line!r}", entry=True)
                )
        _add_repeated(found, str(listed), [f"{stem}.jpg" for stem in stems])
        found.class_names = sorted(numbers, key=lambda name: numbers[name])
        paths = {f"{stem}.jpg": base / "images" / f"{stem}.jpg" for stem in stems}
        labels: dict[str, str | None] = {}
        for name, path in paths.items():
            labels[name] = _pet_class(path.stem)
            trimap = base / "annotations" / "trimaps" / f"{path.stem}.png"
            found.add(name, ObjectRecord(str(trimap), mask=IndexMask(trimap, (1,))))
        return _listing(paths, labels, found)


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
        names = {"full": "imagenette2", "320px": "imagenette2-320", "160px": "imagenette2-160"}
        root = Path(self.root) / names[self.size] / self.part
        if not root.is_dir():
            # Only to fetch it: torchvision takes every folder for a class.
            _through_torchvision(
                self.root,
                lambda: datasets.Imagenette(
                    self.root, split=self.part, size=self.size, download=self.download
                ),
            )
        files = find_images(root)
        paths = {image_id_of(path, root): path for path in files.paths}
        labels: dict[str, str | None] = {
            name: name.rpartition("/")[0].partition("/")[0] or None for name in paths
        }
        found = Annotations(class_names=[path.name for path in subfolders(root)])
        found.problems += [
            Problem(str(paths[name]), "lies in no class folder", name)
            for name, label in labels.items()
            if label is None
        ]
        return _listing(paths, labels, found, files.left_out)


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
        """Images in the order of ``images.txt``.

        Raises:
            DataError: one of the five text files is missing or has a line that is not as expected.
        """
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
        found = Annotations(class_names=list(classes.values()))
        _add_repeated(found, str(root / "images.txt"), [name for (name,) in images.values()])
        paths, known = dict[str, Path](), dict[str, str | None]()
        for key, (name,) in images.items():
            place = f"{root / 'images.txt'} image {key}"
            if key not in division or labels.get(key, ("",))[0] not in classes or key not in boxes:
                words = "is not in all of the tables of labels, classes, boxes and division"
                found.problems.append(Problem(place, words, name))
            elif division[key][0] not in ("0", "1"):
                words = f"has {division[key][0]!r} in train_test_split.txt, expected 0 or 1"
                found.problems.append(Problem(place, words, name))
            elif self.part == "all" or (division[key][0] == "1") == (self.part == "train"):
                paths[name], known[name] = root / "images" / name, classes[labels[key][0]]
                mask = None if masks is None else _votes(masks / "segmentations" / name)
                _add_box(found, name, ObjectRecord(place, known[name], mask=mask), boxes[key])
        found.close(str(root / "bounding_boxes.txt"))
        return _listing(paths, known, found)


def _pet_class(stem: str) -> str:
    return " ".join(part.title() for part in stem.rsplit("_", 1)[0].split("_"))


def _votes(image: Path) -> IndexMask:
    return IndexMask(image.with_suffix(".png"), tuple(range(128, 256)))


def _add_box(found: Annotations, name: str, bird: ObjectRecord, box: tuple[str, ...]) -> None:
    try:
        left, top, wide, high = map(numeral, box)
    except ValueError:
        found.problems.append(Problem(bird.place, f"box ({', '.join(box)}) is not four numbers", name))
        return
    whole = replace(bird, box=(left, top, left + wide, top + high))
    found.add(name, whole, written=(left, top, wide, high))


def _add_repeated(found: Annotations, place: str, names: Sequence[str]) -> None:
    """A problem for every image that a list names more than once."""
    found.problems += [Problem(place, f"names {name} twice; keep one", name) for name in twice(names)]


def _through_torchvision(root: str, make: Callable[[], Data]) -> Data:
    """The data set that torchvision finds, or fetches where that was asked for.

    Raises:
        DataError: it is not there, or not whole.
    """
    try:
        return make()
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(
            f"{root}: {error}; set download to fetch it, or give the folder that holds it"
        ) from error


def _listing(
    paths: Mapping[str, Path],
    labels: Mapping[str, str | None],
    found: Annotations,
    left_out: Mapping[str, int] | None = None,
) -> Listing:
    records = tuple(
        ImageRecord(path, name, labels[name], tuple(found.objects.get(name, ())), size=found.sizes.get(name))
        for name, path in paths.items()
    )
    return Listing(records, tuple(found.class_names), tuple(found.problems), left_out or {})


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
