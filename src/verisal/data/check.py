"""Read a whole data set and say everything that is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from torch import Tensor

from verisal._plain import plain
from verisal.data.decode import MAX_PIXELS
from verisal.data.dicom import Window
from verisal.data.files import left_out_words
from verisal.data.objects import check_record
from verisal.data.readers.class_map import class_indices
from verisal.data.readers.listing import ImageRecord, ImageSet, Problem
from verisal.data.reading import ChannelRule, ImageReader
from verisal.errors import ConfigError, DataError
from verisal.fingerprint import state_hash
from verisal.models import Classifier
from verisal.progress import progress_bar


@final
@dataclass(frozen=True)
class CheckReport:
    """Contents of a data set, and everything that is wrong with it.

    Attributes:
        images: number of images.
        usable: number of images without a problem.
        classes: class to its number of images, in the order of the data set.
        unlabelled: number of images without a class.
        objects: number of objects that can be read.
        sizes: smallest and largest width and height that were decoded, or None where nothing was.
        problems: everything found.
        left_out: kind of file to the number of files that are no images.
        difficult: number of objects in the annotations that are marked as difficult.
    """

    images: int
    usable: int
    classes: Mapping[str, int]
    unlabelled: int
    objects: int
    sizes: tuple[int, int, int, int] | None
    problems: tuple[Problem, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    difficult: int = 0

    def text(self) -> str:
        """Counts, classes and every problem, one a line."""
        lines = [f"{self.images} images, {self.usable} of them usable, {self.objects} objects"]
        if self.difficult:
            lines.append(f"{self.difficult} objects marked as difficult")
        if self.sizes is not None:
            lines.append("widths {} to {}, heights {} to {} pixels".format(*self.sizes))
        if self.unlabelled:
            lines.append(f"{self.unlabelled} images without a class")
        lines += [f"  {count:6d} {plain(name)}" for name, count in self.classes.items()]
        if self.left_out:
            lines.append(plain(left_out_words(self.left_out)))
        count = len(self.problems)
        lines.append(f"{count} problem" + "s" * (count != 1) + ":" * (count > 0))
        return "\n".join([*lines, *(f"  {plain(str(problem))}" for problem in self.problems)])


def check_data(
    images: ImageSet,
    *,
    classifier: Classifier | None = None,
    max_pixels: int = MAX_PIXELS,
    channel_rule: ChannelRule | None = None,
    window: Window | None = None,
    others: Sequence[ImageSet] = (),
    progress: bool = False,
) -> CheckReport:
    """Decode every image and mask of a data set and read every annotation; nothing ends at the first problem.

    Pictures are compared by their decoded pixels: one that is there twice is a problem, since its copies may
    be of two classes, or come into two parts of the set.

    Args:
        images: the data set.
        classifier: whose classes those of the data set must be, and which must take its files; None not to
            compare them.
        max_pixels: largest width times height that is decoded.
        channel_rule: what is done with a file of other channels than the classifier takes.
        window: of DICOM files; see :class:`.ImageReader`.
        others: sets for other splits, with which the data set may share no picture; of them nothing else is
            looked at.
        progress: whether to show how far it is.
    """
    try:
        listing = images.listing()
        elsewhere = [record for other in others for record in other.listing().records]
    except DataError as error:
        return CheckReport(0, 0, {}, 0, 0, None, (Problem(type(images).__name__, str(error)),))
    problems = list(listing.problems)
    if not listing.records and not problems:
        problems.append(Problem(type(images).__name__, "holds no image"))
    pictures: dict[str, ImageRecord] = {}
    if classifier is not None:
        try:
            class_indices(listing.class_names, classifier.class_names, given={})
        except (DataError, ConfigError) as error:
            problems.append(Problem("classes", str(error)))
    sizes: list[tuple[int, int]] = []
    objects, reader = 0, ImageReader(max_pixels=max_pixels)
    if classifier is not None:
        reader = ImageReader.of(classifier, rule=channel_rule, max_pixels=max_pixels, window=window)
    count = len(listing.records) + len(elsewhere)
    with progress_bar(f"reading {count} images", count, done=0, shown=progress) as advance:
        for record in listing.records:
            advance(1)
            try:
                image = reader.as_it_is(record)
                if classifier is not None:
                    reader.of_record(record)
            except DataError as error:
                problems.append(_problem(record, str(error)))
                continue
            height, width = image.shape[1:]
            sizes.append((width, height))
            first = pictures.setdefault(_content(image), record)
            if first is not record:
                problems.append(Problem(str(record.path), _same(record, first), record.image_id))
            count, words = check_record(record, height, width)
            objects += count
            problems += [_problem(record, each) for each in words]
        for record in elsewhere:
            advance(1)
            problems += _shared(record, pictures, reader)
    counted = Counter(record.class_name for record in listing.records)
    broken = {problem.image_id for problem in problems if problem.image_id is not None}
    return CheckReport(
        images=len(listing.records),
        usable=sum(record.image_id not in broken for record in listing.records),
        classes={name: counted[name] for name in listing.class_names},
        unlabelled=counted[None],
        objects=objects,
        sizes=_extent(sizes),
        problems=tuple(problems),
        left_out=listing.left_out,
        difficult=sum(mark.difficult for record in listing.records for mark in record.objects),
    )


def _content(image: Tensor) -> str:
    """Name of a picture by its pixels."""
    return state_hash({"": image})


def _shared(
    other: ImageRecord, pictures: Mapping[str, ImageRecord], reader: ImageReader
) -> Iterator[Problem]:
    """A problem if the image of another split is one of these pictures."""
    try:
        known = pictures.get(_content(reader.as_it_is(other)))
    except DataError:
        # Said when that split is checked.
        return
    if known is not None:
        words = f"is the same picture as {other.path} of another split; keep it in one"
        yield Problem(str(known.path), words, known.image_id)


def _same(record: ImageRecord, first: ImageRecord) -> str:
    words = f"is the same picture as {first.path}"
    if record.class_name != first.class_name:
        return f"{words}, which is {first.class_name} where this is {record.class_name}; keep it in one class"
    return f"{words}; remove one, since parts of the set are shared out by name and may get one each"


def _problem(record: ImageRecord, message: str) -> Problem:
    place, _, words = message.partition(": ")
    return Problem(place, words, record.image_id)


def _extent(sizes: Sequence[tuple[int, int]]) -> tuple[int, int, int, int] | None:
    if not sizes:
        return None
    widths, heights = zip(*sizes, strict=True)
    return min(widths), max(widths), min(heights), max(heights)
