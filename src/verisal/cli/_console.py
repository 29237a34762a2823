"""What a run prints where there is no progress bar, and the table of its predictions."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, distributed

from verisal._whole_files import write_atomic
from verisal.callbacks import Monitored
from verisal.cli._runs import process_rank

__all__ = ["EpochLines", "write_predictions"]

_MOST_VALUES = 6
# Names of columns, and rows.
Predicted = tuple[list[str], list[tuple[Any, ...]]]


@final
class EpochLines(Callback):
    """One line per epoch in a log file: number, seconds, losses and the monitored value."""

    def __init__(self) -> None:
        super().__init__()
        self._started = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line."""
        # Gathered over processes when they are first asked for, so all must ask.
        values = trainer.callback_metrics
        if not trainer.is_global_zero:
            return
        monitor = pl_module.monitor if isinstance(pl_module, Monitored) else ""
        names = [name for name in values if "loss" in name or name == monitor][:_MOST_VALUES]
        shown = ", ".join(f"{name} {float(values[name]):.4g}" for name in names)
        limit = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        seconds = time.perf_counter() - self._started
        print(f"epoch {trainer.current_epoch + 1}/{limit}, {seconds:.1f} s: {shown}", flush=True)


def write_predictions(path: Path, predictions: Sequence[Any], *, images: int | None) -> None:
    """Write batches of named columns as one CSV file; called on each process, of which the first writes.

    Args:
        path: the file.
        predictions: of this process, per batch a mapping of column name to ``(B,)`` tensor or sequence;
            anything else is left.
        images: of all processes together, each of which reads every so manieth of them; None where nobody
            knows.
    """
    batches = [batch for batch in predictions if isinstance(batch, Mapping)]
    names = list(batches[0]) if batches else []
    own = [row for batch in batches for row in zip(*(_column(batch[name]) for name in names), strict=True)]
    parts = _gathered((names, own))
    names = next((found for found, _ in parts if found), [])
    if not names or process_rank() != 0:
        return
    in_order = zip_longest(*(rows for _, rows in parts))
    # Behind the last image stand copies, which keep processes without an image of their own busy.
    rows = [row for turn in in_order for row in turn if row is not None][:images]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    write_atomic(path, table.getvalue().encode())
    print(f"predictions: {path}", flush=True)


def _gathered(own: Predicted) -> list[Predicted]:
    """What each process has, in their order."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [own]
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, own)
    return parts


def _column(values: Tensor | Sequence[Any]) -> list[Any]:
    return values.detach().cpu().tolist() if isinstance(values, Tensor) else list(values)
