"""Queries of several classes, with a threshold for boxes chosen on images of which nothing is reported."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from verisal.callbacks.explaining.callback import ScoringCallback
from verisal.callbacks.explaining.epoch import Epoch, Seen
from verisal.callbacks.explaining.processes import agreed
from verisal.data import Composition, DiskSplit
from verisal.errors import DataError
from verisal.functional.outputs import require_classes
from verisal.functional.regions import choose_threshold
from verisal.functional.seeding import content_ids, derive_seed
from verisal.metrics import ClassRankScores, DisturbedScores, ImageTable
from verisal.saliency import Saliency
from verisal.types import Batch, check_range

_CHUNK = 32
_COUNTED = ("known", "right", "boxed", "several", "absent", "unknown")
_NO_BOXES = "all that is about boxes is NaN, and responses and similarities need none"
Scores = ClassRankScores | DisturbedScores
Samples = Dataset[Any] | DataLoader[Any]
"""In any format that the evaluation's own loader may have."""


@dataclass(eq=False, repr=False)
class QueryCallback(ScoringCallback, ABC):
    """A :class:`ScoringCallback` that asks every method for several classes of an image.

    Args:
        held_out: annotated samples of which nothing is reported, of the classifier's classes and image size:
            a data set or a loader, read as the evaluation's own. On them every method's threshold for boxes
            is chosen under the true class; None for no thresholds.
        held_out_images: at most this many of them, the first ones.
    """

    held_out: Samples | Composition | DiskSplit | None = field(default=None, kw_only=True)
    held_out_images: int = field(default=100, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(1, held_out_images=self.held_out_images)
        self._held_out: Batch | None = None
        self._chosen: tuple[Epoch, int, dict[str, float]] | None = None
        self._lacking = ""
        self.label_counts: tuple[int, int] | None = None
        """Of images with several labels that count: labels that are not there, and that nobody knows."""

    def begin(self, epoch: Epoch) -> None:
        """Count anew."""
        require_classes(epoch.classifier, type(self).__name__)
        super().begin(epoch)
        self._counted = ImageTable(_COUNTED).to(epoch.device)

    def trial(self, epoch: Epoch, seen: Seen) -> None:
        """Explain the images, and choose thresholds on as many."""
        super().trial(epoch, seen)
        for method in self.by_name.values() if self.held_out is not None else ():
            _chosen_threshold(epoch, method, seen.batch)

    def count(self, seen: Seen) -> Tensor:
        """Note the images; True ``(B,)`` where the predicted class is the label."""
        batch = seen.batch
        known, right = batch.labels >= 0, seen.query_class == batch.labels
        boxed = right.new_tensor([len(boxes) > 0 for boxes in batch.boxes_of(batch.labels)])
        rows = torch.stack([known, right, right & boxed], dim=1).double()
        # Of images with several labels, how many are not there, and of how many nobody knows.
        values = rows.new_zeros(len(rows), 3)
        if batch.label_sets is not None:
            counts = [(batch.label_sets == value).sum(dim=1).double() for value in (0, -1)]
            values = torch.stack([torch.ones_like(counts[0]), *counts], dim=1) * right[:, None]
        self._counted.update(batch.image_ids, torch.cat([rows, values], dim=1))
        return right

    def tell(self, epoch: Epoch) -> int | None:
        """Say why scores are undefined for all or for some images; the number of those that count.

        Returns:
            None without an image.
        """
        rows = self._counted.compute().rows
        if not len(rows):
            return None
        sums = [int(count) for count in rows.sum(dim=0)]
        total, (known, right, boxed, *several) = len(rows), sums
        self.label_counts = (several[1], several[2]) if several[0] else None
        lacking = ""
        if not right:
            what = "is classified correctly" if known else "has a known label"
            lacking = f"none of {total} images {what}, and only those count: its scores are NaN"
        elif self.held_out is None and self.left_out:
            lacking = (
                "thresholds for boxes need annotated samples, held_out=; without them box accuracy, false"
                " localisation, margins and present classes are not logged, but responses are"
            )
        elif not boxed:
            lacking = f"0 of {right} correctly classified images have a box of their class; {_NO_BOXES}"
        elif self.held_out is None:
            lacking = f"thresholds for boxes need annotated samples, held_out=; {_NO_BOXES}"
        elif self._lacking:
            lacking = f"{self._lacking}; {_NO_BOXES}"
        elif boxed < right:
            lacking = (
                f"{right - boxed} of {right} correctly classified images have no box of their class and are"
                " left out of all that is about boxes"
            )
        wanted = lacking and (self.about_boxes or not right)
        who = type(self).__name__
        epoch.notice(f"{who} lacking", f"{who}: {lacking}" if wanted else "")
        return right

    def thresholds(self, epoch: Epoch) -> dict[str, float]:
        """Threshold of every method for the classifier as it is now; NaN where none can be chosen."""
        if self.held_out is None:
            return dict.fromkeys(self.by_name, math.nan)
        most = self.at_most(epoch, self.held_out_images)
        if self._chosen is not None and self._chosen[:2] == (epoch, most):
            return self._chosen[2]
        if self._held_out is None:
            self._held_out = epoch.samples(self.held_out, self.held_out_images)
        samples = self._held_out.rows(range(min(most, len(self._held_out)))).to(epoch.device)
        epoch.expect(len(self.by_name))
        thresholds = {}
        for name, method in self.by_name.items():
            chosen = partial(_chosen_threshold, epoch, method, samples)
            known = epoch.rows(name, [method], samples, {"tau": chosen}, objects=True)
            thresholds[name] = round(float(known["tau"]), 6)
            epoch.step(name)
        # A process without a batch finds its weights where no average stands for them any more.
        thresholds = agreed(lambda: thresholds)[0]
        self._chosen = epoch, most, thresholds
        bad = [name for name, tau in thresholds.items() if math.isnan(tau)]
        self._lacking = _reason(epoch, samples, bad) if bad else ""
        return thresholds

    @property
    def about_boxes(self) -> bool:
        """True if scores of boxes are wanted; may be overridden."""
        return True

    def check_apart(self, batch: Batch) -> None:
        """Raise if an image that is reported is held out; ids alone may be those of two data sets.

        Raises:
            DataError: naming the first.
        """
        held_out = self._held_out
        if held_out is None or not set(held_out.image_ids).intersection(batch.image_ids):
            return
        pairs = [set(zip(one.image_ids, content_ids(one.images), strict=True)) for one in (held_out, batch)]
        if common := sorted(set.intersection(*pairs)):
            raise DataError(
                f"{len(common)} images are both reported and held out for the thresholds, the first is"
                f" {common[0][0]}; give held_out another split"
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
                if method.shares_passes:
                    # All at once; what comes then is known.
                    every = batch.rows(list(range(len(batch))) * len(asked))
                    epoch.explain(method, every, asked.flatten())
                results = [epoch.explain(method, batch, query)[0] for query in asked]
                return own.rows_of(results, batch.boxes_of(asked[0]), valid=valid)

            key = f"queries {derive_seed(self.seed, own.threshold, *own.table.columns):x}"
            known = epoch.rows(name, [self.by_name[name]], batch, {key: rows}, objects=True)
            own.table.update(batch.image_ids, known[key])


def chunks(batch: Batch) -> list[Batch]:
    """Parts of a batch that are explained at a time."""
    starts = range(0, len(batch), _CHUNK)
    return [batch.rows(range(start, min(start + _CHUNK, len(batch)))) for start in starts]


def _reason(epoch: Epoch, samples: Batch, names: Sequence[str]) -> str:
    """Why no threshold for boxes was found."""
    parts = chunks(samples)
    right = [part.rows(_right(epoch.seen(part))) for part in parts]
    boxes = [boxes for part in right for boxes in part.boxes_of(part.labels)]
    if not boxes:
        return f"none of {len(samples)} held-out images is classified correctly"
    if not sum(map(len, boxes)):
        return f"none of {len(boxes)} correctly classified held-out images has a box of its class"
    return f"no map of {', '.join(names)} of {len(boxes)} held-out images can be scored"


def _right(seen: Seen) -> list[int]:
    return torch.nonzero(seen.query_class == seen.batch.labels)[:, 0].tolist()


def _chosen_threshold(epoch: Epoch, method: Saliency, samples: Batch) -> Tensor:
    maps: list[Tensor] = []
    boxes: list[Tensor] = []
    for part in chunks(samples):
        right = part.rows(_right(epoch.seen(part)))
        if len(right):
            maps.append(method(epoch.classifier, right.images, right.labels).saliency)
            boxes += right.boxes_of(right.labels)
    try:
        tau = choose_threshold(torch.cat(maps), boxes) if maps else math.nan
    except DataError:
        # An untrained network, or maps that are all empty, must not end a fit.
        tau = math.nan
    return torch.tensor(tau, dtype=torch.float64)
