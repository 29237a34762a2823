"""Query scores of images under masks: what occlusion and RISE ask of a classifier."""

from __future__ import annotations

from copy import copy
from typing import final

import torch
from torch import Tensor

from verisal.fingerprint import row_digests
from verisal.functional.baselines import Baseline, bound, compose
from verisal.functional.outputs import ask, output_of, probabilities
from verisal.functional.scopes import scored_at_once
from verisal.saliency._base import ScoreKind, query_score
from verisal.types import AnyClassifier, check_query_class


@final
class PerturbedScores:
    """Query scores of one batch, as it is and perturbed.

    Baselines that do not depend on the mask are made once; the others anew for every mask. An image that is
    in the batch several times, with a query each, is perturbed and passed once.

    They take data-set statistics from the classifier, and raise ``ConfigError`` where they lack them. At most
    ``chunk_size`` perturbed images are in one pass of the classifier, fewer above 256 x 256 pixels.
    """

    def __init__(
        self,
        classifier: AnyClassifier,
        images: Tensor,
        query_class: Tensor,
        baseline: Baseline,
        score: ScoreKind,
        chunk_size: int,
    ) -> None:
        self._classifier, self._output = classifier, output_of(classifier)
        self._baseline = bound(baseline, classifier)
        self._kind: ScoreKind = score
        self.baseline_name = self._baseline.name
        """Name of the baseline, with its statistics filled in."""
        self.at_once = scored_at_once(chunk_size, images)
        """Perturbed images in one pass of the classifier."""
        fixed = None if self._baseline.needs_mask else self._baseline(images, query_class=query_class)
        kept, self._place = _distinct(images, fixed)
        self._query = query_class
        self._set(images[kept], None if fixed is None else fixed[kept])

    def clean(self) -> Tensor:
        """``(B,)``: scores of the images as they are."""
        scores = [self._values(self._images[rows]) for rows in self._groups]
        return self._of_queries(torch.cat(scores)[None])[0]

    def __call__(self, masks: Tensor, channel: int | None = None) -> Tensor:
        """``(N, B)``: score of every image under every mask ``(N, 1, H, W)`` in [0, 1], 1 keeps.

        The masks act on all channels, or on the one that is named; the others stay as they are.
        """
        scores = []
        for some in torch.split(masks, self.masks_per_pass):
            passed = [self._values(self._perturbed(some, rows, channel)) for rows in self._groups]
            each = [values.view(len(some), -1, values.shape[1]) for values in passed]
            scores.append(self._of_queries(torch.cat(each, dim=1)))
        return torch.cat(scores)

    def of(self, rows: Tensor) -> PerturbedScores:
        """The same of some of the batch, by ``rows (B,)`` bool; at least one."""
        part = copy(self)
        kept, part._place = torch.unique(self._place[rows], return_inverse=True)
        part._query = self._query[rows]
        part._set(self._images[kept], None if self._fixed is None else self._fixed[kept])
        return part

    def pairs(self, masks: Tensor, rows: Tensor, channel: int | None = None) -> Tensor:
        """``(N,)``: score of image ``rows (N,)`` int64 under the mask of the same number, in one pass."""
        place, query = self._place[rows], self._query[rows]
        images, blended = self._images[place], self._blended(masks, channel)
        if self._fixed is None:
            filled = self._baseline(images, masks, query_class=query)
        else:
            filled = self._fixed[place]
        logits = ask(self._classifier, compose(images, filled, blended))
        return query_score(logits, query, self._kind, output=self._output)

    def _set(self, images: Tensor, fixed: Tensor | None) -> None:
        self._images, self._fixed = images, fixed
        self._groups = [slice(start, start + self.at_once) for start in range(0, len(images), self.at_once)]
        self.masks_per_pass = max(1, self.at_once // max(1, len(images)))
        """Masks that one pass of the classifier takes, and thus how many are worth making at once."""

    def _values(self, images: Tensor) -> Tensor:
        """``(B, K)``: logits or probabilities of all classes."""
        logits = ask(self._classifier, images)
        return logits if self._kind == "logit" else probabilities(logits, self._output)

    def _of_queries(self, values: Tensor) -> Tensor:
        """``(N, B)`` of the queries, from those of all classes of the distinct images ``(N, U, K)``."""
        check_query_class(self._query, len(self._query), values.shape[2])
        return values[:, self._place, self._query]

    def _perturbed(self, masks: Tensor, rows: slice, channel: int | None) -> Tensor:
        """``(N * U, C, H, W)``: the images of one group under each mask, mask by mask."""
        images, blended = self._images[rows], self._blended(masks, channel)
        if self._fixed is not None:
            return compose(images, self._fixed[rows], blended[:, None]).flatten(0, 1)
        # Nothing is distinct but by its place, so that these are the queries of the images.
        many = images.expand(len(masks), *images.shape).flatten(0, 1)
        each = masks[:, None].expand(-1, len(images), -1, -1, -1).flatten(0, 1)
        query = self._query[rows].expand(len(masks), -1).flatten()
        filled = self._baseline(many, each, query_class=query)
        return compose(many, filled, blended.repeat_interleave(len(images), dim=0))

    def _blended(self, masks: Tensor, channel: int | None) -> Tensor:
        """The masks, for one channel alone where it is named."""
        if channel is None:
            return masks
        chosen = torch.arange(self._images.shape[1], device=masks.device)[:, None, None] == channel
        return masks.where(chosen, 1)


def _distinct(images: Tensor, fixed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Numbers ``(U,)`` of the images that are not in the batch before, and which of them each is ``(B,)``.

    What is made under each mask may depend on the query, so that nothing is equal without fixed fillings.
    """
    everyone = torch.arange(len(images), device=images.device)
    if fixed is None:
        return everyone, everyone
    first: dict[tuple[bytes, bytes], int] = {}
    keys = zip(row_digests(images, 16), row_digests(fixed, 16), strict=True)
    place = [first.setdefault(key, len(first)) for key in keys]
    if len(first) == len(images):
        return everyone, everyone
    kept = [place.index(number) for number in range(len(first))]
    return torch.tensor(kept, device=images.device), torch.tensor(place, device=images.device)
