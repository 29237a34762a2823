"""Removal curves as metrics: their areas, the values per image and the mean curves."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, final

import torch
from torch import Tensor

from verisal.errors import ConfigError, DataError
from verisal.functional.baselines import Baseline, Blur, DatasetMean, LinearImputation
from verisal.functional.outputs import output_of
from verisal.functional.removal import (
    aopc,
    curve_area,
    normalised_curve_area,
    perturbation_curve,
    removal_scores,
)
from verisal.functional.removal.curves import Order, tied_share
from verisal.functional.statistics import Bootstrap, Resampled
from verisal.metrics._base import SaliencyMetric
from verisal.metrics._mean_curves import MeanCurve, mean_curves
from verisal.metrics._table import ImageRows
from verisal.results import Curve
from verisal.types import Explained, check_range

_ORDERS: Mapping[str, Order] = {"morf": "most_relevant_first", "lerf": "least_relevant_first"}
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
# Standard errors on either side of a mean that make its 95 % interval.
_WIDE = 1.96
_SURE, _KEPT = 0.5, 0.95
"""Mean probability of clean images, and its share kept by the baseline, from which a curve says little."""


class CurveMetric(SaliencyMetric, ABC):
    """A metric that keeps, beside its values, one or more curves of every image.

    Args:
        name: of the metric with its settings.
        values: names of the values per image, which are averaged into scores.
        curves: names of the curves.
        fractions: where the curves have their points.
    """

    needs = ("images", "classifier")

    def __init__(
        self, name: str, values: Sequence[str], *, curves: Sequence[str], fractions: Sequence[float]
    ) -> None:
        points = [f"{curve}_{index}" for curve in curves for index in range(len(fractions))]
        # Points are answers of a network, which are float32.
        super().__init__(name, [*values, *points], dtype=torch.float32, precise=len(values))
        self.values, self.curve_names, self.fractions = tuple(values), tuple(curves), tuple(fractions)

    def reduce(self, rows: Tensor, bootstrap: Bootstrap) -> Mapping[str, Resampled]:
        """Mean of every value over the images that count."""
        return {name: bootstrap.mean(column) for name, column in zip(self.values, rows.T, strict=False)}

    def curves(self, table: ImageRows | None = None) -> dict[str, MeanCurve]:
        """Mean curves by name. With several processes all must call, as for :meth:`compute`.

        Args:
            table: as of :meth:`missing`.

        Raises:
            DataError: no image was added.
        """
        rows = (self.table() if table is None else table).rows
        if not len(rows):
            raise DataError(f"{self.name}: no image was added before curves()")
        return mean_curves(rows[:, len(self.values) :], self.curve_names, self.fractions)

    def lines(self, label: str, table: ImageRows | None = None) -> list[Curve]:
        """Lines of the figures of a report; may be overridden. With several processes all must call.

        Their bands are 95 % intervals of the mean at every point, from 30 images on.

        Args:
            label: whose maps they are of.
            table: as of :meth:`missing`.
        """
        means = self.curves(table)
        shown = "shown" if "insertion" in means else "removed"
        return [
            Curve(
                self.name if len(means) == 1 else f"{self.name} {kind}",
                label,
                line.fractions,
                line.mean,
                f"share of pixels {shown}",
                f"mean {kind if kind == 'accuracy' else 'score of the query class'}",
                n=line.n,
                low=None if line.error is None else line.mean - _WIDE * line.error,
                high=None if line.error is None else line.mean + _WIDE * line.error,
            )
            for kind, line in means.items()
            if line.n
        ]


class _StepwiseCurve(CurveMetric, ABC):
    """Curves of the score of the query class over equal steps; arguments as of the metrics below."""

    clean_first = True

    def __init__(
        self,
        kind: str,
        values: Sequence[str],
        *,
        curves: Sequence[str],
        baseline: Baseline,
        steps: int,
        block_size: int,
        score: Literal["probability", "logit"],
        chunk_size: int,
    ) -> None:
        check_range(1, steps=steps, block_size=block_size, chunk_size=chunk_size)
        if score not in ("probability", "logit"):
            raise ConfigError(f"score must be 'probability' or 'logit', found {score!r}")
        unusual = [
            f"_steps{steps}" if steps != 64 else "",
            f"_block{block_size}" if block_size != 1 else "",
            f"_{score}" if score != "probability" else "",
        ]
        name = f"{kind}[{baseline.name}]" + "".join(unusual)
        fractions = [point / steps for point in range(steps + 1)]
        super().__init__(name, values, curves=curves, fractions=fractions)
        self.baseline, self.steps, self.block_size, self.chunk_size = baseline, steps, block_size, chunk_size
        self.score: Literal["probability", "logit"] = score
        self._in_units = False

    def line(
        self, explained: Explained, order: Order, direction: Literal["remove", "insert"] = "remove"
    ) -> tuple[Tensor, Tensor]:
        """Changed shares and scores of every image, ``(B, steps + 1)`` each."""
        self._in_units = self._in_units or output_of(explained.classifier) == "score"
        return perturbation_curve(
            explained.classifier,
            explained.images,
            explained.result.saliency,
            explained.query_class,
            baseline=self.baseline,
            order=order,
            direction=direction,
            steps=self.steps,
            block_size=self.block_size,
            score=self.score,
            chunk_size=self.chunk_size,
        )

    def caution(self, table: ImageRows | None = None) -> str:
        """A sentence if images that the baseline replaces altogether keep nearly all of their probability."""
        rows = (self.table() if table is None else table).rows
        curve = rows[:, len(self.values) : len(self.values) + len(self.fractions)]
        curve = curve[curve.isfinite().all(dim=1)].mean(dim=0)
        # Which end is the clean image depends on the kind; both are NaN where no image counts.
        clean, hidden = curve[[0, -1]].tolist() if self.clean_first else curve[[-1, 0]].tolist()
        # A number in units of its own may be far from 0 whatever is shown.
        if self._in_units or self.score != "probability" or not (clean >= _SURE and hidden >= _KEPT * clean):
            return ""
        return (
            f"{self.name}: images that {self.baseline.name} replaces altogether keep {hidden / clean:.2f} of"
            f" their score ({hidden:.3f} of {clean:.3f}), so this baseline hides next to nothing from the"
            " network and the curve says little; choose another one, such as one of recommended_baselines(),"
            " unless the network has hardly been trained yet"
        )

    def rows(self, explained: Explained, values: Mapping[str, Tensor], *lines: Tensor) -> Tensor:
        """Values and lines side by side, with the share of ties: NaN where the map could not be scored."""
        ties = tied_share(explained.result.saliency, block_size=self.block_size)
        values = {**values, "ties": ties.where(~lines[0][:, 0].isnan(), torch.nan)}
        return torch.cat([torch.stack([values[name].double() for name in self.values], dim=1), *lines], dim=1)


@final
class PerturbationCurve(_StepwiseCurve):
    """Area under the score of the query class while pixels are removed or shown.

    ``deletion`` and ``morf`` remove the most relevant pixels first (low is good), ``lerf`` the least relevant
    ones (high is good), ``insertion`` shows the most relevant ones on the baseline (high is good).

    Scores: ``auc``; ``aopc`` for ``deletion`` and ``morf``; ``normalised_auc`` where asked for;
    ``clean_score`` of the images as they are; ``ties``, the share of pixels whose place in the order says
    nothing. Images with a constant map, or one that is not finite, are undefined.

    Args:
        kind: which curve.
        baseline: what stands for removed pixels; None for ``Blur(sigma=5)`` in an insertion and the data
            set's mean elsewhere.
        steps: number of steps; the curve has one point more.
        block_size: side in pixels of the cells that are changed.
        score: probability or logit of the query class.
        normalised: also scale each image's curve so that the clean image scores 1 and the fully removed one
            0; undefined where they differ by less than 0.05.
        chunk_size: images per pass of the classifier; changes memory and speed only.

    Raises:
        ConfigError: a setting that is none of these.

    References:
        petsiuk2018rise, samek2017
    """

    def __init__(
        self,
        kind: Literal["insertion", "deletion", "morf", "lerf"] = "deletion",
        *,
        baseline: Baseline | None = None,
        steps: int = 64,
        block_size: int = 1,
        score: Literal["probability", "logit"] = "probability",
        normalised: bool = False,
        chunk_size: int = 32,
    ) -> None:
        if kind not in ("insertion", "deletion", "morf", "lerf"):
            raise ConfigError(f"kind must be insertion, deletion, morf or lerf, found {kind!r}")
        values = ["auc"]
        values += ["aopc"] if kind in ("deletion", "morf") else []
        values += ["normalised_auc"] if normalised else []
        super().__init__(
            kind,
            [*values, "clean_score", "ties"],
            curves=[kind],
            baseline=baseline or (Blur(sigma=5) if kind == "insertion" else DatasetMean()),
            steps=steps,
            block_size=block_size,
            score=score,
            chunk_size=chunk_size,
        )
        self.better = "high" if kind in ("insertion", "lerf") else "low"
        self.kind, self.normalised, self.clean_first = kind, normalised, kind != "insertion"

    def rows_of(self, explained: Explained) -> Tensor:
        """Values and curve of every image."""
        order = _ORDERS["lerf" if self.kind == "lerf" else "morf"]
        fractions, scores = self.line(explained, order, "insert" if self.kind == "insertion" else "remove")
        ends = scores[:, 0], scores[:, -1]
        clean, removed = ends[::-1] if self.kind == "insertion" else ends
        values = {
            "auc": curve_area(fractions, scores),
            "aopc": aopc(scores),
            "normalised_auc": normalised_curve_area(fractions, scores, clean=clean, removed=removed),
            "clean_score": clean,
        }
        return self.rows(explained, values, scores)


@final
class RelevanceGap(_StepwiseCurve):
    """Area between the curves that remove the least and the most relevant pixels first.

    Scores: ``gap`` = ``lerf_auc`` - ``morf_auc`` (high is good), both areas, ``aopc`` of the MoRF curve, and
    ``clean_score`` and ``ties`` as for :class:`PerturbationCurve`, whose arguments these are.

    Args:
        baseline: what stands for removed pixels; None for the data set's mean.
        steps: number of steps.
        block_size: side in pixels of the cells that are removed.
        score: probability or logit of the query class.
        chunk_size: images per pass of the classifier; changes memory and speed only.

    Raises:
        ConfigError: a setting that is none of these.

    References:
        samek2017
    """

    better = "high"

    def __init__(
        self,
        *,
        baseline: Baseline | None = None,
        steps: int = 64,
        block_size: int = 1,
        score: Literal["probability", "logit"] = "probability",
        chunk_size: int = 32,
    ) -> None:
        super().__init__(
            "relevance_gap",
            ["gap", "morf_auc", "lerf_auc", "aopc", "clean_score", "ties"],
            curves=["morf", "lerf"],
            baseline=baseline or DatasetMean(),
            steps=steps,
            block_size=block_size,
            score=score,
            chunk_size=chunk_size,
        )

    def rows_of(self, explained: Explained) -> Tensor:
        """Values and both curves of every image."""
        (_, morf), (_, lerf) = lines = [self.line(explained, order) for order in _ORDERS.values()]
        morf_area, lerf_area = (curve_area(*line) for line in lines)
        values = {
            "gap": lerf_area - morf_area,
            "morf_auc": morf_area,
            "lerf_auc": lerf_area,
            "aopc": aopc(morf),
            "clean_score": morf[:, 0],
        }
        return self.rows(explained, values, morf, lerf)


@final
class ROAD(CurveMetric):
    """Mean score of the query class when given shares of the pixels are imputed from the kept ones.

    Imputed pixels look like their surroundings, so that the shape of what was removed says little by itself.

    Scores: ``probability`` and ``accuracy`` (whether the query class is still predicted), both averaged over
    the shares (low is good for ``morf``, high for ``lerf``); ``ties``, the share of pixels whose place in the
    order says nothing. Images with a constant map, or one that is not finite, are undefined.

    Args:
        order: ``morf`` removes the most relevant pixels first, ``lerf`` the least relevant ones.
        baseline: what stands for removed pixels; None for noisy linear imputation.
        shares: of the pixels removed, in (0, 1), rising.
        chunk_size: images per pass of the classifier, and per solve of the imputation; changes memory and
            speed only.

    Raises:
        ConfigError: a setting that is none of these.

    References:
        rong2022road

    Differs from:
        rong2022road: no retraining variant; the clean image is not among the shares.
    """

    def __init__(
        self,
        order: Literal["morf", "lerf"] = "morf",
        *,
        baseline: Baseline | None = None,
        shares: Sequence[float] = _SHARES,
        chunk_size: int = 32,
    ) -> None:
        check_range(1, chunk_size=chunk_size)
        if order not in _ORDERS:
            raise ConfigError(f"order must be morf or lerf, found {order!r}")
        rising = all(first < second for first, second in pairwise(shares))
        if not shares or not rising or shares[0] <= 0 or shares[-1] >= 1:
            raise ConfigError(f"shares must rise within (0, 1), found {list(shares)}")
        self.baseline = baseline or LinearImputation()
        other = "" if tuple(shares) == _SHARES else "_shares" + "-".join(f"{100 * s:g}" for s in shares)
        super().__init__(
            f"road_{order}[{self.baseline.name}]{other}",
            ["probability", "accuracy", "ties"],
            curves=["probability", "accuracy"],
            fractions=shares,
        )
        self.better = "high" if order == "lerf" else "low"
        self.order, self.shares, self.chunk_size = order, tuple(shares), chunk_size

    def rows_of(self, explained: Explained) -> Tensor:
        """Values and both lines of every image."""
        maps = explained.result.saliency
        lines = removal_scores(
            explained.classifier,
            explained.images,
            maps,
            explained.query_class,
            baseline=self.baseline,
            shares=self.fractions,
            order=_ORDERS[self.order],
            chunk_size=self.chunk_size,
        )
        ties = tied_share(maps).double().where(~lines[0][:, 0].isnan(), torch.nan)
        means = [values.double().mean(dim=1) for values in lines]
        return torch.cat([torch.stack([*means, ties], dim=1), *lines], dim=1)
