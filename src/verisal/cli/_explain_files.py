"""Images that ``verisal explain`` reads, and the sheets that it draws of many."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from verisal.data import decode_image, find_images, image_id_of, left_out_words, no_image, resize_image
from verisal.errors import DataError
from verisal.reporting import Explanation, draw_contact_sheet

__all__ = ["ContactSheets", "Images", "named_files"]


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
                print(f"verisal: {path}: {words}", file=sys.stderr, flush=True)
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
        size: pixels of the classifier's images.

    Attributes:
        problems: what could not be read so far.
    """

    def __init__(self, files: Mapping[str, Path], size: int) -> None:
        self._files, self._size = files, size
        self.problems: list[str] = []

    def first(self, count: int) -> Tensor:
        """The first readable images ``(N, 3, H, W)``."""
        found = []
        for path in self._files.values():
            try:
                found.append(self._read(path))
            except DataError:
                continue
            if len(found) == count:
                break
        return torch.stack(found) if found else torch.zeros(0, 3, self._size, self._size)

    def batches(self, size: int) -> Iterator[dict[str, Tensor]]:
        """Names and images, ``size`` at a time; the first one alone, so that its figure is there soon."""
        batch: dict[str, Tensor] = {}
        wanted = 1
        for name, path in self._files.items():
            try:
                batch[name] = self._read(path)
            except DataError as error:
                self.problems.append(str(error))
                continue
            if len(batch) == wanted:
                yield batch
                batch, wanted = {}, size
        if batch:
            yield batch

    def _read(self, path: Path) -> Tensor:
        return resize_image(decode_image(path), self._size)


@final
class ContactSheets:
    """Draws a sheet whenever enough images have come.

    Args:
        output: folder.
        size: images on one sheet.
        shown: whether any are drawn.
    """

    def __init__(self, output: Path, size: int, *, shown: bool) -> None:
        self._output, self._size, self._shown = output, size, shown
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
            draw_contact_sheet(self._waiting, path)
            print(f"contact sheet: {path}", flush=True)
        self._waiting = []
