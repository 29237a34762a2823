"""D-WSOL (our protocol): whether maps answer the query, on absent and on present classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from verisal.callbacks._explaining import Context, ExplainingCallback, Part, Seen
from verisal.callbacks._held_out import check_apart, first_samples, own_threshold
from verisal.data import AnnotatedImages, EmojiScenes
from verisal.errors import ConfigError
from verisal.functional.outputs import ask
from verisal.functional.regions.disturbed import QUERIES, DisturbedQueries, disturbed_queries, present_queries
from verisal.metrics import DisturbedScores, PresentQueries
from verisal.results import Evaluation, Score
from verisal.saliency import Saliency
from verisal.types import Batch, Explained, Sample

__all__ = ["DisturbedLocalization"]

_NAME = "D-WSOL (our protocol)"
_PRESENT = "D-WSOL (our protocol), present classes"
_CHUNK = 32


@final
class DisturbedLocalization(ExplainingCallback):
    """Queries of the true class, of three absent ones, and of every class of images with several.

    Every method has its own threshold, at which its boxes for the true class are right most often on
    ``held_out``; it is frozen for everything reported. Images whose predicted class is not in them do not
    count. A method without a map to choose a threshold from is left out, with a note.
    :class:`ExplainingCallback` says what holds for all.

    Args:
        methods: name to method.
        held_out: annotated samples of which nothing is reported, of the classifier's classes and image size.
        held_out_images: at most so many of them, the first ones.
        several: further annotated samples with objects of several classes, for the queries of present
            classes alone; None where the evaluation's own samples have several, or to leave these out.
        several_images: at most so many of them, the first ones.
        every_n_epochs: in a fit, explain in every so manieth validation.
        max_images: at most so many images, a fixed subset drawn by seed; None for all.
        seed: of the subset, the controls, the random absent class and the intervals.
        resamples: bootstrap resamples of the intervals.

    Raises:
        ConfigError: settings out of range.
        DataError: while running, a held-out sample among those reported.

    Differs from:
        - The paper's own rules of a disturbed localisation are not known to us; all of these are ours.
    """

    def __init__(
        self,
        methods: Mapping[str, Saliency],
        # The command line reads settings of these two; any other data set comes from Python.
        held_out: EmojiScenes | AnnotatedImages | Dataset[Sample],
        *,
        held_out_images: int = 100,
        several: EmojiScenes | AnnotatedImages | Dataset[Sample] | None = None,
        several_images: int = 100,
        every_n_epochs: int = 1,
        max_images: int | None = None,
        seed: int = 0,
        resamples: int = 2000,
    ) -> None:
        super().__init__(
            methods, every_n_epochs=every_n_epochs, max_images=max_images, seed=seed, resamples=resamples
        )
        if held_out_images < 1 or several_images < 1:
            raise ConfigError(
                "held_out_images and several_images must be at least 1, found"
                f" {held_out_images} and {several_images}"
            )
        self.held_out, self.held_out_images = held_out, held_out_images
        self.several, self.several_images = several, several_images
        self._samples: Batch | None = None
        self._scenes: Batch | None = None

    def part(self, context: Context) -> Part:
        """Choose the thresholds, with the classifier as it is now."""
        if self._samples is None:
            self._samples = first_samples(self.held_out, self.held_out_images)
        if self._scenes is None and self.several is not None:
            self._scenes = first_samples(self.several, self.several_images)
        samples = self._samples.to(context.device)
        context.session.expect(len(context.methods))
        thresholds = {name: own_threshold(context, name, samples) for name in context.methods}
        answers = _Answers(context, thresholds, held_out=frozenset(samples.image_ids))
        if self._scenes is not None:
            answers.add_scenes(self._scenes.to(context.device))
        return answers


@dataclass(frozen=True)
class _Scores:
    """What is kept of one method."""

    threshold: float
    absent: DisturbedScores
    present: PresentQueries


@final
class _Answers(Part):
    def __init__(
        self, context: Context, thresholds: Mapping[str, float], *, held_out: frozenset[str]
    ) -> None:
        self._context, self._held_out = context, held_out
        self._scores = {
            name: _scores(context, tau) for name, tau in thresholds.items() if not math.isnan(tau)
        }
        self._left_out = [name for name in thresholds if name not in self._scores]

    def add(self, seen: Seen) -> None:
        batch, context = seen.batch, self._context
        check_apart(self._held_out, batch.image_ids)
        queries = disturbed_queries(
            seen.logits,
            batch.labels,
            present=batch.object_labels,
            image_ids=batch.image_ids,
            seed=context.seed,
        )
        # Without a box of its class there is nothing that a map could find.
        answerable = torch.tensor([len(boxes) > 0 for boxes in batch.boxes_of(batch.labels)])
        queries = replace(queries, valid=queries.valid & answerable.to(queries.valid.device))
        counted = [name for name, ok in zip(batch.image_ids, queries.valid[0].tolist(), strict=True) if ok]
        for name, scores in self._scores.items():
            rows = partial(_absent_rows, context, name, seen, queries, scores.absent)
            key = f"absent {scores.threshold} {context.seed}"
            scores.absent.table.update(counted, self._known(name, batch, key, rows))
        self._add_present(seen)
        for name in self._scores:
            context.session.step(name)

    def add_scenes(self, scenes: Batch) -> None:
        """Take this process's share of further images, for the queries of present classes."""
        context = self._context
        mine = range(context.rank, len(scenes), context.processes)
        parts = [scenes.rows(mine[start : start + _CHUNK]) for start in range(0, len(mine), _CHUNK)]
        context.session.expect(len(parts) * len(self._scores))
        for part in parts:
            context.session.open(part)
            logits = ask(context.classifier, part.images)
            self._add_present(Seen(part, logits, logits.argmax(dim=1)))
            for name in self._scores:
                context.session.step(name)

    def _add_present(self, seen: Seen) -> None:
        asked = _present(seen)
        if not asked.names:
            return
        for name, scores in self._scores.items():
            rows = partial(_present_rows, self._context, name, asked, scores.present)
            key = f"present {scores.threshold}"
            scores.present.add_rows(asked.names, self._known(name, asked.seen.batch, key, rows))

    def _known(self, name: str, batch: Batch, key: str, rows: Callable[[], Tensor]) -> Tensor:
        return self._context.store.rows(
            name,
            self._context.methods[name],
            batch.images,
            image_ids=batch.image_ids,
            wanted={key: rows},
            annotated=batch,
        )[key]

    def evaluation(self) -> Evaluation | None:
        split = self._context.split
        scores: dict[str, Score] = {}
        counted = 0
        left_out = [
            f"{_NAME}: {name} is left out, for none of its maps of held-out images can be scored"
            for name in self._left_out
        ]
        for name, own in self._scores.items():
            if not len(own.absent.table.compute().rows):
                return None
            found = own.absent.compute()
            counted = found["accuracy_c0"].n
            found["tau"] = Score(own.threshold, torch.nan, torch.nan, n=counted)
            scores |= {f"{split}/{name}/{_NAME}/{key}": one for key, one in found.items()}
            table = own.present.table()
            if len(table.rows):
                present = own.present.scores_of(table)
                scores |= {f"{split}/{name}/{_PRESENT}/{key}": one for key, one in present.items()}
        shown = {
            "accuracy_c0": "box accuracy c0 ↑",
            "flr_rel_c1": "false localisation c1 ↓",
            "margin_rel_c1": "margin c1 ↑",
            "margin_abs_c3": "absolute margin c3 ↑",
            "response_ratio_c1": "response ratio c1 ↓",
        }
        headline = {f"D-WSOL {title}": f"{_NAME}/{key}" for key, title in shown.items()}
        headline["D-WSOL present classes hit ↑"] = f"{_PRESENT}/hit"
        return Evaluation(
            split,
            scores,
            counts={"correctly classified images (D-WSOL)": counted},
            notes=(_NOTE, *left_out),
            headline=headline,
        )


_NOTE = (
    "D-WSOL (our protocol): c0 is the true class, c1 the second most likely, c2 a random one outside the five"
    " most likely, c3 the least likely; c1 to c3 are absent from the image. tau was chosen per method on"
    " held-out images under c0."
)


@dataclass(frozen=True)
class _Asked:
    """Every class of the scenes with several, as a query of its own."""

    seen: Seen
    query_class: Tensor
    names: tuple[str, ...]


def _scores(context: Context, threshold: float) -> _Scores:
    absent = DisturbedScores(threshold=threshold, resamples=context.resamples, seed=context.seed)
    absent.table.to(context.device)
    present = PresentQueries(threshold=threshold, resamples=context.resamples, seed=context.seed)
    return _Scores(threshold, absent, present.to(context.device))


def _present(seen: Seen) -> _Asked:
    """Of images with several classes whose predicted class is one of them."""
    batch = seen.batch
    position, query = present_queries(batch.asked_labels())
    several = torch.bincount(position, minlength=len(batch)) > 1
    right = torch.zeros_like(several).index_put_(
        (position,), query == seen.query_class[position].to(query), accumulate=True
    )
    kept = (several & right)[position]
    rows, query = position[kept].tolist(), query[kept].to(seen.query_class)
    part = Seen(batch.rows(rows), seen.logits[rows], seen.query_class[rows])
    names = tuple(
        f"{name} class {int(one)}" for name, one in zip(part.batch.image_ids, query.tolist(), strict=True)
    )
    return _Asked(part, query, names)


def _absent_rows(
    context: Context, name: str, seen: Seen, queries: DisturbedQueries, scores: DisturbedScores
) -> Tensor:
    """Maps are made of the images that count for c0, for all four queries."""
    kept = torch.nonzero(queries.valid[0])[:, 0].tolist()
    if not kept:
        return torch.empty(0, len(scores.table.columns))
    part = Seen(seen.batch.rows(kept), seen.logits[kept], seen.query_class[kept])
    results = {
        query: context.explain(name, part, asked[kept])[0]
        for query, asked in zip(QUERIES, queries.query_class, strict=True)
    }
    return scores.rows_of(results, part.batch.boxes_of(part.batch.labels), valid=queries.valid[:, kept])


def _present_rows(context: Context, name: str, asked: _Asked, scores: PresentQueries) -> Tensor:
    batch, query = asked.seen.batch, asked.query_class
    result = context.explain(name, asked.seen, query)[0]
    return scores.rows_of(
        Explained(
            classifier=context.classifier,
            images=batch.images,
            query_class=query,
            result=result,
            image_ids=asked.names,
            explain=lambda images, query: context.methods[name](context.classifier, images, query),
            boxes=batch.boxes_of(query),
        )
    )
