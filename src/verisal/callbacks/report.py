"""Reports of the evaluations of task and callbacks: curves and panels in training, everything at the end."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from verisal.callbacks.explaining.publishing import (
    heatmaps_of,
    of_a_result,
    of_an_epoch,
    panels_of,
    step_and_epoch,
)
from verisal.pictures import write_png
from verisal.reporting import Picture, Publication, draw_curves, draw_histograms, draw_roc
from verisal.reporting.loggers import Outlets, folder_of
from verisal.reporting.publication import merge_evaluations
from verisal.reporting.report import RunFacts, installed_versions, print_results, write_report, write_samples
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
    those of attacked images once per run. After a test: ``figures/*.png``, ``report.json``, ``report.md``,
    ``samples.csv``, the main table on the terminal, and tables, curves and panels to all loggers. A
    ``validate`` run writes the same as ``report.val.json`` and so on, so that it never replaces the result of
    a test. Files come before loggers. :func:`.publish` says what each logger gets.

    Tasks and callbacks that are no :class:`.Evaluates`, or have no evaluation, are left alone.

    Args:
        run_dir: folder of the run; None for the one of the trainer's first logger, where Lightning keeps
            checkpoints, or without a logger the trainer's ``default_root_dir``.
        max_panels: panels of every kind that are drawn and sent at most.

    Attributes:
        folder: that of the run, known when a run begins.
        outlets: the loggers; knows which of them failed how often.
    """

    def __init__(self, run_dir: Path | None = None, *, max_panels: int = 8) -> None:
        super().__init__()
        check_range(0, max_panels=max_panels)
        self._run_dir = run_dir
        self.folder = Path() if run_dir is None else Path(run_dir)
        self.outlets = Outlets(self.folder)
        self._max_panels = max_panels
        self._panels_sent = False
        self._wall_times: dict[str, float] = {}
        self._started: dict[str, float] = {}
        self._loaded: tuple[int, int] | None = None

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
        """Start the clock."""
        self._started["fit"] = time.perf_counter()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._stop("fit")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started["validate"] = time.perf_counter()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started["test"] = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report a validation epoch, or the whole result of a ``validate`` run."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        evaluation = evaluation_of(trainer, pl_module)
        if evaluation is None:
            return
        if trainer.state.fn is not TrainerFn.FITTING:
            self._stop("validate")
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
        self._stop("test")
        evaluation = evaluation_of(trainer, pl_module)
        if evaluation is not None:
            self._report(trainer, evaluation, suffix="")

    def _report(self, trainer: Trainer, evaluation: Evaluation, *, suffix: str) -> None:
        run_dir = self.folder
        stem = f"report{suffix}"
        write_report(run_dir, evaluation, facts=self._facts(), stem=stem)
        if evaluation.samples:
            write_samples(run_dir / f"samples{suffix}.csv", evaluation.samples)
        panels, heatmaps = panels_of(evaluation, self._max_panels), heatmaps_of(evaluation)
        _draw(run_dir / "figures", evaluation, panels, heatmaps)
        print_results(evaluation)
        rank_zero_info(f"the report is {run_dir / stem}.md")
        self._publish(trainer, of_a_result(evaluation, panels | heatmaps))

    def _publish(self, trainer: Trainer, publication: Publication) -> None:
        step, epoch = step_and_epoch(trainer, self._loaded)
        self.outlets.publish(trainer.loggers, publication, step=step, epoch=epoch)

    def _facts(self) -> RunFacts:
        path = self.folder / "config.yaml"
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
        config: dict[str, Any] = dict(content) if isinstance(content, Mapping) else {}
        given = config.get("seed_everything", os.environ.get("PL_GLOBAL_SEED"))
        seed = int(given) if isinstance(given, int | str) and not isinstance(given, bool) else None
        return RunFacts(seed=seed, config=config, wall_times=self._wall_times, versions=installed_versions())

    def _stop(self, stage: str) -> None:
        if stage in self._started:
            self._wall_times[stage] = time.perf_counter() - self._started.pop(stage)


def _draw(
    folder: Path,
    evaluation: Evaluation,
    pictures: Mapping[str, tuple[Picture, ...]],
    heatmaps: Mapping[str, tuple[Picture, ...]],
) -> None:
    prefix = "" if evaluation.split == "test" else f"{evaluation.split}_"
    for name in dict.fromkeys(curve.figure for curve in evaluation.curves):
        curves = [curve for curve in evaluation.curves if curve.figure == name]
        path = folder / f"{prefix}{_file_name(name)}.png"
        if name.startswith("roc_"):
            attack = name.removeprefix("roc_")
            title = f"ROC against {attack} ({evaluation.split})"
            draw_roc(curves, path, legend=_auroc_legend(evaluation, attack), title=title)
        else:
            draw_curves(curves, path, legend={}, title=f"{name} ({evaluation.split})")
    for histogram in evaluation.histograms:
        if any(bool(torch.isfinite(scores).any()) for scores in histogram.groups.values()):
            title = f"{histogram.figure} ({evaluation.split})"
            draw_histograms(histogram, folder / f"{prefix}{_file_name(histogram.figure)}.png", title=title)
    for attack, shown in pictures.items():
        for number, picture in enumerate(shown):
            write_png(picture.pixels, folder / f"{prefix}panel_{_file_name(attack)}_{number}.png")
    for name, (picture,) in heatmaps.items():
        write_png(picture.pixels, folder / f"{prefix}{_file_name(name)}.png", colours=128)


def _auroc_legend(evaluation: Evaluation, attack: str) -> dict[str, str]:
    """Legend text of every detector that has an AUROC against the attack."""
    legend = {}
    for name, score in evaluation.scores.items():
        if (name.metric, name.part) == ("auroc", attack):
            legend[name.row] = f"{name.row}: AUROC {score.value:z.3f}{score.bracketed()}"
    return legend


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "unnamed"
