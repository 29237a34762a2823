"""Scores as tables: one per metric, rows by columns, with what all cells of a line share said once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

from verisal.reporting.words import KNOWN_METRICS
from verisal.results import Score, ScoreName


@final
@dataclass(frozen=True)
class Counts:
    """Where a table says how many images counted, so that it is said as seldom as possible.

    Attributes:
        place: ``all``: once; ``columns``: once per column; ``rows``: once per row; ``cells``: in each cell.
        words: what is said, by column or row; under the empty name where it is said once.
    """

    place: Literal["all", "columns", "rows", "cells"]
    words: Mapping[str, str]


@final
@dataclass(frozen=True)
class Block:
    """Scores of one metric.

    Attributes:
        metric: its name.
        rows: names, e.g. of detectors.
        columns: names, e.g. of attacks or groups.
        cells: scores by row and column; not every cell has one.
    """

    metric: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Score]

    def counts(self) -> Counts:
        """Where the counts of this table are said."""
        told = {place: counted(score) for place, score in self.cells.items()}
        if len(set(told.values())) == 1:
            return Counts("all", {"": next(iter(told.values()))})
        for place, names, axis in (("columns", self.columns, 1), ("rows", self.rows, 0)):
            shared = {name: {words for at, words in told.items() if at[axis] == name} for name in names}
            if all(len(words) == 1 for words in shared.values()):
                words = {name: words.pop() for name, words in shared.items()}
                return Counts("columns" if place == "columns" else "rows", words)
        return Counts("cells", {})

    def scale(self, *, holds: float | None = None) -> tuple[float, float]:
        """Ends of the axis on which bars of this table are drawn."""
        return scale_of(list(self.cells.values()), holds=holds)


def blocks_of(scores: Mapping[ScoreName, Score]) -> list[Block]:
    """One block per metric; known metrics first, in reading order, rows and columns as they come."""
    cells: dict[str, dict[tuple[str, str], Score]] = {}
    for name, score in scores.items():
        cells.setdefault(name.metric, {})[name.row, name.part or "all"] = score
    order = dict.fromkeys([*(metric for metric in KNOWN_METRICS if metric in cells), *cells])
    blocks = []
    for metric in order:
        rows, columns = (tuple(dict.fromkeys(part)) for part in zip(*cells[metric], strict=True))
        blocks.append(Block(metric, rows, columns, cells[metric]))
    return blocks


def scale_of(scores: Sequence[Score], *, holds: float | None = None) -> tuple[float, float]:
    """Ends of an axis that holds all intervals: tenths for shares, else with 0 on it.

    Args:
        scores: in the table.
        holds: a further value on the axis, such as that of chance.
    """
    known = [score for score in scores if not math.isnan(score.value)]
    numbers = [score.value for score in known] + [end for score in known for end in score.ends or ()]
    numbers += [] if holds is None else [holds]
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    if low < 0 or high > 1:
        return min(low, 0.0), max(high, 0.0)
    first, last = math.floor(10 * low + 1e-9), math.ceil(10 * high - 1e-9)
    # An axis of two tenths at least: intervals have a length that can be compared between tables.
    return max(0, min(first, last - 2)) / 10, min(10, max(last, first + 2)) / 10


def counted(score: Score) -> str:
    """The images that counted, and those that could not be scored."""
    return f"n = {score.n}" + (f" + {score.undefined}" if score.undefined else "")
