"""Images that ``verisal explain`` reads, and the sheets that it draws of many."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from verisal.data import ImageReader, resize_image
from verisal.data.files import find_images, image_id_of, left_out_words, no_image
from verisal.errors import ConfigError, DataError
from verisal.progress import tell
from verisal.reporting import Explanation, draw_contact_sheet


def named_files(given: Sequence[Path]) -> dict[str, Path]:
    """Name, unique among all and text whatever its bytes, to file; folders are searched.

    Raises:
        DataError: a folder without images.
    """
    found: dict[str, Path] = {}
    for path in given:
        if path.is_dir():
            inside = find_images(path)
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
    """Reads files as they are needed.

    Args:
        files: name to file.
        size: height and width of the classifier's images.
        reader: gives them the classifier's channels and range.

    Attributes:
        problems: what could not be read so far.
        cropped: names of the images so far of other proportions, of which the middle is explained.
        sizes: name to height and width in the file.
    """

    def __init__(self, files: Mapping[str, Path], size: tuple[int, int], reader: ImageReader) -> None:
        self._files, self._size, self._reader = files, size, reader
        self.problems: list[str] = []
        self.cropped: list[str] = []
        self.sizes: dict[str, tuple[int, int]] = {}

    def batches(self, size: int) -> Iterator[dict[str, Tensor]]:
        """Names and images, ``size`` at a time; the first one alone, so that its figure is there soon."""
        batch: dict[str, Tensor] = {}
        wanted = 1
        for name, path in self._files.items():
            try:
                image = self._reader(path)
                batch[name] = resize_image(image, self._size)
            except DataError as error:
                self.problems.append(str(error))
                continue
            self.sizes[name] = (image.shape[-2], image.shape[-1])
            if image.shape[-2] * self._size[1] != image.shape[-1] * self._size[0]:
                self.cropped.append(name)
            if len(batch) == wanted:
                yield batch
                batch, wanted = {}, size
        if batch:
            yield batch


@final
class ContactSheets:
    """Draws a sheet whenever enough images have come.

    Args:
        output: folder.
        size: images on one sheet.
        opacity: of the maps over the images.
        shown: whether any are drawn.
    """

    def __init__(self, output: Path, size: int, *, opacity: float, shown: bool) -> None:
        self._output, self._size, self._opacity, self._shown = output, size, opacity, shown
        self._waiting: list[Explanation] = []
        self._number = 0

    def add(self, shown: Explanation) -> None:
        """Take one more."""
        self._waiting.append(shown)
        if len(self._waiting) == self._size:
            self.finish()

    def finish(self) -> None:
        """Draw what is left."""
        if self._waiting and self._shown:
            self._number += 1
            path = self._output / f"contact_sheet_{self._number}.png"
            draw_contact_sheet(self._waiting, path, opacity=self._opacity)
            tell(f"contact sheet: {path}")
        self._waiting = []


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
