"""Perturbation curves of any methods with several baselines, and whether their rankings agree."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Literal, final

import torch

from verisal.callbacks._explaining import Context, ExplainingCallback, Part, Seen
from verisal.callbacks._metric_table import MetricTable
from verisal.callbacks._samples import add_samples
from verisal.errors import ConfigError
from verisal.functional.baselines import Baseline
from verisal.functional.baselines.random import recommended_baselines
from verisal.functional.statistics.intervals import bootstrap_mean
from verisal.functional.statistics.ranking import ranking_agreement
from verisal.metrics import PerturbationCurve
from verisal.results import Evaluation, Score
from verisal.saliency import CentrePrior, RandomMap, Saliency

__all__ = ["PerturbationCurves"]

_FEW = 4
Kind = Literal["insertion", "deletion", "morf", "lerf"]


@final
class PerturbationCurves(ExplainingCallback):
    """Mean curves and areas of every method, kind of curve and baseline; how far their rankings agree.

    With several baselines, each kind also has a metric for all of them, ``<kind>[recommended]``, or for a set
    of your own with the baselines' names joined by ``+``, of more than four with their number. Its ``auc`` is
    the mean area per image over the baselines, ``baseline_range`` the largest minus the smallest area of the
    image among them. An image that is undefined with one baseline is undefined there.

    ``ranking_consistency`` is Kendall's tau-b between the rankings of the methods, controls left out, by
    their areas under two settings; undefined for fewer than four methods. :class:`ExplainingCallback` says
    what holds for all.

    Args:
        methods: name to method.
        baselines: what stands for removed pixels; all kinds are run with all of them. None for
            :func:`.recommended_baselines`.
        kinds: of curves; ``morf`` is ``deletion`` under its other name.
        steps: of every curve.
        chunk_size: images per pass of the classifier; changes memory and speed only.
        every_n_epochs: in a fit, explain in every so manieth validation.
        max_images: at most so many images, a fixed subset drawn by seed; None for all.
        seed: of the subset, the controls and the intervals.
        resamples: bootstrap resamples of the intervals.

    Raises:
        ConfigError: settings out of range, or no or equal curves.
    """

    def __init__(
        self,
        methods: Mapping[str, Saliency],
        *,
        baselines: Sequence[Baseline] | None = None,
        kinds: Sequence[Kind] = ("insertion", "deletion", "lerf"),
        steps: int = 64,
        chunk_size: int = 64,
        every_n_epochs: int = 1,
        max_images: int | None = None,
        seed: int = 0,
        resamples: int = 2000,
    ) -> None:
        super().__init__(
            methods, every_n_epochs=every_n_epochs, max_images=max_images, seed=seed, resamples=resamples
        )
        used = recommended_baselines() if baselines is None else tuple(baselines)
        self.curves = tuple(
            PerturbationCurve(kind, baseline=baseline, steps=steps, chunk_size=chunk_size)
            for kind in kinds
            for baseline in used
        )
        names = {curve.name for curve in self.curves}
        if not names or len(names) < len(self.curves):
            raise ConfigError(
                "kinds and baselines must be at least one each, and all different;"
                f" found {list(kinds)} and {[baseline.name for baseline in used]}"
            )

    def part(self, context: Context) -> Part:
        """Curves of its own for every method."""
        own = {name: [copy.deepcopy(curve) for curve in self.curves] for name in context.methods}
        return _CurveTable(MetricTable(context, own), context, self.curves)


@final
class _CurveTable(Part):
    """The metrics' table, with the means over baselines and the agreement of rankings."""

    def __init__(self, table: MetricTable, context: Context, curves: Sequence[PerturbationCurve]) -> None:
        self._table, self._context, self._curves = table, context, curves
        kinds = dict.fromkeys(curve.kind for curve in curves)
        self._sets = [[curve for curve in curves if curve.kind == kind] for kind in kinds]

    def add(self, seen: Seen) -> None:
        """Rows of every method and curve."""
        self._table.add(seen)

    def evaluation(self) -> Evaluation | None:
        """The table's, the means over baselines, and the agreement where there are intervals."""
        found = self._table.evaluation()
        if found is None:
            return None
        for curves in self._sets:
            if len(curves) > 1:
                found = self._with_mean(found, curves)
        if not self._context.resamples:
            return found
        return replace(found, scores={**found.scores, **self._agreement()})

    def _with_mean(self, found: Evaluation, curves: Sequence[PerturbationCurve]) -> Evaluation:
        """Of all baselines of one kind of curve; it takes their place in the main table."""
        name, members = _name_of_set(curves)
        scores: dict[str, Score] = {}
        samples = {key: list(values) for key, values in found.samples.items()}
        for method in self._table.metrics:
            tables = [self._table.tables[method][curve.name] for curve in curves]
            areas = torch.stack([table.rows[:, _area(curves[0])] for table in tables])
            columns = {"auc": areas.mean(dim=0), "baseline_range": areas.amax(dim=0) - areas.amin(dim=0)}
            for key, values in columns.items():
                scores[f"{self._context.split}/{method}/{name}/{key}"] = bootstrap_mean(
                    values, resamples=self._context.resamples, seed=curves[0].seed
                )
                add_samples(samples, tables[0].image_ids, method, f"{name}/{key}", values)
        replaced = {f"{curve.name}/auc" for curve in curves}
        shown = {title: key for title, key in found.headline.items() if key not in replaced}
        arrow = "↑" if curves[0].better == "high" else "↓"
        return replace(
            found,
            scores={**found.scores, **scores},
            samples=samples,
            headline={
                **shown,
                f"{name} {arrow}": f"{name}/auc",
                f"{name} baseline range": f"{name}/baseline_range",
            },
            notes=(*found.notes, f"{name}: mean area per image over {', '.join(members)}."),
        )

    def _agreement(self) -> dict[str, Score]:
        controls = (RandomMap, CentrePrior)
        ranked = [name for name, one in self._context.methods.items() if not isinstance(one, controls)]
        areas = {}
        for curve in self._curves:
            sign = 1.0 if curve.better == "high" else -1.0
            rows = [self._table.tables[name][curve.name].rows[:, _area(curve)] for name in ranked]
            areas[curve.name] = sign * torch.stack(rows) if rows else torch.empty(0, 0)
        return {
            f"{self._context.split}/{one}/ranking_consistency/{two}": ranking_agreement(
                areas[one], areas[two], resamples=self._context.resamples, seed=self._context.seed
            )["kendall"]
            for one, two in combinations(areas, 2)
            if len(ranked)
        }


def _area(curve: PerturbationCurve) -> int:
    return curve.columns.index("auc")


def _name_of_set(curves: Sequence[PerturbationCurve]) -> tuple[str, list[str]]:
    """Name of the mean over several baselines with all other settings of the curves, and the baselines'."""
    members = [curve.baseline.name for curve in curves]
    recommended = {baseline.name for baseline in recommended_baselines()}
    listed = "+".join(members) if len(members) <= _FEW else f"{len(members)} baselines"
    label = "recommended" if set(members) == recommended else listed
    return curves[0].name.replace(f"[{members[0]}]", f"[{label}]", 1), members
