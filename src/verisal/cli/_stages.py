"""Which commands a task and a data module can serve."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, runtime_checkable

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from verisal.errors import ConfigError

__all__ = ["ChecksTrainer", "check_stage", "check_steps"]

# Command to the method of a task and that of a data module which it needs.
_NEEDED = {
    "fit": ("training_step", "train_dataloader"),
    "validate": ("validation_step", "val_dataloader"),
    "test": ("test_step", "test_dataloader"),
    "predict": ("predict_step", "predict_dataloader"),
}


def check_stage(stage: str, task: str, data: str) -> None:
    """Raise unless both classes have what a command needs; nothing is built.

    Args:
        stage: ``fit``, ``validate``, ``test`` or ``predict``.
        task: dotted path of the task's class.
        data: dotted path of the data module's class.

    Raises:
        ConfigError: naming the commands that would work.
    """
    stages = {
        path.rpartition(".")[2]: [name for name in _NEEDED if _has(path, base, _NEEDED[name][position])]
        for position, (path, base) in enumerate(((task, LightningModule), (data, LightningDataModule)))
    }
    both = [name for name in _NEEDED if all(name in found for found in stages.values())]
    for position, (name, found) in enumerate(stages.items()):
        if stage not in found:
            others = f"; use verisal {' or verisal '.join(both)}" if both else ""
            raise ConfigError(f"{name} has nothing to {stage} (no {_NEEDED[stage][position]}){others}")


@runtime_checkable
class ChecksTrainer(Protocol):
    """A task that cannot be trained by every trainer."""

    def check_trainer(self, trainer: Trainer) -> None:
        """Raise unless the trainer will do; called before data are prepared."""
        ...


def check_steps(stage: str, trainer: Namespace) -> None:
    """Raise where settings of the trainer leave nothing to do.

    Raises:
        ConfigError: naming the setting.
    """
    if stage != "fit":
        name = {"validate": "limit_val_batches"}.get(stage, f"limit_{stage}_batches")
        if trainer.get(name) == 0:
            raise ConfigError(f"trainer.{name} is 0, so that {stage} would look at nothing; leave it out")
        return
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if trainer.get(name) == 0:
            raise ConfigError(
                f"trainer.{name} is {trainer.get(name):g}, so that nothing would be trained; leave it out, or"
                " use verisal validate or verisal test for weights that are there"
            )


def _has(path: str, base: type, method: str) -> bool:
    module, _, name = path.rpartition(".")
    return getattr(getattr(import_module(module), name), method) is not getattr(base, method)
