"""Read a whole data set and say everything that is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from verisal.data._class_map import class_indices
from verisal.data._objects import check_record
from verisal.data._store_progress import progress_bar
from verisal.data.decode import MAX_PIXELS, decode_image
from verisal.data.listing import ImageRecord, ImageSet, Problem
from verisal.errors import ConfigError, DataError
from verisal.models import Classifier

__all__ = ["CheckReport", "check_data"]


@final
@dataclass(frozen=True)
class CheckReport:
    """What a data set holds, and what is wrong with it.

    Attributes:
        images: number of images.
        usable: number of images without a problem.
        classes: class to its number of images, in the order of the data set.
        unlabelled: number of images without a class.
        objects: number of objects that can be read.
        sizes: smallest and largest width and height that were decoded, or None where nothing was.
        problems: everything found.
    """

    images: int
    usable: int
    classes: Mapping[str, int]
    unlabelled: int
    objects: int
    sizes: tuple[int, int, int, int] | None
    problems: tuple[Problem, ...]

    def text(self) -> str:
        """Counts, classes and every problem, one a line."""
        lines = [f"{self.images} images, {self.usable} of them usable, {self.objects} objects"]
        if self.sizes is not None:
            lines.append("widths {} to {}, heights {} to {} pixels".format(*self.sizes))
        if self.unlabelled:
            lines.append(f"{self.unlabelled} images without a class")
        lines += [f"  {count:6d} {name}" for name, count in self.classes.items()]
        lines.append(f"{len(self.problems)} problems" + (":" if self.problems else ""))
        return "\n".join([*lines, *(f"  {problem}" for problem in self.problems)])


def check_data(
    images: ImageSet,
    *,
    classifier: Classifier | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: bool = False,
) -> CheckReport:
    """Decode every image and mask of a data set and read every annotation; nothing ends at the first problem.

    Args:
        images: the data set.
        classifier: whose classes those of the data set must be, or None not to compare them.
        max_pixels: largest width times height that is decoded.
        progress: whether to show how far it is.
    """
    try:
        listing = images.listing()
    except DataError as error:
        return CheckReport(0, 0, {}, 0, 0, None, (Problem(type(images).__name__, str(error)),))
    problems = list(listing.problems)
    if classifier is not None:
        try:
            class_indices(listing.class_names, classifier.class_names, given={})
        except (DataError, ConfigError) as error:
            problems.append(Problem("classes", str(error)))
    sizes: list[tuple[int, int]] = []
    objects = 0
    with progress_bar("data", len(listing.records), done=0, shown=progress) as advance:
        for record in listing.records:
            advance(1)
            try:
                height, width = decode_image(record.path, max_pixels=max_pixels).shape[1:]
            except DataError as error:
                problems.append(_problem(record, str(error)))
                continue
            sizes.append((width, height))
            count, words = check_record(record, height, width)
            objects += count
            problems += [_problem(record, each) for each in words]
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
    )


def _problem(record: ImageRecord, message: str) -> Problem:
    place, _, words = message.partition(": ")
    return Problem(place, words, record.image_id)


def _extent(sizes: Sequence[tuple[int, int]]) -> tuple[int, int, int, int] | None:
    if not sizes:
        return None
    widths, heights = zip(*sizes, strict=True)
    return min(widths), max(widths), min(heights), max(heights)
