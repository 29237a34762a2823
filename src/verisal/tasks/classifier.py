"""Training of the embedded classifier."""

from __future__ import annotations

from typing import Any, final

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from verisal._numbers import check_range
from verisal.errors import ConfigError, DataError
from verisal.metrics import ImageTable
from verisal.models import Classifier, SmallResNet
from verisal.tasks._training import OneCycle, check_planned
from verisal.types import Batch

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

    Raises:
        ConfigError: values out of range.
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
        check_range(1, widths=widths, blocks=blocks)
        check_range(0, learning_rate=learning_rate, weight_decay=weight_decay, max_shift=max_shift)
        check_range(0, 1, label_smoothing=label_smoothing)
        self.save_hyperparameters(logger=False)
        self.widths, self.blocks = widths, blocks
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.label_smoothing, self.max_shift = label_smoothing, max_shift
        self.classifier: Classifier | None = None
        self._table = ImageTable(("loss", "accuracy"))

    def configure_model(self) -> None:
        """Build the network for the classes and the image size that the data module states."""
        if self.classifier is not None:
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.max_shift >= data.image_size:
            raise ConfigError(
                f"max_shift must be less than the images' {data.image_size} px, found {self.max_shift}"
            )
        network = SmallResNet(len(data.class_names), widths=self.widths, blocks=self.blocks)
        self.classifier = Classifier(
            network, network.stage_names, class_names=data.class_names, image_size=data.image_size
        )
        # channels_last makes CPU convolutions about 1.4 times as fast.
        self.classifier.to(memory_format=torch.channels_last)

    @property
    def _network(self) -> Classifier:
        if self.classifier is None:
            raise RuntimeError("configure_model has not run")
        return self.classifier

    def check_trainer(self, trainer: L.Trainer) -> None:
        """Raise where the trainer has no end, before anything is prepared."""
        check_planned(trainer)

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
        if bool((batch.labels < 0).any()):
            nameless = batch.image_ids[int((batch.labels < 0).nonzero()[0])]
            raise DataError(f"image {nameless} has no label; training needs one for every image")
        images = self._shifted(batch.images)
        loss = F.cross_entropy(self(images), batch.labels, label_smoothing=self.label_smoothing)
        self.log(
            "train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch),
            sync_dist=True,
        )  # fmt: skip
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

    def on_validation_start(self) -> None:
        """Judge one network, whatever the number of processes."""
        agree_on_buffers(self)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect loss and accuracy of every image."""
        self._add(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect loss and accuracy of every image."""
        self._add(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the means over images."""
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """Log the means over images."""
        self._finish("test")

    def _add(self, batch: Batch) -> None:
        logits = self(batch.images)
        known = batch.labels >= 0
        loss = F.cross_entropy(logits, batch.labels.clamp_min(0), reduction="none")
        columns = torch.stack([loss, (logits.argmax(dim=1) == batch.labels).to(loss)], dim=1)
        # An image without a label is neither right nor wrong.
        self._table.update(batch.image_ids, columns.masked_fill(~known[:, None], torch.nan))

    def _finish(self, split: str) -> None:
        # The same on every process: gathered, and each image once.
        found = self._table.compute()
        self._table.reset()
        for name, values in zip(self._table.columns, found.rows.T, strict=True):
            self.log(f"{split}/{name}", values.nanmean(), prog_bar=name == "accuracy", batch_size=1)

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
