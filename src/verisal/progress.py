"""Progress with time left: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_WORTH_A_LINE = 1.0


class Advance(Protocol):
    """Counts items that were finished, and takes a note on the work so far to stand beside their number."""

    def __call__(self, items: int, note: str = "") -> None:
        """Count ``items`` more; an empty note takes the last one away."""


@contextmanager
def progress_bar(name: str, total: int, *, done: int, shown: bool) -> Iterator[Advance]:
    """Give a function that counts finished items; nothing is shown if all are done at the start."""
    if not shown or done == total:
        yield lambda items, note="": None
    elif sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(name, total=total, completed=done, note="")
            yield lambda items, note="": bar.update(task, advance=items, note=note)
    else:
        yield _lines(name, total, done)


def progress_line(name: str, *, done: int, total: int, fresh: int, seconds: float, note: str = "") -> str:
    """One line: items done, and the time left at the pace of the ``fresh`` ones of this run.

    >>> progress_line("features", done=60, total=100, fresh=20, seconds=30.0)
    'features: 60/100 items, 1:00 left'
    >>> progress_line("RISE", done=60, total=100, fresh=60, seconds=30.0, note="noise 0.120")
    'RISE: 60/100 items, 0:20 left, noise 0.120'
    """
    left = round(seconds / fresh * (total - done))
    return (
        f"{name}: {done}/{total} items, "
        + (f"{left // 60}:{left % 60:02d} left" if left else "done")
        + (f", {note}" if note else "")
    )


def _lines(name: str, total: int, done: int) -> Advance:
    start = last = time.monotonic()
    fresh = 0

    def advance(items: int, note: str = "") -> None:
        nonlocal last, fresh
        fresh += items
        now = time.monotonic()
        ended = done + fresh == total and now - start >= _SECONDS_WORTH_A_LINE
        if ended or now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            line = progress_line(
                name, done=done + fresh, total=total, fresh=fresh, seconds=now - start, note=note
            )
            print(line, file=sys.stderr, flush=True)

    return advance
