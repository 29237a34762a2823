"""What the callbacks that explain a task's classifier have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from verisal.callbacks._rows import RowStore
from verisal.callbacks._session import Session
from verisal.callbacks._subset import Subset, loaders_of
from verisal.errors import ConfigError
from verisal.functional.outputs import ask
from verisal.functional.scopes import frozen, rng_preserved
from verisal.reporting import CsvSink
from verisal.results import Evaluation
from verisal.saliency import CentrePrior, RandomMap, Saliency
from verisal.types import Batch, Explained, HasClassifier, SaliencyResult

__all__ = ["Context", "ExplainingCallback", "Part", "Seen", "check_methods"]


@dataclass(frozen=True)
class Seen:
    """Images of one batch that are explained.

    Attributes:
        batch: these images only.
        logits: ``(B, K)`` of the clean images.
        query_class: ``(B,)`` int64, the predicted class.
    """

    batch: Batch
    logits: Tensor
    query_class: Tensor


@dataclass(frozen=True)
class Context:
    """What holds during one epoch.

    Attributes:
        split: ``val`` or ``test``.
        classifier: is explained.
        methods: by name, controls included.
        session: maps of the batch at hand, and the clock.
        store: rows of earlier, stopped evaluations.
        device: where images and metrics are.
        resamples: bootstrap resamples of the intervals.
        seed: of everything drawn.
        example_images: the first images of the data set, ``(N, 3, H, W)``.
        rank: number of this process.
        processes: number of processes.
    """

    split: str
    classifier: Callable[[Tensor], Tensor]
    methods: Mapping[str, Saliency]
    session: Session
    store: RowStore
    device: torch.device
    resamples: int
    seed: int
    example_images: Callable[[], Tensor]
    rank: int = 0
    processes: int = 1

    def explain(
        self, name: str, seen: Seen, query_class: Tensor | None = None
    ) -> tuple[SaliencyResult, Tensor]:
        """Maps of a method for the predicted class or another one, and the seconds of each."""
        query = seen.query_class if query_class is None else query_class
        return self.session.explain(
            self.methods[name], self.classifier, seen.batch.images, query, image_ids=seen.batch.image_ids
        )

    def explained(self, name: str, seen: Seen, result: SaliencyResult) -> Explained:
        """What metrics ask about maps of the predicted class."""
        method, batch = self.methods[name], seen.batch
        return Explained(
            classifier=self.classifier,
            images=batch.images,
            query_class=seen.query_class,
            result=result,
            image_ids=batch.image_ids,
            explain=lambda images, query: method(self.classifier, images, query),
            object_masks=batch.object_mask_of(seen.query_class),
            boxes=batch.boxes_of(seen.query_class),
        )


class Part(ABC):
    """What one callback gathers in one epoch."""

    @abstractmethod
    def add(self, seen: Seen) -> None:
        """Take the images of one batch; gradients are off, the classifier is frozen."""

    @abstractmethod
    def evaluation(self) -> Evaluation | None:
        """What was found on all processes; called on each of them. None without an image."""


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
        every_n_epochs: in a fit, explain in every so manieth validation.
        max_images: at most so many images, a fixed subset drawn by seed; None for all.
        seed: of the subset, the controls and the intervals.
        resamples: bootstrap resamples of the intervals of a validate or test run; a fit has no intervals.

    Raises:
        ConfigError: settings out of range, or names that cannot be part of a score's name.
    """

    def __init__(
        self,
        methods: Mapping[str, Saliency],
        *,
        every_n_epochs: int = 1,
        max_images: int | None = None,
        seed: int = 0,
        resamples: int = 2000,
    ) -> None:
        super().__init__()
        if every_n_epochs < 1 or (max_images is not None and max_images < 1) or resamples < 0:
            raise ConfigError(
                "every_n_epochs and max_images must be at least 1 and resamples not negative, found"
                f" {every_n_epochs}, {max_images} and {resamples}"
            )
        self.methods = check_methods(methods, seed=seed)
        self.every_n_epochs, self.max_images = every_n_epochs, max_images
        self.seed, self.resamples = seed, resamples
        self.evaluation: Evaluation | None = None
        self.session = Session()
        self._context: Context | None = None
        self._part: Part | None = None
        self._subset: Subset | None = None

    @abstractmethod
    def part(self, context: Context) -> Part:
        """An empty part for one epoch."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at the task.

        Raises:
            ConfigError: a task without a classifier.
        """
        if stage != "predict" and not isinstance(pl_module, HasClassifier):
            raise ConfigError(
                f"{type(self).__name__} explains the classifier of a task, and {type(pl_module).__name__} has"
                " none; give the task a property `classifier`, or leave the callback out"
            )
        self.session = next(one.session for one in _explaining(trainer))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, unless it is a sanity check or another epoch's turn."""
        self._begin(trainer, pl_module, "val")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self._begin(trainer, pl_module, "test")

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
        self._add(batch, batch_idx, dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Explain the images of the subset."""
        self._add(batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather over processes, and log."""
        self._end(pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather over processes, and log."""
        self._end(pl_module)

    def _begin(self, trainer: Trainer, module: LightningModule, split: str) -> None:
        self.evaluation = self._part = self._context = None
        fitting = trainer.state.fn is TrainerFn.FITTING
        if trainer.sanity_checking or (fitting and (trainer.current_epoch + 1) % self.every_n_epochs):
            return
        classifier = module.classifier if isinstance(module, HasClassifier) else None
        if classifier is None:
            raise ConfigError(
                f"{type(module).__name__}.classifier is None when an evaluation begins; build it in"
                " __init__ or configure_model"
            )
        loaders = loaders_of(trainer)
        self._subset = Subset(loaders, max_images=self.max_images, seed=self.seed)
        if next(_explaining(trainer)) is self:
            bar = trainer.progress_bar_callback is not None
            self.session.begin(quiet=bar or fitting or not trainer.is_global_zero)
        limits = trainer.num_test_batches if trainer.testing else trainer.num_val_batches
        self.session.expect(self._subset.batches(limits) * len(self.methods))
        self._context = Context(
            split=split,
            classifier=classifier,
            methods=self.methods,
            session=self.session,
            store=RowStore(None if fitting else _rows_folder(trainer), classifier),
            device=module.device,
            resamples=0 if fitting else self.resamples,
            seed=self.seed,
            example_images=lambda: _first_images(loaders[0].dataset, module.device),
            rank=trainer.global_rank,
            processes=trainer.world_size,
        )
        with _explaining_scope(self._context):
            self._part = self.part(self._context)

    def _add(self, batch: object, batch_idx: int, dataloader_idx: int) -> None:
        if self._part is None or self._context is None or self._subset is None:
            return
        if not isinstance(batch, Batch):
            raise ConfigError(
                f"{type(self).__name__} reads verisal.types.Batch from the evaluation's loaders, found"
                f" {type(batch).__name__}; set collate_fn=Batch.collate on samples of verisal.types.Sample"
            )
        rows = self._subset.of_batch(dataloader_idx, batch_idx, len(batch))
        if not len(rows):
            return
        self.session.open(batch)
        with _explaining_scope(self._context):
            part = batch.rows(rows)
            logits = ask(self._context.classifier, part.images)
            self._part.add(Seen(part, logits, logits.argmax(dim=1)))

    def _end(self, module: LightningModule) -> None:
        if self._part is None or self._context is None:
            return
        self.session.close()
        self.evaluation = self._part.evaluation()
        self._part = self._context = None
        if self.evaluation is not None:
            shown = set(self.evaluation.headline.values())
            values = {
                name: score.value
                for name, score in self.evaluation.scores.items()
                if name.split("/", 2)[-1] in shown and score.value == score.value
            }
            # The same on every process: gathered already.
            module.log_dict(values, batch_size=1, rank_zero_only=True)


def check_methods(methods: Mapping[str, Saliency], *, seed: int) -> dict[str, Saliency]:
    """The methods with the controls.

    Raises:
        ConfigError: a name that cannot be part of a score's name.
    """
    bad = [name for name in methods if not name or "/" in name]
    if bad:
        raise ConfigError(f"names of methods must not be empty or hold a slash, found {bad}")
    found = dict(methods)
    kinds = {type(method) for method in methods.values()}
    for name, control in (("random", RandomMap(seed=seed)), ("centre", CentrePrior())):
        if type(control) not in kinds:
            if name in found:
                raise ConfigError(f"{name!r} is the name of a control; give your method another one")
            found[name] = control
    return found


@contextmanager
def _explaining_scope(context: Context) -> Iterator[None]:
    """No gradients, a frozen classifier, shared work; the global random state is as before."""
    module = context.classifier
    quiet = frozen(module) if isinstance(module, nn.Module) else nullcontext()
    with (
        torch.inference_mode(mode=False),
        torch.no_grad(),
        quiet,
        rng_preserved(context.device),
        context.session.work.sharing(),
    ):
        yield


def _explaining(trainer: Trainer) -> Iterator[ExplainingCallback]:
    return (one for one in trainer.callbacks if isinstance(one, ExplainingCallback))  # type: ignore[attr-defined]


def _rows_folder(trainer: Trainer) -> Path | None:
    folders = [Path(logger.save_dir) for logger in trainer.loggers if isinstance(logger, CsvSink)]
    return folders[0] / "rows" if folders else None


def _first_images(dataset: object, device: torch.device, count: int = 16) -> Tensor:
    samples = [dataset[index] for index in range(min(count, len(dataset)))]  # type: ignore[index, arg-type]
    return Batch.collate(samples).images.to(device)
