"""Progress with time left: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_WORTH_A_LINE = 1.0


@contextmanager
def progress_bar(name: str, total: int, *, done: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """Give a function that counts finished items; nothing is shown if all are done at the start."""
    if not shown or done == total:
        yield lambda items: None
    elif sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(name, total=total, completed=done)
            yield lambda items: bar.advance(task, items)
    else:
        yield _lines(name, total, done)


def progress_line(name: str, *, done: int, total: int, fresh: int, seconds: float) -> str:
    """One line: items done, and the time left at the pace of the ``fresh`` ones of this run.

    >>> progress_line("features", done=60, total=100, fresh=20, seconds=30.0)
    'features: 60/100 items, 1:00 left'
    """
    left = round(seconds / fresh * (total - done))
    return f"{name}: {done}/{total} items, " + (f"{left // 60}:{left % 60:02d} left" if left else "done")


def _lines(name: str, total: int, done: int) -> Callable[[int], None]:
    start = last = time.monotonic()
    fresh = 0

    def advance(items: int) -> None:
        nonlocal last, fresh
        fresh += items
        now = time.monotonic()
        ended = done + fresh == total and now - start >= _SECONDS_WORTH_A_LINE
        if ended or now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            line = progress_line(name, done=done + fresh, total=total, fresh=fresh, seconds=now - start)
            print(line, file=sys.stderr, flush=True)

    return advance
