"""Common parts of the callbacks that explain a classifier: options, hooks, the images that are explained."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from verisal.callbacks._epoch import Epoch, Seen
from verisal.errors import ConfigError
from verisal.functional.scopes import rng_preserved
from verisal.functional.seeding import derive_seed
from verisal.functional.statistics.resampled import Bootstrap
from verisal.reporting import CsvSink
from verisal.results import Evaluation, SaliencyPanel, Score, ScoreName
from verisal.saliency import CentrePrior, RandomMap, Saliency
from verisal.types import Batch, HasClassifier, Sample, check_range


def classifier_of(module: LightningModule) -> Callable[[Tensor], Tensor] | None:
    """The classifier that a module is explained by; None before it is built.

    Raises:
        ConfigError: a module without one.
    """
    if not isinstance(module, HasClassifier):
        raise ConfigError(
            "callbacks that explain need the classifier of a task, and"
            f" {type(module).__name__} has none; give the task a property `classifier`, or leave them out"
        )
    return module.classifier


def batch_of(batch: object) -> Batch:
    """Images, labels and objects of what a loader gave.

    Raises:
        ConfigError: something other than a batch of samples.
    """
    if not isinstance(batch, Batch):
        raise ConfigError(
            "callbacks that explain read verisal.types.Batch from the evaluation's loaders, found"
            f" {type(batch).__name__}; set collate_fn=Batch.collate on samples of verisal.types.Sample"
        )
    return batch


@dataclass(eq=False, repr=False)
class ExplainingCallback(Callback, ABC):
    """Explains the classifier of a task on validation and test batches, and leaves training as it was.

    The classifier is frozen meanwhile, no gradient is kept and no global random number is drawn. The query
    is the class predicted on the clean image. Maps of one method on one batch are computed once for all
    callbacks of a trainer that have the method. The controls :class:`RandomMap` (``random``) and
    :class:`CentrePrior` (``centre``) are added to the methods.

    With verisal's run folder, rows per image are kept in its ``rows`` in a validate or test run as they
    come, and found again by the next such run in the same folder.

    Args:
        methods: name, the row of the tables, to method.
        every_n_epochs: in a fit, explain in every n-th validation.
        max_images: at most this many images, a fixed subset drawn by seed; None for all.
        seed: of everything that is drawn: the subset, the controls, the resamples of the intervals.

    Raises:
        ConfigError: settings out of range, or names that cannot be part of a score's name.
    """

    methods: Mapping[str, Saliency]
    _: KW_ONLY
    every_n_epochs: int = 1
    max_images: int | None = None
    seed: int = 0

    controlled: ClassVar[bool] = True
    """True if the controls are added."""

    def __post_init__(self) -> None:
        super().__init__()
        check_range(1, every_n_epochs=self.every_n_epochs, max_images=self.max_images)
        if bad := [name for name in self.methods if not name or "/" in name]:
            raise ConfigError(f"names of methods must not be empty or hold a slash, found {bad}")
        if self.controlled:
            self.methods = _with_controls(self.methods, seed=self.seed)
        self.evaluation: Evaluation | None = None
        self.epoch: Epoch | None = None
        self.panels: list[SaliencyPanel] = []
        self._chosen: Chosen | None = None

    @property
    def row_names(self) -> tuple[str, ...]:
        """Rows that every batch takes a step for; may be overridden."""
        return tuple(self.methods)

    def begin(self, epoch: Epoch) -> None:
        """Empty everything that is gathered; may be extended."""
        self.panels = []

    @abstractmethod
    def add(self, epoch: Epoch, seen: Seen) -> None:
        """Take the images of one batch; gradients are off, the classifier is frozen."""

    @abstractmethod
    def finish(self, epoch: Epoch) -> Evaluation | None:
        """Evaluation of all processes, called on each of them; None without an image."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a task without a classifier.

        Raises:
            ConfigError: there is none.
        """
        if stage != "predict":
            classifier_of(pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, unless it is a sanity check or another epoch's turn."""
        self.evaluation = self.epoch = None
        fitting = trainer.state.fn is TrainerFn.FITTING
        if trainer.sanity_checking or (fitting and (trainer.current_epoch + 1) % self.every_n_epochs):
            return
        loaders = _loaders_of(trainer)
        explaining = [other for other in trainer.callbacks if isinstance(other, ExplainingCallback)]  # type: ignore[attr-defined]
        shared = [other.epoch for other in explaining[: explaining.index(self)] if other.epoch]
        self.epoch = epoch = shared[0] if shared else _epoch_of(trainer, pl_module, loaders[0].dataset)
        self._chosen = chosen_rows(loaders, max_images=self.max_images, seed=self.seed)
        limits = trainer.num_test_batches if trainer.testing else trainer.num_val_batches
        batches = [int(min(len(loader), limit)) for loader, limit in zip(loaders, limits, strict=True)]
        epoch.expect(batches_with_rows(self._chosen, batches) * len(self.row_names))
        with epoch.scope():
            self.begin(epoch)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Explain the images of the subset."""
        if self.epoch is None:
            return
        whole = batch_of(batch)
        rows = range(len(whole)) if self._chosen is None else self._chosen[dataloader_idx][batch_idx]
        if not len(rows):
            return
        self.epoch.open(whole)
        with self.epoch.scope():
            self.add(self.epoch, self.epoch.seen(whole.rows(rows)))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather over processes, and log the values of the main table."""
        if self.epoch is None:
            return
        self.epoch.close()
        self.evaluation = self.finish(self.epoch)
        if self.evaluation is None:
            return
        shown = set(self.evaluation.headline.values())
        values = {
            str(name): score.value
            for name, score in self.evaluation.scores.items()
            if name.column in shown and not math.isnan(score.value)
        }
        # The same on every process: gathered already.
        pl_module.log_dict(values, batch_size=1, rank_zero_only=True)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end


@dataclass(eq=False, repr=False)
class ScoringCallback(ExplainingCallback, ABC):
    """An :class:`ExplainingCallback` whose values per image become scores with intervals.

    Args:
        resamples: bootstrap resamples of the intervals of a validate or test run; a fit has no intervals.
    """

    resamples: int = field(default=2000, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(0, resamples=self.resamples)

    def bootstrap_in(self, epoch: Epoch) -> Bootstrap:
        """Resamples of the images of an epoch, for intervals."""
        return Bootstrap(0 if epoch.fitting else self.resamples, seed=self.seed)

    def means(self, epoch: Epoch, columns: Mapping[str, Tensor]) -> dict[str, Score]:
        """Means of values per image ``(n,)`` with their intervals."""
        bootstrap = self.bootstrap_in(epoch)
        return {name: bootstrap.mean(values).score() for name, values in columns.items()}


def row_evaluation(
    split: str,
    row: str,
    metric: str,
    scores: Mapping[str, Score],
    *,
    image_ids: Sequence[str] = (),
    columns: Mapping[str, Tensor] | None = None,
) -> Evaluation:
    """Scores of one metric in one row, and its values per image.

    Args:
        split: ``val`` or ``test``.
        row: whose scores they are.
        metric: what is measured.
        scores: by their names in the metric.
        image_ids: n names.
        columns: name in the metric to values ``(n,)``.
    """
    values, n = dict(columns or {}), len(image_ids)
    samples: dict[str, Sequence[object]] = {
        "image_id": [*image_ids] * len(values),
        "row": [row] * n * len(values),
        "score": [f"{metric}/{name}" for name in values for _ in range(n)],
        "value": [value for column in values.values() for value in column.tolist()],
    }
    named = {ScoreName(split, row, metric, name): score for name, score in scores.items()}
    return Evaluation(split, named, samples=samples if values else {})


def _with_controls(methods: Mapping[str, Saliency], *, seed: int) -> dict[str, Saliency]:
    kinds = {type(method) for method in methods.values()}
    controls: dict[str, Saliency] = {"random": RandomMap(seed=seed), "centre": CentrePrior()}
    missing = {name: control for name, control in controls.items() if type(control) not in kinds}
    if taken := missing.keys() & methods.keys():
        raise ConfigError(f"{taken.pop()!r} is the name of a control; give your method another one")
    return {**methods, **missing}


def _epoch_of(trainer: Trainer, module: LightningModule, dataset: Dataset[Sample]) -> Epoch:
    classifier = classifier_of(module)
    if classifier is None:
        raise ConfigError(
            f"{type(module).__name__}.classifier is None when an evaluation begins; build it in"
            " __init__ or configure_model"
        )
    fitting = trainer.state.fn is TrainerFn.FITTING
    folders = [Path(logger.save_dir) / "rows" for logger in trainer.loggers if isinstance(logger, CsvSink)]
    return Epoch(
        "test" if trainer.testing else "val",
        classifier,
        device=module.device,
        dataset=dataset,
        folder=folders[0] if folders and not fitting else None,
        fitting=fitting,
        quiet=trainer.progress_bar_callback is not None or fitting or not trainer.is_global_zero,
        rank=trainer.global_rank,
        processes=trainer.world_size,
    )


def _loaders_of(trainer: Trainer) -> list[DataLoader[Sample]]:
    """The loaders that the running evaluation reads, as this process reads them."""
    loaders = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    listed = [loaders] if isinstance(loaders, DataLoader) else list(loaders or ())
    for loader in listed:
        if not isinstance(loader, DataLoader):
            raise ConfigError(
                f"explaining callbacks read torch DataLoaders, found {type(loader).__name__} among the"
                " evaluation's loaders; return one loader or a list of them"
            )
    return listed


Chosen = list[list[list[int]]]
"""By loader and batch the rows that are explained."""


def chosen_rows(loaders: Sequence[DataLoader[Sample]], *, max_images: int | None, seed: int) -> Chosen | None:
    """Rows of a fixed subset, the same in every epoch and on any number of processes; None for all rows.

    Args:
        loaders: of the evaluation, as this process reads them.
        max_images: at most this many images, drawn by their positions in the data; None for all.
        seed: of the draw.

    Raises:
        ConfigError: a loader that shuffles, or whose batches are not known beforehand.
    """
    if max_images is None:
        return None
    sizes = [len(loader.dataset) for loader in loaders]  # type: ignore[arg-type]  # sized, see below
    generator = torch.Generator().manual_seed(derive_seed(seed, "explained images"))
    drawn = set(torch.randperm(sum(sizes), generator=generator)[:max_images].tolist())
    chosen: Chosen = []
    start = 0
    for loader, size in zip(loaders, sizes, strict=True):
        batches = _positions(loader)
        chosen.append(
            [[row for row, place in enumerate(batch) if start + place in drawn] for batch in batches]
        )
        start += size
    return chosen


def batches_with_rows(chosen: Chosen | None, batches: Sequence[int]) -> int:
    """Number of batches with an image to explain among the first ``batches`` of every loader."""
    if chosen is None:
        return sum(batches)
    return sum(bool(rows) for own, count in zip(chosen, batches, strict=True) for rows in own[:count])


def _positions(loader: DataLoader[Sample]) -> list[list[int]]:
    sampler: Iterable[Sequence[int]] | None = loader.batch_sampler
    inner = sampler.sampler if isinstance(sampler, BatchSampler) else None
    if sampler is None or isinstance(inner, RandomSampler) or isinstance(loader.sampler, RandomSampler):
        raise ConfigError(
            "max_images needs an evaluation loader that reads a data set of known size in a fixed order,"
            f" found one with {type(loader.sampler).__name__}; leave out shuffle, or set max_images: null"
        )
    with rng_preserved():
        return [list(batch) for batch in sampler]
