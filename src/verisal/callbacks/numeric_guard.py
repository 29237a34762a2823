"""A stop at the first loss or weight that is not finite, before it reaches a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from verisal._files import write_atomic
from verisal.errors import NumericError
from verisal.types import Batch


@final
class NumericGuard(Callback):
    """Raises :class:`NumericError` when a training loss, a weight or a buffer is NaN or infinite.

    The loss is read before the backward pass, so the weights are still those of the step before. Weights
    are read before each validation and at the end of each training epoch: before a checkpoint is written.
    A record is kept in ``numeric_error.json`` in the run folder.

    Args:
        run_dir: folder of the run.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.run_dir = run_dir
        self._batch_index = -1
        self._image_ids: tuple[str, ...] = ()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Remember which images the next loss is of."""
        self._batch_index = batch_idx
        self._image_ids = batch.image_ids if isinstance(batch, Batch) else ()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Check the loss."""
        if not bool(torch.isfinite(loss.detach()).all()):
            self._stop(trainer, f"training loss is {float(loss.detach().float().mean())}", [])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the weights before they are judged."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._check_weights(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the weights before they are saved."""
        self._check_weights(trainer, pl_module)

    def _check_weights(self, trainer: Trainer, pl_module: LightningModule) -> None:
        broken = [
            name
            for name, tensor in pl_module.state_dict().items()
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.isfinite().all()
        ]
        if broken:
            self._stop(trainer, f"{len(broken)} weights are not finite, the first is {broken[0]}", broken)

    def _stop(self, trainer: Trainer, what: str, broken: list[str]) -> None:
        record: dict[str, Any] = {
            "what": what,
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "batch_index": self._batch_index,
            "image_ids": list(self._image_ids),
            "weights": broken,
            "config": "config.yaml",
        }
        rank = f".{trainer.global_rank}" if trainer.global_rank else ""
        target = self.run_dir / f"numeric_error{rank}.json"
        write_atomic(target, (json.dumps(record, indent=2) + "\n").encode())
        raise NumericError(
            f"{what} in epoch {trainer.current_epoch}, batch {self._batch_index}; training stopped."
            f" The checkpoints in {self.run_dir / 'checkpoints'} are from before it, the batch is named in"
            f" {target.name}. Lower the learning rate, or set trainer.gradient_clip_val"
        )
