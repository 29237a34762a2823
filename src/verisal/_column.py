"""Columns of long tables, in which most values repeat."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain
from typing import final, overload


@final
class Column(Sequence[object]):
    """Values one after the other, in parts that are kept as they are; equal to a list of the same values.

    An evaluation has a line for each image, row and score, so that a list of names alone would take many
    times the memory of what they were scored with.

    Args:
        parts: sequences, such as :class:`Same` or an ``array`` of numbers, which nobody changes later.
    """

    __slots__ = ("_ends", "_parts")
    _parts: tuple[Sequence[object], ...]

    def __init__(self, parts: Iterable[Sequence[object]]) -> None:
        inner = chain.from_iterable(part._parts if isinstance(part, Column) else (part,) for part in parts)
        self._parts = tuple(part for part in inner if len(part))
        self._ends = tuple(accumulate(map(len, self._parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> object: ...
    @overload
    def __getitem__(self, index: slice) -> list[object]: ...
    def __getitem__(self, index: int | slice) -> object:
        """A value, or a list of some."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        part = bisect_right(self._ends, place)
        return self._parts[part][place - (self._ends[part - 1] if part else 0)]

    def __iter__(self) -> Iterator[object]:
        return chain.from_iterable(self._parts)

    def __eq__(self, other: object) -> bool:
        """True for a sequence of equal values."""
        return isinstance(other, Column | list | tuple) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as lists

    def __repr__(self) -> str:
        return repr(list(self))


@final
class Same(Sequence[object]):
    """One value, so many times."""

    __slots__ = ("_times", "_value")

    def __init__(self, value: object, times: int) -> None:
        self._value, self._times = value, times

    def __len__(self) -> int:
        return self._times

    @overload
    def __getitem__(self, index: int) -> object: ...
    @overload
    def __getitem__(self, index: slice) -> list[object]: ...
    def __getitem__(self, index: int | slice) -> object:
        """The value, or a list of it."""
        places = range(self._times)[index]
        return [self._value] * len(places) if isinstance(places, range) else self._value

    def __iter__(self) -> Iterator[object]:
        return (self._value for _ in range(self._times))
