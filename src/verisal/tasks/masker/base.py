"""What the trainings of mask networks have in common: a frozen classifier, lessons, tables and a schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import lightning as L
import torch
from torch import Tensor, nn

from verisal.functional.scopes import frozen, rng_preserved
from verisal.functional.statistics import Bootstrap
from verisal.metrics import ImageRows, ImageTable
from verisal.models import Classifier, load_classifier
from verisal.results import Evaluation
from verisal.tasks._training import OneCycle, agree_on_buffers, check_planned
from verisal.tasks.masker.lessons import Group, Lessons, batches_of
from verisal.types import Batch, check_range


class MaskTask(L.LightningModule, ABC):
    """A mask network in training beside the frozen classifier whose activations it reads.

    Args:
        classifier: name or path of the frozen classifier.
        learning_rate: peak rate of AdamW under a one-cycle schedule.
        weight_decay: of AdamW.
        compare_images: images of the comparison in validation.
        refine_steps: numbers of steps after the prediction that the test reports.
        resamples: bootstrap resamples of the test's intervals.
        seed: of the network's first weights and of the bootstrap.

    Raises:
        ConfigError: values out of range.
    """

    task_name = "masker"
    monitor: str
    monitor_mode: Literal["min", "max"]
    warm_up: ClassVar[float]
    """Share of the training over which the learning rate rises."""

    def __init__(
        self,
        *,
        classifier: str,
        learning_rate: float,
        weight_decay: float,
        compare_images: int,
        refine_steps: Sequence[int],
        resamples: int,
        seed: int,
    ) -> None:
        super().__init__()
        check_range(0, learning_rate=learning_rate, weight_decay=weight_decay, resamples=resamples, seed=seed)
        check_range(1, compare_images=compare_images, refine_steps=refine_steps)
        self.source = classifier
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.compare_images, self.refine_steps = compare_images, tuple(refine_steps)
        self.resamples, self.seed = resamples, seed
        self.evaluation: Evaluation | None = None
        self._schedule: OneCycle | None = None
        self._tables = nn.ModuleDict()
        # Not a sub-module: it is no part of a checkpoint and never leaves eval mode.
        self._frozen: tuple[Classifier, ...] = ()
        self._seen = 0
        self._timings: Mapping[str, float] = {}
        self._lessons, self._made = Lessons(), list[list[Group]]()

    @property
    def main_figures(self) -> dict[str, Literal["min", "max"]]:
        """What decides the best checkpoint, and the loss."""
        return {self.monitor: self.monitor_mode, "train/loss": "min"}

    @property
    @abstractmethod
    def row_names(self) -> tuple[str, ...]:
        """Rows of the test table."""

    @property
    @abstractmethod
    def validated_rows(self) -> tuple[str, ...]:
        """Rows of the validation's table."""

    @property
    @abstractmethod
    def taught(self) -> int:
        """Training images with lessons, made when each is first met; the same count on any processes."""

    @abstractmethod
    def lesson(self, part: Batch, asked: Tensor) -> Sequence[Tensor]:
        """What is taught of some images and their classes ``(n,)``, per stage ``(n, ...)``."""

    @abstractmethod
    def trained(self) -> nn.Module:
        """The network whose weights are trained."""

    @abstractmethod
    def report(
        self, split: str, tables: Mapping[str, ImageRows], timings: Mapping[str, float], bootstrap: Bootstrap
    ) -> Evaluation:
        """The evaluation of the rows of a split."""

    def accept(self, classifier: Classifier) -> None:
        """Raise for a classifier that the network cannot serve; any one here."""

    @property
    def classifier(self) -> Classifier:
        """The frozen classifier, on the device of the task."""
        if not self._frozen:
            loaded = load_classifier(self.source).to(memory_format=torch.channels_last)
            self.accept(loaded)
            self._frozen = (loaded,)
        return self._frozen[0].to(self.device)

    def channels(self) -> list[int]:
        """Channels of every stage of the classifier."""
        classifier = self.classifier
        blank = torch.zeros(1, classifier.channels, *classifier.height_and_width, device=self.device)
        with torch.no_grad():
            return [activation.shape[1] for activation in classifier.stage_outputs(blank).activations]

    def check_trainer(self, trainer: L.Trainer) -> None:
        """Raise where the trainer has no end, before anything is prepared."""
        check_planned(trainer)

    def teach(self, batch: Batch, query: Tensor) -> dict[int, list[Tensor]]:
        """Lessons by row of the batch; ``query`` is set to theirs in place.

        Missing ones are made now, for as many images as are taught.
        """
        whole, rest = divmod(self.taught, self.trainer.world_size)
        room = whole + (self.trainer.global_rank < rest)
        return self._lessons.teach(batch, query, room=room, make=self.lesson)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say which images have lessons, so that a resumed run has the same ones."""
        if self.taught:
            checkpoint["lessons"] = self._lessons.groups()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note what is to be made again when training starts."""
        self._made = checkpoint.get("lessons", [])

    def on_train_start(self) -> None:
        """Make the lessons of a resumed run again."""
        groups, self._made = self._made, []
        own = [
            group for part in groups[self.trainer.global_rank :: self.trainer.world_size] for group in part
        ]
        if own and self.taught:
            with rng_preserved(self.device), frozen(self.classifier):
                for part, classes in batches_of(own, self.trainer.train_dataloader):
                    part, asked = part.to(self.device), classes.to(self.device)
                    self._lessons.add(part.image_ids, asked.tolist(), self.lesson(part, asked))

    def on_validation_start(self) -> None:
        """Judge one network, whatever the number of processes."""
        agree_on_buffers(self)
        self._seen = 0

    def compared(self, batch: Batch) -> Batch:
        """Of a validation batch, the images that are among the first ``compare_images``; none is a batch."""
        # This process reads every ``processes``-th image of the data, in order.
        processes = self.trainer.world_size
        places = [(self._seen + row) * processes + self.trainer.global_rank for row in range(len(batch))]
        self._seen += len(batch)
        return batch.rows([row for row, place in enumerate(places) if place < self.compare_images])

    def on_validation_epoch_end(self) -> None:
        """Log the means, and report them in a run that only validates."""
        fitting = self.trainer.state.fn == "fit"
        self._finish("val", self.validated_rows, resamples=0 if fitting else self.resamples)

    def on_test_epoch_end(self) -> None:
        """Report all rows with intervals, and what the prediction keeps of the optimisation."""
        self._finish("test", self.row_names, resamples=self.resamples)

    def table(self, row: str) -> ImageTable:
        """Values per image of a row."""
        return cast(ImageTable, self._tables[row])

    def _finish(self, split: str, rows: Sequence[str], *, resamples: int) -> None:
        tables = {row: self.table(row).compute() for row in rows}
        for row in rows:
            self.table(row).reset()
        timings = self._timings if split == "test" else {}
        self.evaluation = self.report(split, tables, timings, Bootstrap(resamples, seed=self.seed))
        values = {str(name): score.value for name, score in self.evaluation.scores.items()}
        self.log_dict({name: value for name, value in values.items() if value == value}, batch_size=1)

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's union of eight shapes
        """AdamW with a one-cycle schedule per step."""
        weights, rate = self.trained().parameters(), self.learning_rate
        optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=self.weight_decay, fused=True)
        self._schedule = OneCycle(optimizer, self.trainer, max_lr=rate, pct_start=self.warm_up)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._schedule, "interval": "step"}}
