"""Contact sheets of ``verisal explain``: many images on one, in order, whenever they were explained."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import final

from verisal._files import write_atomic
from verisal.cli._explain_done import Origin, has_mark, mark_of, with_mark
from verisal.cli._explain_helpers import Helpers, Job
from verisal.progress import tell
from verisal.reporting import Explanation, draw_contact_sheet


def draw_sheet(shown: Sequence[Explanation], path: Path, opacity: float, mark: str) -> Path:
    """Draw a sheet that carries a mark, and return its file."""
    draw_contact_sheet(shown, path, opacity=opacity)
    write_atomic(path, with_mark(path.read_bytes(), mark))
    return path


@final
class ContactSheets:
    """Draws a sheet whenever enough images have come.

    Args:
        output: folder.
        size: images on one sheet.
        opacity: of the maps over the images.
        names: of all images, in order.
        done: those that an earlier command explained, and what their maps were made of.
        again: what is shown of one of these.
        helpers: draw.
        shown: whether any are drawn.
    """

    def __init__(
        self,
        output: Path,
        size: int,
        *,
        opacity: float,
        names: Sequence[str],
        done: Mapping[str, Origin],
        again: Callable[[str], Explanation],
        helpers: Helpers,
        shown: bool,
    ) -> None:
        self._output, self._size, self._opacity, self._shown = output, size, opacity, shown
        self._names, self._done, self._again = iter(names), done, again
        self._helpers = helpers
        self._waiting: list[tuple[str, str, Explanation | None]] = []
        self._drawing: deque[Job[Path]] = deque()
        self._number = 0

    def add(self, shown: Explanation, origin: Origin) -> None:
        """Take one more, after those before it in the order of all that are done already."""
        for name in self._names:
            if name == shown.name:
                break
            # What cannot be read is on no sheet.
            if name in self._done:
                self._put(name, self._done[name], None)
        self._put(shown.name, origin, shown)

    def finish(self) -> None:
        """Draw what is left."""
        for name in self._names:
            if name in self._done:
                self._put(name, self._done[name], None)
        self._draw()
        while self._drawing:
            self._told()

    def _put(self, name: str, origin: Origin, shown: Explanation | None) -> None:
        if not self._shown:
            return
        self._waiting.append((name, origin.text(), shown))
        if len(self._waiting) == self._size:
            self._draw()

    def _draw(self) -> None:
        if not self._waiting:
            return
        self._number += 1
        path = self._output / f"contact_sheet_{self._number}.png"
        mark = mark_of(self._opacity, [(name, origin) for name, origin, _ in self._waiting])
        # That of an earlier command shows the same.
        if any(shown is not None for _, _, shown in self._waiting) or not has_mark(path, mark):
            items = [self._again(name) if shown is None else shown for name, _, shown in self._waiting]
            self._drawing.append(self._helpers.job(draw_sheet, items, path, self._opacity, mark))
        self._waiting = []
        while self._drawing and (self._drawing[0].done or not self._helpers.number):
            self._told()

    def _told(self) -> None:
        tell(f"contact sheet: {self._drawing.popleft().result()}")
