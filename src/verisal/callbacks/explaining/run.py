"""What the explaining callbacks of a trainer share: the subject, the epoch at hand, notices, the clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar, cast, final

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from verisal.callbacks.explaining.cost import Clock
from verisal.callbacks.explaining.epoch import Epoch
from verisal.callbacks.explaining.loaders import datasets_of, further_samples, is_sized, loaders_of
from verisal.callbacks.explaining.processes import agreed
from verisal.callbacks.explaining.publishing import Publisher
from verisal.callbacks.formats.batches import KnownIds, Read
from verisal.callbacks.formats.first_samples import collate_like, first_samples
from verisal.callbacks.subject.subject import Finding, Subject, Told, find
from verisal.callbacks.subject.watching import Call, watched
from verisal.data import Composition, DiskSplit
from verisal.errors import ConfigError
from verisal.functional.scopes import uncompiled
from verisal.reporting import CsvSink
from verisal.types import Batch

_Value = TypeVar("_Value")
_ROUNDING = {"32": 2e-3, "64": 1e-6}
_COARSE = 0.1


@final
class Run:
    """One fit, validation or test, from setup to teardown, as its explaining callbacks share it.

    Args:
        told: by the user, on any of them.
        publisher: of the run before, which knows what it has said; None for the first one.
    """

    def __init__(self, told: Told, publisher: Publisher | None = None) -> None:
        self.told = told
        self.epoch: Epoch | None = None
        self.subject: Subject | None = None
        self.clock = Clock()
        self.publisher = publisher or Publisher()
        self.publisher.loaded = None
        self._said: dict[str, str] = {}
        self._watching = ExitStack()
        self._calls: list[Call] = []
        self._watched: tuple[object, Tensor] | None = None
        self._looked = False
        self._raw: object = None
        self._read: tuple[Read, Batch] | None = None
        self._ids = KnownIds()
        self._samples: Batch | None = None

    @contextmanager
    def explaining(self, device: torch.device) -> Iterator[None]:
        """Count the time, and leave compiled networks as they were compiled."""
        with self.clock.explaining(device), uncompiled():
            yield

    def watch(self, module: LightningModule, raw: object) -> None:
        """Watch what the module does with a batch, unless it is known what is explained."""
        # A step that is compiled as a whole would be compiled anew.
        if self.subject is not None or self._watched is not None or module._compiler_ctx is not None:
            return
        images = self._read_raw(raw).images
        self._watched = raw, images.clone()
        self._calls = self._watching.enter_context(watched(module, len(images), images.shape[1]))

    def unwatch(self) -> None:
        """Set the module free; may be called at any time."""
        self._watching.close()

    def stop(self) -> None:
        """Set the module free, and show no more how far the epoch is, after an error."""
        self.unwatch()
        if self.epoch is not None:
            self.epoch.over()

    def look_ahead(self, trainer: Trainer, module: LightningModule, raw: object) -> None:
        """Find what is explained in the sanity check, so that what has to be asked is asked before training.

        A step of which nothing is seen there, such as one that does nothing, is left to the first validation.

        Args:
            trainer: that runs the sanity check.
            module: that it tries.
            raw: the first batch of this process; None for a process that has none.
        """
        self.unwatch()
        if self.subject is None and not self._looked:
            self._looked = True
            finding = self._finding(trainer, module, raw if self._calls else None)
            if finding is not None:
                self._take(module, finding)
        self.close()

    def begin(self, trainer: Trainer, module: LightningModule, raw: object) -> Epoch:
        """The epoch of this evaluation, made by the first who asks.

        Args:
            trainer: that runs the evaluation.
            module: that it evaluates.
            raw: the first batch of this process; None for a process that has none.
        """
        self.unwatch()
        if self.epoch is None:
            subject = self._found(trainer, module, raw)
            self.epoch = self._epoch_of(trainer, module, subject, empty=raw is None)
            self._ids = KnownIds()
        return self.epoch

    def batch(self, raw: object) -> Batch:
        """A batch of the loader in [0, 1], the same object for everybody who asks."""
        if self._raw is not raw or self._read is None:
            subject = self._known()
            given = subject.read(raw)
            batch = subject.batch(given)
            if given.image_ids is not None:
                self._ids.check(batch)
            self._raw, self._read = raw, (given, batch)
        return self._read[1]

    def close(self) -> None:
        """Forget the batch at hand."""
        self._raw = self._read = self._watched = None
        self._calls = []

    def notice(self, key: str, sentence: str) -> None:
        """Say a sentence, once per run; the last one of a key is a note, an empty one is none."""
        if sentence and key not in self._said:
            rank_zero_info(sentence)
        if sentence or key in self._said:
            self._said[key] = sentence

    @property
    def notices(self) -> tuple[str, ...]:
        """All that was said and still holds."""
        return tuple(sentence for sentence in self._said.values() if sentence)

    def _read_raw(self, raw: object) -> Read:
        return self.told.read(raw)

    def _known(self) -> Subject:
        if self.subject is None:
            raise ConfigError("nothing is explained before the first batch")
        return self.subject

    def _found(self, trainer: Trainer, module: LightningModule, raw: object) -> Subject:
        if self.subject is None:
            finding = self._finding(trainer, module, raw)
            if finding is None:
                raise ConfigError(
                    "there is nothing to explain: the evaluation's loaders gave no batch; give them data, and"
                    " limit_val_batches (limit_test_batches) above 0"
                )
            return self._take(module, finding)
        return self.subject

    def _take(self, module: LightningModule, finding: Finding) -> Subject:
        self.subject = Subject(module, self.told, finding)
        self.notice("subject", finding.told(module))
        return self.subject

    def _finding(self, trainer: Trainer, module: LightningModule, raw: object) -> Finding | None:
        """What is explained, the same on all processes, of which some may have no batch; None without any."""
        precision = _ROUNDING.get(str(trainer.precision).partition("-")[0], _COARSE)
        datasets = datasets_of(loaders_of(trainer))

        def found() -> Finding | None:
            if raw is None:
                return None
            calls = self._calls
            self._check_unchanged(module, raw)
            return find(module, self.told, raw, calls=calls, datasets=datasets, tolerance=precision)

        return next((finding for finding in agreed(found) if finding is not None), None)

    def _check_unchanged(self, module: LightningModule, raw: object) -> None:
        """Raise if the step has written into the loader's images, which are then no longer there."""
        if self._watched is None or self._watched[0] is not raw:
            return
        before, after = self._watched[1], self._read_raw(raw).images
        if before.shape != after.shape or not torch.equal(before.nan_to_num(), after.nan_to_num()):
            raise ConfigError(
                f"the evaluation's step of {type(module).__name__} changes the images of its batch in place,"
                " so that what is explained is no longer what the loader gave; write x = x.sub(...) in place"
                " of x.sub_(...) and the like"
            )

    def _own_samples(self, loader: object, count: int, subject: Subject, *, empty: bool) -> Batch:
        """The first samples of the evaluation's data, read once, the same on all processes."""

        def read_own() -> Batch | None:
            if isinstance(loader, DataLoader) and is_sized(loader):
                # Its sampler may give each process another part.
                data, collate = loader.dataset, loader.collate_fn
                return first_samples(data, count, subject.batch_of, collate=collate)
            return None if empty else first_samples(loader, count, subject.batch_of)

        if self._samples is None:
            self._samples = next(batch for batch in agreed(read_own) if batch is not None)
        return self._samples

    def _epoch_of(self, trainer: Trainer, module: LightningModule, subject: Subject, *, empty: bool) -> Epoch:
        fitting = trainer.state.fn is TrainerFn.FITTING
        folders = [
            Path(logger.save_dir) / "rows" for logger in trainer.loggers if isinstance(logger, CsvSink)
        ]
        loader = loaders_of(trainer)[0]

        def samples(source: object, count: int) -> Batch:
            if source is None:
                return self._own_samples(loader, count, subject, empty=empty)
            collate = collate_like(loader, reader=self.told.batch)
            if isinstance(source, Composition | str):
                source = further_samples(loader, cast("Composition | DiskSplit", source), count)
            return first_samples(source, count, subject.batch_of, collate=collate)

        return Epoch(
            "test" if trainer.testing else "val",
            subject.classifier,
            device=module.device,
            samples=samples,
            notice=self.notice,
            folder=folders[0] if folders and not fitting else None,
            fitting=fitting,
            quiet=not trainer.is_global_zero,
            rank=trainer.global_rank,
            processes=trainer.world_size,
        )
