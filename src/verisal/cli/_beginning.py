"""When the folder of a run is made: with its first work, once nothing can refuse the command any more."""

from __future__ import annotations

from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer

from verisal.cli._progress import Progress

__all__ = ["Beginning"]


@final
class Beginning(Callback):
    """Begins the run when the first training batch is there, or the first batch of an evaluation done.

    What is logged before begins it, too; a predict begins when it has something to write. Must be the first
    callback: others write where they are called.

    Args:
        progress: of the command.
    """

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._waited = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Begin; no process goes on before the folder is there."""
        self._together(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a run that is resumed at the end of an epoch."""
        self._together(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:  # noqa: ANN401
        """Begin."""
        self._evaluating(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, where there was no batch."""
        self._evaluating(trainer)

    def on_test_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:  # noqa: ANN401
        """Begin."""
        self._evaluating(trainer)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, where there was no batch."""
        self._evaluating(trainer)

    def _together(self, trainer: Trainer) -> None:
        if not self._waited:
            self._waited = True
            self._progress.begin()
            trainer.strategy.barrier("run folder")

    def _evaluating(self, trainer: Trainer) -> None:
        if not trainer.sanity_checking:
            self._progress.begin()
