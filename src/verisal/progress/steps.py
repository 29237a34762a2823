"""Steps of some work: what is done in words, how much of it is done, and how long the rest takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, final

from verisal._plain import plain

# Bars are drawn by a thread of their own.
LOCK = threading.RLock()


class Advance(Protocol):
    """Counts items that were finished."""

    def __call__(self, items: int, note: str = "", *, part: str = "") -> None:
        """Count ``items`` more.

        Args:
            items: that were finished; 0 where a part begins.
            note: on the work so far, shown beside their number; an empty one takes the last one away.
            part: of the step, that they belong to, in words.
        """


@dataclass(frozen=True)
class Step:
    """One step of some work.

    Attributes:
        doing: what is done, in words, such as "attacking 360 images".
        parts: what is done one after the other, in words, to its number of items, as far as it is known.
        kind: steps of one kind take as long for an item of a part of one name; by default ``doing``.
    """

    doing: str
    parts: Mapping[str, int] = field(default_factory=dict)
    kind: str = ""


# Kind of a step and part of it to the seconds and items so far.
_Paces = dict[tuple[str, str], list[float]]
# Of kinds that have a name: other work of this process takes as long.
_remembered: _Paces = {}


@final
class Running:
    """A step at work: its clock and its counts; an :class:`Advance`.

    Args:
        step: what is done.
        head: its number in words, such as "2 of 5"; may be empty.
        paces: shared by the steps of some work.
        done: items that were finished before.
        heard: is called with it after every count.
    """

    def __init__(
        self, step: Step, head: str, paces: _Paces, *, done: int, heard: Callable[[Running], None]
    ) -> None:
        self.step, self.note, self.part = step, "", ""
        self._head, self._paces, self._heard = head, paces, heard
        self._left = dict(step.parts)
        self.done = done
        self.started = self.said = self._last = time.monotonic()

    def __call__(self, items: int, note: str = "", *, part: str = "") -> None:
        """See :class:`Advance`."""
        now = time.monotonic()
        with LOCK:
            if items:
                for paces in (self._paces, _remembered) if self.step.kind else (self._paces,):
                    pace = paces.setdefault((self.kind, part), [0.0, 0.0])
                    pace[0] += now - self._last
                    pace[1] += items
                self.done += items
                planned = part if part in self._left else ""
                self._left[planned] = max(0, self._left.get(planned, 0) - items)
            self.note, self.part, self._last = note, part, now
        self._heard(self)

    def expect(self, items: int, part: str = "") -> None:
        """Count on so many more items of a part; fewer, if negative."""
        with LOCK:
            self._left[part] = max(0, self._left.get(part, 0) + items)

    def remain(self, part: str, items: int) -> None:
        """Expect exactly so many items of a part from now on."""
        with LOCK:
            self._left[part] = items

    def finish(self) -> None:
        """Expect no more."""
        with LOCK:
            self._left.clear()

    @property
    def kind(self) -> str:
        """What the step's paces are kept under."""
        return self.step.kind or self.step.doing

    @property
    def left(self) -> dict[str, int]:
        """Items that are still to come, by part."""
        return self._left

    @property
    def total(self) -> int:
        """Items that are done and that are to come, as far as they are known."""
        return self.done + sum(self._left.values())

    @property
    def seconds(self) -> float:
        """How long it has been at work."""
        return time.monotonic() - self.started

    @property
    def waited(self) -> float:
        """Seconds since an item was finished, or a part began."""
        return time.monotonic() - self._last

    @property
    def numbered(self) -> bool:
        """True for one of several steps."""
        return bool(self._head)

    def words(self, *, short: bool = False) -> str:
        """What is being done, on one line; the step alone for ``short``."""
        doing = ": ".join(filter(None, (self.step.doing, "" if short else self.part)))
        return plain("  ".join(filter(None, (self._head, doing))))


def _nobody(running: Running) -> None:
    """Hear nothing."""


@final
class Work:
    """Some steps, one after the other.

    Args:
        steps: that are planned.
        unit: what a step is called before its number.
        first: number of the first one.
        count: number of the last one; None where nobody knows.
        heard: is called with the step at hand after every count.
        ended: is called with every step that has come to its end.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        *,
        unit: str = "",
        first: int = 1,
        count: int | None = None,
        heard: Callable[[Running], None] = _nobody,
        ended: Callable[[Running], None] = _nobody,
    ) -> None:
        self._steps, self._unit, self._first, self.count = list(steps), unit, first, count
        self.units = f"{unit or 'step'}s"
        self._heard, self._ended = heard, ended
        self.started = time.monotonic()
        self.running: Running | None = None
        self._paces: _Paces = {}
        self._at = 0

    @contextmanager
    def step(self, doing: str, *, done: int = 0) -> Iterator[Running]:
        """Do the next of the planned steps with these words, or one that nobody has planned.

        Args:
            doing: its words.
            done: items of it that were finished before.
        """
        places = [at for at, step in enumerate(self._steps) if at >= self._at and step.doing == doing]
        step = self._steps[places[0]] if places else Step(doing)
        head = self._head(self._first + places[0]) if places else ""
        running = Running(step, head, self._paces, done=done, heard=self._heard)
        with LOCK:
            self._at = places[0] + 1 if places else self._at
            self.running = running
        yield running
        # What is not finished is told of by whoever takes the error.
        running.finish()
        self._ended(running)

    @property
    def step_seconds_left(self) -> float | None:
        """Seconds that the step at hand still takes; None where nothing tells, or it has taken longer."""
        with LOCK:
            if self.running is None:
                return None
            seconds = self._seconds(self.running.kind, self.running.left)
            if not seconds:
                return seconds
            left = seconds - self.running.waited
            return left if left > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds that all steps still take, by the paces of those like them; None where nothing tells."""
        with LOCK:
            ahead = [self._seconds(step.kind or step.doing, step.parts) for step in self._steps[self._at :]]
            known = [seconds for seconds in (*ahead, self.step_seconds_left) if seconds is not None]
            return sum(known) if len(known) == len(ahead) + 1 else None

    def _seconds(self, kind: str, parts: Mapping[str, int]) -> float | None:
        """Seconds for some items: at the pace of the part, else of its kind of step, else of all."""
        both = (self._paces, _remembered)
        like = [[pace for (of, _), pace in paces.items() if of == kind] for paces in both]
        seconds = 0.0
        for part, items in parts.items():
            same = [[paces[kind, part]] for paces in both if (kind, part) in paces]
            for known in (*same, *like, [*self._paces.values()]):
                if counted := sum(pace[1] for pace in known):
                    seconds += items * sum(pace[0] for pace in known) / counted
                    break
            else:
                if items:
                    return None
        return seconds

    def _head(self, number: int) -> str:
        if self.count is None:
            return f"{self._unit} {number}".strip()
        return f"{self._unit} {number} of {self.count}".strip() if self.count > 1 else ""
