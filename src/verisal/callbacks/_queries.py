"""Queries of several classes, with a threshold for boxes chosen on images of which nothing is reported."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import Dataset

from verisal.callbacks._epoch import Epoch, Seen
from verisal.callbacks._explaining import ScoringCallback
from verisal.callbacks._processes import agreed
from verisal.errors import DataError
from verisal.functional.regions import choose_threshold
from verisal.functional.seeding import derive_seed
from verisal.metrics import ClassRankScores, DisturbedScores
from verisal.saliency import Saliency
from verisal.types import Batch, Sample, check_range

_CHUNK = 32
Scores = ClassRankScores | DisturbedScores


@dataclass(eq=False, repr=False)
class QueryCallback(ScoringCallback, ABC):
    """A :class:`ScoringCallback` that asks every method for several classes of an image.

    Args:
        held_out: annotated samples of which nothing is reported, of the classifier's classes and image size.
            On them every method's threshold for boxes is chosen under the true class; None for no thresholds.
        held_out_images: at most this many of them, the first ones.
    """

    held_out: Dataset[Sample] | None = field(default=None, kw_only=True)
    held_out_images: int = field(default=100, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(1, held_out_images=self.held_out_images)
        self._held_out: Batch | None = None
        self._chosen: tuple[Epoch, dict[str, float]] | None = None

    def thresholds(self, epoch: Epoch) -> dict[str, float]:
        """Threshold of every method for the classifier as it is now; NaN where none can be chosen."""
        if self.held_out is None:
            return dict.fromkeys(self.by_name, math.nan)
        if self._chosen is not None and self._chosen[0] is epoch:
            return self._chosen[1]
        if self._held_out is None:
            self._held_out = epoch.samples(self.held_out, self.held_out_images)
        samples = self._held_out.to(epoch.device)
        epoch.expect(len(self.by_name))
        thresholds = {}
        for name, method in self.by_name.items():
            chosen = partial(_chosen_threshold, epoch, method, samples)
            known = epoch.rows(name, [method], samples, {"tau": chosen}, objects=True)
            thresholds[name] = round(float(known["tau"]), 6)
            epoch.step(name)
        # A process without a batch finds its weights where no average stands for them any more.
        thresholds = agreed(lambda: thresholds)[0]
        self._chosen = epoch, thresholds
        return thresholds

    def check_apart(self, image_ids: Sequence[str]) -> None:
        """Raise if an image that is reported is held out.

        Raises:
            DataError: naming the first.
        """
        held_out = self._held_out.image_ids if self._held_out else ()
        if common := sorted(set(held_out).intersection(image_ids)):
            raise DataError(
                f"{len(common)} images are both reported and held out for the thresholds, the first is"
                f" {common[0]}; give held_out another split"
            )

    def ask(
        self, epoch: Epoch, scores: Mapping[str, Scores], seen: Seen, asked: Tensor, valid: Tensor
    ) -> None:
        """Add the rows of every method, known or measured.

        Args:
            epoch: explains.
            scores: by method.
            seen: images of which all count.
            asked: ``(Q, B)`` query classes, the first of which is in its image.
            valid: bool, as of :meth:`.DisturbedScores.rows_of` or :meth:`.ClassRankScores.rows_of`.
        """
        batch = seen.batch
        for name, own in scores.items() if len(batch) else ():

            def rows(own: Scores = own, method: Saliency = self.by_name[name]) -> Tensor:
                results = [epoch.explain(method, batch, query)[0] for query in asked]
                return own.rows_of(results, batch.boxes_of(asked[0]), valid=valid)

            key = f"queries {derive_seed(self.seed, own.threshold, *own.table.columns):x}"
            known = epoch.rows(name, [self.by_name[name]], batch, {key: rows}, objects=True)
            own.table.update(batch.image_ids, known[key])


def _chosen_threshold(epoch: Epoch, method: Saliency, samples: Batch) -> Tensor:
    maps: list[Tensor] = []
    boxes: list[Tensor] = []
    for start in range(0, len(samples), _CHUNK):
        seen = epoch.seen(samples.rows(range(start, min(start + _CHUNK, len(samples)))))
        right = seen.batch.rows(torch.nonzero(seen.query_class == seen.batch.labels)[:, 0].tolist())
        if len(right):
            maps.append(method(epoch.classifier, right.images, right.labels).saliency)
            boxes += right.boxes_of(right.labels)
    try:
        tau = choose_threshold(torch.cat(maps), boxes) if maps else math.nan
    except DataError:
        # An untrained network, or maps that are all empty, must not end a fit.
        tau = math.nan
    return torch.tensor(tau, dtype=torch.float64)
