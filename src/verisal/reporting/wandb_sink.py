"""Weights & Biases beside the CSV files: decided before the run starts, without a prompt, never fatal."""

from __future__ import annotations

import os
import shlex
import threading
import urllib.error
import urllib.request
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, final

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from verisal._checks import as_tuples
from verisal.errors import ConfigError
from verisal.progress import tell
from verisal.reporting.publication import Publication, Sink
from verisal.results import typed

_REACH_SECONDS = 3.0
_INIT_SECONDS = 30.0
_FINISH_SECONDS = 120.0
# Values of the variable WANDB_MODE.
_MODES: Final[dict[str, Literal["online", "offline", "disabled"]]] = {
    "online": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}


@dataclass(frozen=True)
class WandbSettings:
    """Settings of logging to Weights & Biases.

    Attributes:
        project: project name.
        name: display name of the run; W&B invents one when None.
        mode: ``auto`` goes online when logged in and the server answers, offline otherwise; ``online`` is an
            error where that fails; ``offline`` writes files for a later ``wandb sync``; ``disabled`` logs
            nothing. With ``auto`` the variable ``WANDB_MODE`` decides when it is set.
        tags: tags of the run.
    """

    project: str = "verisal"
    name: str | None = None
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        as_tuples(self)


@final
class WandbSink(WandbLogger, Sink):
    """Lightning's ``WandbLogger`` whose failures are caught, counted and warned of once.

    Whatever fails after construction (no answer, a dead service process, a full disk) costs the rows of that
    call in W&B and nothing else: the CSV files have them.

    Attributes:
        failures: calls that failed so far.
    """

    def __init__(self, *, offline: bool, **settings: Any) -> None:  # noqa: ANN401 - handed to W&B as they are
        super().__init__(offline=offline, **settings)
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
        """Send scalars, with ``trainer/global_step`` inside."""
        entries: dict[str, Any] = dict(metrics)
        if step is not None:
            entries["trainer/global_step"] = step
        self._guarded(lambda: self.experiment.log(entries))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: object, **__: object) -> None:
        """Nothing: the run was opened with the whole configuration."""

    @rank_zero_only
    def publish(self, publication: Publication, *, step: int, epoch: int) -> None:
        """Send all curves, pictures and tables of one hook in one call, so that they share one step."""
        self._guarded(lambda: self._publish(publication, step, epoch))

    @rank_zero_only
    def close(self) -> None:
        """End the run and wait for its uploads, at most two minutes; a later call opens it again."""
        run, self._experiment = self._experiment, None
        if run is not None:
            self._guarded(lambda: run.finish())

    def _publish(self, publication: Publication, step: int, epoch: int) -> None:
        self.experiment.log(wandb_entries(publication, step=step, epoch=epoch))

    def _opened(self) -> Any:  # noqa: ANN401 - W&B's run
        import wandb

        try:
            (Path(str(self.save_dir)) / "wandb").mkdir(parents=True, exist_ok=True)
            run = wandb.init(**self._wandb_init)
            run.define_metric("trainer/global_step")
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
            keys=[line.label for line in lines],
            title=f"{name}, epoch {epoch}",
            xname=lines[0].x_label,
        )
    # The slider of W&B's images counts calls, not steps: the caption says which step it was.
    for name, pictures in publication.pictures.items():
        entries[f"panels/{typed(name)}"] = [
            wandb.Image(picture.pixels, caption=f"epoch {epoch}, step {step}: {picture.caption}")
            for picture in pictures
        ]
    for name, table in publication.tables.items():
        entries[f"tables/{typed(name)}"] = wandb.Table(
            columns=list(table.columns), data=[list(row) for row in table.rows]
        )
    return entries


@rank_zero_only
def wandb_logger(
    run_dir: Path, settings: WandbSettings, *, config: Mapping[str, Any], run_id: str, resuming: bool
) -> WandbSink | None:
    """Decide where W&B goes, say so in one line, and make the logger; it opens its run when first used.

    Args:
        run_dir: folder of the run; W&B's files go to ``wandb`` in it.
        settings: project, name, mode and tags.
        config: all settings of the run as plain data.
        run_id: id under which the run appears; a resumed run passes its old one.
        resuming: True if the run continues an earlier one.

    Returns:
        The logger, or None when W&B is disabled.

    Raises:
        ConfigError: mode ``online``, and not logged in or no answer from the server.
    """
    # Only rank zero asks, speaks and logs; the others hold an idle logger.
    mode, reason = _decided(settings) or ("offline", "")
    sync = f"wandb sync {shlex.quote(os.fspath(run_dir))}/wandb/offline-run-*-{run_id}"
    if mode == "disabled":
        tell(f"Weights & Biases: disabled ({reason})")
        return None
    if mode == "offline":
        again = "; W&B keeps each part of a resumed run in a folder of its own" if resuming else ""
        tell(f"Weights & Biases: offline ({reason}); upload later with: {sync}{again}")
    else:
        tell(f"Weights & Biases: online, project {settings.project}, run {run_id}")
    import wandb

    return WandbSink(
        offline=mode == "offline",
        # W&B's service process takes a relative path from where it was started, not from here.
        save_dir=run_dir.absolute(),
        project=settings.project,
        name=settings.name,
        id=run_id,
        tags=list(settings.tags),
        config=dict(config),
        mode=mode,
        # A run left open by whatever ran before in this process neither swallows this one's rows nor ends it.
        reinit="create_new",
        settings=wandb.Settings(
            silent=True, console="off", init_timeout=_INIT_SECONDS, finish_timeout=_FINISH_SECONDS
        ),
    )


@rank_zero_only
def _decided(settings: WandbSettings) -> tuple[Literal["online", "offline", "disabled"], str]:
    asked, reason = settings.mode, "as configured"
    if asked == "auto":
        wish = os.environ.get("WANDB_MODE", "")
        if wish in _MODES:
            asked, reason = _MODES[wish], f"WANDB_MODE={wish}"
    if asked in ("offline", "disabled"):
        return asked, reason
    problem = _login_problem() or _reach_problem()
    if problem is None:
        return "online", reason
    if settings.mode == "online":
        raise ConfigError(
            f"Weights & Biases: mode is online, but {problem}; run `wandb login`, check the network,"
            " or set the mode to auto or offline"
        )
    return "offline", problem


def _login_problem() -> str | None:
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True))
    try:
        known = wandb.login(prompt=False, verify=False)
    except Exception as error:
        return f"login failed: {error}"
    return None if known else "not logged in"


def _reach_problem() -> str | None:
    """Ask the server for its health, in a thread: a name look-up without network has no time limit."""
    import wandb

    address = wandb.setup().settings.base_url
    answers: list[str | None] = []
    thread = threading.Thread(target=lambda: answers.append(_ask(address)), daemon=True)
    thread.start()
    thread.join(_REACH_SECONDS + 0.5)
    return answers[0] if answers else f"no answer from {address} in {_REACH_SECONDS:.0f} s"


def _ask(address: str) -> str | None:
    if not address.startswith(("http://", "https://")):
        return f"server address {address!r} is not http(s)"
    try:
        urllib.request.urlopen(f"{address}/healthz", timeout=_REACH_SECONDS).close()  # noqa: S310 - checked above
    except urllib.error.HTTPError:
        return None  # It answered, which is all that is asked.
    except OSError as error:
        return f"no answer from {address} ({getattr(error, 'reason', error)})"
    return None
