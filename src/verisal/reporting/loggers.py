"""Publications to any Lightning logger by what it offers, and to files where it takes numbers alone."""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_info

from verisal._files import write_atomic
from verisal.pictures import Pixels, as_picture, png, write_png
from verisal.reporting.csv_sink import CsvSink
from verisal.reporting.curves import curve_pixels
from verisal.reporting.publication import Publication, Sink, Table
from verisal.reporting.wandb_sink import wandb_entries
from verisal.results import typed


@runtime_checkable
class _Summaries(Protocol):
    """TensorBoard's ``SummaryWriter``, of torch or of tensorboardX."""

    def add_image(self, tag: str, img_tensor: Pixels, global_step: int, *, dataformats: str) -> object: ...
    def add_text(self, tag: str, text_string: str, global_step: int) -> object: ...


@runtime_checkable
class _Comet(Protocol):
    """Comet's ``Experiment``."""

    def log_image(self, image_data: object, name: str, *, step: int) -> object: ...
    def log_table(self, filename: str, tabular_data: object, headers: object) -> object: ...


@runtime_checkable
class _Neptune(Protocol):
    """Neptune's ``Run``: fields by path, to which values are appended."""

    def __getitem__(self, path: str) -> Any: ...  # noqa: ANN401 - Neptune's handler of one field
    def get_structure(self) -> object: ...


@runtime_checkable
class _NeptuneScale(Protocol):
    """The ``Run`` of Neptune 3: files as bytes."""

    def log_files(self, files: Mapping[str, bytes], step: int) -> object: ...


@final
class Outlets:
    """The loggers of one run as places for publications.

    A logger that fails costs what was to be published there and nothing else: it is caught, counted, and said
    once per logger. Only one process publishes.

    Args:
        folder: for the files of loggers that take numbers alone and have no folder of their own.

    Attributes:
        failures: by the name of the logger's class.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._named: set[Path] = set()
        self.failures: dict[str, int] = {}

    def publish(self, loggers: Sequence[Logger], publication: Publication, *, step: int, epoch: int) -> None:
        """Hand a publication to every logger.

        Args:
            loggers: of the trainer.
            publication: curves, pictures and tables.
            step: of the trainer's scalars of the same epoch.
            epoch: epochs finished or running, from 0.
        """
        for logger in loggers if publication else ():
            kind = type(logger).__name__
            # Loggers raise whatever their servers and files do: no class of errors covers them.
            try:
                folder = publish(logger, publication, step=step, epoch=epoch, folder=self.folder)
            except Exception as error:
                self._count(kind, error)
                continue
            if folder is not None and folder not in self._named:
                self._named.add(folder)
                rank_zero_info(
                    f"{kind} takes numbers alone: curves, pictures and tables are files in {folder}"
                )

    def configure(self, loggers: Sequence[Logger], settings: Mapping[str, object]) -> None:
        """Add settings to the configuration or hyperparameters of every logger, beside what is there."""
        for logger in loggers:
            try:
                _configure(logger, settings)
            except Exception as error:
                self._count(type(logger).__name__, error)

    def _count(self, kind: str, error: Exception) -> None:
        self.failures[kind] = self.failures.get(kind, 0) + 1
        if self.failures[kind] == 1:
            warnings.warn(
                f"{kind} failed ({type(error).__name__}: {error}); the run goes on without what was to be"
                " published there. Further failures are counted, not printed.",
                stacklevel=3,
            )


def folder_of(logger: Logger, fallback: Path) -> Path:
    """Folder of a logger's run, the one that Lightning keeps its checkpoints in.

    Args:
        logger: any Lightning logger.
        fallback: for a logger without a folder; the run is named in it.
    """
    if logger.log_dir is not None:
        return Path(logger.log_dir)
    version = f"version_{logger.version}" if isinstance(logger.version, int) else logger.version
    return Path(logger.save_dir or fallback, logger.name or "", version or "")


def publish(logger: Logger, publication: Publication, *, step: int, epoch: int, folder: Path) -> Path | None:
    """Hand a publication to one logger.

    Curves are native line charts at Weights & Biases and drawn charts elsewhere; TensorBoard has tables as
    text, MLflow as CSV artifacts. A logger that takes neither images nor text gets files beside its own.

    Args:
        logger: any Lightning logger.
        publication: curves, pictures and tables.
        step: of the trainer's scalars of the same epoch; no logger's own count of calls.
        epoch: epochs finished or running, from 0.
        folder: for files, where the logger has no folder.

    Returns:
        The folder that the files went to; None where the logger took everything.
    """
    if isinstance(logger, DummyLogger):
        return None
    if isinstance(logger, Sink):
        logger.publish(publication, step=step, epoch=epoch)
        return None
    experiment = getattr(logger, "experiment", None)
    if isinstance(logger, WandbLogger):
        logger.experiment.log(wandb_entries(publication, step=step, epoch=epoch))
    elif isinstance(logger, MLFlowLogger):
        _to_mlflow(logger, publication, step, epoch)
    elif isinstance(experiment, _Summaries):
        _to_tensorboard(experiment, publication, step, epoch)
    elif isinstance(experiment, _Comet):
        _to_comet(experiment, publication, step, epoch)
    elif isinstance(experiment, _Neptune):
        _to_neptune(experiment, publication, step, epoch)
    elif isinstance(experiment, _NeptuneScale):
        files = {name: png(pixels) for name, pixels, _ in _pictures(publication, epoch)}
        tables = {name: text.encode() for name, text in _tables(publication)}
        experiment.log_files(files={**files, **tables}, step=step)
    else:
        return _to_files(logger, publication, step, epoch, folder)
    return None


def _configure(logger: Logger, settings: Mapping[str, object]) -> None:
    experiment = getattr(logger, "experiment", None)
    if isinstance(logger, TensorBoardLogger) and isinstance(experiment, _Summaries):
        # A second set of hyperparameters would hide the module's own in TensorBoard: hparams.yaml has both.
        logger.log_hyperparams(dict(settings), {})
        rows = tuple(settings.items())
        experiment.add_text("verisal/settings", _markdown(Table(("setting", "value"), rows)), 0)
    else:
        logger.log_hyperparams(dict(settings))


def _pictures(publication: Publication, epoch: int) -> Iterator[tuple[str, Pixels, str]]:
    """Path, pixels and caption of every picture, with every chart drawn as one."""
    for name, lines in publication.curves.items():
        title = f"{name}, epoch {epoch}"
        yield f"curves/{typed(name)}", curve_pixels(lines, title=title), title
    for name, pictures in publication.pictures.items():
        for number, picture in enumerate(pictures):
            yield f"panels/{typed(name)}_{number}", picture.pixels, picture.caption


def _tables(publication: Publication) -> Iterator[tuple[str, str]]:
    """Path and CSV text of every table."""
    for name, table in publication.tables.items():
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(table.columns)
        writer.writerows(table.rows)
        yield f"tables/{typed(name)}.csv", text.getvalue()


def _to_tensorboard(writer: _Summaries, publication: Publication, step: int, epoch: int) -> None:
    for name, pixels, _ in _pictures(publication, epoch):
        writer.add_image(name, pixels, step, dataformats="HWC")
    for name, table in publication.tables.items():
        writer.add_text(f"tables/{typed(name)}", _markdown(table), step)


def _to_mlflow(logger: MLFlowLogger, publication: Publication, step: int, epoch: int) -> None:
    client, run = logger.experiment, logger.run_id
    for name, pixels, _ in _pictures(publication, epoch):
        client.log_image(run, pixels, key=name, step=step)
    for name, text in _tables(publication):
        client.log_text(run, text, name)


def _to_comet(experiment: _Comet, publication: Publication, step: int, epoch: int) -> None:
    for name, pixels, _ in _pictures(publication, epoch):
        experiment.log_image(pixels, name, step=step)
    for name, table in publication.tables.items():
        rows = [list(row) for row in table.rows]
        experiment.log_table(f"tables/{typed(name)}.csv", rows, list(table.columns))


def _to_neptune(run: _Neptune, publication: Publication, step: int, epoch: int) -> None:
    for name, pixels, caption in _pictures(publication, epoch):
        run[f"verisal/{name}"].append(as_picture(pixels), step=step, description=caption)
    for name, text in _tables(publication):
        # A text of Neptune's ends after a thousand letters; a file is shown as a table.
        file = import_module("neptune.types").File.from_content(text, extension="csv")
        run[f"verisal/{name.removesuffix('.csv')}"].upload(file)


def _to_files(logger: Logger, publication: Publication, step: int, epoch: int, fallback: Path) -> Path:
    """Points of all curves in ``curves.csv``, their newest charts, every step's pictures, and the tables."""
    folder = folder_of(logger, fallback)
    CsvSink(folder).publish(publication, step=step, epoch=epoch)
    for name, pixels, _ in _pictures(publication, epoch):
        kind, _, rest = name.partition("/")
        write_png(pixels, folder / kind / ("" if kind == "curves" else f"step_{step:06d}") / f"{rest}.png")
    for name, text in _tables(publication):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / name, text.encode())
    return folder


def _markdown(table: Table) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:z.4g}"
    return str(value).replace("|", "\\|")
