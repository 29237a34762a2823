"""What methods answer when they are asked for classes that are less and less likely."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from verisal.callbacks._explaining import Context, ExplainingCallback, Part, Seen
from verisal.callbacks._held_out import check_apart, first_samples, own_threshold
from verisal.callbacks._samples import add_samples, no_samples
from verisal.data import AnnotatedImages, EmojiScenes
from verisal.errors import ConfigError
from verisal.metrics import ClassRankScores
from verisal.results import Evaluation, SaliencyPanel, Score
from verisal.saliency import Saliency
from verisal.types import Batch, SaliencyResult, Sample

__all__ = ["ClassRanks"]

_NAME = "class ranks"
_LAST = "last"


@final
class ClassRanks(ExplainingCallback):
    """Response, norm, similarity and false localisation of maps of classes by their rank.

    The first query is the predicted class; images where it is not the label do not count. The others are the
    classes of the given ranks and the least likely one, ``last``; a class that is annotated in the image does
    not count as a query. Values per image are kept, so that methods can be compared image by image.
    :class:`.ClassRankScores` says what is measured, :class:`ExplainingCallback` what holds
    for all.

    Args:
        methods: name to method.
        ranks: of the queries, from 2; those beyond the number of classes are undefined.
        held_out: annotated samples of which nothing is reported, on which every method's threshold for boxes
            is chosen under the true class; None leaves out everything about boxes.
        held_out_images: at most so many of them, the first ones.
        drawn: methods whose raw maps of all queries are drawn.
        drawn_images: images drawn, the first ones that count.
        every_n_epochs: in a fit, explain in every so manieth validation.
        max_images: at most so many images, a fixed subset drawn by seed; None for all.
        seed: of the subset, the controls and the intervals.
        resamples: bootstrap resamples of the intervals.

    Raises:
        ConfigError: settings out of range, or drawn methods that are none.
        DataError: while running, a held-out sample among those reported.
    """

    def __init__(
        self,
        methods: Mapping[str, Saliency],
        *,
        ranks: Sequence[int] = (2, 3, 5, 10),
        # The command line reads settings of these two; any other data set comes from Python.
        held_out: EmojiScenes | AnnotatedImages | Dataset[Sample] | None = None,
        held_out_images: int = 100,
        drawn: Sequence[str] = (),
        drawn_images: int = 1,
        every_n_epochs: int = 1,
        max_images: int | None = None,
        seed: int = 0,
        resamples: int = 2000,
    ) -> None:
        super().__init__(
            methods, every_n_epochs=every_n_epochs, max_images=max_images, seed=seed, resamples=resamples
        )
        if held_out_images < 1 or drawn_images < 0 or list(ranks) != sorted({max(2, one) for one in ranks}):
            raise ConfigError(
                "ranks must rise from 2, held_out_images be at least 1 and drawn_images not negative; found"
                f" {list(ranks)}, {held_out_images} and {drawn_images}"
            )
        if unknown := [name for name in drawn if name not in self.methods]:
            raise ConfigError(f"drawn names methods {unknown}; known: {list(self.methods)}")
        self.ranks, self.held_out, self.held_out_images = tuple(ranks), held_out, held_out_images
        self.drawn, self.drawn_images = tuple(drawn), drawn_images
        self._samples: Batch | None = None

    def part(self, context: Context) -> Part:
        """Choose the thresholds, with the classifier as it is now."""
        if self._samples is None and self.held_out is not None:
            self._samples = first_samples(self.held_out, self.held_out_images)
        thresholds = dict.fromkeys(context.methods, math.nan)
        if self._samples is not None:
            samples = self._samples.to(context.device)
            context.session.expect(len(context.methods))
            thresholds = {name: own_threshold(context, name, samples) for name in context.methods}
        held_out = frozenset(self._samples.image_ids if self._samples else ())
        return _Ranks(
            context, self.ranks, thresholds, held_out, drawn=self.drawn, drawn_images=self.drawn_images
        )


@final
class _Ranks(Part):
    def __init__(
        self,
        context: Context,
        ranks: Sequence[int],
        thresholds: Mapping[str, float],
        held_out: frozenset[str],
        *,
        drawn: Sequence[str],
        drawn_images: int,
    ) -> None:
        self._context, self._ranks, self._held_out = context, tuple(ranks), held_out
        self._drawn, self._drawn_images = drawn, drawn_images
        names = [*(f"rank{rank}" for rank in self._ranks), _LAST]
        self._scores = {
            name: ClassRankScores(names, threshold=tau, resamples=context.resamples, seed=context.seed)
            for name, tau in thresholds.items()
        }
        for scores in self._scores.values():
            scores.table.to(context.device)
        self._panels: list[SaliencyPanel] = []

    def add(self, seen: Seen) -> None:
        context, batch = self._context, seen.batch
        check_apart(self._held_out, batch.image_ids)
        kept = torch.nonzero(seen.query_class == batch.labels)[:, 0].tolist()
        part = Seen(batch.rows(kept), seen.logits[kept], seen.query_class[kept])
        asked, valid = self._queries(part)
        for name, scores in self._scores.items():
            key = f"ranks {self._ranks} {scores.threshold}"
            rows = partial(_rows, context, name, part, asked, valid, scores)
            found = context.store.rows(
                name,
                context.methods[name],
                batch.images,
                image_ids=batch.image_ids,
                wanted={key: rows},
                annotated=batch,
            )
            scores.table.update(part.batch.image_ids, found[key])
            context.session.step(name)
        missing = self._drawn_images - len(self._panels)
        if self._drawn and missing > 0 and context.rank == 0:
            first = list(range(min(missing, len(kept))))
            self._draw(Seen(part.batch.rows(first), part.logits[first], part.query_class[first]), asked)

    def evaluation(self) -> Evaluation | None:
        split = self._context.split
        scores: dict[str, Score] = {}
        samples = no_samples()
        counted = 0
        for name, own in self._scores.items():
            image_ids, columns = own.columns()
            counted = len(image_ids)
            if not counted:
                return None
            for title, score in own.scores_of(columns).items():
                # Without thresholds there is nothing about boxes; without boxes neither.
                if score.n or not title.startswith(("right", "false", "margin")):
                    scores[f"{split}/{name}/{_NAME}/{title}"] = score
            for title, values in columns.items():
                add_samples(samples, image_ids, name, f"{_NAME}/{title}", values)
        return Evaluation(
            split,
            scores,
            counts={"correctly classified images (class ranks)": counted},
            panels=tuple(self._panels),
            samples=samples,
            headline={f"norm, class of last rank over first ({_NAME})": f"{_NAME}/norm[{_LAST}]"},
        )

    def _queries(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """``(Q, B)``: classes by rank, and whether they are absent."""
        order = seen.logits.sort(dim=1, descending=True, stable=True).indices
        classes = order.shape[1]
        asked = torch.stack([order[:, min(rank, classes) - 1] for rank in (*self._ranks, classes)])
        exists = torch.tensor([rank <= classes for rank in (*self._ranks, classes)], device=asked.device)
        annotated = torch.zeros_like(seen.logits, dtype=torch.bool)
        for row, found in zip(annotated, seen.batch.object_labels, strict=True):
            row[found.to(row.device)] = True
        return asked, ~annotated.gather(1, asked.t()).t() & exists[:, None]

    def _draw(self, seen: Seen, asked: Tensor) -> None:
        names = ["c0", *(f"rank {rank}" for rank in self._ranks), _LAST]
        for row, image_id in enumerate(seen.batch.image_ids):
            image, classes = seen.batch.images[[row]], (seen.query_class[[row]], *asked[:, [row]])
            # Each image alone, not as part of what else is computed: after a stop that is another batch.
            maps = {
                f"{method}, {name}": self._context.methods[method](self._context.classifier, image, query)
                .raw[0, 0]
                .abs()
                .cpu()
                for method in self._drawn
                for name, query in zip(names, classes, strict=True)
            }
            caption = f"raw maps of the predicted class {int(seen.query_class[row])} and of others by rank"
            self._panels.append(SaliencyPanel(image_id, image[0].cpu(), maps, caption))


def _results(context: Context, name: str, seen: Seen, asked: Tensor) -> list[SaliencyResult]:
    return [context.explain(name, seen, query)[0] for query in (seen.query_class, *asked)]


def _rows(
    context: Context, name: str, seen: Seen, asked: Tensor, valid: Tensor, scores: ClassRankScores
) -> Tensor:
    if not len(seen.batch):
        return torch.empty(0, len(scores.table.columns))
    return scores.rows_of(
        _results(context, name, seen, asked), seen.batch.boxes_of(seen.query_class), valid=valid
    )
