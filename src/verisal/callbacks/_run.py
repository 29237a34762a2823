"""What the explaining callbacks of a trainer share: the subject, the epoch at hand, notices, the clock."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar, final

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import distributed

from verisal.callbacks._batches import Read, read
from verisal.callbacks._epoch import Epoch
from verisal.callbacks._first_samples import collate_like, first_samples
from verisal.callbacks._loaders import datasets_of, loaders_of
from verisal.callbacks._subject import Finding, Subject, Told, find
from verisal.callbacks._watching import Call, watched
from verisal.errors import ConfigError, VerisalError
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
    """

    def __init__(self, told: Told) -> None:
        self.told = told
        self.epoch: Epoch | None = None
        self.subject: Subject | None = None
        self._said: dict[str, str] = {}
        self._watching = ExitStack()
        self._calls: list[Call] = []
        self._raw: object = None
        self._read: tuple[Read, Batch] | None = None

    def watch(self, module: LightningModule, raw: object) -> None:
        """Watch what the module does with a batch, unless it is known what is explained."""
        # A step that is compiled as a whole would be compiled anew.
        if self.subject is not None or self._calls or module._compiler_ctx is not None:
            return
        images = read(raw, self.told.batch, class_names=self.told.class_names).images
        self._watching.close()
        self._calls = self._watching.enter_context(watched(module, len(images), images.shape[1]))

    def unwatch(self) -> None:
        """Set the module free; may be called at any time."""
        self._watching.close()

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
            self.epoch = self._epoch_of(trainer, module, subject)
        return self.epoch

    def batch(self, raw: object) -> Batch:
        """A batch of the loader in [0, 1], the same object for everybody who asks."""
        if self._raw is not raw or self._read is None:
            subject = self._known()
            given = subject.read(raw)
            self._raw, self._read = raw, (given, subject.batch(given))
        return self._read[1]

    def close(self) -> None:
        """Forget the batch at hand."""
        self._raw = self._read = None
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

    def _known(self) -> Subject:
        if self.subject is None:
            raise ConfigError("nothing is explained before the first batch")
        return self.subject

    def _found(self, trainer: Trainer, module: LightningModule, raw: object) -> Subject:
        if self.subject is None:
            self.subject = Subject(module, self.told, self._finding(trainer, module, raw))
        return self.subject

    def _finding(self, trainer: Trainer, module: LightningModule, raw: object) -> Finding:
        """What is explained, the same on all processes, of which some may have no batch."""
        precision = _ROUNDING.get(str(trainer.precision).partition("-")[0], _COARSE)
        datasets = datasets_of(loaders_of(trainer))

        def found() -> Finding | None:
            if raw is None:
                return None
            calls = self._calls
            return find(module, self.told, raw, calls=calls, datasets=datasets, tolerance=precision)

        findings = [finding for finding in agreed(found) if finding is not None]
        if not findings:
            raise ConfigError("there is nothing to explain: the evaluation's loaders gave no batch")
        return findings[0]

    def _epoch_of(self, trainer: Trainer, module: LightningModule, subject: Subject) -> Epoch:
        fitting = trainer.state.fn is TrainerFn.FITTING
        folders = [
            Path(logger.save_dir) / "rows" for logger in trainer.loggers if isinstance(logger, CsvSink)
        ]
        loader = loaders_of(trainer)[0]

        def samples(source: object, count: int) -> Batch:
            collate = collate_like(loader, reader=self.told.batch)
            return first_samples(
                loader if source is None else source, count, subject.batch_of, collate=collate
            )

        return Epoch(
            "test" if trainer.testing else "val",
            subject.classifier,
            device=module.device,
            samples=samples,
            notice=self.notice,
            folder=folders[0] if folders and not fitting else None,
            fitting=fitting,
            quiet=trainer.progress_bar_callback is not None or fitting or not trainer.is_global_zero,
            rank=trainer.global_rank,
            processes=trainer.world_size,
        )


def agreed(compute: Callable[[], _Value]) -> list[_Value]:
    """What every process computes, by their numbers; an error of one is raised on all of them."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [compute()]
    value: _Value | None = None
    error: VerisalError | None = None
    try:
        value = compute()
    except VerisalError as found:
        error = found
    answers: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(answers, (value, error))
    for _, problem in answers:
        if problem is not None:
            raise problem
    return [answer for answer, _ in answers]
