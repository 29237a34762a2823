"""Any saliency methods by any metrics, and by perturbation curves with several baselines."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from itertools import combinations
from typing import Literal, final

import torch
from torch import Tensor

from verisal.callbacks.explaining.callback import ScoringCallback
from verisal.callbacks.explaining.epoch import Epoch, Seen, method_key
from verisal.callbacks.explaining.names import shown
from verisal.callbacks.explaining.rows import row_evaluation
from verisal.errors import ConfigError
from verisal.functional.baselines import Baseline, recommended_baselines
from verisal.functional.seeding import content_ids, derive_seed
from verisal.functional.statistics import Bootstrap, ranking_agreement
from verisal.metrics import (
    BandRemoval,
    CascadingRandomisation,
    CurveMetric,
    ImageRows,
    ImageTable,
    PerturbationCurve,
    SaliencyMetric,
)
from verisal.reporting.publication import merge_evaluations
from verisal.results import Curve, Evaluation, Score, ScoreName, Table
from verisal.saliency import CentrePrior, RandomMap, Saliency
from verisal.types import check_range

_COST = ("seconds", "forward", "backward")
_FEW_COLUMNS, _FEW_BASELINES = 8, 4
_EXAMPLES = 16
_ARROWS = {"high": " ↑", "low": " ↓", "": ""}
Kind = Literal["insertion", "deletion", "morf", "lerf"]


@dataclass(eq=False, repr=False)
class MetricsCallback(ScoringCallback, ABC):
    """Every metric of every method, with the cost of a map; :meth:`finish` may be extended."""

    @abstractmethod
    def metrics_of(self, name: str, epoch: Epoch) -> list[SaliencyMetric]:
        """Metrics of one method, which nobody else updates."""

    def values_of(self, metric: SaliencyMetric) -> Sequence[str]:
        """Columns of a metric that are kept in :attr:`kept` for what comes of several; may be overridden."""
        return ()

    def resampled(self, bootstrap: Bootstrap, image_ids: Sequence[str]) -> Bootstrap:
        """The bootstrap for a table with these rows, each of an image of its own; may be overridden."""
        return bootstrap

    def begin(self, epoch: Epoch) -> None:
        """Metrics of its own for every method."""
        super().begin(epoch)
        self.measured = {name: self.metrics_of(name, epoch) for name in self.by_name}
        self.kept: dict[str, dict[str, ImageRows]] = {}
        self._costs = {name: ImageTable(_COST).to(epoch.device) for name in self.by_name}
        for own in self.measured.values():
            for metric in own:
                metric.to(epoch.device)

    def add(self, epoch: Epoch, seen: Seen) -> None:
        """Rows of every method and metric, known or computed."""
        ids = seen.batch.image_ids
        for name, own in self.measured.items():
            method = self.by_name[name]
            keys = [_key(metric) for metric in own]
            wanted: dict[str, Callable[[], Tensor]] = {
                key: partial(_rows, metric, epoch, method, seen)
                for metric, key in zip(own, keys, strict=True)
                if key is not None
            }
            wanted["cost"] = partial(_cost, epoch, method, seen)
            known = epoch.rows(name, [method], seen.batch, wanted, objects=True)
            for metric, key in zip(own, keys, strict=True):
                rows = _rows(metric, epoch, method, seen) if key is None else known[key]
                metric.add_rows(ids, rows)
            self._costs[name].update(ids, known["cost"])
            epoch.step(name)

    def finish(self, epoch: Epoch) -> Evaluation | None:
        """Scores, curves and values per image of all methods."""
        split, bootstrap = epoch.split, self.bootstrap_in(epoch)
        curves: dict[tuple[str, str], Curve] = {}
        tables: dict[str, Table] = {}
        timings: dict[str, float] = {}
        counted = 0
        known: tuple[str, ...] = ()
        parts = []
        for name, own in self.measured.items():
            self.kept[name] = {}
            for metric in own:
                # One at a time: together they are much more than what is made of them.
                table = metric.table()
                # Of equal names one copy is kept.
                if table.image_ids == known:
                    table = ImageRows(known, table.kept)
                known = table.image_ids
                counted = len(table.image_ids)
                if not counted:
                    return None
                scores = metric.scores_of(table, self.resampled(bootstrap, table.image_ids))
                self._tell(epoch, name, metric, table)
                # Columns that are a score of the same name, or all of a metric with few; the rest is bulk.
                columns = {
                    column: table.kept[:, index].double()
                    for index, column in enumerate(metric.columns)
                    if len(metric.columns) <= _FEW_COLUMNS or column in scores
                }
                parts.append(
                    row_evaluation(
                        split, name, metric.name, scores, image_ids=table.image_ids, columns=columns
                    )
                )
                if isinstance(metric, CurveMetric):
                    # A control that is the same for every method is drawn once.
                    for line in metric.lines(name, table):
                        curves.setdefault((line.figure, line.label), line)
                if isinstance(metric, BandRemoval) and not metric.unscored(table):
                    tables[f"bands of {name}, {metric.name}"] = metric.ranking(table)
                if wanted := [metric.columns.index(column) for column in self.values_of(metric)]:
                    self.kept[name][metric.name] = ImageRows(table.image_ids, table.kept[:, wanted])
            seconds, *passes = self._costs[name].compute().rows.mean(dim=0).tolist()
            timings[f"{name}: seconds per image"] = seconds
            costs = {key: Score(value, n=counted) for key, value in zip(_COST[1:], passes, strict=True)}
            parts.append(row_evaluation(split, name, "network passes per map", costs))
        whole = Evaluation(
            split,
            {},
            counts={"explained images": counted},
            # Those of the methods first.
            curves=tuple(sorted(curves.values(), key=lambda line: line.label not in self.measured)),
            tables=tables,
            timings=timings,
        )
        return merge_evaluations([*parts, whole])

    def _tell(self, epoch: Epoch, name: str, metric: SaliencyMetric, table: ImageRows) -> None:
        """What could not be scored, and scores that say little: of every method together, and of its maps."""
        key = f"{metric.name} of {self.max_images or 'all'} images"
        epoch.notice(f"{key} missing", metric.missing(table, of="the predicted class"))
        # Of a whole image replaced, which is the same for all maps.
        epoch.notice(f"{key} caution", metric.caution(table))
        # Bands have a control of their own, random orders: the maps of the others know no bands.
        control = isinstance(metric, BandRemoval) and isinstance(self.by_name[name], (RandomMap, CentrePrior))
        unscored = "" if control else metric.unscored(table)
        epoch.notice(f"{name} {key} unscored", f"{name}: {unscored}" if unscored else "")


@final
@dataclass(eq=False, repr=False)
class SaliencyMetrics(MetricsCallback):
    """Scores the maps of every method by every metric; options as of :class:`ExplainingCallback`.

    Args:
        metrics: what is measured; their names and settings name the scores.
        randomisation_steps: re-initialise the network's layers in this many steps for
            :class:`.CascadingRandomisation` of every method; 0 leaves it out.

    Raises:
        ConfigError: settings out of range, something else than a metric, or two of one name.
    """

    metrics: Sequence[SaliencyMetric]
    _: KW_ONLY
    randomisation_steps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(0, randomisation_steps=self.randomisation_steps)
        check_metrics(self.metrics, fewest=0 if self.randomisation_steps else 1)

    @property
    def headline(self) -> Mapping[str, str]:
        """The main score of every metric."""
        own = {titled(metric): f"{metric.name}/{metric.main}" for metric in self.metrics}
        if steps := self.randomisation_steps:
            name = f"cascading_randomisation[{steps}]"
            own[name + _ARROWS["low"]] = f"{name}/spearman_{steps}"
        return own

    def metrics_of(self, name: str, epoch: Epoch) -> list[SaliencyMetric]:
        """Copies of all metrics, and the randomisation of the method."""
        own = [copy.deepcopy(metric) for metric in self.metrics]
        if self.randomisation_steps:
            images = epoch.samples(None, _EXAMPLES).images
            steps = self.randomisation_steps
            own.append(CascadingRandomisation(self.by_name[name], images, steps=steps, seed=self.seed))
        return own


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

    @property
    def headline(self) -> Mapping[str, str]:
        """Area of every kind of curve; with several baselines its mean over them and its range among them."""
        shown: dict[str, str] = {}
        for curves in self._kinds():
            name, title = curves[0].name, titled(curves[0])
            if len(curves) > 1:
                name, _ = _name_of_set(curves)
                title = name + _ARROWS[curves[0].better]
            shown[title] = f"{name}/auc"
            if len(curves) > 1:
                shown[f"{name} baseline range"] = f"{name}/baseline_range"
        return shown

    def metrics_of(self, name: str, epoch: Epoch) -> list[SaliencyMetric]:
        """Copies of all curves."""
        return [copy.deepcopy(curve) for curve in self.curves]

    def values_of(self, metric: SaliencyMetric) -> Sequence[str]:
        """Areas, of which there are means and rankings."""
        return ("auc",)

    def finish(self, epoch: Epoch) -> Evaluation | None:
        """Curves and areas, their means over baselines, and the agreement where there are intervals."""
        evaluation = super().finish(epoch)
        if evaluation is None:
            return None
        for curves in self._kinds():
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
        parts = [evaluation]
        for method in self.by_name:
            tables = [self.kept[method][curve.name] for curve in curves]
            areas = torch.stack([table.kept[:, 0] for table in tables])
            columns = {"auc": areas.mean(dim=0), "baseline_range": areas.amax(dim=0) - areas.amin(dim=0)}
            means, ids = self.means(epoch, columns), tables[0].image_ids
            parts.append(row_evaluation(epoch.split, method, name, means, image_ids=ids, columns=columns))
        note = f"{name}: mean area per image over {', '.join(members)}."
        whole = Evaluation(epoch.split, {}, notes=(note,))
        return merge_evaluations([*parts, whole]) or evaluation

    def _kinds(self) -> list[list[PerturbationCurve]]:
        """Curves of every kind, one per baseline."""
        kinds = dict.fromkeys(curve.kind for curve in self.curves)
        return [[curve for curve in self.curves if curve.kind == kind] for kind in kinds]

    def _agreement(self, epoch: Epoch) -> dict[ScoreName, Score]:
        controls = (RandomMap, CentrePrior)
        ranked = [name for name, method in self.by_name.items() if not isinstance(method, controls)]
        if not ranked:
            return {}
        areas = {}
        for curve in self.curves:
            rows = torch.stack([self.kept[name][curve.name].kept[:, 0] for name in ranked])
            areas[curve.name] = rows if curve.better == "high" else -rows
        bootstrap = self.bootstrap_in(epoch)
        return {
            ScoreName(epoch.split, name, "ranking_consistency", other): ranking_agreement(
                areas[name], areas[other], bootstrap
            )["kendall"]
            for name, other in combinations(areas, 2)
        }


def check_metrics(metrics: Sequence[SaliencyMetric], *, fewest: int = 1) -> None:
    """Raise unless these are a list of metrics, each of a name of its own, and at least so many.

    Raises:
        ConfigError: what is found in their place.
    """
    listed = metrics if isinstance(metrics, Sequence) else [metrics]
    wrong = [shown(metric) for metric in listed if not isinstance(metric, SaliencyMetric)]
    if wrong or listed is not metrics:
        raise ConfigError(
            "metrics must be a list of metrics of verisal.metrics, such as [PointingGame()], found"
            f" {wrong[0] if wrong else shown(metrics)}"
        )
    names = [metric.name for metric in metrics]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or len(names) < fewest:
        raise ConfigError(
            f"metrics must be at least one, each once; found {len(names)} metrics, twice {twice}"
        )


def _key(metric: SaliencyMetric) -> str | None:
    """What decides rows beside the explained method; None where it has no name, such as a function."""
    drawn = content_ids(metric.images) if isinstance(metric, CascadingRandomisation) else ()
    asked = [method_key(method) if isinstance(method, Saliency) else None for method in metric.asked]
    if None in asked:
        return None
    return " ".join([metric.name, f"{derive_seed(metric.seed, *drawn):x}", *map(str, asked)])


def _rows(metric: SaliencyMetric, epoch: Epoch, method: Saliency, seen: Seen) -> Tensor:
    return metric.measured(epoch.explained(method, seen))


def _cost(epoch: Epoch, method: Saliency, seen: Seen) -> Tensor:
    result, seconds = epoch.explain(method, seen.batch, seen.query_class)
    passes = torch.tensor([result.n_forward, result.n_backward], dtype=torch.float64)
    return torch.cat([seconds[:, None], passes.expand(len(seconds), 2)], dim=1)


def titled(metric: SaliencyMetric) -> str:
    """Name of a metric in the main table, with an arrow where one end is good."""
    return metric.name + _ARROWS[metric.better]


def _name_of_set(curves: Sequence[PerturbationCurve]) -> tuple[str, list[str]]:
    """Name of the mean over several baselines with all other settings of the curves, and the baselines'."""
    members = [curve.baseline.name for curve in curves]
    recommended = {baseline.name for baseline in recommended_baselines()}
    listed = "+".join(members) if len(members) <= _FEW_BASELINES else f"{len(members)} baselines"
    label = "recommended" if set(members) == recommended else listed
    return curves[0].name.replace(f"[{members[0]}]", f"[{label}]", 1), members
