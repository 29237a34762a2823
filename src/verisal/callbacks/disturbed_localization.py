"""D-WSOL (our protocol): localisation under queries of absent and of present classes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import final

import torch
from torch import Tensor

from verisal.callbacks.explaining.epoch import Epoch, Seen
from verisal.callbacks.explaining.queries import QueryCallback, Samples, chunks
from verisal.callbacks.explaining.rows import row_evaluation
from verisal.data import AnnotatedImages, Composition, DiskSplit, EmojiScenes
from verisal.functional.regions import disturbed_queries
from verisal.functional.regions.disturbed import DisturbedQueries, label_queries, present_queries
from verisal.functional.seeding import content_ids
from verisal.metrics import DisturbedScores, PresentQueries
from verisal.reporting.publication import merge_evaluations
from verisal.results import Evaluation, Score
from verisal.types import Batch, check_range

_NAME = "D-WSOL (our protocol)"
_PRESENT = "D-WSOL (our protocol), present classes"
_NOTE = (
    "D-WSOL (disturbed weakly supervised object localisation, our protocol): c0 is the true class, c1 the"
    " second most likely, c2 a random one outside the five"
    " most likely, c3 the least likely; c1 to c3 are not annotated in the image."
)
_NOTE_OF_LABELS = (
    "D-WSOL (our protocol): c0 is the most probable label that is there, where it is decided for, c1 the most"
    " probable one of those that are 0, c2 a random one of these outside the five most probable labels, c3"
    " the least probable of these; labels that nobody knows are left out."
)
_NO_C2 = " No image has such a c2, so that its scores are NaN."
_RESPONSE = "response_ratio_c1"
_OF_TAU = " tau was chosen per method on held-out images under c0."
_HEADLINE = {
    "D-WSOL box accuracy c0 ↑": f"{_NAME}/accuracy_c0",
    "D-WSOL false localisation c1 ↓": f"{_NAME}/flr_rel_c1",
    "D-WSOL margin c1 ↑": f"{_NAME}/margin_rel_c1",
    "D-WSOL absolute margin c3 ↑": f"{_NAME}/margin_abs_c3",
    "D-WSOL response ratio c1 ↓": f"{_NAME}/{_RESPONSE}",
    "D-WSOL present classes hit ↑": f"{_PRESENT}/hit",
}


@final
@dataclass(eq=False, repr=False)
class DisturbedLocalization(QueryCallback):
    """Queries of the true class, of three absent ones, and of every class of images with several.

    Every method has its own threshold, at which its boxes for the true class are right most often on
    ``held_out``; it is frozen for everything reported. Images that are not classified correctly do not
    count. Responses and similarities need neither boxes nor thresholds; without ``held_out`` they alone are
    logged, and what is undefined is said once. Of images with several labels (``output="sigmoid"``) the true
    class is the most probable label that is there, where it is decided for, and absent ones are the labels
    that are 0. Options as of :class:`ExplainingCallback`.

    Args:
        held_out: annotated samples of which nothing is reported, of the classifier's classes and image size:
            a data set or a loader, read as the evaluation's own; another split of the evaluation's own data
            set on disk, such as ``test``, or how scenes are made of it; None leaves all that is about boxes
            NaN and logs nothing of it.
        several: further annotated samples with objects of several classes, for the queries of present
            classes alone; None where the evaluation's own samples have several, or to leave these out.
        several_images: at most this many of them, the first ones.

    Raises:
        ConfigError: settings out of range.
        DataError: while running, a held-out sample among those reported.

    Differs from:
        - The paper's own rules of a disturbed localisation are not known to us; all of these are ours.
    """

    # The command line reads settings of all kinds but the last; that comes from Python.
    held_out: EmojiScenes | AnnotatedImages | Composition | DiskSplit | Samples | None = None
    _: KW_ONLY
    several: EmojiScenes | AnnotatedImages | Composition | Samples | None = None
    several_images: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(1, several_images=self.several_images)
        self._scenes: Batch | None = None

    @property
    def headline(self) -> Mapping[str, str]:
        """Of box accuracy, false localisation, margins, responses, and queries of present classes."""
        return _HEADLINE

    @property
    def left_out(self) -> Collection[str]:
        """All that is about boxes, where nothing is held out for their thresholds."""
        return () if self.held_out is not None else set(_HEADLINE.values()) - {f"{_NAME}/{_RESPONSE}"}

    def begin(self, epoch: Epoch) -> None:
        """Choose the thresholds, with the classifier as it is now."""
        super().begin(epoch)
        self._absent: dict[str, DisturbedScores] = {}
        self._present: dict[str, PresentQueries] = {}
        for name, tau in self.thresholds(epoch).items():
            self._absent[name] = DisturbedScores(threshold=tau)
            self._absent[name].table.to(epoch.device)
            if not math.isnan(tau):
                self._present[name] = PresentQueries(threshold=tau).to(epoch.device)

    def start(self, epoch: Epoch) -> None:
        """Explain the further samples."""
        if self.several is not None:
            if self._scenes is None:
                self._scenes = epoch.samples(self.several, self.several_images)
            most = min(self.at_most(epoch, self.several_images), len(self._scenes))
            self._add_scenes(epoch, self._scenes.rows(range(most)).to(epoch.device))

    def add(self, epoch: Epoch, seen: Seen) -> None:
        """Rows of absent and present classes for the images that count."""
        batch = seen.batch
        self.check_apart(batch)
        right = torch.nonzero(self.count(seen))[:, 0].tolist()
        queries = self._queries(seen)
        asked, valid = queries.query_class[:, right], queries.valid[:, right]
        self.ask(epoch, self._absent, seen.rows(right), asked, valid)
        self._add_present(epoch, seen)
        for name in self._absent:
            epoch.step(name)

    def _queries(self, seen: Seen) -> DisturbedQueries:
        batch, ids = seen.batch, seen.batch.image_ids
        if batch.label_sets is not None:
            return label_queries(seen.logits, batch.label_sets, image_ids=ids, seed=self.seed)
        # The true class is there, annotated or not.
        present = [
            torch.cat([own, label[None]])
            for own, label in zip(batch.object_labels, batch.labels.clamp(min=0), strict=True)
        ]
        return disturbed_queries(seen.logits, batch.labels, present=present, image_ids=ids, seed=self.seed)

    def finish(self, epoch: Epoch) -> Evaluation | None:
        """Scores of every method."""
        counted, bootstrap = self.tell(epoch), self.bootstrap_in(epoch)
        if counted is None:
            return None
        parts, asked, drawn = [], 0, 0
        for name, own in self._absent.items():
            image_ids, columns = own.columns()
            absent = own.scores_of(columns, bootstrap)
            absent["tau"] = Score(own.threshold, n=len(image_ids))
            drawn = max(drawn, absent["n_empty_c2"].n)
            parts.append(row_evaluation(epoch.split, name, _NAME, absent))
            if name in self._present:
                table = self._present[name].table()
                if asked := len(table.rows):
                    present = self._present[name].scores_of(table, bootstrap)
                    parts.append(row_evaluation(epoch.split, name, _PRESENT, present))
        self._tell(
            epoch,
            "no label is known to be absent (0) in any image that counts; queries of absent labels are NaN"
            if counted and self.label_counts is not None and not self.label_counts[0]
            else "",
            "no image shows objects of several classes of which one is predicted; queries of present"
            " classes are NaN"
            if counted and self._present and not asked
            else "",
        )
        note = (_NOTE if self.label_counts is None else _NOTE_OF_LABELS) + (_OF_TAU if self._present else "")
        note += _NO_C2 if counted and not drawn else ""
        counts = {"correctly classified images (D-WSOL)": counted}
        if self.label_counts is not None:
            none, unknown = self.label_counts
            counts |= {"absent labels (D-WSOL)": none, "unknown labels, left out (D-WSOL)": unknown}
        whole = Evaluation(epoch.split, {}, counts=counts, notes=(note,))
        return merge_evaluations([*parts, whole])

    def _tell(self, epoch: Epoch, *sentences: str) -> None:
        who = type(self).__name__
        for place, sentence in enumerate(sentences):
            epoch.notice(f"{who} {place}", sentence and f"{who}: {sentence}")

    def _add_scenes(self, epoch: Epoch, scenes: Batch) -> None:
        """Take this process's share of further images, for the queries of present classes."""
        mine = range(epoch.rank, len(scenes), epoch.processes)
        parts = chunks(scenes.rows(mine))
        epoch.expect(len(parts) * len(self._present))
        for part in parts:
            epoch.open(part)
            self._add_present(epoch, epoch.seen(part))
            for name in self._present:
                epoch.step(name)

    def _add_present(self, epoch: Epoch, seen: Seen) -> None:
        asked = _present(seen)
        # Images of two data sets may have one id.
        batch, contents = asked.batch, content_ids(asked.batch.images)
        pairs = zip(batch.image_ids, contents, asked.query_class.tolist(), strict=True)
        names = [f"{image_id} {content} class {query}" for image_id, content, query in pairs]
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
