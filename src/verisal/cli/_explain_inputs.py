"""Images that ``verisal explain`` reads, and the classes that it is asked for."""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from verisal.cli._explain_helpers import ALONE, Helpers, Job, ReadImage, read_image
from verisal.data import ImageReader
from verisal.data.files import find_images, image_id_of, left_out_words, no_image
from verisal.errors import ConfigError, DataError
from verisal.progress import tell


def named_files(given: Sequence[Path], *, output: Path) -> dict[str, Path]:
    """Name, unique among all and text whatever its bytes, to file; folders are searched.

    Args:
        given: files and folders.
        output: a folder that is passed over where it lies in one of them: what an earlier command wrote.

    Raises:
        DataError: a folder without images; or nothing of it exists.
    """
    # One that is missing among others is told of at the end, when they are explained.
    if given and not any(path.exists() for path in given):
        siblings = [path.name for path in given[0].parent.glob("*")] if given[0].parent.is_dir() else []
        near = difflib.get_close_matches(given[0].name, siblings, n=1)
        did_you_mean = f"; did you mean {given[0].with_name(near[0])}?" if near else ""
        raise DataError(
            f"{given[0]} does not exist{did_you_mean or '; expected image files or folders of them'}"
        )
    found: dict[str, Path] = {}
    for path in given:
        if path.is_dir():
            inside = find_images(path, without=None if output.resolve() == path.resolve() else output)
            if not inside.paths:
                raise no_image(path, inside.left_out)
            if words := left_out_words(inside.left_out):
                tell(f"verisal: {path}: {words}", error=True)
            pairs = [(image_id_of(file, path), file) for file in inside.paths]
        else:
            pairs = [(image_id_of(path, path.parent), path)]
        for name, file in pairs:
            unique, number = name, 1
            while unique in found:
                number += 1
                unique = str(Path(name).with_stem(f"{Path(name).stem}-{number}"))
            found[unique] = file
    return found


@final
class Images:
    """Reads files as they are needed, and some ahead where there are helpers.

    Args:
        files: name to file.
        size: height and width of the classifier's images.
        reader: gives them the classifier's channels and range.

    Attributes:
        files: name to file.
        problems: what could not be read so far.
        cropped: names of the images so far of other proportions, of which the middle is explained.
        facts: name to size and identity of the file, of the images of the last batch.
    """

    def __init__(self, files: Mapping[str, Path], size: tuple[int, int], reader: ImageReader) -> None:
        self.files, self._size, self._reader = files, size, reader
        self.problems: list[str] = []
        self.cropped: set[str] = set()
        self.facts: dict[str, tuple[tuple[int, int], Mapping[str, int]]] = {}

    def batches(
        self, size: int, helpers: Helpers, *, without: Container[str] = ()
    ) -> Iterator[dict[str, Tensor]]:
        """Names and images, ``size`` at a time; the first one alone, so that its figure is there soon.

        Args:
            size: of a batch.
            helpers: read ahead.
            without: names that are left out.
        """
        files = ((name, path) for name, path in self.files.items() if name not in without)
        ahead: deque[tuple[str, Job[ReadImage | str]]] = deque()
        batch: dict[str, Tensor] = {}
        wanted, depth = 1, 1
        while True:
            for name, path in islice(files, max(0, depth - len(ahead))):
                # Helpers are still to start when the first image is read.
                by = helpers if depth > 1 else ALONE
                ahead.append((name, by.job(read_image, self._reader, path, self._size)))
            if not ahead:
                break
            name, job = ahead.popleft()
            read = job.result()
            depth = 2 * size if helpers.number else 1
            if isinstance(read, str):
                self.problems.append(read)
                continue
            self.note(name, read.size)
            batch[name], self.facts[name] = read.image, (read.size, read.file)
            if len(batch) == wanted:
                yield batch
                batch, wanted = {}, size
        if batch:
            yield batch

    def read(self, name: str) -> Tensor:
        """One image again.

        Raises:
            DataError: it cannot be read any more.
        """
        read = read_image(self._reader, self.files[name], self._size)
        if isinstance(read, str):
            raise DataError(read)
        return read.image

    def note(self, name: str, size: tuple[int, int]) -> None:
        """Remember an image if it is of other proportions."""
        if size[0] * self._size[1] != size[1] * self._size[0]:
            self.cropped.add(name)


PLACES = {"top1": 0, "second": 1, "least": -1}
"""Words for a class by its place among the likeliest."""

_NEAR = 6


def query_classes(word: str, logits: Tensor, class_names: Sequence[str]) -> Tensor:
    """``(B,)`` int64: the class that a word means on every image.

    Args:
        word: ``top1``, ``second``, ``least``, the name of a class, or its number from 0.
        logits: ``(B, K)``.
        class_names: K names.

    Raises:
        ConfigError: no such class; names those that are near.
    """
    if word in PLACES:
        if word == "second" and logits.shape[1] == 1:
            raise ConfigError("the classifier has one logit and no second class; leave out query: second")
        return logits.argsort(dim=1, descending=True, stable=True)[:, PLACES[word]]
    return torch.full((len(logits),), _class_index(word, class_names), device=logits.device)


def other_classes(word: str, logits: Tensor, class_names: Sequence[str], *, taken: Tensor) -> Tensor:
    """As :func:`query_classes`; where that is the class ``taken (B,)``, the likeliest other one."""
    found = query_classes(word, logits, class_names)
    ranked = logits.argsort(dim=1, descending=True, stable=True)
    likeliest = torch.where(ranked[:, 0] == taken, ranked[:, 1], ranked[:, 0])
    return torch.where(found == taken, likeliest, found)


def _class_index(word: str, class_names: Sequence[str]) -> int:
    lowered = [name.lower() for name in class_names]
    if word in class_names:
        return list(class_names).index(word)
    if lowered.count(word.lower()) == 1:
        return lowered.index(word.lower())
    if word.isdecimal() and int(word) < len(class_names):
        return int(word)
    inside = [name for name in class_names if word.lower() in name.lower()]
    alike = [
        class_names[lowered.index(name)] for name in difflib.get_close_matches(word.lower(), lowered, n=_NEAR)
    ]
    near = list(dict.fromkeys([*alike, *inside]))[:_NEAR]
    hint = f"near it: {', '.join(near)}" if near else f"the first are {', '.join(class_names[:_NEAR])}"
    raise ConfigError(
        f"the classifier has no class {word!r}; {hint}; expected one of its {len(class_names)} names, a"
        f" number from 0 to {len(class_names) - 1}, or {', '.join(PLACES)}"
    )
