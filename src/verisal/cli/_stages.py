"""Which commands a task and a data module can serve."""

from __future__ import annotations

from importlib import import_module

from lightning.pytorch import LightningDataModule, LightningModule

from verisal.errors import ConfigError

__all__ = ["check_stage"]

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


def _has(path: str, base: type, method: str) -> bool:
    module, _, name = path.rpartition(".")
    return getattr(getattr(import_module(module), name), method) is not getattr(base, method)
