"""Publications of a hook, the sinks that take them, and the main table of several evaluations made one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

from verisal._column import Column, Same
from verisal.pictures import Pixels
from verisal.results import Curve, Evaluation, Score
from verisal.results import Table as Table


@dataclass(frozen=True)
class Picture:
    """One drawn picture.

    Attributes:
        pixels: ``(H, W, 3)`` uint8 RGB.
        caption: what it shows, in words.
    """

    pixels: Pixels
    caption: str


@dataclass(frozen=True)
class Publication:
    """Results of one hook, taken by a sink in one call, so that they land on one step.

    Attributes:
        curves: figure name to the lines drawn in it.
        pictures: name to pictures.
        tables: name to table.
    """

    curves: Mapping[str, tuple[Curve, ...]] = field(default_factory=dict)
    pictures: Mapping[str, tuple[Picture, ...]] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.curves or self.pictures or self.tables)


class Sink(ABC):
    """A place for results; a Lightning logger that is also a sink is found by the report callback."""

    @abstractmethod
    def publish(self, publication: Publication, *, step: int, epoch: int) -> None:
        """Take everything that one hook reports.

        Args:
            publication: curves, pictures and tables.
            step: of the scalars that Lightning logs beside it.
            epoch: epochs finished or running, from 0.
        """


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def main_table(evaluation: Evaluation) -> Table | None:
    """Rows by the scores of the headline, values only; None without either."""
    cells = main_cells(evaluation)
    rows = tuple((row, *(_value(score) for score in scores)) for row, scores in cells.items())
    return Table(("", *evaluation.headline), rows) if rows else None


def main_cells(evaluation: Evaluation) -> dict[str, list[Score | None]]:
    """Rows of the main table, a score or nothing under each title of the headline."""
    cells: dict[str, dict[str, Score]] = {}
    for name, score in evaluation.scores.items():
        cells.setdefault(name.row, {})[name.column] = score
    wanted = list(evaluation.headline.values())
    return {
        row: [scores.get(name) for name in wanted]
        for row, scores in cells.items()
        if any(name in scores for name in wanted)
    }


def merge_evaluations(parts: Sequence[Evaluation]) -> Evaluation | None:
    """One evaluation of all parts, in their order; of equal names the first counts. None without parts.

    Tables of samples with other columns than the first are filled up with empty cells.
    """
    if len(parts) < 2:
        return parts[0] if parts else None
    return Evaluation(
        parts[0].split,
        _first_of([part.scores for part in parts]),
        counts=_first_of([part.counts for part in parts]),
        curves=tuple(chain.from_iterable(part.curves for part in parts)),
        histograms=tuple(chain.from_iterable(part.histograms for part in parts)),
        panels=tuple(chain.from_iterable(part.panels for part in parts)),
        heatmaps=tuple(chain.from_iterable(part.heatmaps for part in parts)),
        tables=_first_of([part.tables for part in parts]),
        samples=_joined([part.samples for part in parts if part.samples]),
        timings=_first_of([part.timings for part in parts]),
        notes=tuple(dict.fromkeys(chain.from_iterable(part.notes for part in parts))),
        headline=_first_of([part.headline for part in parts]),
        logged=_first_of([part.logged for part in parts]),
        settings=_first_of([part.settings for part in parts]),
        summary=tuple(dict.fromkeys(chain.from_iterable(part.summary for part in parts))),
    )


def _value(score: Score | None) -> float:
    return math.nan if score is None else score.value


def _first_of(parts: Sequence[Mapping[_Key, _Value]]) -> dict[_Key, _Value]:
    joined: dict[_Key, _Value] = {}
    for part in parts:
        joined = {**joined, **{name: value for name, value in part.items() if name not in joined}}
    return joined


def _joined(tables: Sequence[Mapping[str, Sequence[object]]]) -> dict[str, Column]:
    columns = dict.fromkeys(name for table in tables for name in table)
    lengths = [len(next(iter(table.values()))) for table in tables]
    return {
        name: Column(table.get(name, Same("", length)) for table, length in zip(tables, lengths, strict=True))
        for name in columns
    }
