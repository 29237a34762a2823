"""Work as it is shown: bars below everything else on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

from verisal._plain import plain, plain_lines
from verisal.progress.steps import LOCK, Advance, Running, Step, Work

if TYPE_CHECKING:  # rich takes a tenth of a second, which a log file does not need.
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table

_SECONDS_BEFORE_THE_WHOLE = 60.0
_SECONDS_BETWEEN_LINES = 60.0
_SECONDS_WORTH_A_LINE = 1.0
_WIDE = 100

# Innermost last, which is at work.
_works: list[Work] = []


@contextmanager
def work(
    steps: Sequence[Step],
    *,
    shown: bool = True,
    unit: str = "",
    first: int = 1,
    count: int | None = None,
    lines: bool = True,
) -> Iterator[Work]:
    """Show some steps; their numbers are said where there are several.

    Work within a step of other work is shown in its place.

    Args:
        steps: that are planned.
        shown: False to show nothing.
        unit: what a step is called before its number, such as "epoch".
        first: number of the first one.
        count: number of the last one; None for as many as are planned, or for no end of a unit.
        lines: whether each step gets a line when it is done.
    """
    planned = Work(
        steps,
        unit=unit,
        first=first,
        count=len(steps) if count is None and not unit else count,
        heard=_say_now_and_then if shown else _nothing,
        ended=_say_its_end if shown and lines else _nothing,
    )
    if not shown:
        yield planned
        return
    with LOCK:
        _works.append(planned)
    _bars.open()
    try:
        yield planned
    finally:
        if planned in _works:
            # With everything that it was interrupted in.
            if _works[0] is planned:
                _bars.close()
            with LOCK:
                del _works[_works.index(planned) :]


@contextmanager
def doing(words: str, *, shown: bool = True, lines: bool = True) -> Iterator[None]:
    """Show that something is done whose length nobody knows.

    Args:
        words: what.
        shown: False to show nothing.
        lines: whether it gets a line when it is done, if it took a second.
    """
    with work([Step(words)], shown=shown, lines=lines) as planned, planned.step(words):
        yield


@contextmanager
def progress_bar(name: str, total: int, *, done: int, shown: bool) -> Iterator[Advance]:
    """Give a function that counts finished items; nothing is shown if all are done at the start.

    Args:
        name: what is done, in words.
        total: number of items.
        done: how many of them were finished before.
        shown: False to show nothing.
    """
    step = Step(name, {"": total - done})
    with work([step], shown=shown and done < total) as planned, planned.step(name, done=done) as running:
        yield running


def _nothing(running: Running) -> None:
    """Say nothing."""


def _say_its_end(running: Running) -> None:
    """Say that a step is done, unless it is a short one that stands alone."""
    if running.numbered or running.seconds >= _SECONDS_WORTH_A_LINE:
        note = f", {plain(running.note)}" if running.note else ""
        tell(f"{running.words(short=True)}{note} ({clock(running.seconds)})", error=True)


def _say_now_and_then(running: Running) -> None:
    """Say how far the step at hand is, where there are no bars; of work within other work that alone."""
    work, now = _works[-1] if _works else None, time.monotonic()
    if _on_a_terminal() or work is None or work.running is not running:
        return
    if now - running.said < _SECONDS_BETWEEN_LINES:
        return
    running.said = now
    parts = [running.words(), f"{running.done}/{running.total}" if running.total else "", plain(running.note)]
    left = work.step_seconds_left if running.total else None
    parts += [f"{clock(left)} left" if left else ""]
    whole = _whole()
    left = None if whole is None else whole.seconds_left
    parts += [f"all {whole.count}: {clock(left)} left" if whole is not None and left else ""]
    print(", ".join(filter(None, parts)), file=sys.stderr, flush=True)


def at_work() -> bool:
    """True if some work is shown."""
    return bool(_works)


def tell(line: str, *, error: bool = False) -> None:
    """Print one or more lines above the bars; characters that nobody sees, as names may hold, as their codes.

    Args:
        line: is printed.
        error: True for standard error.
    """
    with paused():
        print(plain_lines(line), file=sys.stderr if error else sys.stdout, flush=True)


@contextmanager
def paused() -> Iterator[None]:
    """Take the bars away while something else is printed."""
    _bars.close()
    _bars.paused += 1
    try:
        yield
    finally:
        _bars.paused -= 1
        if _works:
            _bars.open()


def clock(seconds: float) -> str:
    """Seconds as a person says them.

    >>> clock(4.21), clock(42.4), clock(83), clock(3723)
    ('4.2 s', '42 s', '1:23', '1:02:03')
    """
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _on_a_terminal() -> bool:
    """True if there are bars, or could be; not below those of somebody else, such as Lightning's."""
    if _bars.shown:
        return True
    proxy = sys.modules.get("rich.file_proxy")
    others = proxy is not None and isinstance(sys.stdout, proxy.FileProxy)
    # A program without a console has no standard error.
    there = sys.stderr is not None and sys.stderr.isatty() and not _bars.paused
    return there and os.environ.get("TERM") not in ("dumb", "unknown") and not others


def _whole() -> Work | None:
    """The work of several steps that everything else is part of, from its second minute on."""
    for work in _works:
        if work.count is not None and work.count > 1:
            return work if time.monotonic() - work.started >= _SECONDS_BEFORE_THE_WHOLE else None
    return None


@final
class _Bars:
    """The bars of a terminal, drawn by a thread while there is any work."""

    def __init__(self) -> None:
        self.paused = 0
        self._live: Live | None = None
        self._before: tuple[Any, Any] = (None, None)
        self._spinner: Any = None

    @property
    def shown(self) -> bool:
        """True if they are there."""
        return self._live is not None

    def open(self) -> None:
        """Show them, where there is a terminal."""
        if self.shown or not _on_a_terminal():
            return
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        console = Console(stderr=True)
        self._spinner = self._spinner or Spinner("line" if console.options.ascii_only else "dots")
        self._before = sys.stdout, sys.stderr
        # What others print goes above the bars; a stream that is no terminal is none of our business.
        self._live = Live(
            get_renderable=self._drawn, console=console, transient=True, refresh_per_second=8,
            redirect_stdout=sys.stdout.isatty(), redirect_stderr=True,
        )  # fmt: skip
        self._live.start(refresh=True)

    def close(self) -> None:
        """Take them away, if they are there."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def forget(self) -> None:
        """Leave them to the process that this one was forked from."""
        _works.clear()
        if self._live is not None:
            self._live = None
            sys.stdout, sys.stderr = self._before

    def _drawn(self) -> Table:
        from rich.table import Column, Table
        from rich.text import Text

        wide = self._live is None or self._live.console.width >= _WIDE
        table = Table.grid(
            Column(), Column(ratio=1, no_wrap=True, overflow="ellipsis"), Column(width=24 if wide else 12),
            Column(justify="right", no_wrap=True), Column(justify="right", no_wrap=True, min_width=9),
            padding=(0, 1), expand=True,
        )  # fmt: skip
        with LOCK:
            work = _works[-1] if _works else None
            running = None if work is None else work.running
            if work is not None and running is not None:
                counted = f"{running.done}/{running.total}" if running.total else ""
                note = f" {plain(running.note)}" if running.note else ""
                left = work.step_seconds_left if running.total else None
                timed = f"{clock(left)} left" if left else clock(running.seconds)
                bar = _bar(running.done, running.total) if running.total else Text()
                table.add_row(self._spinner, Text(running.words()), bar, Text(counted + note), Text(timed))
            whole = _whole()
            if whole is not None:
                spent, left = time.monotonic() - whole.started, whole.seconds_left
                timed = f"{clock(left)} left" if left else clock(spent)
                bar = Text() if left is None else _bar(spent, spent + left)
                table.add_row("", Text(f"all {whole.count} {whole.units}"), bar, Text(""), Text(timed))
        return table


def _bar(done: float, total: float) -> ProgressBar:
    from rich.progress_bar import ProgressBar

    return ProgressBar(total, done)


_bars = _Bars()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_bars.forget)
