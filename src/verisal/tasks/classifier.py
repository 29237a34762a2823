"""Classifiers: training of the embedded one, and one that is evaluated as it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.errors import ConfigError, DataError
from verisal.functional.outputs import ask, decides_for, output_of
from verisal.functional.seeding import derive_seed
from verisal.functional.statistics import Bootstrap
from verisal.metrics import ImageTable
from verisal.models import Classifier, ClassifierSource, Normalization, SmallResNet, load_classifier
from verisal.results import Evaluation, ScoreName
from verisal.tasks._training import OneCycle, agree_on_buffers, check_planned
from verisal.types import Batch, check_range

_NORMALIZATION = Normalization((0.5,), (0.25,))


class _ClassifierTask(L.LightningModule, ABC):
    """Asks a classifier about every image of a validation or test epoch."""

    classifier: Classifier | None

    def __init__(self, columns: tuple[str, ...]) -> None:
        super().__init__()
        self._table = ImageTable(columns)

    @property
    def _network(self) -> Classifier:
        if self.classifier is None:
            raise RuntimeError("configure_model has not run")
        return self.classifier

    @abstractmethod
    def judge(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Columns of the table ``(B, C)``; labels ``(B,)`` are at least 0."""

    @abstractmethod
    def report(self, split: str, rows: Tensor) -> None:
        """Log the columns ``(n, C)`` of all processes, each image once."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images in [0, 1]."""
        logits: Tensor = self._network(images)
        return logits

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Judge every image."""
        logits = ask(self._network, batch.images, allow_nan=True)
        # An image without a label, or whose logits are not numbers, is neither right nor wrong.
        unknown = (batch.labels < 0) | logits.isnan().any(dim=1)
        rows = self.judge(logits, batch.labels.clamp_min(0)).masked_fill(unknown[:, None], torch.nan)
        self._table.update(batch.image_ids, rows)

    def on_validation_epoch_end(self) -> None:
        """Report all images."""
        rows = self._table.compute().rows
        self._table.reset()
        self.report("test" if self.trainer.testing else "val", rows)

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end


@final
class ClassifierTask(_ClassifierTask):
    """Trains a :class:`SmallResNet` on the data module's classes and logs its accuracy.

    Args:
        widths: channels of the four stages.
        blocks: residual blocks per stage.
        stem_stride: of the first convolution; 1 for images of few pixels.
        learning_rate: peak rate of AdamW under a one-cycle schedule.
        weight_decay: of AdamW.
        label_smoothing: share of the target spread over all classes.
        max_shift: training images are moved by up to this many pixels, with reflected borders.

    Raises:
        ConfigError: values out of range.
    """

    task_name = "classifier"
    monitor, monitor_mode = "val/accuracy", "max"
    main_figures: ClassVar[Mapping[str, Literal["min", "max"]]] = {
        "val/accuracy": "max",
        "val/loss": "min",
        "train/loss": "min",
    }

    def __init__(
        self,
        *,
        widths: tuple[int, int, int, int] = (16, 32, 64, 128),
        blocks: int = 1,
        stem_stride: int = 2,
        learning_rate: float = 0.004,
        weight_decay: float = 0.05,
        label_smoothing: float = 0.05,
        max_shift: int = 4,
    ) -> None:
        super().__init__(("loss", "accuracy"))
        check_range(1, widths=widths, blocks=blocks)
        check_range(1, 2, stem_stride=stem_stride)
        check_range(0, learning_rate=learning_rate, weight_decay=weight_decay, max_shift=max_shift)
        check_range(0, 1, label_smoothing=label_smoothing)
        self.save_hyperparameters(logger=False)
        self.widths, self.blocks, self.stem_stride = widths, blocks, stem_stride
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.label_smoothing, self.max_shift = label_smoothing, max_shift
        self.classifier = None

    def configure_model(self) -> None:
        """Build the network for the classes and the image size that the data module states."""
        if self.classifier is not None:
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.max_shift >= data.image_size:
            raise ConfigError(
                f"max_shift must be less than the images' {data.image_size} px, found {self.max_shift}"
            )
        # By the run's seed alone: a resumed run must find the global stream where the stopped one had it.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(torch.initial_seed(), "classifier"))
            network = SmallResNet(
                len(data.class_names),
                widths=self.widths,
                blocks=self.blocks,
                channels=data.channels,
                stem_stride=self.stem_stride,
            )
        classifier = Classifier(
            network,
            network.stage_names,
            normalization=_NORMALIZATION.over(data.channels),
            class_names=data.class_names,
            image_size=data.image_size,
        )
        # channels_last makes CPU convolutions about 1.4 times as fast.
        self.classifier = classifier.to(memory_format=torch.channels_last)

    def check_trainer(self, trainer: L.Trainer) -> None:
        """Raise where the trainer has no end, before anything is prepared."""
        check_planned(trainer)

    def card(self) -> dict[str, object]:
        """Facts that a checkpoint must agree with to be loaded into this task."""
        own = {"channels": (self._network.channels, 3), "stem_stride": (self.stem_stride, 2)}
        return {
            "task": self.task_name,
            "class_names": list(self._network.class_names),
            "image_size": self._network.image_size,
            "widths": list(self.widths),
            "blocks": self.blocks,
            # Said where older checkpoints could not have it.
            **{name: value for name, (value, usual) in own.items() if value != usual},
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy with label smoothing on randomly shifted images."""
        if bool((batch.labels < 0).any()):
            nameless = batch.image_ids[int((batch.labels < 0).nonzero()[0])]
            raise DataError(f"image {nameless} has no label; training needs one for every image")
        logits = self(self._shifted(batch.images))
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
        settings: dict[str, Any] = {"on_step": False, "on_epoch": True, "prog_bar": True, "sync_dist": True}
        self.log("train/loss", loss, batch_size=len(batch), **settings)
        return loss

    def _shifted(self, images: Tensor) -> Tensor:
        """Every image moved by its own random offset."""
        shift = self.max_shift
        if shift == 0:
            return images
        height, width = images.shape[-2:]
        padded = F.pad(images, (shift, shift, shift, shift), mode="reflect")
        tops, lefts = torch.randint(0, 2 * shift + 1, (2, len(images))).tolist()
        moved = [
            image[:, top : top + height, left : left + width]
            for image, top, left in zip(padded, tops, lefts, strict=True)
        ]
        return torch.stack(moved).contiguous(memory_format=torch.channels_last)

    def on_validation_start(self) -> None:
        """Judge one network, whatever the number of processes."""
        agree_on_buffers(self)

    def judge(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss, and 1 where the label is predicted."""
        loss = F.cross_entropy(logits, labels, reduction="none")
        return torch.stack([loss, (logits.argmax(dim=1) == labels).to(loss)], dim=1)

    def report(self, split: str, rows: Tensor) -> None:
        """Log the means over images."""
        for name, values in zip(self._table.columns, rows.T, strict=True):
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


@final
class FrozenClassifierTask(_ClassifierTask):
    """Holds a frozen classifier for callbacks to explain, and logs its accuracy. Nothing is trained.

    Args:
        classifier: name or path of a classifier, see :func:`.load_classifier`.
    """

    task_name = "frozen_classifier"

    def __init__(self, *, classifier: str | ClassifierSource = "emoji_scenes_64") -> None:
        super().__init__(("right",))
        self.save_hyperparameters(logger=False)
        self.evaluation: Evaluation | None = None
        # channels_last makes CPU convolutions about 1.4 times as fast.
        self.classifier = load_classifier(classifier).to(memory_format=torch.channels_last)

    def judge(self, logits: Tensor, labels: Tensor) -> Tensor:
        """1 where the classifier decides for the label."""
        return decides_for(logits, labels, output_of(self._network))[:, None].double()

    def report(self, split: str, rows: Tensor) -> None:
        """Keep the accuracy for the report, and log it."""
        name = ScoreName(split, "classifier", "accuracy")
        score = Bootstrap().mean(rows[:, 0]).score()
        told = f"The classifier is right on {100 * score.value:.1f} % of {score.n} images."
        self.evaluation = Evaluation(
            split, {name: score}, counts={"images": len(rows)}, summary=(told,) if score.n else ()
        )
        # The same on every process: gathered already.
        self.log(str(name), self.evaluation.scores[name].value, batch_size=1, rank_zero_only=True)
