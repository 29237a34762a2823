"""Reports of the evaluations of task and callbacks: curves and panels in training, everything at the end."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from verisal.callbacks.explaining.publishing import (
    heatmaps_of,
    of_a_result,
    of_an_epoch,
    panels_of,
    step_and_epoch,
)
from verisal.progress import at_work, doing, tell
from verisal.reporting import Publication
from verisal.reporting.drawn import draw_run
from verisal.reporting.facts import Clock, RunFacts, installed_versions, machine_words
from verisal.reporting.loggers import Outlets, folder_of
from verisal.reporting.printed import print_results
from verisal.reporting.publication import merge_evaluations
from verisal.reporting.report import write_report, write_samples
from verisal.results import Evaluates, Evaluation, MaskPanel, SaliencyPanel
from verisal.types import check_range


def evaluation_of(trainer: Trainer, module: LightningModule) -> Evaluation | None:
    """Evaluation of the task and all callbacks together; None where there is none."""
    owners = [module, *trainer.callbacks]  # type: ignore[attr-defined]
    evaluations = [owner.evaluation for owner in owners if isinstance(owner, Evaluates)]
    return merge_evaluations([evaluation for evaluation in evaluations if evaluation is not None])


@final
class ReportRun(Callback):
    """Hands the :class:`.Evaluation` of a task and of its callbacks to files and loggers.

    Rank zero alone does.

    After each validation epoch of a fit: one chart per figure name and the pictures of maps to all loggers,
    those of attacked images once per run. After a test: ``figures/*.png``, ``report.html`` (one file that can
    be sent), ``report.md``, ``report.json``, ``samples.csv``, tables, curves and panels to all loggers, and
    the main table on the terminal, once no bar can tear it. A ``validate`` run writes the same as
    ``report.val.html`` and so on, so that it never replaces the result of a test. Files come before loggers.
    :func:`.publish` says what each logger gets.

    Wall times in reports are those of the whole run: what comes before the training (imports, data, attacks)
    is its preparation.

    Tasks and callbacks that are no :class:`.Evaluates`, or have no evaluation, are left alone.

    Args:
        run_dir: folder of the run; None for the one of the trainer's first logger, where Lightning keeps
            checkpoints, or without a logger the trainer's ``default_root_dir``.
        max_panels: panels of every kind that are drawn and sent at most.
        command: that started the run, for the report; empty where there is none.
        began: when it was started, by ``time.perf_counter``; by default when this callback was made.

    Attributes:
        folder: that of the run, known when a run begins.
        outlets: the loggers; knows which of them failed how often.
    """

    def __init__(
        self,
        run_dir: Path | None = None,
        *,
        max_panels: int = 8,
        command: str = "",
        began: float | None = None,
    ) -> None:
        super().__init__()
        check_range(0, max_panels=max_panels, began=began)
        self._run_dir = run_dir
        self.folder = Path() if run_dir is None else Path(run_dir)
        self.outlets = Outlets(self.folder)
        self._max_panels = max_panels
        self._panels_sent = False
        self._command, self._clock = command, Clock(time.perf_counter() if began is None else began)
        self._loaded: tuple[int, int] | None = None
        self._told: tuple[Evaluation, str] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder."""
        if self._run_dir is None:
            own = Path(trainer.default_root_dir)
            found = folder_of(trainer.loggers[0], own) if trainer.loggers else own
            # Asked on every process, of which only the first knows a logger's run.
            self.folder = Path(trainer.strategy.broadcast(str(found)))
            self.outlets = Outlets(self.folder)

    def state_dict(self) -> dict[str, Any]:
        """True with ``panels_sent`` if a resumed run sends no more panels."""
        return {"panels_sent": self._panels_sent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
        self._panels_sent = bool(state_dict["panels_sent"])

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember step and epoch of a checkpoint: a trainer that only tests counts from 0."""
        if "epoch" in checkpoint:  # An export does not say.
            self._loaded = (int(checkpoint["global_step"]), int(checkpoint["epoch"]))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock of the preparation."""
        self._clock.count("preparation")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock of the fit."""
        self._clock.count("fit")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock of the preparation."""
        if trainer.state.fn is not TrainerFn.FITTING:
            self._clock.count("preparation")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock of the preparation."""
        self._clock.count("preparation")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report a validation epoch, or the whole result of a ``validate`` run."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        evaluation = evaluation_of(trainer, pl_module)
        if evaluation is None:
            return
        if trainer.state.fn is not TrainerFn.FITTING:
            self._clock.count("validate")
            self._report(trainer, evaluation, suffix=".val")
            return
        if self._panels_sent:
            maps = tuple(panel for panel in evaluation.panels if isinstance(panel, SaliencyPanel))
            evaluation = replace(evaluation, panels=maps)
        self._panels_sent |= any(isinstance(panel, MaskPanel) for panel in evaluation.panels)
        pictures = panels_of(evaluation, self._max_panels) | heatmaps_of(evaluation)
        self._publish(trainer, of_an_epoch(evaluation, pictures))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the whole result."""
        if not trainer.is_global_zero:
            return
        self._clock.count("test")
        evaluation = evaluation_of(trainer, pl_module)
        if evaluation is not None:
            self._report(trainer, evaluation, suffix="")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print the main table, where no bar of the trainer tears it any more."""
        if self._told is not None:
            evaluation, where = self._told
            self._told = None
            print_results(evaluation)
            tell(where)

    def _report(self, trainer: Trainer, evaluation: Evaluation, *, suffix: str) -> None:
        run_dir = self.folder
        stem = f"report{suffix}"
        # A trainer of one's own has its own bar.
        with doing("drawing figures and writing the report", shown=at_work()):
            panels, heatmaps = panels_of(evaluation, self._max_panels), heatmaps_of(evaluation)
            figures = draw_run(run_dir, evaluation, panels, heatmaps)
            self._clock.count("figures")
            write_report(run_dir, evaluation, facts=self._facts(trainer), stem=stem, figures=figures)
            if evaluation.samples:
                write_samples(run_dir / f"samples{suffix}.csv", evaluation.samples)
        self._told = (evaluation, f"report: {run_dir / stem}.html, as text {stem}.md")
        self._publish(trainer, of_a_result(evaluation, panels | heatmaps))

    def _publish(self, trainer: Trainer, publication: Publication) -> None:
        step, epoch = step_and_epoch(trainer, self._loaded)
        self.outlets.publish(trainer.loggers, publication, step=step, epoch=epoch)

    def _facts(self, trainer: Trainer) -> RunFacts:
        stage = trainer.state.fn.value if trainer.state.fn else ""
        # A later stage in the folder of a run has a file of its own.
        files = [self.folder / name for name in (f"config.{stage}.yaml", "config.yaml")]
        there = [file for file in files if file.exists()]
        name = max(there, key=lambda file: file.stat().st_mtime_ns).name if there else ""
        content = yaml.safe_load((self.folder / name).read_text(encoding="utf-8")) if name else {}
        config: dict[str, Any] = dict(content) if isinstance(content, Mapping) else {}
        given = config.get("seed_everything", os.environ.get("PL_GLOBAL_SEED"))
        seed = int(given) if isinstance(given, int | str) and not isinstance(given, bool) else None
        data = trainer.datamodule  # type: ignore[attr-defined]
        return RunFacts(
            seed=seed,
            config=config,
            wall_times=self._clock.times(),
            versions=installed_versions(),
            name=self.folder.resolve().name,
            task=type(trainer.lightning_module).__name__,
            data="" if data is None else type(data).__name__,
            command=self._command,
            config_file=name,
            machine=machine_words(_accelerator(trainer)),
            finished=time.strftime("%Y-%m-%d %H:%M"),
        )


def _accelerator(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return f"{trainer.world_size} x {name}" if trainer.world_size > 1 else name
