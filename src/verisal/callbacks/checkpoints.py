"""Weights that a run keeps: how they are chosen, written, read and resumed."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, final, runtime_checkable

import numpy as np
import torch
from lightning import __version__ as lightning_version
from lightning.fabric.plugins.io import CheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint
from lightning.pytorch.loops.loop import _Loop

from verisal.checkpoint import (
    BRANCH_KEY,
    CARD_KEY,
    Carded,
    check_card,
    load_weights,
    remove_checkpoint,
    save_checkpoint,
)
from verisal.errors import CheckpointError


@runtime_checkable
class Monitored(Protocol):
    """A task that says which logged value decides the best checkpoint.

    Attributes:
        monitor: name of a value logged in validation.
        monitor_mode: ``max`` if a higher value is better, else ``min``.
    """

    monitor: str
    monitor_mode: Literal["min", "max"]


@final
class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``: a :class:`Monitored` task's best epoch, else the newest one.

    Args:
        folder: folder of the checkpoints.
        task: the configured task.
    """

    def __init__(self, folder: Path, task: LightningModule) -> None:
        monitored = task if isinstance(task, Monitored) else None
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor=monitored.monitor if monitored else None,
            mode=monitored.monitor_mode if monitored else "min",
            save_top_k=1,
            enable_version_counter=False,
        )

    @property
    def state_key(self) -> str:
        """A name of its own, so that a config may add a ``ModelCheckpoint`` of the same value."""
        return "BestCheckpoint"

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, torch.Tensor]) -> None:
        # Where nothing is validated nothing is best: Lightning would warn, and keep weights without a value.
        if self.monitor is None or self.monitor in monitor_candidates or trainer.enable_validation:
            super()._save_topk_checkpoint(trainer, monitor_candidates)


@final
class LastValidation(Callback):
    """Validates the weights of a training that ends inside an epoch, by its number of steps.

    Lightning validates where an epoch ends or a callback stops the training, and would let this one end
    without a checkpoint of its last part, or of any.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Stop as a callback does."""
        if 0 < trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True


@final
class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``: the state at the newest epoch boundary, random number generators included.

    Written when an epoch starts (the first one, with its first batch) and when training ends. A run that is
    stopped inside an epoch resumes at the start of that epoch and goes on exactly as it would have done.

    Args:
        folder: folder of the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "last.ckpt"
        self._restored: dict[str, Any] | None = None
        self._at_boundary = False
        self._at_start: dict[str, Any] | None = None
        self._resumed = False
        self._first_loops: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """State of the global generators, and True with ``boundary`` if it is that of an epoch boundary."""
        return {"boundary": self._at_boundary, **(self._at_start or _generators())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put the state into the generators, before anything draws: a schedule may ask for the loader."""
        self._restored = state_dict
        _set_generators(state_dict)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the generators before the first loader draws from them, which may be for the optimizers."""
        if stage == "fit":
            self._at_start = _generators()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take a resumed run as one that begins where an epoch does; its generators are back already."""
        if self._restored is not None:
            self._at_boundary, self._at_start = bool(self._restored["boundary"]), None
            self._restored, self._resumed = None, True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the epoch of a boundary checkpoint as any other.

        Lightning would take the counters of the finished epoch for one that is to be completed, and skip it.
        """
        if self._resumed and self._at_boundary:
            # The loop's own setter ignores this where max_steps is set.
            _Loop.restarting.fset(trainer.fit_loop, False)  # type: ignore[attr-defined]  # a property
        self._at_boundary = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, except on the epoch that was just resumed: there the loaders have drawn already."""
        if self._resumed:
            self._resumed = False
        elif self._at_start is not None:
            # Nothing is written before the first batch is there: until then the command may be refused.
            self._first_loops = copy.deepcopy(trainer.fit_loop.state_dict())
        else:
            self._save(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Save the start of a new run, with the counters of its epoch's start."""
        if self._first_loops is not None:
            self._save(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put in the counters of the start."""
        if self._first_loops is not None:
            checkpoint["loops"]["fit_loop"] = self._first_loops

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end state."""
        self._first_loops = None
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        self._at_boundary = True
        trainer.save_checkpoint(self.path)
        self._at_boundary, self._at_start, self._first_loops = False, None, None


@final
class CheckpointFiles(CheckpointIO):
    """Checkpoints as whole files with checksums, of tensors and plain data only.

    A :class:`Carded` task's card is stored with its weights and compared before they are loaded.

    Args:
        task: the configured task.
        branch: how often the run has gone back to an earlier state.
    """

    def __init__(self, task: LightningModule, *, branch: int = 0) -> None:
        self._task, self._branch = task, branch

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: object | None = None
    ) -> None:
        """Write ``checkpoint`` with the task's card and the run's branch."""
        cards: Mapping[str, Any] = {CARD_KEY: self._task.card()} if isinstance(self._task, Carded) else {}
        save_checkpoint({**checkpoint, **cards, BRANCH_KEY: self._branch}, Path(path))

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint or an export made for this task; ``weights_only`` cannot be switched off."""
        # An export does not say which Lightning wrote it: none did, and no callback has a state in it.
        empty = {"pytorch-lightning_version": lightning_version, "callbacks": {}}
        checkpoint = {**empty, **load_weights(os.fspath(path))}
        if isinstance(self._task, Carded):
            check_card(checkpoint, self._task.card(), path)
        _check_tensors(checkpoint.get("state_dict", {}), self._task, path)
        return checkpoint

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Delete a checkpoint and its sidecar."""
        remove_checkpoint(Path(path))


def _check_tensors(weights: Mapping[str, torch.Tensor], task: LightningModule, path: object) -> None:
    """Raise unless the weights have the names and shapes of the task's."""
    given = {name: tuple(value.shape) for name, value in weights.items()}
    wanted = {name: tuple(value.shape) for name, value in task.state_dict().items()}
    different = sorted(name for name in given.keys() | wanted.keys() if given.get(name) != wanted.get(name))
    if task.strict_loading and different:
        shown = "\n".join(
            f"  {name}: checkpoint {given.get(name, 'nothing')}, config {wanted.get(name, 'nothing')}"
            for name in different[:5]
        )
        raise CheckpointError(
            f"{path} does not fit the config's network ({len(different)} weights differ):\n{shown}\n"
            "Use the config in that run's folder, or train again with this one"
        )


def _generators() -> dict[str, Any]:
    """State of the global generators as plain data and tensors."""
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_generators(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([item.cpu() for item in state["cuda"]])
