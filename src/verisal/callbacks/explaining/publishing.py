"""Evaluations as publications, and settings as plain data: what loggers get from callbacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from verisal.callbacks.explaining.names import LogsScores, snake_case, typed_columns
from verisal.fingerprint import settings_of
from verisal.metrics import SaliencyMetric
from verisal.reporting import Picture, Publication
from verisal.reporting.figures import heatmap_pixels, panel_pixels, saliency_panel_pixels
from verisal.reporting.loggers import Outlets
from verisal.reporting.printed import print_results
from verisal.reporting.publication import main_table, merge_evaluations
from verisal.reporting.report import result_table
from verisal.results import Curve, Evaluation, SaliencyPanel, typed

_MAX_POINTS = 200
_LONGEST = 200


def step_and_epoch(trainer: Trainer, loaded: tuple[int, int] | None) -> tuple[int, int]:
    """Step and epoch that a publication belongs to; the step is that of Lightning's scalars beside it.

    Args:
        trainer: that runs; one that only evaluates counts from 0.
        loaded: step and epoch of the checkpoint that is evaluated; None without one.
    """
    if trainer.state.fn is not TrainerFn.FITTING and loaded is not None:
        return loaded
    # Lightning logs a validation inside the loop that counts this, one less than ``global_step`` there.
    return trainer.fit_loop.epoch_loop._batches_that_stepped, trainer.current_epoch


def of_an_epoch(evaluation: Evaluation, pictures: Mapping[str, tuple[Picture, ...]]) -> Publication:
    """What is published after an epoch of a fit: curves, and pictures of the evaluation."""
    return Publication(by_figure(evaluation), pictures)


def of_a_result(evaluation: Evaluation, pictures: Mapping[str, tuple[Picture, ...]]) -> Publication:
    """What is published after a validate or test run, with the split before every name."""
    split = evaluation.split
    tables = {f"{split}_results": result_table(evaluation)}
    if (main := main_table(evaluation)) is not None:
        tables[f"{split}_main"] = main
    tables |= {f"{split}_{name}": table for name, table in evaluation.tables.items()}
    return Publication(
        {f"{split}_{name}": lines for name, lines in by_figure(evaluation).items()},
        {f"{split}_{name}": shown for name, shown in pictures.items()},
        tables,
    )


def by_figure(evaluation: Evaluation) -> dict[str, tuple[Curve, ...]]:
    """Curves of every figure, each of at most 200 points, both ends included: what a chart can show."""
    figures: dict[str, tuple[Curve, ...]] = {}
    for curve in evaluation.curves:
        kept = torch.linspace(0, len(curve.x) - 1, min(_MAX_POINTS, len(curve.x))).round().long()
        ticks = tuple(curve.ticks[place] for place in kept.tolist()) if curve.ticks else ()
        low, high = (None if end is None else end[kept] for end in (curve.low, curve.high))
        thinned = replace(curve, x=curve.x[kept], y=curve.y[kept], ticks=ticks, low=low, high=high)
        figures[curve.figure] = (*figures.get(curve.figure, ()), thinned)
    return figures


def panels_of(evaluation: Evaluation, most: int | None = None) -> dict[str, tuple[Picture, ...]]:
    """The first panels of every kind, drawn; None for all."""
    pictures: dict[str, list[Picture]] = {}
    for panel in evaluation.panels:
        if isinstance(panel, SaliencyPanel):
            kind, draw = panel.figure, partial(saliency_panel_pixels, panel)
        else:
            kind, draw = panel.attack, partial(panel_pixels, panel)
        own = pictures.setdefault(kind, [])
        if most is None or len(own) < most:
            own.append(Picture(draw(), f"{panel.image_id}: {panel.caption}"))
    return {name: tuple(shown) for name, shown in pictures.items() if shown}


def heatmaps_of(evaluation: Evaluation) -> dict[str, tuple[Picture, ...]]:
    """Tables of numbers, drawn."""
    return {
        heatmap.figure: (Picture(heatmap_pixels(heatmap), heatmap.title),) for heatmap in evaluation.heatmaps
    }


@final
class Publisher:
    """What the explaining callbacks of a run hand to its loggers together; rank zero alone does.

    Attributes:
        loaded: step and epoch of the checkpoint that is evaluated; None without one.
        failures: calls that failed so far, by the name of the logger's class.
    """

    def __init__(self) -> None:
        self.loaded: tuple[int, int] | None = None
        self._outlets: Outlets | None = None
        self._said = False

    @property
    def failures(self) -> Mapping[str, int]:
        """Calls that failed so far, by the name of the logger's class."""
        return {} if self._outlets is None else self._outlets.failures

    def configure(self, trainer: Trainer, callbacks: Sequence[LogsScores]) -> None:
        """Say the settings of all callbacks to the loggers."""
        if trainer.is_global_zero:
            self._of(trainer).configure(trainer.loggers, settings_of_callbacks(callbacks))

    def publish(self, trainer: Trainer, evaluations: Sequence[Evaluation]) -> None:
        """Hand evaluations to all loggers; print those of a validate or test run."""
        evaluation = merge_evaluations(evaluations)
        if evaluation is None or not trainer.is_global_zero:
            return
        fitting = trainer.state.fn is TrainerFn.FITTING
        if not fitting:
            print_results(evaluation)
        if not trainer.loggers:
            self._say_nowhere(evaluation)
            return
        pictures = panels_of(evaluation) | heatmaps_of(evaluation)
        publication = (of_an_epoch if fitting else of_a_result)(evaluation, pictures)
        step, epoch = step_and_epoch(trainer, self.loaded)
        self._of(trainer).publish(trainer.loggers, publication, step=step, epoch=epoch)

    def _of(self, trainer: Trainer) -> Outlets:
        folder = Path(trainer.default_root_dir) / "verisal"
        if self._outlets is None or self._outlets.folder != folder:
            self._outlets = Outlets(folder)
        return self._outlets

    def _say_nowhere(self, evaluation: Evaluation) -> None:
        if not self._said and (evaluation.curves or evaluation.panels or evaluation.heatmaps):
            self._said = True
            rank_zero_info(
                "the trainer has no logger for the curves and pictures of its explaining callbacks: each has"
                " them in its evaluation, and ReportRun() among the callbacks writes those of a validate or"
                " test run as files"
            )


def settings_of_callbacks(callbacks: Sequence[LogsScores]) -> dict[str, object]:
    """Settings of callbacks, their methods, metrics and baselines, as ``verisal/<callback>/<setting>``.

    Callbacks of one class are numbered.
    """
    found: dict[str, object] = {}
    kinds: list[str] = []
    for callback in callbacks:
        name = snake_case(type(callback).__name__)
        kinds.append(name)
        count = kinds.count(name)
        place = f"verisal/{name}" + (f"_{count}" if count > 1 else "")
        for setting, value in _settings(callback):
            found[f"{place}/{setting}"] = value
    return found


def _settings(callback: LogsScores) -> list[tuple[str, object]]:
    rows = [(f"methods/{typed(name)}", _words(method)) for name, method in callback.by_name.items()]
    names: list[str] = [item.name for item in fields(callback)] if is_dataclass(callback) else []
    for name in names:
        value = getattr(callback, name)
        if name == "methods":
            continue
        if isinstance(value, Sequence) and value and all(isinstance(one, SaliencyMetric) for one in value):
            columns = typed_columns(f"{metric.name}/{metric.main}" for metric in value)
            rows += [
                (f"{name}/{column}", _metric(metric))
                for column, metric in zip(columns.values(), value, strict=True)
            ]
        elif value is not None:
            rows.append((name, _words(value)))
    return rows


def _metric(metric: SaliencyMetric) -> str:
    return f"{metric.name}, seed {metric.seed}"


def _words(value: object) -> object:
    """Numbers as they are; anything else as one short text."""
    if isinstance(value, bool | int | float):
        return value
    text = _text(settings_of(value))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _text(settings: Any) -> str:  # noqa: ANN401 - plain data of any shape, and whatever is no plain data
    if isinstance(settings, Mapping):
        inner = [f"{name}={_text(value)}" for name, value in settings.items() if name != "class"]
        return f"{settings['class']}({', '.join(inner)})" if "class" in settings else ", ".join(inner)
    if isinstance(settings, list | tuple):
        return f"[{', '.join(map(_text, settings))}]"
    if settings is None or isinstance(settings, str | int | float):
        return str(settings)
    return type(settings).__name__
