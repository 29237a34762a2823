"""Common parts of trainings: a learning rate over a known length, one network on all processes."""

from __future__ import annotations

import math
from typing import Any, final

from lightning.pytorch import LightningModule, Trainer
from torch import distributed
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from verisal.errors import ConfigError

_KNOWN = "a known number of steps: set trainer.max_epochs or trainer.max_steps"


def check_planned(trainer: Trainer, *, needs_validation: bool = False) -> None:
    """Raise unless a trainer says how long it trains; called before anything is prepared.

    Args:
        trainer: as configured.
        needs_validation: True if a training without a validation is of no use.

    Raises:
        ConfigError: neither epochs nor steps end the training; or it has no validation.
    """
    every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    if needs_validation and (trainer.limit_val_batches == 0 or (every and epochs and 0 < epochs < every)):
        raise ConfigError(
            "thresholds are set by a validation, and this training has none"
            f" (limit_val_batches {trainer.limit_val_batches}, check_val_every_n_epoch {every}, max_epochs"
            f" {epochs}); leave limit_val_batches and check_val_every_n_epoch out"
        )
    if trainer.max_epochs in (None, -1) and trainer.max_steps == -1:
        raise ConfigError(
            f"this training is endless (max_epochs {trainer.max_epochs}, max_steps -1), and its learning rate"
            f" rises and falls over {_KNOWN}; trainer.max_time may end it earlier"
        )


@final
class OneCycle(OneCycleLR):
    """One-cycle schedule over the steps made so far and those still to come.

    Its state is the number of steps made. A run that is resumed as it was goes on along the same curve; one
    with more or fewer steps to come (other epochs, batch size or number of images) goes on along the curve
    of a run of that length, from the place where it stands.

    Args:
        optimizer: whose rates and first moments are set.
        trainer: knows how many steps there are.
        max_lr: peak rate, or that of each parameter group.
        pct_start: share of the steps in which the rate rises.

    Raises:
        ConfigError: no training step, or no end.
    """

    def __init__(
        self, optimizer: Optimizer, trainer: Trainer, *, max_lr: float | list[float], pct_start: float
    ) -> None:
        self._trainer, self._max_lr, self._pct_start = trainer, max_lr, pct_start
        self._start(optimizer, made=0, total=_all_steps(trainer))

    def _start(self, optimizer: Optimizer, *, made: int, total: int) -> None:
        # The rise must not end exactly at step 0: torch divides by its length.
        rise = self._pct_start if self._pct_start * total != 1 else math.nextafter(self._pct_start, 0)
        super().__init__(
            optimizer, max_lr=self._max_lr, total_steps=total, pct_start=rise, last_epoch=made - 1
        )

    def state_dict(self) -> dict[str, Any]:
        """Number of steps made."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there; the trainer and the optimizer have their states back already."""
        made = int(state_dict["last_epoch"])
        self._start(self.optimizer, made=made, total=max(1, made + _steps_left(self._trainer, made)))


def _all_steps(trainer: Trainer) -> int:
    steps = trainer.estimated_stepping_batches
    if not 0 < steps < math.inf:
        length = "endless" if steps else "without a single step"
        raise ConfigError(
            f"this training is {length}, and its learning rate rises and falls over {_KNOWN}, and give"
            " at least one batch of training images"
        )
    return int(steps)


def _steps_left(trainer: Trainer, made: int) -> int:
    """Steps still to come of a run whose progress has been restored."""
    by_limit = math.inf if trainer.max_steps == -1 else trainer.max_steps - made
    batches = trainer.num_training_batches
    if trainer.max_epochs in (None, -1) or batches == math.inf:
        return int(max(0, by_limit))
    per_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
    epochs: Any = trainer.fit_loop.epoch_progress.current
    batch = trainer.fit_loop.epoch_loop.batch_progress.current
    left = per_epoch * (int(trainer.max_epochs or 0) - epochs.processed)
    if epochs.started > epochs.processed:  # Inside an epoch.
        left -= math.ceil(min(batch.completed, batches) / trainer.accumulate_grad_batches)
    return int(max(0, min(left, by_limit)))


def agree_on_buffers(module: LightningModule) -> None:
    """Give every process the buffers of the first, whose weights are saved.

    In training each process moves the running statistics of its batch normalisations by its own images; a
    validation of several networks would be that of none. Called on each process.
    """
    if module.trainer.world_size > 1:
        for buffer in module.buffers():
            distributed.broadcast(buffer, src=0)
