"""Training of the embedded classifier."""

from __future__ import annotations

from typing import Any, final

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from verisal.models import Classifier, SmallResNet
from verisal.types import Batch

from ._schedule import OneCycle

__all__ = ["ClassifierTask"]


@final
class ClassifierTask(L.LightningModule):
    """Trains a :class:`SmallResNet` on the data module's classes and logs its accuracy.

    Args:
        widths: channels of the four stages.
        blocks: residual blocks per stage.
        learning_rate: peak rate of AdamW under a one-cycle schedule.
        weight_decay: of AdamW.
        label_smoothing: share of the target spread over all classes.
        max_shift: training images are moved by up to this many pixels, with reflected borders.
    """

    task_name = "classifier"
    monitor, monitor_mode = "val/accuracy", "max"

    def __init__(
        self,
        *,
        widths: tuple[int, int, int, int] = (16, 32, 64, 128),
        blocks: int = 1,
        learning_rate: float = 0.004,
        weight_decay: float = 0.05,
        label_smoothing: float = 0.05,
        max_shift: int = 4,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.widths, self.blocks = widths, blocks
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.label_smoothing, self.max_shift = label_smoothing, max_shift
        self.classifier: Classifier | None = None
        self.val_accuracy: MulticlassAccuracy | None = None
        self.test_accuracy: MulticlassAccuracy | None = None

    def configure_model(self) -> None:
        """Build the network for the classes and the image size that the data module states."""
        if self.classifier is not None:
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        network = SmallResNet(len(data.class_names), widths=self.widths, blocks=self.blocks)
        self.classifier = Classifier(
            network, network.stage_names, class_names=data.class_names, image_size=data.image_size
        )
        # channels_last makes CPU convolutions about 1.4 times as fast.
        self.classifier.to(memory_format=torch.channels_last)
        self.val_accuracy = MulticlassAccuracy(network.num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(network.num_classes, average="micro")

    @property
    def _network(self) -> Classifier:
        if self.classifier is None:
            raise RuntimeError("configure_model has not run")
        return self.classifier

    def card(self) -> dict[str, object]:
        """What a checkpoint must agree with to be loaded into this task."""
        return {
            "task": self.task_name,
            "class_names": list(self._network.class_names),
            "image_size": self._network.image_size,
            "widths": list(self.widths),
            "blocks": self.blocks,
        }

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images in [0, 1]."""
        logits: Tensor = self._network(images)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy with label smoothing on randomly shifted images."""
        images = self._shifted(batch.images)
        loss = F.cross_entropy(self(images), batch.labels, label_smoothing=self.label_smoothing)
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch))
        return loss

    def _shifted(self, images: Tensor) -> Tensor:
        """Every image moved by its own random offset."""
        shift = self.max_shift
        if shift == 0:
            return images
        height, width = images.shape[-2:]
        padded = F.pad(images, (shift, shift, shift, shift), mode="reflect")
        tops, lefts = torch.randint(0, 2 * shift + 1, (2, len(images))).tolist()
        return torch.stack(
            [
                image[:, top : top + height, left : left + width]
                for image, top, left in zip(padded, tops, lefts, strict=True)
            ]
        ).contiguous(memory_format=torch.channels_last)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect accuracy and loss."""
        self._evaluate("val", batch, self.val_accuracy)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect accuracy and loss."""
        self._evaluate("test", batch, self.test_accuracy)

    def _evaluate(self, split: str, batch: Batch, accuracy: MulticlassAccuracy | None) -> None:
        logits = self(batch.images)
        if accuracy is None:
            raise RuntimeError("configure_model has not run")
        accuracy(logits, batch.labels)
        self.log(f"{split}/loss", F.cross_entropy(logits, batch.labels), batch_size=len(batch))
        self.log(f"{split}/accuracy", accuracy, prog_bar=True, batch_size=len(batch))

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's union of eight shapes
        """AdamW without decay on one-dimensional parameters, one-cycle schedule per step."""
        decayed = [p for p in self.parameters() if p.ndim > 1]
        plain = [p for p in self.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, fused=True)
        schedule = OneCycle(optimizer, self.trainer, max_lr=self.learning_rate, pct_start=0.2)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
