"""Common parts of the callbacks that explain a classifier: options, hooks, the images that are explained."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any, ClassVar, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from verisal.callbacks.explaining.beginning import begin_all, end_all
from verisal.callbacks.explaining.cost import LEAST_IMAGES
from verisal.callbacks.explaining.epoch import Epoch, Seen
from verisal.callbacks.explaining.loaders import files_of
from verisal.callbacks.explaining.names import (
    LogsScores,
    named,
    refuse_clash,
    refuse_rare_monitor,
    typed_rows,
)
from verisal.callbacks.explaining.run import Run
from verisal.callbacks.explaining.subset import Everything, Subset
from verisal.callbacks.formats.batches import Reader
from verisal.callbacks.report import ReportRun
from verisal.callbacks.subject.parts import Explains
from verisal.callbacks.subject.subject import Told, told_by
from verisal.errors import ConfigError
from verisal.functional.statistics import Bootstrap
from verisal.models import Bounds
from verisal.results import Evaluation, SaliencyPanel, Score
from verisal.saliency import CentrePrior, RandomMap, Saliency
from verisal.types import OutputKind, check_range

_KEPT = "explained_images"


@dataclass(eq=False, repr=False)
class ExplainingCallback(Callback, LogsScores, ABC):
    """Explains the classifier of a task on validation and test batches, and leaves training as it was.

    The classifier is frozen meanwhile, no gradient is kept and no global random number is drawn. The query
    is the class predicted on the clean image. Maps of one method on one batch are computed once for all
    callbacks of a trainer that have the method. The controls :class:`RandomMap` (``random``) and
    :class:`CentrePrior` (``centre``) are added to the methods.

    With verisal's run folder, rows per image are kept in its ``rows`` in a validate or test run as they
    come, and found again by the next such run in the same folder.

    In a fit, ``val/explaining/seconds`` of all callbacks are logged beside ``val/explaining/other_seconds``,
    those of everything else since the last explained validation, training with it, and
    ``val/explaining/share`` of the whole. With the default ``max_images`` it stays below a tenth, unless 8
    images take more; a line says how many images are explained and what that costs.

    What is explained is found on the first batch, be it that of a sanity check: the part of the module that
    is given images and answers with logits. What is said about it on one callback holds for all.

    Args:
        methods: name, the row of the tables, to method; or methods, which are then called like their classes:
            ``GradCAM`` is ``grad_cam``.
        every_n_epochs: in a fit, explain in every n-th validation.
        max_images: at most this many images, a fixed subset drawn by seed; None for all. ``auto``: all in a
            validate or test run, and in a fit as many as all callbacks together explain in a tenth of the
            time until the first explained validation: a power of two, at least 8, the same from then on.
        seed: of everything that is drawn: the subset, the controls, the resamples of the intervals.
        explains: path of the part of the module that gives logits, ``forward`` for the module's own, or a
            function of the module and of images as the loader gives them; None where it is found.
        normalization: what the loader has applied to images in [0, 1], as :meth:`.Normalization.of` takes it;
            None where it is found in the data set's transform, or where the module normalises by itself.
        bounds: least and greatest value of the loader's images where these are other than 0 and 1, such as
            (-1024, 1024); ``normalization`` is in their units then, and None means none.
        stages: names of the stages in the part; None where they are found.
        class_names: in the order of the logits; None for those of the data set (``classes``), or numbers.
        output: ``softmax`` or ``sigmoid``; None for softmax.
        target: a score to explain in the place of classes, as of :func:`.targeted`; labels are not read then.
        batch: function of a loader's batch to something that is read, such as (images, labels); None where
            the loader's batches are read as they are.

    Raises:
        ConfigError: settings out of range, two methods of one name or of names that read the same when they
            are logged; while running, nothing to explain, more than one answer, or callbacks that say
            different things about it.
    """

    methods: Mapping[str, Saliency] | Sequence[Saliency]
    _: KW_ONLY
    every_n_epochs: int = 1
    max_images: int | Literal["auto"] | None = "auto"
    seed: int = 0
    explains: str | Explains | None = None
    normalization: Any = None
    bounds: tuple[float, float] | None = None
    stages: Sequence[str] | None = None
    class_names: Sequence[str] | None = None
    output: OutputKind | None = None
    target: Any = None
    batch: Reader | None = None
    # An annotation would hide the types of the settings from the command line.
    does, takes_images = "explains", True
    controlled: ClassVar[bool] = True
    """True if the controls are added; ``takes_images`` if the evaluation's own images are explained."""

    def __post_init__(self) -> None:
        super().__init__()
        known = None if self.max_images == "auto" else self.max_images
        check_range(1, every_n_epochs=self.every_n_epochs, max_images=known)
        Bounds.of(self.bounds)
        methods = named(self.methods)
        self.by_name = _with_controls(methods, seed=self.seed) if self.controlled else methods
        typed_rows(self.by_name)
        self.evaluation: Evaluation | None = None
        self.epoch: Epoch | None = None
        self.panels: list[SaliencyPanel] = []
        self.subset: Subset = Everything()
        self.affordable: int | None = None
        self.due = self.explained = False
        self.run = Run(Told())

    def begin(self, epoch: Epoch) -> None:
        """Empty everything that is gathered; may be extended."""
        self.panels = []

    def start(self, epoch: Epoch) -> None:
        """Explain what is no part of the evaluation's own images, once all have begun; may be overridden."""

    @abstractmethod
    def add(self, epoch: Epoch, seen: Seen) -> None:
        """Take the images of one batch; gradients are off, the classifier is frozen."""

    def trial(self, epoch: Epoch, seen: Seen) -> None:
        """Do for a few images what the epoch does for every one, to see what it costs; may be extended."""
        self.add(epoch, seen)

    def at_most(self, epoch: Epoch, images: int) -> int:
        """A number of further images, in a fit no more than are explained of the evaluation's own."""
        if self.max_images != "auto" or not epoch.fitting:
            return images
        return min(images, self.affordable or LEAST_IMAGES)

    @abstractmethod
    def finish(self, epoch: Epoch) -> Evaluation | None:
        """Evaluation of all processes, called on each of them; None without an image."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Share what is said and found with the other callbacks.

        Raises:
            ConfigError: two of them say something else, or would log different scores under one name, or
                another callback monitors in every epoch what is logged in some.
        """
        explaining = explaining_callbacks(trainer)
        first = self is explaining[0]
        self.run = Run(told_by(explaining), self.run.publisher) if first else explaining[0].run
        earlier = _before(self, trainer)
        refuse_clash([*earlier, self])
        if stage == "fit":
            listed = trainer.callbacks  # type: ignore[attr-defined]
            names = self.names(after=earlier)
            refuse_rare_monitor(type(self).__name__, names, listed, every=self.every_n_epochs)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the module free."""
        self.run.unwatch()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Set the module free."""
        self.run.stop()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say the settings to the loggers, once for all callbacks."""
        callbacks = explaining_callbacks(trainer)
        if self is callbacks[0]:
            self.run.publisher.configure(trainer, callbacks)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say the settings to the loggers, where no fit has."""
        if trainer.state.fn is not TrainerFn.FITTING:
            self.on_fit_start(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.explained = False
        self.run.clock.restart()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say it if no validation of the fit was explained."""
        if not self.explained:
            rank_zero_warn(
                f"{type(self).__name__} has explained nothing in this fit: it is done in validations, every"
                f" {self.every_n_epochs} epoch(s); pass val_dataloaders, or lower every_n_epochs"
            )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the first batch, unless it is a sanity check or another epoch's turn."""
        self.evaluation = self.epoch = self.run.epoch = None
        fitting = trainer.state.fn is TrainerFn.FITTING
        other = fitting and (trainer.current_epoch + 1) % self.every_n_epochs
        self.due = not trainer.sanity_checking and not other

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Watch what the module does with its first batch, be it that of the sanity check."""
        first = trainer.sanity_checking and (batch_idx, dataloader_idx) == (0, 0)
        if (self.due and self.epoch is None) or first:
            self.run.watch(pl_module, batch)

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
        if trainer.sanity_checking:
            self.run.look_ahead(trainer, pl_module, batch)
        if not self.due:
            return
        if self.epoch is None:
            begin_all(explaining_callbacks(trainer), trainer, pl_module, batch)
        epoch = self._begun()
        with self.run.explaining(pl_module.device), epoch.scope():
            rows = self.subset.rows(dataloader_idx, batch_idx, partial(self.run.batch, batch))
            if len(rows):
                whole = self.run.batch(batch)
                epoch.open(whole)
                epoch.files |= files_of(trainer, dataloader_idx, batch_idx, whole)
                self.add(epoch, epoch.seen(whole.rows(rows)))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather over processes, and log the values of the main table; those that are undefined are NaN."""
        if trainer.sanity_checking:
            self.run.look_ahead(trainer, pl_module, None)
        if not self.due:
            return
        self.explained = True
        callbacks = explaining_callbacks(trainer)
        if self.epoch is None:
            begin_all(callbacks, trainer, pl_module, None)
        epoch = self._begun()
        with self.run.explaining(pl_module.device):
            epoch.close()
            found = self.finish(epoch)
        last = [callback for callback in callbacks if callback.due][-1]
        timings = end_all(self.run, epoch) if self is last else {}
        earlier = _before(self, trainer)
        typed = self.typed_scores(epoch.split, after=earlier)
        scores = {} if found is None else found.scores
        who = type(self).__name__
        nothing = f"{who} explained no image: none that it takes was read ({epoch.split})"
        epoch.notice(f"{who} nothing", nothing if found is None else "")
        if found is not None:
            notes = tuple(dict.fromkeys((*found.notes, *self.run.notices)))
            logged = {str(name): short for name, short in typed.items() if name in scores}
            self.evaluation = replace(
                found,
                headline={name: one for name, one in self.headline.items() if one not in self.left_out},
                logged=logged,
                notes=notes,
                timings={**found.timings, **timings},
            )
        # Of equal names the first counts, as in reports: two callbacks share the controls.
        taken = set(chain.from_iterable(other.typed_scores(epoch.split) for other in earlier if other.due))
        values = {
            short: scores[name].value if name in scores else math.nan
            for name, short in typed.items()
            if name not in taken
        }
        # The same on every process: gathered already. With both, Lightning neither gathers nor warns.
        pl_module.log_dict({**values, **timings}, batch_size=1, sync_dist=True, rank_zero_only=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Publish the evaluations of all callbacks, unless a :class:`.ReportRun` does."""
        callbacks = explaining_callbacks(trainer)
        reported = any(isinstance(callback, ReportRun) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if self is callbacks[0] and not trainer.sanity_checking and not reported:
            evaluations = [callback.evaluation for callback in callbacks if callback.evaluation is not None]
            # Drawing costs, too: it counts for the epoch that comes.
            with self.run.explaining(pl_module.device):
                self.run.publisher.publish(trainer, evaluations)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the number of images that a resumed fit goes on with."""
        if self.affordable is not None:
            place = explaining_callbacks(trainer).index(self)
            checkpoint.setdefault(_KEPT, {})[f"{place} {type(self).__name__}"] = self.affordable

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take back what :meth:`on_save_checkpoint` kept; a trainer that only evaluates counts from 0."""
        if "epoch" in checkpoint:  # An export does not say.
            self.run.publisher.loaded = (int(checkpoint["global_step"]), int(checkpoint["epoch"]))
        place = explaining_callbacks(trainer).index(self)
        self.affordable = checkpoint.get(_KEPT, {}).get(f"{place} {type(self).__name__}", self.affordable)

    def _begun(self) -> Epoch:
        if self.epoch is None:
            raise ConfigError(f"{type(self).__name__} was not set up; list it in Trainer(callbacks=[...])")
        return self.epoch

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end
    on_test_start = on_validation_start
    on_test_end = on_validation_end


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


def _with_controls(methods: Mapping[str, Saliency], *, seed: int) -> dict[str, Saliency]:
    kinds = {type(method) for method in methods.values()}
    controls: dict[str, Saliency] = {"random": RandomMap(seed=seed), "centre": CentrePrior()}
    missing = {name: control for name, control in controls.items() if type(control) not in kinds}
    if taken := missing.keys() & methods.keys():
        raise ConfigError(
            f"{taken.pop()!r} is the name of a control that is added; give your method another name"
        )
    return {**methods, **missing}


def explaining_callbacks(trainer: Trainer) -> list[ExplainingCallback]:
    """Those of a trainer, in their order."""
    return [other for other in trainer.callbacks if isinstance(other, ExplainingCallback)]  # type: ignore[attr-defined]


def _before(callback: ExplainingCallback, trainer: Trainer) -> list[ExplainingCallback]:
    """Explaining callbacks whose turn comes before this one's."""
    explaining = explaining_callbacks(trainer)
    return explaining[: explaining.index(callback)]
