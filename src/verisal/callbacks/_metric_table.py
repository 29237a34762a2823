"""Methods by metrics: rows per image, gathered, reduced and named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import final

import torch
from torch import Tensor

from verisal.callbacks._explaining import Context, Part, Seen
from verisal.callbacks._samples import add_samples, no_samples
from verisal.functional.seeding import content_ids, derive_seed
from verisal.metrics import CascadingRandomisation, CurveMetric, ImageRows, ImageTable, SaliencyMetric
from verisal.results import Curve, Evaluation, Score
from verisal.types import Explained

__all__ = ["MetricTable"]

_COST = ("seconds", "forward", "backward")
_FEW = 8


@final
class MetricTable(Part):
    """Every metric of every method.

    Args:
        context: of the epoch.
        metrics: method to metrics of its own, which nobody else updates.
    """

    def __init__(self, context: Context, metrics: Mapping[str, Sequence[SaliencyMetric]]) -> None:
        self.context, self.metrics = context, metrics
        self._costs = {name: ImageTable(_COST).to(context.device) for name in metrics}
        for own in metrics.values():
            for metric in own:
                metric.resamples = context.resamples
                metric.to(context.device)
        self.tables: dict[str, dict[str, ImageRows]] = {}

    def add(self, seen: Seen) -> None:
        """Rows of every method and metric, known or computed."""
        batch = seen.batch
        for name, own in self.metrics.items():

            @cache
            def explained(name: str = name) -> tuple[Explained, Tensor]:
                result, seconds = self.context.explain(name, seen)
                return self.context.explained(name, seen, result), seconds

            wanted: dict[str, Callable[[], Tensor]] = {
                _key(metric): partial(_rows, metric, explained) for metric in own
            }
            wanted["cost"] = partial(_cost, explained)
            found = self.context.store.rows(
                name,
                self.context.methods[name],
                batch.images,
                image_ids=batch.image_ids,
                wanted=wanted,
                annotated=batch,
            )
            for metric in own:
                metric.add_rows(batch.image_ids, found[_key(metric)])
            self._costs[name].update(batch.image_ids, found["cost"])
            self.context.session.step(name)

    def evaluation(self) -> Evaluation | None:
        """Scores, curves and per-image values of all methods."""
        scores: dict[str, Score] = {}
        curves: list[Curve] = []
        timings: dict[str, float] = {}
        headline: dict[str, str] = {}
        samples = no_samples()
        counted = 0
        for name, own in self.metrics.items():
            self.tables[name] = {}
            for metric in own:
                table = metric.table()
                self.tables[name][metric.name] = table
                counted = len(table.image_ids)
                if not counted:
                    return None
                found = metric.scores_of(table)
                scores |= {
                    f"{self.context.split}/{name}/{metric.name}/{key}": one for key, one in found.items()
                }
                headline.setdefault(_title(metric), f"{metric.name}/{_main(metric, found)}")
                _append_samples(samples, name, metric, table, found)
                if isinstance(metric, CurveMetric):
                    curves += _curves(name, metric)
            cost = self._costs[name].compute().rows.mean(dim=0)
            timings[f"{name}: seconds per image"] = float(cost[0])
            for key, value in zip(_COST[1:], cost[1:].tolist(), strict=True):
                scores[f"{self.context.split}/{name}/network passes per map/{key}"] = Score(
                    value, torch.nan, torch.nan, n=counted
                )
        return Evaluation(
            self.context.split,
            scores,
            counts={"explained images": counted},
            curves=tuple(curves),
            samples=samples,
            timings=timings,
            headline=headline,
        )


def _key(metric: SaliencyMetric) -> str:
    drawn = content_ids(metric.images) if isinstance(metric, CascadingRandomisation) else ()
    return f"{metric.name} {derive_seed(metric.seed, *drawn):x}"


def _rows(metric: SaliencyMetric, explained: Callable[[], tuple[Explained, Tensor]]) -> Tensor:
    return metric.rows_of(explained()[0])


def _cost(explained: Callable[[], tuple[Explained, Tensor]]) -> Tensor:
    found, seconds = explained()
    rows = torch.zeros(len(seconds), len(_COST), dtype=torch.float64)
    rows[:, 0] = seconds
    rows[:, 1], rows[:, 2] = found.result.n_forward, found.result.n_backward
    return rows


def _main(metric: SaliencyMetric, found: Mapping[str, Score]) -> str:
    """The first score, or the last of numbered steps."""
    first = next(iter(found))
    stem, _, number = first.rpartition("_")
    steps = [key for key in found if key.rpartition("_")[0] == stem] if number == "1" else [first]
    return steps[-1]


def _title(metric: SaliencyMetric) -> str:
    return metric.name + {"high": " ↑", "low": " ↓", "": ""}[metric.better]


def _append_samples(
    samples: Mapping[str, list[object]],
    name: str,
    metric: SaliencyMetric,
    table: ImageRows,
    found: Mapping[str, Score],
) -> None:
    """Columns that are a score of the same name, or all of a metric with few; the rest is bulk."""
    few = len(metric.columns) <= _FEW
    for index, column in enumerate(metric.columns):
        if few or column in found:
            add_samples(samples, table.image_ids, name, f"{metric.name}/{column}", table.rows[:, index])


def _curves(name: str, metric: CurveMetric) -> list[Curve]:
    lines = metric.curves()
    shown = "shown" if "insertion" in lines else "removed"
    return [
        Curve(
            metric.name if len(lines) == 1 else f"{metric.name} {kind}",
            name,
            line.fractions,
            line.mean,
            f"share of pixels {shown}",
            f"mean {kind if kind == 'accuracy' else 'score of the query class'} ({line.n} images)",
        )
        for kind, line in lines.items()
        if line.n
    ]
