"""Sinks of results, beside the scalars that Lightning hands to every logger."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from verisal.reporting.canvas import Pixels
from verisal.results import Curve


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
class Table:
    """Rows of plain values under named columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]


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
            step: optimiser steps taken so far.
            epoch: epochs finished or running, from 0.
        """
