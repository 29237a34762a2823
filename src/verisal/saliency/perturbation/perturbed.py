"""Scores of a batch of images under many masks, with any baseline image and bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from torch import Tensor

from verisal.functional.baselines import Baseline
from verisal.functional.baselines.plain import bound, compose
from verisal.functional.outputs import ask, output_of
from verisal.saliency._base import ScoreKind, query_score

__all__ = ["PerturbedScores"]


@final
class PerturbedScores:
    """Query scores of one batch, as it is and perturbed.

    Baselines that do not depend on the mask are made once; the others anew for every mask.

    Args:
        classifier: maps images to logits.
        images: ``(B, 3, H, W)`` in [0, 1].
        query_class: ``(B,)`` int64.
        baseline: replaces removed pixels; data-set statistics come from the classifier.
        score: what is kept of the logits.
        chunk_size: perturbed images in one pass of the classifier, at most.

    Raises:
        ConfigError: a baseline that lacks the data set's statistics.
    """

    def __init__(
        self,
        classifier: Callable[[Tensor], Tensor],
        images: Tensor,
        query_class: Tensor,
        *,
        baseline: Baseline,
        score: ScoreKind,
        chunk_size: int,
    ) -> None:
        self._classifier = classifier
        self._output = output_of(classifier)
        self._images = images
        self._query = query_class
        self._baseline = bound(baseline, classifier)
        self._kind: ScoreKind = score
        self._chunk_size = chunk_size
        self._fixed = None
        if not self._baseline.needs_mask:
            self._fixed = self._baseline(images, query_class=query_class)

    @property
    def baseline_name(self) -> str:
        """Name of the baseline, with its statistics filled in."""
        return self._baseline.name

    @property
    def masks_per_pass(self) -> int:
        """Masks that one pass of the classifier takes, and thus how many are worth making at once."""
        return max(1, self._chunk_size // max(1, len(self._images)))

    def clean(self) -> Tensor:
        """``(B,)``: scores of the images as they are."""
        scores = self._images.new_empty(len(self._images))
        for rows in self._groups():
            scores[rows] = self._score(self._images[rows], self._query[rows])
        return scores

    def __call__(self, masks: Tensor) -> Tensor:
        """``(N, B)``: score of every image under every mask ``(N, 1, H, W)`` in [0, 1], 1 keeps."""
        scores = self._images.new_empty(len(masks), len(self._images))
        for start in range(0, len(masks), self.masks_per_pass):
            some = masks[start : start + self.masks_per_pass]
            for rows in self._groups():
                query = self._query[rows].expand(len(some), -1).flatten()
                found = self._score(self._perturbed(some, rows), query)
                scores[start : start + len(some), rows] = found.view(len(some), -1)
        return scores

    def _groups(self) -> list[slice]:
        return [
            slice(start, start + self._chunk_size) for start in range(0, len(self._images), self._chunk_size)
        ]

    def _score(self, images: Tensor, query_class: Tensor) -> Tensor:
        return query_score(ask(self._classifier, images), query_class, self._kind, output=self._output)

    def _perturbed(self, masks: Tensor, rows: slice) -> Tensor:
        """``(N * B, 3, H, W)``: the images of one group under each mask, mask by mask."""
        images = self._images[rows]
        if self._fixed is not None:
            return compose(images, self._fixed[rows], masks[:, None]).flatten(0, 1)
        many = images.expand(len(masks), *images.shape).flatten(0, 1)
        each = masks[:, None].expand(-1, len(images), -1, -1, -1).flatten(0, 1)
        query = self._query[rows].expand(len(masks), -1).flatten()
        return compose(many, self._baseline(many, each, query_class=query), each)
