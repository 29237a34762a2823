"""Removal of whole bands as a metric: areas, evidence and worth of every band, and their ranking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor

from verisal.errors import ConfigError, DataError
from verisal.functional.baselines import Baseline, DatasetMean
from verisal.functional.removal import band_removal, curve_area
from verisal.metrics._table import ImageRows
from verisal.metrics.curves import CurveMetric
from verisal.results import Curve, Table
from verisal.types import Explained, check_range

_AREAS = ("auc", "gain", "random_auc", "fall_auc", "clean_score")


@final
class BandRemoval(CurveMetric):
    """Area under the score of the query class while bands are removed, most evidence first.

    A band's evidence is its share of the sum of the absolute attribution; see :func:`.band_removal`.

    Scores: ``auc`` (low is good), ``random_auc`` with the bands in random orders, ``gain``, which is
    ``random_auc`` - ``auc``, ``fall_auc`` with the bands by the fall of the score when each alone is removed,
    for which no map is needed, ``clean_score`` of the images as they are; and of every band
    ``evidence_<band>`` and ``fall_<band>``.

    Images whose evidence is the same in all bands, or not finite, are undefined, and so are those of a
    method without an attribution for each band.

    Args:
        bands: their number, or their names in the order of the channels.
        baseline: what stands for a removed band; None for its mean over the data set.
        random_orders: orders that are drawn for each image.
        score: probability or logit of the query class.
        chunk_size: images per pass of the classifier; changes memory and speed only.
        seed: of the orders.

    Raises:
        ConfigError: fewer than two bands, names that are not all different or hold a slash, or a setting that
            is none of these.
    """

    better = "low"

    def __init__(
        self,
        bands: int | Sequence[str],
        *,
        baseline: Baseline | None = None,
        random_orders: int = 4,
        score: Literal["probability", "logit"] = "probability",
        chunk_size: int = 32,
        seed: int = 0,
    ) -> None:
        check_range(1, random_orders=random_orders, chunk_size=chunk_size)
        check_range(0, seed=seed)
        if score not in ("probability", "logit"):
            raise ConfigError(f"score must be 'probability' or 'logit', found {score!r}")
        names = _names(bands)
        self.baseline = baseline or DatasetMean()
        unusual = f"_orders{random_orders}" if random_orders != 4 else ""
        unusual += f"_{score}" if score != "probability" else ""
        super().__init__(
            f"band_removal[{self.baseline.name}]{unusual}",
            [*_AREAS, *(f"evidence_{name}" for name in names), *(f"fall_{name}" for name in names)],
            curves=["evidence", "random", "fall"],
            fractions=[count / len(names) for count in range(len(names) + 1)],
        )
        self.bands, self.band_names, self.seed = bands, names, seed
        self.random_orders, self.chunk_size = random_orders, chunk_size
        self.score: Literal["probability", "logit"] = score

    def rows_of(self, explained: Explained) -> Tensor:
        """Values and curves of every image."""
        images, attribution = explained.images, explained.result.attribution
        count = len(self.band_names)
        if images.shape[1] != count:
            raise DataError(f"{type(self).__name__} is of {count} bands, found images of {images.shape[1]}")
        if attribution is None or attribution.shape != images.shape:
            return images.new_full((len(images), len(self.columns)), torch.nan)
        found = band_removal(
            explained.classifier,
            images,
            attribution,
            explained.query_class,
            baseline=self.baseline,
            random_orders=self.random_orders,
            seed=self.seed,
            score=self.score,
            chunk_size=self.chunk_size,
        )
        lines = [found.scores.double(), found.random_scores.double(), found.fall_scores.double()]
        area, random, fall = (curve_area(found.fractions, line) for line in lines)
        areas = torch.stack([area, random - area, random, fall, lines[0][:, 0]], dim=1)
        return torch.cat([areas, found.evidence, found.falls.double(), *lines], dim=1)

    def unscored(self, table: ImageRows | None = None) -> str:
        """A sentence if no image could be scored; empty otherwise."""
        known = self.table() if table is None else table
        if not super().unscored(known):
            return ""
        return (
            f"{type(self).__name__}: none of {len(known.image_ids)} images can be scored, and its scores are"
            " NaN: their maps have no attribution for each band (gradient methods have one, Occlusion and"
            " RISE with per_channel=True), or the same in all bands, or the network's answers are not finite"
        )

    def lines(self, label: str, table: ImageRows | None = None) -> list[Curve]:
        """The curve with its two controls, and the evidence in every band."""
        known = self.table() if table is None else table
        means = self.curves(known)
        axes = "share of bands removed", "mean score of the query class"
        labels = {"evidence": label, "random": "random order", "fall": "largest fall alone first"}
        found = [
            Curve(self.name, labels[name], mean.fractions, mean.mean, *axes, n=mean.n)
            for name, mean in means.items()
            if mean.n
        ]
        if found:
            places, count = torch.arange(len(self.band_names)), means["evidence"].n
            axes = "band", "mean share of the evidence"
            figure, evidence = f"{self.name} evidence", self._bands(known, "evidence").nanmean(dim=0)
            found.append(Curve(figure, label, places, evidence, *axes, n=count, ticks=self.band_names))
        return found

    def ranking(self, table: ImageRows | None = None) -> Table:
        """The bands, most evidence first. With several processes all must call.

        Columns are the rank, the band, its mean share of the evidence, the mean fall of the score when it
        alone is removed, and the share of images in which it has the most evidence.

        Args:
            table: as of :meth:`missing`.
        """
        known = self.table() if table is None else table
        rows = self._bands(known, "evidence")
        evidence, falls = rows.nanmean(dim=0), self._bands(known, "fall").nanmean(dim=0)
        first = rows[rows.isfinite().all(dim=1)].argmax(dim=1)
        order = evidence.sort(descending=True, stable=True).indices.tolist()
        return Table(
            ("rank", "band", "evidence", "fall alone", "first in"),
            tuple(
                (
                    rank,
                    self.band_names[band],
                    float(evidence[band]),
                    float(falls[band]),
                    float((first == band).double().mean()),
                )
                for rank, band in enumerate(order, start=1)
            ),
        )

    def _bands(self, table: ImageRows, kind: Literal["evidence", "fall"]) -> Tensor:
        """``(n, C)``: values of every band."""
        start = len(_AREAS) + (len(self.band_names) if kind == "fall" else 0)
        return table.rows[:, start : start + len(self.band_names)]


def _names(bands: int | Sequence[str]) -> tuple[str, ...]:
    names = tuple(f"band{number}" for number in range(bands)) if isinstance(bands, int) else tuple(bands)
    wrong = [name for name in names if not name or "/" in name]
    if isinstance(bands, str) or len(names) < 2 or len(set(names)) < len(names) or wrong:
        raise ConfigError(
            "bands must be their number or a list of their names, two or more, each once and without a slash;"
            f" found {bands!r}"
        )
    return names
