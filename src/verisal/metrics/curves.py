"""Perturbation curves as metrics: the areas, the per-image values and the mean curves."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from verisal.errors import ConfigError, DataError
from verisal.functional.baselines import Baseline, Blur, DatasetMean
from verisal.functional.removal.curves import (
    Order,
    aopc,
    curve_area,
    normalised_curve_area,
    perturbation_curve,
    tied_share,
)
from verisal.functional.statistics.resampled import Bootstrap, Resampled
from verisal.metrics._base import SaliencyMetric
from verisal.types import Explained

__all__ = ["CurveMetric", "MeanCurve", "PerturbationCurve", "RelevanceGap"]

_ORDERS: Mapping[str, Order] = {"morf": "most_relevant_first", "lerf": "least_relevant_first"}


@dataclass(frozen=True)
class MeanCurve:
    """One curve, averaged over the images that counted.

    Attributes:
        fractions: ``(N,)`` float64, share of the pixels that were changed, as asked for. Areas are computed
            with each image's own shares, which are whole pixels and thus within half a pixel of these.
        mean: ``(N,)`` float64.
        n: number of images.
    """

    fractions: Tensor
    mean: Tensor
    n: int


class CurveMetric(SaliencyMetric, ABC):
    """A metric that keeps, beside its values, one or more curves of every image.

    Args:
        name: of the metric with its settings.
        values: names of the values per image, which are averaged into scores.
        curves: names of the curves.
        fractions: where the curves have their points.
        resamples: bootstrap resamples of the intervals; 0 for none.
        seed: of the resampling.
    """

    def __init__(
        self,
        name: str,
        values: Sequence[str],
        *,
        curves: Sequence[str],
        fractions: Sequence[float],
        resamples: int,
        seed: int,
    ) -> None:
        points = [f"{curve}_{index}" for curve in curves for index in range(len(fractions))]
        super().__init__(name, [*values, *points], resamples=resamples, seed=seed)
        self.values, self.curve_names, self.fractions = tuple(values), tuple(curves), tuple(fractions)

    def reduce(self, rows: Tensor, bootstrap: Bootstrap) -> Mapping[str, Resampled]:
        """Mean of every value over the images that count."""
        return {name: bootstrap.mean(column) for name, column in zip(self.values, rows.T, strict=False)}

    def curves(self) -> dict[str, MeanCurve]:
        """Mean curves by name. With several processes all must call, as for :meth:`compute`.

        Raises:
            DataError: no image was added.
        """
        rows = self.table().rows
        if not len(rows):
            raise DataError(f"{self.name}: no image was added before curves()")
        lines = rows[:, len(self.values) :].view(len(rows), len(self.curve_names), len(self.fractions))
        fractions = torch.tensor(self.fractions, dtype=torch.float64)
        found = {}
        for index, name in enumerate(self.curve_names):
            line = lines[:, index]
            defined = line[line.isfinite().all(dim=1)]
            found[name] = MeanCurve(fractions, defined.mean(dim=0), len(defined))
        return found


@final
class PerturbationCurve(CurveMetric):
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
        resamples: bootstrap resamples of the intervals; 0 for none.
        seed: of the resampling.

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
        resamples: int = 2000,
        seed: int = 0,
    ) -> None:
        if kind not in ("insertion", "deletion", "morf", "lerf"):
            raise ConfigError(f"kind must be insertion, deletion, morf or lerf, found {kind!r}")
        _check_settings(steps, block_size, score, chunk_size)
        self.baseline = baseline or (Blur(sigma=5) if kind == "insertion" else DatasetMean())
        values = ["auc", "clean_score", "ties"]
        if normalised:
            values.insert(1, "normalised_auc")
        if kind in ("deletion", "morf"):
            values.insert(1, "aopc")
        super().__init__(
            _named(kind, self.baseline, steps, block_size, score),
            values,
            curves=[kind],
            fractions=[point / steps for point in range(steps + 1)],
            resamples=resamples,
            seed=seed,
        )
        self.better = "high" if kind in ("insertion", "lerf") else "low"
        self.kind, self.steps, self.block_size = kind, steps, block_size
        self.score: Literal["probability", "logit"] = score
        self.chunk_size = chunk_size

    def rows_of(self, explained: Explained) -> Tensor:
        """Values and curve of every image."""
        maps = explained.result.saliency
        fractions, scores = perturbation_curve(
            explained.classifier,
            explained.images,
            maps,
            explained.query_class,
            baseline=self.baseline,
            order="least_relevant_first" if self.kind == "lerf" else "most_relevant_first",
            direction="insert" if self.kind == "insertion" else "remove",
            steps=self.steps,
            block_size=self.block_size,
            score=self.score,
            chunk_size=self.chunk_size,
        )
        ends = scores[:, 0], scores[:, -1]
        clean, removed = ends[::-1] if self.kind == "insertion" else ends
        found = {
            "auc": curve_area(fractions, scores),
            "aopc": aopc(scores),
            "normalised_auc": normalised_curve_area(fractions, scores, clean=clean, removed=removed),
            "clean_score": clean,
            "ties": _ties(maps, scores, self.block_size),
        }
        return torch.cat([torch.stack([found[name].double() for name in self.values], dim=1), scores], dim=1)


@final
class RelevanceGap(CurveMetric):
    """Area between the curves that remove the least and the most relevant pixels first.

    Scores: ``gap`` = ``lerf_auc`` - ``morf_auc`` (high is good), both areas, ``aopc`` of the MoRF curve, and
    ``clean_score`` and ``ties`` as for :class:`PerturbationCurve`, whose arguments these are.

    Args:
        baseline: what stands for removed pixels; None for the data set's mean.
        steps: number of steps.
        block_size: side in pixels of the cells that are removed.
        score: probability or logit of the query class.
        chunk_size: images per pass of the classifier; changes memory and speed only.
        resamples: bootstrap resamples of the intervals; 0 for none.
        seed: of the resampling.

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
        resamples: int = 2000,
        seed: int = 0,
    ) -> None:
        _check_settings(steps, block_size, score, chunk_size)
        self.baseline = baseline or DatasetMean()
        super().__init__(
            _named("relevance_gap", self.baseline, steps, block_size, score),
            ["gap", "morf_auc", "lerf_auc", "aopc", "clean_score", "ties"],
            curves=["morf", "lerf"],
            fractions=[point / steps for point in range(steps + 1)],
            resamples=resamples,
            seed=seed,
        )
        self.steps, self.block_size = steps, block_size
        self.score: Literal["probability", "logit"] = score
        self.chunk_size = chunk_size

    def rows_of(self, explained: Explained) -> Tensor:
        """Values and both curves of every image."""
        maps = explained.result.saliency
        lines, areas = {}, {}
        for name, order in _ORDERS.items():
            fractions, lines[name] = perturbation_curve(
                explained.classifier,
                explained.images,
                maps,
                explained.query_class,
                baseline=self.baseline,
                order=order,
                steps=self.steps,
                block_size=self.block_size,
                score=self.score,
                chunk_size=self.chunk_size,
            )
            areas[name] = curve_area(fractions, lines[name])
        morf, lerf = lines["morf"], lines["lerf"]
        values = [
            areas["lerf"] - areas["morf"],
            areas["morf"],
            areas["lerf"],
            aopc(morf),
            morf[:, 0],
            _ties(maps, morf, self.block_size),
        ]
        return torch.cat([torch.stack([value.double() for value in values], dim=1), morf, lerf], dim=1)


def _ties(maps: Tensor, scores: Tensor, block_size: int) -> Tensor:
    """Share of ties; NaN where the map could not be scored."""
    return torch.where(scores[:, 0].isnan(), torch.nan, tied_share(maps, block_size=block_size))


def _check_settings(steps: int, block_size: int, score: str, chunk_size: int) -> None:
    for name, value in (("steps", steps), ("block_size", block_size), ("chunk_size", chunk_size)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, found {value}")
    if score not in ("probability", "logit"):
        raise ConfigError(f"score must be 'probability' or 'logit', found {score!r}")


def _named(kind: str, baseline: Baseline, steps: int, block_size: int, score: str) -> str:
    """The name of a curve, and whatever differs from the usual settings."""
    unusual = [
        f"_steps{steps}" if steps != 64 else "",
        f"_block{block_size}" if block_size != 1 else "",
        f"_{score}" if score != "probability" else "",
    ]
    return f"{kind}[{baseline.name}]" + "".join(unusual)
