"""Scalars and curves as CSV files in the run folder; always on, and always first."""

from __future__ import annotations

import csv
import io
import math
import os
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from verisal._files import write_atomic
from verisal.reporting.publication import Publication, Sink

_LEADING = ("epoch", "step")
_CURVE_COLUMNS = ("epoch", "step", "figure", "label", "x", "y")


@final
class CsvSink(Logger, Sink):
    """Lightning logger that keeps ``metrics.csv`` (scalars) and ``curves.csv`` (lines) in one folder.

    Every call is on disk when it returns. A later stage or a resumed run continues in the same files: rows
    are appended, new columns join the header, and a last line cut short by a kill is dropped. A run that
    resumes from before its last row repeats the steps in between; the later row is the one that counts.

    Lightning's ``CSVLogger`` cannot do that: it deletes the file of an earlier part of the run, keeps rows in
    memory for 100 steps, which a kill takes with it, and knows no curves. Nor has this one a ``version_0``
    folder or ``hparams.yaml``, for the run's ``config.yaml`` holds the settings.

    Args:
        run_dir: folder of the run; created when first written to.
        begin: called before anything is written.
    """

    def __init__(self, run_dir: Path, *, begin: Callable[[], None] | None = None) -> None:
        super().__init__()
        self._run_dir, self._begin = run_dir, begin

    @property
    def name(self) -> str:
        """Empty: the run folder itself is the place."""
        return ""

    @property
    def version(self) -> str:
        """Empty: the run folder itself is the place."""
        return ""

    @property
    def save_dir(self) -> str:
        """Folder of the run; Lightning takes it for ``trainer.log_dir``."""
        return os.fspath(self._run_dir)

    @property
    def metrics_path(self) -> Path:
        """The file with one row per logging call."""
        return self._run_dir / "metrics.csv"

    @property
    def curves_path(self) -> Path:
        """The file with one row per point of a curve."""
        return self._run_dir / "curves.csv"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Tensor | float], step: int | None = None) -> None:
        """Append one row; values that are not finite read ``nan``, ``inf`` and ``-inf``."""
        row = {name: _number(value) for name, value in metrics.items()}
        if step is not None:
            row["step"] = str(step)
        self._write(self.metrics_path, [row], _LEADING)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: object, **__: object) -> None:
        """Nothing: ``config.yaml`` holds every setting of the run."""

    @rank_zero_only
    def publish(self, publication: Publication, *, step: int, epoch: int) -> None:
        """Append the points of all curves; pictures and tables are files of their own in the run folder."""
        rows = [
            dict(zip(_CURVE_COLUMNS, (str(epoch), str(step), figure, line.label, x, y), strict=True))
            for figure, lines in publication.curves.items()
            for line in lines
            for x, y in zip(_numbers(line.x), _numbers(line.y), strict=True)
        ]
        if rows:
            self._write(self.curves_path, rows, _CURVE_COLUMNS)

    def _write(self, path: Path, rows: Sequence[Mapping[str, str]], leading: Sequence[str]) -> None:
        if self._begin is not None:
            self._begin()
        _append(path, rows, leading)


def _number(value: Tensor | float) -> str:
    number = value.item() if isinstance(value, Tensor) else value
    if isinstance(number, float) and math.isfinite(number) and number.is_integer() and abs(number) < 1e15:
        return str(int(number))
    return repr(number)


def _numbers(values: Tensor) -> list[str]:
    return [repr(float(value)) for value in values.double().cpu().tolist()]


def _append(path: Path, rows: Sequence[Mapping[str, str]], leading: Sequence[str]) -> None:
    """Append rows; the whole file is written anew where they have columns that it lacks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = _columns(path)
    known = columns or list(leading)
    new = sorted({name for row in rows for name in row} - set(known))
    if columns and not new:
        with path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, fieldnames=columns, restval="", lineterminator="\n").writerows(rows)
        return
    old: list[dict[str, str]] = []
    if columns:
        with path.open(newline="", encoding="utf-8") as file:
            old = list(csv.DictReader(file, restval=""))
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=known + new, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows([*old, *rows])
    write_atomic(path, table.getvalue().encode())


def _columns(path: Path) -> list[str]:
    """Header of the file after repairing its end; empty when there is no file or no whole header."""
    if not path.exists():
        return []
    _drop_partial_line(path)
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def _drop_partial_line(path: Path) -> None:
    """A process killed while it wrote leaves a last line without an end; a row would be glued to it."""
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(size - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
