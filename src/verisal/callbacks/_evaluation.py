"""What an epoch found, from everyone who measured."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer

from verisal.reporting import merge_evaluations
from verisal.results import Evaluates, Evaluation

__all__ = ["evaluation_of"]


def evaluation_of(trainer: Trainer, module: LightningModule) -> Evaluation | None:
    """Of the task and of all callbacks together; None where nobody found anything."""
    owners = [module, *trainer.callbacks]  # type: ignore[attr-defined]
    found = [owner.evaluation for owner in owners if isinstance(owner, Evaluates)]
    return merge_evaluations([evaluation for evaluation in found if evaluation is not None])
