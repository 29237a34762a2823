"""Weights & Biases beside the CSV files: decided before the run starts, without a prompt, never fatal."""

from __future__ import annotations

import os
import shlex
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from verisal._plain import plain
from verisal.progress import tell
from verisal.reporting.publication import Publication, Sink
from verisal.reporting.wandb_layout import Layout, RunCard, seen
from verisal.reporting.wandb_mode import WandbSettings, decided
from verisal.results import typed

_INIT_SECONDS = 30.0
_FINISH_SECONDS = 120.0
# W&B refuses longer ones.
_LONGEST_NAME, _LONGEST_TAG = 128, 64


@final
class WandbSink(WandbLogger, Sink):
    """Lightning's ``WandbLogger`` whose failures are caught, counted and warned of once.

    Whatever fails after construction (no answer, a dead service process, a full disk) costs the rows of that
    call in W&B and nothing else: the CSV files have them. Of a training some values become charts, see
    :class:`.Layout`; all others, and everything that is measured once, are in the run's summary alone.

    Args:
        offline: True to write files for a later ``wandb sync``.
        layout: chooses what becomes a panel; everything that finds room, where there is none.
        fitting: True for a training; everything that another command logs is measured once.
        settings: handed to W&B.

    Attributes:
        failures: calls that failed so far.
    """

    def __init__(
        self,
        *,
        offline: bool,
        layout: Layout | None = None,
        fitting: bool = True,
        **settings: Any,  # noqa: ANN401 - handed to W&B as they are
    ) -> None:
        super().__init__(offline=offline, **settings)
        self._layout, self._fitting = layout or Layout({}), fitting
        self._wandb_init.pop("anonymous", None)  # W&B has dropped it and warns of it, even of None.
        self.failures = 0
        self._broken = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:  # noqa: ANN401 - W&B's run, or the stand-in
        """The W&B run, opened when something is first asked of it.

        A stand-in that takes every call and does nothing where the run cannot be opened.
        """
        # Lightning looks at it before it knows whether there will be any work.
        return _Late(self) if self._experiment is None else self._experiment

    def open(self) -> Any:  # noqa: ANN401 - W&B's run, or the stand-in
        """Open the run, unless it is open or cannot be opened."""
        if self._experiment is None and not self._broken:
            self._experiment = self._opened()
        return _Idle() if self._experiment is None else self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Tensor | float], step: int | None = None) -> None:
        """Send scalars: points of charts, with ``trainer/global_step``, or values of the summary."""
        self._guarded(lambda: self._log(metrics, step))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: object, **__: object) -> None:
        """Nothing: the run was opened with the whole configuration."""

    @rank_zero_only
    def publish(self, publication: Publication, *, step: int, epoch: int) -> None:
        """Send all curves, pictures and tables of one hook in one call, so that they share one step."""
        self._guarded(lambda: self._publish(publication, step, epoch))

    @rank_zero_only
    def keep_checkpoint(
        self, path: Path, *, name: str, aliases: Sequence[str], facts: Mapping[str, object], upload: bool
    ) -> None:
        """Say which file the weights of the run are, as an artifact of the kind ``model``.

        Args:
            path: the checkpoint.
            name: of the artifact; each run that uses it makes another version.
            aliases: names of this version.
            facts: about it.
            upload: True to send the file; False for its place and checksum.
        """
        self._guarded(lambda: self._keep(path, name, aliases, facts, upload))

    @rank_zero_only
    def use_features(self, stores: Mapping[str, str]) -> None:
        """Say which stored features the run has used, as an artifact of the kind ``features``.

        Args:
            stores: name of a store, which tells its content, to its path or URL.
        """
        self._guarded(lambda: self._use(stores))

    @rank_zero_only
    def alert(self, title: str, text: str) -> None:
        """Tell the people who follow the run that it has failed; nothing where no run has been opened."""
        run = self._experiment
        if run is not None:
            self._guarded(lambda: run.alert(title=title, text=_lines(text), level="ERROR"))

    @rank_zero_only
    def close(self, *, exit_code: int = 0) -> None:
        """End the run and wait for its uploads, at most two minutes; a later call opens it again.

        Args:
            exit_code: of the command; W&B shows a run as failed unless it is 0.
        """
        run, self._experiment = self._experiment, None
        if run is not None:
            self._guarded(lambda: run.finish(exit_code=exit_code))

    def _log(self, metrics: Mapping[str, Tensor | float], step: int | None) -> None:
        run = self.experiment
        repeated = {name: one for name, one in metrics.items() if self._fitting and not _of_test(name)}
        beside = {"epoch": repeated.pop("epoch")} if "epoch" in repeated else {}
        charted, rest = self._layout.divided(repeated)
        rest |= {plain(name): one for name, one in metrics.items() if name not in {*repeated, "epoch"}}
        if charted:
            beside |= {} if step is None else {"trainer/global_step": step}
            run.log(charted | beside)
        if rest:
            run.summary.update({name: _number(value) for name, value in rest.items()})

    def _publish(self, publication: Publication, step: int, epoch: int) -> None:
        self.experiment.log(wandb_entries(self._layout.shown(publication), step=step, epoch=epoch))

    def _keep(
        self, path: Path, name: str, aliases: Sequence[str], facts: Mapping[str, object], upload: bool
    ) -> None:
        import wandb

        artifact = wandb.Artifact(name, type="model", metadata=dict(facts))
        if upload:
            artifact.add_file(str(path), name=path.name)
        else:
            artifact.add_reference(path.absolute().as_uri(), name=path.name)
        self.experiment.log_artifact(artifact, aliases=list(aliases))

    def _use(self, stores: Mapping[str, str]) -> None:
        import wandb

        # The names tell what is in the stores: equal ones are one version for all runs that use them.
        artifact = wandb.Artifact(
            f"{self._wandb_init.get('group') or 'verisal'}-features", type="features", metadata=dict(stores)
        )
        for name, place in stores.items():
            # W&B asks for the drivers of remote files even where it only notes their names.
            if "://" not in place:
                artifact.add_reference(Path(place).absolute().as_uri(), name=name, checksum=False)
        if self._offline:
            # Offline W&B takes what a run has made, not what it has used.
            self.experiment.log_artifact(artifact)
        else:
            self.experiment.use_artifact(artifact)

    def _opened(self) -> Any:  # noqa: ANN401 - W&B's run
        import wandb

        try:
            (Path(str(self.save_dir)) / "wandb").mkdir(parents=True, exist_ok=True)
            run = wandb.init(**self._wandb_init)
            run.define_metric("trainer/global_step", hidden=True)
            run.define_metric("epoch", hidden=True)
            for name, best in self._layout.best.items():
                run.define_metric(name, step_metric="trainer/global_step", step_sync=True, summary=best)
            run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        except Exception as error:
            self._broken = True
            self._count(error)
            return None
        return run

    def _guarded(self, call: Callable[[], object]) -> None:
        # Whatever W&B raises, the run must go on: its errors share no base class with those of its transport.
        try:
            call()
        except Exception as error:
            self._count(error)

    def _count(self, error: Exception) -> None:
        self.failures += 1
        if self.failures == 1:
            warnings.warn(
                f"Weights & Biases failed ({type(error).__name__}: {error}); the run goes on, its numbers are"
                f" in {Path(str(self.save_dir)) / 'metrics.csv'}. Further failures are counted, not printed.",
                stacklevel=3,
            )


@final
class _Idle:
    """Stand-in that takes every call and does nothing, where the run could not be opened."""

    def __getattr__(self, name: str) -> _Idle:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: object, **__: object) -> _Idle:
        return self


@final
class _Late:
    """Stand-in that opens the run when something is asked of it."""

    def __init__(self, sink: WandbSink) -> None:
        self._sink = sink

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever W&B's run has
        return getattr(self._sink.open(), name)


def _of_test(name: str) -> bool:
    return name.startswith("test/")


def _number(value: Tensor | float) -> float:
    return value.item() if isinstance(value, Tensor) else value


def _lines(text: str) -> str:
    return str(seen(text))


def wandb_entries(publication: Publication, *, step: int, epoch: int) -> dict[str, Any]:
    """A publication as one row of a W&B run: line charts, images and tables under names that can be typed.

    Args:
        publication: curves, pictures and tables.
        step: of the trainer's scalars of the same epoch; W&B's own step counts calls and stands for nothing.
        epoch: epochs finished or running, from 0.
    """
    import wandb

    entries: dict[str, Any] = {"trainer/global_step": step, "epoch": epoch}
    for name, lines in publication.curves.items():
        entries[f"curves/{typed(name)}"] = wandb.plot.line_series(
            xs=[line.x.tolist() for line in lines],
            ys=[line.y.tolist() for line in lines],
            keys=[plain(line.label) for line in lines],
            title=plain(f"{name}, epoch {epoch}"),
            xname=plain(lines[0].x_label),
        )
    # The slider of W&B's images counts calls, not steps: the caption says which step it was.
    for name, pictures in publication.pictures.items():
        entries[f"panels/{typed(name)}"] = [
            wandb.Image(picture.pixels, caption=plain(f"epoch {epoch}, step {step}: {picture.caption}"))
            for picture in pictures
        ]
    for name, table in publication.tables.items():
        entries[f"tables/{typed(name)}"] = wandb.Table(
            columns=[plain(column) for column in table.columns],
            data=[[plain(cell) if isinstance(cell, str) else cell for cell in row] for row in table.rows],
        )
    return entries


@rank_zero_only
def _say(line: str) -> None:
    tell(line)


def wandb_logger(
    run_dir: Path,
    settings: WandbSettings,
    *,
    config: Mapping[str, Any],
    run_id: str,
    resuming: bool,
    card: RunCard | None = None,
    fitting: bool = True,
) -> WandbSink | None:
    """Decide where W&B goes, say so in one line, and make the logger; it opens its run when first used.

    Args:
        run_dir: folder of the run; W&B's files go to ``wandb`` in it.
        settings: project, mode and so on; they go before the card.
        config: all settings of the run as plain data.
        run_id: id under which the run appears; a resumed run passes its old one.
        resuming: True if the run continues an earlier one.
        card: by what the run is found.
        fitting: True for a training.

    Returns:
        The logger, or None when W&B is disabled.

    Raises:
        ConfigError: mode ``online``, and not logged in or no answer from the server.
    """
    # Only rank zero asks, speaks and logs; the others hold an idle logger.
    mode, reason = decided(settings) or ("offline", "")
    sync = f"wandb sync {shlex.quote(os.fspath(run_dir))}/wandb/offline-run-*-{run_id}"
    if mode == "disabled":
        _say(f"Weights & Biases: disabled ({reason})")
        return None
    if mode == "offline":
        again = "; W&B keeps each part of a resumed run in a folder of its own" if resuming else ""
        _say(f"Weights & Biases: offline ({reason}); upload later with: {sync}{again}")
    else:
        _say(f"Weights & Biases: online, project {settings.project}, run {run_id}")
    import wandb

    card = card or RunCard()
    # Before wandb 0.27 an end waits until all is uploaded.
    end: dict[str, Any] = (
        {"finish_timeout": _FINISH_SECONDS} if "finish_timeout" in wandb.Settings.model_fields else {}
    )

    def said(own: str | None, found: str, most: int | None = _LONGEST_NAME) -> str | None:
        words = _lines(found if own is None else own)
        return words[:most] or None

    return WandbSink(
        offline=mode == "offline",
        layout=Layout(card.first, settings.charts),
        fitting=fitting,
        # W&B's service process takes a relative path from where it was started, not from here.
        save_dir=run_dir.absolute(),
        project=settings.project,
        name=said(settings.name, card.name),
        group=said(settings.group, card.group),
        job_type=said(settings.job_type, card.job_type),
        notes=said(settings.notes, card.notes, None),
        id=run_id,
        tags=[plain(tag)[:_LONGEST_TAG] for tag in dict.fromkeys((*settings.tags, *card.tags)) if tag],
        config=seen(dict(config)),
        mode=mode,
        # A run left open by whatever ran before in this process neither swallows this one's rows nor ends it.
        reinit="create_new",
        settings=wandb.Settings(silent=True, console="off", init_timeout=_INIT_SECONDS, **end),
    )
