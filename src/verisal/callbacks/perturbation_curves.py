"""Perturbation curves of any methods with several baselines, and whether their rankings agree."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from itertools import combinations
from typing import Literal, final

import torch

from verisal.callbacks._epoch import Epoch
from verisal.callbacks._explaining import row_evaluation
from verisal.callbacks.saliency_metrics import MetricsCallback
from verisal.errors import ConfigError
from verisal.functional.baselines import Baseline
from verisal.functional.baselines.random import recommended_baselines
from verisal.functional.statistics.ranking import ranking_agreement
from verisal.metrics import PerturbationCurve, SaliencyMetric
from verisal.reporting import merge_evaluations
from verisal.results import Evaluation, Score, ScoreName
from verisal.saliency import CentrePrior, RandomMap

_FEW = 4
Kind = Literal["insertion", "deletion", "morf", "lerf"]


@final
@dataclass(eq=False, repr=False)
class PerturbationCurves(MetricsCallback):
    """Mean curves and areas of every method, kind of curve and baseline; how far their rankings agree.

    With several baselines, each kind also has a metric for all of them, ``<kind>[recommended]``, or for a set
    of your own with the baselines' names joined by ``+``, of more than four with their number. Its ``auc`` is
    the mean area per image over the baselines, ``baseline_range`` the largest minus the smallest area of the
    image among them. An image that is undefined with one baseline is undefined there.

    ``ranking_consistency`` is Kendall's tau-b between the rankings of the methods, controls left out, by
    their areas under two settings; undefined for fewer than four methods. Options as of
    :class:`ExplainingCallback`.

    Args:
        baselines: what stands for removed pixels; all kinds are run with all of them. None for
            :func:`.recommended_baselines`.
        kinds: of curves; ``morf`` is ``deletion`` under its other name.
        steps: of every curve.
        chunk_size: images per pass of the classifier; changes memory and speed only.

    Raises:
        ConfigError: settings out of range, or no or equal curves.
    """

    _: KW_ONLY
    baselines: Sequence[Baseline] | None = None
    kinds: Sequence[Kind] = ("insertion", "deletion", "lerf")
    steps: int = 64
    chunk_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        used = recommended_baselines() if self.baselines is None else tuple(self.baselines)
        self.curves = tuple(
            PerturbationCurve(kind, baseline=baseline, steps=self.steps, chunk_size=self.chunk_size)
            for kind in self.kinds
            for baseline in used
        )
        names = {curve.name for curve in self.curves}
        if not names or len(names) < len(self.curves):
            raise ConfigError(
                "kinds and baselines must be at least one each, and all different;"
                f" found {list(self.kinds)} and {[baseline.name for baseline in used]}"
            )

    def metrics_of(self, name: str, epoch: Epoch) -> list[SaliencyMetric]:
        """Copies of all curves."""
        return [copy.deepcopy(curve) for curve in self.curves]

    def finish(self, epoch: Epoch) -> Evaluation | None:
        """Curves and areas, their means over baselines, and the agreement where there are intervals."""
        evaluation = super().finish(epoch)
        if evaluation is None:
            return None
        for kind in dict.fromkeys(curve.kind for curve in self.curves):
            curves = [curve for curve in self.curves if curve.kind == kind]
            if len(curves) > 1:
                evaluation = self._with_mean(epoch, evaluation, curves)
        if epoch.fitting or not self.resamples:
            return evaluation
        return replace(evaluation, scores={**evaluation.scores, **self._agreement(epoch)})

    def _with_mean(
        self, epoch: Epoch, evaluation: Evaluation, curves: Sequence[PerturbationCurve]
    ) -> Evaluation:
        """Add the mean over all baselines of one kind of curve, which takes their place in the main table."""
        name, members = _name_of_set(curves)
        replaced = {f"{curve.name}/auc" for curve in curves}
        shown = {title: key for title, key in evaluation.headline.items() if key not in replaced}
        parts = [replace(evaluation, headline=shown)]
        for method in self.methods:
            tables = [self.tables[method][curve.name] for curve in curves]
            areas = torch.stack([table.rows[:, _area(curves[0])] for table in tables])
            columns = {"auc": areas.mean(dim=0), "baseline_range": areas.amax(dim=0) - areas.amin(dim=0)}
            means, ids = self.means(epoch, columns), tables[0].image_ids
            parts.append(row_evaluation(epoch.split, method, name, means, image_ids=ids, columns=columns))
        arrow = "↑" if curves[0].better == "high" else "↓"
        headline = {f"{name} {arrow}": f"{name}/auc", f"{name} baseline range": f"{name}/baseline_range"}
        note = f"{name}: mean area per image over {', '.join(members)}."
        whole = Evaluation(epoch.split, {}, headline=headline, notes=(note,))
        return merge_evaluations([*parts, whole]) or evaluation

    def _agreement(self, epoch: Epoch) -> dict[ScoreName, Score]:
        controls = (RandomMap, CentrePrior)
        ranked = [name for name, method in self.methods.items() if not isinstance(method, controls)]
        if not ranked:
            return {}
        areas = {}
        for curve in self.curves:
            rows = torch.stack([self.tables[name][curve.name].rows[:, _area(curve)] for name in ranked])
            areas[curve.name] = rows if curve.better == "high" else -rows
        bootstrap = self.bootstrap_in(epoch)
        return {
            ScoreName(epoch.split, one, "ranking_consistency", two): ranking_agreement(
                areas[one], areas[two], bootstrap
            )["kendall"]
            for one, two in combinations(areas, 2)
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
