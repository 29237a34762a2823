"""Parts of the trainer that belong to the command line: run folder, epoch lines, precision, predictions."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, distributed

from verisal._files import write_atomic
from verisal._plain import plain
from verisal.callbacks.checkpoints import Monitored
from verisal.cli._command import Command
from verisal.cli._runs import process_rank
from verisal.errors import ConfigError
from verisal.progress import clock, tell
from verisal.results import Evaluates

_MOST_VALUES = 6
# Of a training whose epochs all have a line.
_MOST_EPOCHS = 50
_SECONDS_BETWEEN_LINES = 60.0
# More images than anybody reads on a terminal.
_MOST_LINES = 100
_JUDGED = frozenset({"prediction", "probability"})
# Names of columns, and rows.
Predicted = tuple[list[str], list[tuple[Any, ...]]]


@final
class EpochLines(Callback):
    """One line per epoch: its number, losses, the monitored value and its time; of many, one a minute.

    A task with an evaluation has its most important sentence below, whenever it is another one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._started = self._said = time.perf_counter()
        self._last, self._sentence = "", ""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Gathered over processes when they are first asked for, so all must ask.
        values = trainer.callback_metrics
        if not trainer.is_global_zero:
            return
        monitor = pl_module.monitor if isinstance(pl_module, Monitored) else ""
        # The loss of one of several networks has a name of more parts.
        names = [name for name in values if name == monitor or ("loss" in name and name.count("/") < 2)]
        names = sorted(names, key=lambda name: not name.startswith("train/"))
        shown = [f"{name.replace('/', ' ')} {float(values[name]):.3g}" for name in names[:_MOST_VALUES]]
        evaluation = pl_module.evaluation if isinstance(pl_module, Evaluates) else None
        sentence = next(iter(evaluation.summary), "") if evaluation is not None else ""
        limit, now = max(trainer.max_epochs or 0, 0), time.perf_counter()
        head = f"epoch {trainer.current_epoch + 1}" + (f" of {limit}" if limit else "")
        self._last = f"{head}: {', '.join(shown)} ({clock(now - self._started)})"
        if sentence != self._sentence:
            self._last += f"\n  {sentence}"
        self._sentence = sentence
        few = 0 < limit <= _MOST_EPOCHS or trainer.current_epoch == 0
        if few or now - self._said >= _SECONDS_BETWEEN_LINES:
            self._say(now)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The last epoch always has its line.
        if trainer.is_global_zero:
            self._say(time.perf_counter())

    def _say(self, now: float) -> None:
        if self._last:
            tell(self._last)
        self._last, self._said = "", now


@runtime_checkable
class SumsLosses(Protocol):
    """A task whose training step adds up the losses of several networks."""

    @property
    def summed_losses(self) -> int:
        """Number of networks."""
        ...


@final
class StepLoss(Callback):
    """The loss of one training step in every ``trainer.log_every_n_steps``, as ``train/loss_step``.

    Of several networks it is the mean, as ``train/loss`` is.
    """

    def __init__(self) -> None:
        super().__init__()
        self._logged = 0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]  # a base's
        # A step of several batches ends with the last of them.
        if not isinstance(loss, Tensor) or not every or step % every or step == self._logged:
            return
        self._logged = step
        networks = pl_module.summed_losses if isinstance(pl_module, SumsLosses) else 1
        for logger in trainer.loggers:
            logger.log_metrics({"train/loss_step": float(loss.detach()) / networks}, step=step - 1)


def write_predictions(path: Path, predictions: Sequence[Any], *, images: int | None) -> None:
    """Write batches of named columns as one CSV file; called on each process, of which the first writes.

    Args:
        path: the file.
        predictions: of this process, per batch a mapping of column name to ``(B,)`` tensor or sequence;
            anything else is left.
        images: number of images of all processes together, which take turns; None where it is not known.
    """
    batches = [batch for batch in predictions if isinstance(batch, Mapping)]
    names = list(batches[0]) if batches else []
    own = [row for batch in batches for row in zip(*(_column(batch[name]) for name in names), strict=True)]
    parts = _gathered((names, own))
    names = next((columns for columns, _ in parts if columns), [])
    if not names or process_rank() != 0:
        return
    in_order = zip_longest(*(rows for _, rows in parts))
    # Behind the last image stand copies, which keep processes without an image of their own busy.
    rows = [row for turn in in_order for row in turn if row is not None][:images]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    write_atomic(path, table.getvalue().encode())
    tell("\n".join(_said(names, rows)))
    tell(f"predictions: {path}")


def _said(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> list[str]:
    """A line for each of the first images: its name, what is predicted, and whether the alarm rings."""
    lines = []
    for row in rows[:_MOST_LINES]:
        given = dict(zip(names, row, strict=True))
        said = (
            [f"{given.pop('prediction')} {given.pop('probability'):.2f}"] if given.keys() >= _JUDGED else []
        )
        name = given.pop("image_id", None)
        if "alarm" in given:
            verdicts = {True: "ALARM: looks adversarial", False: "no alarm", None: "NO VERDICT"}
            said.append(verdicts[given["alarm"]])
        said = said or [f"{key} {_short(value)}" for key, value in list(given.items())[:_MOST_VALUES]]
        # One line each, whatever a file or a class is called.
        lines.append(plain(f"{name}: {', '.join(said)}" if name is not None else ", ".join(said)))
    more = len(rows) - len(lines)
    return [*lines, *([f"and {more} more, all in the file:"] if more else [])]


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _gathered(own: Predicted) -> list[Predicted]:
    """Columns and rows of every process, by rank."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [own]
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, own)
    return parts


def _column(values: Tensor | Sequence[Any]) -> list[Any]:
    return values.detach().cpu().tolist() if isinstance(values, Tensor) else list(values)


@final
class Beginning(Callback):
    """Begins the run when the first training batch is there, or the first batch of an evaluation done.

    What is logged before begins it, too; a predict begins when it has something to write. Must be the first
    callback: others write where they are called.

    Args:
        command: whose folder is made.
    """

    def __init__(self, command: Command) -> None:
        super().__init__()
        self._command = command
        self._waited = False

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:  # noqa: ANN401 - Lightning's hook
        self._together(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Of a run that is resumed at the end of an epoch.
        self._together(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:  # noqa: ANN401
        self._evaluating(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Where there was no batch.
        self._evaluating(trainer)

    on_test_batch_end, on_test_epoch_end = on_validation_batch_end, on_validation_epoch_end

    def _together(self, trainer: Trainer) -> None:
        """Begin; no process goes on before the folder is there."""
        if not self._waited:
            self._waited = True
            self._command.begin()
            trainer.strategy.barrier("run folder")

    def _evaluating(self, trainer: Trainer) -> None:
        if not trainer.sanity_checking:
            self._command.begin()


_FLOAT32 = (None, 32, "32", "32-true")
_BFLOAT16 = ("bf16", "bf16-mixed")


@final
class TrainingPrecision(MixedPrecision):
    """bfloat16 autocast in training steps, none in validation, test and prediction.

    A checkpoint is chosen and reported by what it does in float32, whatever it was trained in.

    Args:
        device: type of the device of the autocast.
    """

    def __init__(self, device: str) -> None:
        super().__init__("bf16-mixed", device)

    @contextmanager
    def val_step_context(self) -> Iterator[None]:
        yield

    test_step_context = predict_step_context = val_step_context


def training_precision(precision: object, accelerator: object) -> list[TrainingPrecision]:
    """Plugins of the trainer for ``trainer.precision``.

    Raises:
        ConfigError: another precision than ``32-true`` and ``bf16-mixed``, or the latter on a CPU.
    """
    if precision in _FLOAT32:
        return []
    if precision not in _BFLOAT16:
        raise ConfigError(
            f"trainer.precision must be 32-true or bf16-mixed (training steps alone), found {precision!r}"
        )
    if accelerator not in ("gpu", "cuda") and not (accelerator == "auto" and torch.cuda.is_available()):
        # 2026-11-22: torch 2.15 reads memory that nobody wrote, see scripts/bench/precision.py --gradients.
        raise ConfigError(
            "trainer.precision bf16-mixed needs a GPU: on CPUs torch computes wrong weight gradients of"
            " convolutions on small maps; leave trainer.precision at 32-true"
        )
    return [TrainingPrecision("cuda")]


# Command to the method of a task and that of a data module which it needs.
_NEEDED = {
    "fit": ("training_step", "train_dataloader"),
    "validate": ("validation_step", "val_dataloader"),
    "test": ("test_step", "test_dataloader"),
    "predict": ("predict_step", "predict_dataloader"),
}


def check_stage(stage: str, task: str, data: str) -> None:
    """Raise unless task and data module have the methods that a command needs; nothing is built.

    Args:
        stage: ``fit``, ``validate``, ``test`` or ``predict``.
        task: dotted path of the task's class.
        data: dotted path of the data module's class.

    Raises:
        ConfigError: naming the commands that would work.
    """
    stages = {
        path.rpartition(".")[2]: [name for name in _NEEDED if _has(path, base, _NEEDED[name][position])]
        for position, (path, base) in enumerate(((task, LightningModule), (data, LightningDataModule)))
    }
    both = [name for name in _NEEDED if all(name in served for served in stages.values())]
    for position, (name, served) in enumerate(stages.items()):
        if stage not in served:
            others = f"; use verisal {' or verisal '.join(both)}" if both else ""
            if stage == "predict" and task.startswith("verisal."):
                others += "; images are scored by verisal explain IMAGES --detector RUN"
            raise ConfigError(f"{name} has nothing to {stage} (no {_NEEDED[stage][position]}){others}")


@runtime_checkable
class ChecksTrainer(Protocol):
    """A task that cannot be trained by every trainer."""

    def check_trainer(self, trainer: Trainer) -> None:
        """Raise unless the trainer will do; called before data are prepared."""
        ...


def check_steps(stage: str, trainer: Namespace) -> None:
    """Raise where settings of the trainer leave nothing to do.

    Raises:
        ConfigError: naming the setting.
    """
    if stage != "fit":
        name = {"validate": "limit_val_batches"}.get(stage, f"limit_{stage}_batches")
        if trainer.get(name) == 0:
            raise ConfigError(f"trainer.{name} is 0, so that {stage} would look at nothing; leave it out")
        return
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if trainer.get(name) == 0:
            raise ConfigError(
                f"trainer.{name} is {trainer.get(name):g}, so that nothing would be trained; leave it out, or"
                " use verisal validate or verisal test for weights that are there"
            )


def _has(path: str, base: type, method: str) -> bool:
    module, _, name = path.rpartition(".")
    return getattr(getattr(import_module(module), name), method) is not getattr(base, method)
