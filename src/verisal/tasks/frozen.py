"""A classifier that is evaluated as it is."""

from __future__ import annotations

from typing import final

import lightning as L
import torch
from torch import Tensor

from verisal.functional.outputs import ask, decides_for, output_of
from verisal.functional.statistics.intervals import bootstrap_mean
from verisal.metrics import ImageTable
from verisal.models import ClassifierSource, load_classifier
from verisal.results import Evaluation
from verisal.types import Batch

__all__ = ["FrozenClassifierTask"]


@final
class FrozenClassifierTask(L.LightningModule):
    """Holds a frozen classifier for callbacks to explain, and logs its accuracy. Nothing is trained.

    Args:
        classifier: name or path of a classifier, see :func:`.load_classifier`.
    """

    task_name = "frozen_classifier"

    def __init__(self, *, classifier: str | ClassifierSource = "emoji_scenes_64") -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.evaluation: Evaluation | None = None
        self._table = ImageTable(("right",))
        # channels_last makes CPU convolutions about 1.4 times as fast.
        self.classifier = load_classifier(classifier).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images in [0, 1]."""
        logits: Tensor = self.classifier(images)
        return logits

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the accuracy."""
        self._add(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the accuracy."""
        self._add(batch)

    def on_validation_epoch_end(self) -> None:
        """Report the accuracy."""
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """Report the accuracy."""
        self._finish("test")

    def _add(self, batch: Batch) -> None:
        logits = ask(self.classifier, batch.images, allow_nan=True)
        labels = batch.labels.clamp_min(0)
        right = decides_for(logits, labels, output_of(self.classifier)).double()
        # An image without a label, or whose logits are not numbers, is neither right nor wrong.
        right = right.masked_fill((batch.labels < 0) | logits.isnan().any(dim=1), torch.nan)
        self._table.update(batch.image_ids, right[:, None])

    def _finish(self, split: str) -> None:
        rows = self._table.compute().rows[:, 0]
        self._table.reset()
        name = f"{split}/classifier/accuracy"
        self.evaluation = Evaluation(split, {name: bootstrap_mean(rows)}, counts={"images": len(rows)})
        # The same on every process: gathered already.
        self.log(name, self.evaluation.scores[name].value, batch_size=1, rank_zero_only=True)
