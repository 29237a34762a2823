"""What a run prints where there is no progress bar, and the table of its predictions."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from verisal.callbacks import Monitored

__all__ = ["EpochLines", "write_predictions"]

_MOST_VALUES = 6


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
        if not trainer.is_global_zero:
            return
        monitor = pl_module.monitor if isinstance(pl_module, Monitored) else ""
        values = trainer.callback_metrics
        names = [name for name in values if "loss" in name or name == monitor][:_MOST_VALUES]
        shown = ", ".join(f"{name} {float(values[name]):.4g}" for name in names)
        limit = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        seconds = time.perf_counter() - self._started
        print(f"epoch {trainer.current_epoch + 1}/{limit}, {seconds:.1f} s: {shown}", flush=True)


def write_predictions(path: Path, predictions: Sequence[Any]) -> None:
    """Write batches of named columns as one CSV file.

    Args:
        path: the file.
        predictions: per batch a mapping of column name to ``(B,)`` tensor or sequence; anything else is left.
    """
    batches = [batch for batch in predictions if isinstance(batch, Mapping)]
    if not batches:
        return
    names = list(batches[0])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for batch in batches:
            writer.writerows(zip(*(_column(batch[name]) for name in names), strict=True))
    print(f"predictions: {path}", flush=True)


def _column(values: Tensor | Sequence[Any]) -> list[Any]:
    return values.detach().cpu().tolist() if isinstance(values, Tensor) else list(values)
