"""The stages of a trainer as work in steps: the epochs of a training, the batches of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn

from verisal.callbacks.checkpoints import Monitored
from verisal.progress import Running, Step, Work, paused, work

_TRAINING, _VALIDATING = "training", "validating"
_WORDS = {"validate": _VALIDATING, "test": "testing", "predict": "predicting"}
_SCORING = "scores and their intervals"


@final
class StageBar(ProgressBar):
    """Shows the epoch at hand with one bar, and all of them with another; no sums, no numbers of versions.

    Must come before callbacks that print or show something at the end of a stage.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._work: Work | None = None
        self._running: Running | None = None
        self._all, self._one = ExitStack(), ExitStack()

    def disable(self) -> None:
        """Show nothing from now on."""
        self._enabled = False

    def enable(self) -> None:
        """Show everything from now on."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plan the epochs."""
        done, limit = trainer.current_epoch, trainer.max_epochs or 0
        steps = [Step("", _parts(trainer, epoch), "epoch") for epoch in range(done, max(limit, done))]
        # Each epoch has a line of its own, with its losses.
        planned = work(
            steps,
            shown=self._enabled,
            unit="epoch",
            first=done + 1,
            count=limit if limit > 0 else None,
            lines=False,
        )
        self._work = self._all.enter_context(planned)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the next epoch."""
        self._begin("")
        if self._running is not None:
            self._running(0, part=_TRAINING)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:  # noqa: ANN401
        """Count the batch."""
        if self._running is not None:
            self._running(1, _figure(trainer, pl_module), part=_TRAINING)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the epoch."""
        self._end_step()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the training."""
        self._end()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an evaluation, unless it is part of a training."""
        if trainer.state.fn is not TrainerFn.FITTING:
            self._evaluate(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:  # noqa: ANN401
        """Count the batch."""
        if self._running is not None and not trainer.sanity_checking:
            self._running(1, part=_VALIDATING if trainer.state.fn is TrainerFn.FITTING else "")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on to what is made of all batches."""
        if trainer.state.fn is not TrainerFn.FITTING and self._work is not None:
            self._end_step()
            self._begin(_SCORING)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End an evaluation."""
        if trainer.state.fn is not TrainerFn.FITTING:
            self._end()

    on_test_start = on_predict_start = on_validation_start
    on_test_batch_end = on_predict_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end
    on_test_end = on_predict_end = on_validation_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Show nothing more."""
        self._work = self._running = None
        # A step that was not finished gets no line.
        self._one.pop_all()
        self._all.close()

    def _evaluate(self, trainer: Trainer) -> None:
        batches = {
            TrainerFn.VALIDATING: trainer.num_val_batches,
            TrainerFn.TESTING: trainer.num_test_batches,
            TrainerFn.PREDICTING: trainer.num_predict_batches,
        }
        stage = trainer.state.fn or TrainerFn.TESTING
        words, count = _WORDS.get(stage.value, stage.value), _known(batches.get(stage, []))
        step = Step(words, {"": count} if count else {})
        self._work = self._all.enter_context(work([step], shown=self._enabled))
        self._begin(words)

    def _begin(self, words: str) -> None:
        if self._work is not None:
            self._running = self._one.enter_context(self._work.step(words))

    def _end_step(self) -> None:
        self._running = None
        self._one.close()

    def _end(self) -> None:
        self._end_step()
        self._work = None
        self._all.close()


def stage_bars(callbacks: Sequence[object], *, wanted: bool) -> list[Callback]:
    """A bar for a trainer, unless its callbacks have one, or none is wanted."""
    own = any(isinstance(callback, ProgressBar) for callback in callbacks)
    return [StageBar()] if wanted and not own else []


def room_for(trainer: Trainer) -> AbstractContextManager[None]:
    """Take our bars away while a bar of somebody else is shown."""
    bar = trainer.progress_bar_callback
    return nullcontext() if bar is None or isinstance(bar, StageBar) else paused()


def _parts(trainer: Trainer, epoch: int) -> dict[str, int]:
    """Batches of an epoch, as far as their number is known."""
    every = trainer.check_val_every_n_epoch
    parts = {_TRAINING: _known([trainer.num_training_batches])}
    if every is not None and (epoch + 1) % every == 0 and trainer.enable_validation:
        parts[_VALIDATING] = _known(trainer.num_val_batches)
    return {part: count for part, count in parts.items() if count}


def _known(batches: Sequence[float] | float) -> int:
    """The sum of some numbers of batches; 0 where one has no end."""
    total = sum(batches) if isinstance(batches, Sequence) else batches
    return int(total) if math.isfinite(total) else 0


def _figure(trainer: Trainer, module: LightningModule) -> str:
    """One number that tells how good the network is: what is monitored, else the first that is shown."""
    values = trainer.progress_bar_metrics
    monitor = module.monitor if isinstance(module, Monitored) else ""
    name = monitor if monitor in values else next(iter(values), "")
    value = values.get(name)
    return f"{name.replace('/', ' ')} {value:.3g}" if isinstance(value, float) else ""
