"""D-WSOL (our protocol): localisation under queries of absent and of present classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from verisal.callbacks._epoch import Epoch, Seen
from verisal.callbacks._explaining import row_evaluation
from verisal.callbacks._queries import QueryCallback
from verisal.data import AnnotatedImages, EmojiScenes
from verisal.functional.regions import disturbed_queries
from verisal.functional.regions.disturbed import present_queries
from verisal.metrics import DisturbedScores, PresentQueries
from verisal.reporting import merge_evaluations
from verisal.results import Evaluation, Score
from verisal.types import Batch, Sample, check_range

_NAME = "D-WSOL (our protocol)"
_PRESENT = "D-WSOL (our protocol), present classes"
_CHUNK = 32
_NOTE = (
    "D-WSOL (our protocol): c0 is the true class, c1 the second most likely, c2 a random one outside the five"
    " most likely, c3 the least likely; c1 to c3 are absent from the image. tau was chosen per method on"
    " held-out images under c0."
)
_HEADLINE = {
    "D-WSOL box accuracy c0 ↑": f"{_NAME}/accuracy_c0",
    "D-WSOL false localisation c1 ↓": f"{_NAME}/flr_rel_c1",
    "D-WSOL margin c1 ↑": f"{_NAME}/margin_rel_c1",
    "D-WSOL absolute margin c3 ↑": f"{_NAME}/margin_abs_c3",
    "D-WSOL response ratio c1 ↓": f"{_NAME}/response_ratio_c1",
    "D-WSOL present classes hit ↑": f"{_PRESENT}/hit",
}


@final
@dataclass(eq=False, repr=False)
class DisturbedLocalization(QueryCallback):
    """Queries of the true class, of three absent ones, and of every class of images with several.

    Every method has its own threshold, at which its boxes for the true class are right most often on
    ``held_out``; it is frozen for everything reported. Images whose predicted class is not in them do not
    count. A method without a map to choose a threshold from is left out, with a note.
    Options as of :class:`ExplainingCallback`.

    Args:
        held_out: annotated samples of which nothing is reported, of the classifier's classes and image size.
        several: further annotated samples with objects of several classes, for the queries of present
            classes alone; None where the evaluation's own samples have several, or to leave these out.
        several_images: at most this many of them, the first ones.

    Raises:
        ConfigError: settings out of range.
        DataError: while running, a held-out sample among those reported.

    Differs from:
        - The paper's own rules of a disturbed localisation are not known to us; all of these are ours.
    """

    # The command line reads settings of these two; any other data set comes from Python.
    held_out: EmojiScenes | AnnotatedImages | Dataset[Sample]
    _: KW_ONLY
    several: EmojiScenes | AnnotatedImages | Dataset[Sample] | None = None
    several_images: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(1, several_images=self.several_images)
        self._scenes: Batch | None = None

    @property
    def headline(self) -> Mapping[str, str]:
        """Of box accuracy, false localisation, margins, responses, and queries of present classes."""
        return _HEADLINE

    def begin(self, epoch: Epoch) -> None:
        """Choose the thresholds, with the classifier as it is now."""
        super().begin(epoch)
        thresholds = self.thresholds(epoch)
        self._left_out = [name for name, tau in thresholds.items() if math.isnan(tau)]
        self._absent: dict[str, DisturbedScores] = {}
        self._present: dict[str, PresentQueries] = {}
        for name, tau in thresholds.items():
            if not math.isnan(tau):
                absent = DisturbedScores(threshold=tau)
                absent.table.to(epoch.device)
                present = PresentQueries(threshold=tau)
                self._absent[name], self._present[name] = absent, present.to(epoch.device)

    def start(self, epoch: Epoch) -> None:
        """Explain the further samples."""
        if self.several is not None:
            if self._scenes is None:
                self._scenes = epoch.samples(self.several, self.several_images)
            self._add_scenes(epoch, self._scenes.to(epoch.device))

    def add(self, epoch: Epoch, seen: Seen) -> None:
        """Rows of absent and present classes for the images that count."""
        batch = seen.batch
        self.check_apart(batch.image_ids)
        present, ids = batch.object_labels, batch.image_ids
        queries = disturbed_queries(seen.logits, batch.labels, present=present, image_ids=ids, seed=self.seed)
        # Without a box of its class there is nothing that a map could find.
        answerable = queries.valid.new_tensor([len(boxes) > 0 for boxes in batch.boxes_of(batch.labels)])
        counted = torch.nonzero(queries.valid[0] & answerable)[:, 0].tolist()
        asked, valid = queries.query_class[:, counted], queries.valid[:, counted]
        self.ask(epoch, self._absent, seen.rows(counted), asked, valid)
        self._add_present(epoch, seen)
        for name in self._absent:
            epoch.step(name)

    def finish(self, epoch: Epoch) -> Evaluation | None:
        """Scores of every method with a threshold."""
        counted, bootstrap = 0, self.bootstrap_in(epoch)
        parts = []
        for name, own in self._absent.items():
            image_ids, columns = own.columns()
            if not image_ids:
                return None
            absent = own.scores_of(columns, bootstrap)
            counted = absent["accuracy_c0"].n
            absent["tau"] = Score(own.threshold, n=counted)
            parts.append(row_evaluation(epoch.split, name, _NAME, absent))
            table = self._present[name].table()
            if len(table.rows):
                present = self._present[name].scores_of(table, bootstrap)
                parts.append(row_evaluation(epoch.split, name, _PRESENT, present))
        left_out = [
            f"{_NAME}: {name} is left out, for none of its maps of held-out images can be scored"
            for name in self._left_out
        ]
        counts = {"correctly classified images (D-WSOL)": counted}
        whole = Evaluation(epoch.split, {}, counts=counts, notes=(_NOTE, *left_out))
        return merge_evaluations([*parts, whole])

    def _add_scenes(self, epoch: Epoch, scenes: Batch) -> None:
        """Take this process's share of further images, for the queries of present classes."""
        mine = range(epoch.rank, len(scenes), epoch.processes)
        parts = [scenes.rows(mine[start : start + _CHUNK]) for start in range(0, len(mine), _CHUNK)]
        epoch.expect(len(parts) * len(self._present))
        for part in parts:
            epoch.open(part)
            self._add_present(epoch, epoch.seen(part))
            for name in self._present:
                epoch.step(name)

    def _add_present(self, epoch: Epoch, seen: Seen) -> None:
        asked = _present(seen)
        pairs = zip(asked.batch.image_ids, asked.query_class.tolist(), strict=True)
        names = [f"{image_id} class {query}" for image_id, query in pairs]
        for name, scores in self._present.items() if names else ():
            rows = partial(self._present_rows, epoch, name, asked)
            key = f"present {scores.threshold}"
            known = epoch.rows(name, [self.by_name[name]], asked.batch, {key: rows}, objects=True)
            scores.add_rows(names, known[key])

    def _present_rows(self, epoch: Epoch, name: str, asked: Seen) -> Tensor:
        # Without masks the boxes of the query's own objects are its region.
        explained = replace(epoch.explained(self.by_name[name], asked), object_masks=None)
        return self._present[name].measured(explained)


def _present(seen: Seen) -> Seen:
    """Every class of images with several, one of which is predicted, as a query of its own."""
    batch = seen.batch
    position, query = present_queries(batch.asked_labels())
    several = torch.bincount(position, minlength=len(batch)) > 1
    right = torch.zeros_like(several).index_put_(
        (position,), query == seen.query_class[position].to(query), accumulate=True
    )
    kept = (several & right)[position]
    return replace(seen.rows(position[kept].tolist()), query_class=query[kept].to(seen.query_class))
