"""Images of a data set on disk, as a classifier takes them: splits, class map, decoding."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, final

import torch
from torch.utils.data import Dataset

from verisal._checks import as_tuples
from verisal.data.decode import MAX_PIXELS, Frame
from verisal.data.dicom import Window, check_window
from verisal.data.files import left_out_words
from verisal.data.objects import objects_of
from verisal.data.readers.class_map import class_indices
from verisal.data.readers.listing import ImageRecord, ImageSet, Listing, Problem
from verisal.data.reading import ChannelRule, ImageReader
from verisal.errors import ConfigError, DataError
from verisal.fingerprint import fingerprint
from verisal.functional.scopes import predicted_classes
from verisal.functional.seeding import derive_seed
from verisal.models import Bounds, Classifier, ClassifierSource, load_classifier
from verisal.models.bounds import UNIT
from verisal.types import Sample, check_range

DiskSplit = Literal["fit", "val", "test"]
_SPLITS: tuple[DiskSplit, ...] = ("fit", "val", "test")
_SHOWN = 10
_AT_A_TIME = 32
# Of the square's share, where a picture would keep its pixels.
_NEAR = 15 / 16
# Share of the images that may be skipped before a data set counts as broken.
_SKIPPED = 0.01

_logger = logging.getLogger(__name__)


@final
@dataclass(frozen=True, kw_only=True)
class ImageSplits:
    """Division of a data set into splits, and how its images are read.

    A split without a set of its own takes images of ``images`` by a hash of their names: an image stays where
    it is when others are added. The order within a split is that of another hash, so that the first images
    are of all classes.

    Args:
        images: the set that splits share.
        val_images: set of the split ``val``, or None to share.
        test_images: set of the split ``test``, or None to share.
        ratios: proportions of ``fit``, ``val`` and ``test`` in the shared set; those of splits with their own
            set do not count.
        seed: of the hashes.
        class_map: class of the data to name or index of the classifier's class; null leaves a class out.
            What is not in it is matched by name or WordNet id.
        crop_share: share of the short side that the central square covers; ImageNet's usual one is 0.875.
        on_error: ``raise`` at the first image or annotation that cannot be used; ``skip`` looks at every
            image beforehand and leaves such ones out, up to 1 %, and so it does with entries of annotation
            files of which nobody knows the image.
        difficult: objects that the annotators marked as hard to recognise. ``leave_out`` asks no map to find
            them, as the published protocols have it, yet their class counts as present in the image;
            ``keep`` takes them as any others.
        max_pixels: largest width times height that is decoded.
        channel_rule: what is done with a file of other channels than the classifier takes; see
            :class:`.ImageReader`.
        window: of DICOM files; see :class:`.ImageReader`.
        unlabelled: images without a class. ``keep`` gives them the label -1; ``predict`` the class that the
            classifier predicts, so that they serve wherever a class has to be known.

    Raises:
        ConfigError: ratios that are not three proportions, or other settings outside their range.
    """

    images: ImageSet
    val_images: ImageSet | None = None
    test_images: ImageSet | None = None
    ratios: tuple[float, float, float] = (0.6, 0.2, 0.2)
    seed: int = 0
    class_map: dict[str, str | int | None] = field(default_factory=dict)
    crop_share: float = 1.0
    on_error: Literal["raise", "skip"] = "raise"
    difficult: Literal["leave_out", "keep"] = "leave_out"
    max_pixels: int = MAX_PIXELS
    channel_rule: ChannelRule | None = None
    window: Window | None = None
    unlabelled: Literal["keep", "predict"] = "keep"

    def __post_init__(self) -> None:
        as_tuples(self)
        if self.unlabelled not in ("keep", "predict"):
            raise ConfigError(
                f"ImageSplits: unlabelled must be 'keep' or 'predict', found {self.unlabelled!r}"
            )
        if len(self.ratios) != 3 or min(self.ratios) < 0 or not 0 < sum(self._shares()) < math.inf:
            raise ConfigError(
                f"ImageSplits: ratios must be three proportions of fit, val and test, found {self.ratios}"
            )
        check_range(0.1, 1, crop_share=self.crop_share)
        check_range(1, max_pixels=self.max_pixels)
        if self.window not in (None, "file"):
            check_window(self.window)

    def class_names(self) -> tuple[str, ...]:
        """Classes of the shared set that are not left out, for a classifier to be trained on it."""
        names = self.images.listing().class_names
        return tuple(name for name in names if self.class_map.get(name, name) is not None)

    def set_of(self, split: DiskSplit) -> ImageSet:
        """The set that the images of a split come from."""
        return self._own(split) or self.images

    def holds(self, split: DiskSplit, image_id: str) -> bool:
        """True if an image of the split's set stands in the split."""
        if self._own(split) is not None:
            return True
        shares, number = self._shares(), _SPLITS.index(split)
        place = derive_seed("image split", self.seed, image_id) / 2**63 * sum(shares)
        return sum(shares[:number]) <= place < sum(shares[: number + 1])

    def rank(self, image_id: str) -> int:
        """Place of an image in its split."""
        return derive_seed("image order", self.seed, image_id)

    def _own(self, split: DiskSplit) -> ImageSet | None:
        return {"fit": None, "val": self.val_images, "test": self.test_images}[split]

    def _shares(self) -> list[float]:
        """Proportions of the splits that share; those with a set of their own take nothing."""
        own = map(self._own, _SPLITS)
        return [0.0 if one is not None else share for share, one in zip(self.ratios, own, strict=True)]


@final
@dataclass(frozen=True, kw_only=True)
class ImagesLike:
    """What images are brought to where there is no classifier yet, but one to be trained on them.

    Attributes:
        class_names: in the order of the labels.
        image_size: side in pixels.
        channels: of every image.
        bounds: of the values of arrays; see :class:`.ImageReader`.
    """

    class_names: tuple[str, ...]
    image_size: int
    channels: int = 3
    bounds: Bounds = UNIT

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", tuple(self.class_names))
        check_range(1, image_size=self.image_size, channels=self.channels)


@final
class AnnotatedImages(Dataset[Sample]):
    """One split of a data set on disk, for one classifier: its size, its classes.

    Objects of classes that are left out, and objects outside the central crop, are not in a sample. An
    object with a mask has the box around its visible pixels; one with a box alone has an empty mask. The
    main object is the largest of the image's class. The label of an image without a class is -1, or what the
    classifier predicts where the splits say so.

    Args:
        splits: the data set and its splits.
        split: which split.
        classifier: its name, path or source, or the classifier itself; or what images are like without one.
        count: number of images, the first ones; None for all.
        at_most: the same, or all where there are fewer.

    Raises:
        DataError: no images, fewer than ``count``, or broken ones (see ``on_error``).
        ConfigError: a class map that names unknown classes, or labels to be predicted without a classifier.
    """

    def __init__(
        self,
        splits: ImageSplits,
        split: DiskSplit,
        *,
        classifier: str | ClassifierSource | Classifier | ImagesLike,
        count: int | None = None,
        at_most: int | None = None,
    ) -> None:
        check_range(1, count=count, at_most=at_most)
        known = load_classifier(classifier) if isinstance(classifier, str | ClassifierSource) else classifier
        self.split, self.class_names = split, known.class_names
        sides = known.height_and_width if isinstance(known, Classifier) else (known.image_size,) * 2
        self.size: int | tuple[int, int] = sides[0] if sides[0] == sides[1] else sides
        self._splits, self._known = splits, known
        self._predicted: dict[str, int] = {}
        self._reader = ImageReader.of(
            known, rule=splits.channel_rule, max_pixels=splits.max_pixels, window=splits.window
        )
        source = splits.set_of(split)
        self._name = type(source).__name__
        listing = source.listing()
        self._classes = class_indices(listing.class_names, known.class_names, given=splits.class_map)
        records = [record for record in self._usable(listing) if splits.holds(split, record.image_id)]
        records.sort(key=lambda record: splits.rank(record.image_id))
        if words := left_out_words(listing.left_out):
            _logger.warning("%s, split %s: %s", self._name, split, words)
        self._records, self.skipped = self._kept(records, listing, at_most if count is None else count)
        if self.skipped:
            more = f" and {len(self.skipped) - 1} more" if len(self.skipped) > 1 else ""
            _logger.warning("%s, split %s: left out: %s%s", self._name, split, self.skipped[0], more)
        if len(self._records) < (count or 1):
            raise DataError(
                f"{self._name}: split {split} holds {len(self._records)} images, {count or 'at least 1'}"
                f" asked for; add images, or change counts or ratios {splits.ratios}"
            )
        if splits.unlabelled == "predict":
            self._predict(known)

    @property
    def labels(self) -> tuple[int, ...]:
        """Label of every image, -1 where it has none, without reading any."""
        return tuple(map(self._label, self._records))

    def identity(self) -> dict[str, Any]:
        """Set, split, framing, and a hash over names, sizes and labels of the images."""
        files = [
            (record.image_id, record.path.stat().st_size, self._label(record)) for record in self._records
        ]
        return {
            "name": self._name,
            "split": self.split,
            "size": self.size,
            "crop_share": self._splits.crop_share,
            "files": fingerprint(files),
        }

    def image_id(self, index: int) -> str:
        """Name of image ``index``: its path below the folder of the set."""
        return self._records[index].image_id

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Sample:
        """Image ``index``.

        Raises:
            DataError: the image or its annotation cannot be used; names file and index.
        """
        return self._read(index, self.size, resized=False)

    def resized(self, index: int, size: int | tuple[int, int]) -> Sample:
        """Image ``index`` at another size, out of the file's own pixels.

        A file whose pixels would stay as they are is scaled by a sixteenth more: the grid of 8 x 8 blocks
        that a JPEG file leaves would mark what is cut from it among other images.

        Args:
            index: of the image.
            size: side, or height and width, in pixels.

        Raises:
            DataError: the image or its annotation cannot be used; names file and index.
        """
        return self._read(index, size, resized=True)

    def of_split(self, split: DiskSplit, *, at_most: int | None = None) -> AnnotatedImages:
        """Another split of the same data set, for the same classifier, all of it or at most so many."""
        return AnnotatedImages(self._splits, split, classifier=self._known, at_most=at_most)

    def _read(self, index: int, size: int | tuple[int, int], *, resized: bool) -> Sample:
        try:
            return self._sample(self._records[index], size, resized=resized)
        except DataError as error:
            raise DataError(f"image {index} of split {self.split}: {error}") from error

    def _predict(self, known: Classifier | ImagesLike) -> None:
        """Ask the classifier for the classes of images without one."""
        if isinstance(known, ImagesLike):
            raise ConfigError(
                "unlabelled is predict, and there is no classifier; give one, or set it to keep"
            )
        records = [record for record in self._records if self._label(record) < 0]
        device = next(known.parameters()).device
        for start in range(0, len(records), _AT_A_TIME):
            part = records[start : start + _AT_A_TIME]
            images = torch.stack([self._sample(record, self.size).image for record in part]).to(device)
            found = predicted_classes(known, images).tolist()
            self._predicted |= dict(zip((record.image_id for record in part), found, strict=True))

    def _usable(self, listing: Listing) -> Iterator[ImageRecord]:
        """All but images of a class that is left out."""
        for record in listing.records:
            if record.class_name is None or self._classes[record.class_name] is not None:
                yield record

    def _label(self, record: ImageRecord) -> int:
        index = None if record.class_name is None else self._classes[record.class_name]
        return self._predicted.get(record.image_id, -1) if index is None else index

    def _sample(self, record: ImageRecord, size: int | tuple[int, int], *, resized: bool = False) -> Sample:
        image, share = self._reader.of_record(record), self._splits.crop_share
        height, width = image.shape[1:]
        frame = Frame.around(height, width, size=size, crop_share=share)
        if resized and frame.scaled == (height, width):
            frame = Frame.around(height, width, size=size, crop_share=share * _NEAR)
        label = self._label(record)
        objects = objects_of(
            record, frame, label=label, classes=self._classes, difficult=self._splits.difficult
        )
        return Sample(frame.image(image), label, record.image_id, *objects)

    def _kept(
        self, records: Sequence[ImageRecord], listing: Listing, count: int | None
    ) -> tuple[list[ImageRecord], tuple[Problem, ...]]:
        """The first ``count`` images that can be used, and why others, or entries of files, could not."""
        if self._splits.on_error == "raise":
            _refuse(listing.problems)
            return list(records[:count]), ()
        listed = {record.image_id for record in listing.records}
        broken = {problem.image_id: problem for problem in listing.problems}
        loose = [problem for problem in listing.problems if problem.image_id not in listed]
        _refuse([problem for problem in loose if problem.image_id is None and not problem.entry])
        total = len(listed.union(problem.image_id for problem in loose if problem.image_id is not None))
        if len(loose) > _SKIPPED * total:
            _refuse(loose, f"{len(loose)} entries about {total} images cannot be used, more than 1 %")
        kept: list[ImageRecord] = []
        skipped: list[Problem] = []
        for record in records:
            if len(kept) == count:
                break
            problem = broken.get(record.image_id) or self._broken(record)
            if problem is None:
                kept.append(record)
            else:
                skipped.append(problem)
        seen = len(kept) + len(skipped)
        if len(skipped) > _SKIPPED * seen:
            _refuse(skipped, f"{len(skipped)} of {seen} images cannot be used, more than 1 %")
        return kept, (*loose, *skipped)

    def _broken(self, record: ImageRecord) -> Problem | None:
        try:
            self._sample(record, self.size)
        except DataError as error:
            return Problem(str(record.path), str(error).removeprefix(f"{record.path}: "), record.image_id)
        return None


def _refuse(problems: Sequence[Problem], headline: str = "") -> None:
    """Raise if there are problems, with the first of them."""
    if not problems:
        return
    shown = "; ".join(map(str, problems[:_SHOWN]))
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    raise DataError(
        f"{headline or f'{len(problems)} problems with the data'}: {shown}{more}."
        " verisal data check lists them all"
    )
