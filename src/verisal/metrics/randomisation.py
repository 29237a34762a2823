"""The randomisation check: whether maps change when the network's layers are re-initialised."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import final

import torch
from torch import Tensor, nn

from verisal.errors import ConfigError, DataError
from verisal.fingerprint import state_hash
from verisal.functional.comparison.randomisation import (
    RandomisedCopy,
    derangement,
    randomised_copies,
    weighted_percentile,
)
from verisal.functional.comparison.similarity import attribution_of, defined_maps, spearman, ssim
from verisal.functional.statistics.resampled import Bootstrap, Resampled
from verisal.metrics._base import SaliencyMetric
from verisal.types import Explained, SaliencyResult, check_images

__all__ = ["CascadingRandomisation"]

Method = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], SaliencyResult]
_KINDS = ("spearman", "ssim", "attribution")


@final
class CascadingRandomisation(SaliencyMetric):
    """Similarity of maps to those of copies of the network with more and more layers re-initialised.

    Scores, for each step k from the logits downwards: ``spearman_k`` and ``ssim_k`` of saliency maps, and
    ``attribution_k``, Spearman of attributions; low is good. ``reference_spearman`` and ``reference_ssim``
    are the 95th percentiles of the similarity of the method's maps of unrelated images, each image against
    another one by a random derangement. :func:`.passes_randomisation` judges the last
    step by them.

    Args:
        method: classifier, images and query class to maps; the one whose maps are scored.
        images: ``(N, 3, H, W)`` in [0, 1], fixed, of the size of those that are scored: running statistics of
            the re-initialised norm layers are estimated on them.
        steps: into which the layers are divided.
        resamples: bootstrap resamples of the intervals.
        seed: of the initial values, of the derangement and of the resampling.

    Raises:
        ConfigError: ``steps`` below 1.

    References:
        adebayo2018
    """

    better = "low"

    def __init__(
        self, method: Method, images: Tensor, *, steps: int = 4, resamples: int = 2000, seed: int = 0
    ) -> None:
        if steps < 1:
            raise ConfigError(f"steps must be at least 1, found {steps}")
        check_images(images)
        height, width = images.shape[2:]
        # Maps are kept per image, because the reference compares images of different batches and processes.
        scores = [f"{kind}_{step}" for step in range(1, steps + 1) for kind in _KINDS]
        pixels = [f"pixel_{index}" for index in range(height * width)]
        super().__init__(f"cascading_randomisation[{steps}]", scores + pixels, resamples=resamples, seed=seed)
        self.method, self.steps, self.images = method, steps, images
        self._copies = _Copies()

    def rows_of(self, explained: Explained) -> Tensor:
        """As many maps per image as steps.

        Raises:
            ConfigError: a classifier that is no ``nn.Module``, or with fewer layers than steps.
            DataError: images of another size than those of the statistics.
        """
        images, query, intact = explained.images, explained.query_class, explained.result
        if images.shape[1:] != self.images.shape[1:]:
            raise DataError(
                f"{self.name}: images are {tuple(images.shape[1:])}, those of the statistics"
                f" {tuple(self.images.shape[1:])}; both must be of one size"
            )
        classifier = explained.classifier
        if not isinstance(classifier, nn.Module):
            raise ConfigError(
                f"{self.name} re-initialises layers and needs an nn.Module, found {type(classifier).__name__}"
            )
        columns = []
        statistics = self.images.to(images.device)
        for copy in self._copies.of(classifier, statistics, steps=self.steps, seed=self.seed):
            found = self.method(copy.classifier, images, query)
            columns += [spearman(intact.saliency, found.saliency), ssim(intact.saliency, found.saliency)]
            attribution = attribution_of(found)
            columns.append(spearman(attribution_of(intact).expand_as(attribution), attribution))
        return torch.cat([torch.stack(columns, dim=1), intact.saliency.double().flatten(1)], dim=1)

    def reduce(self, rows: Tensor, bootstrap: Bootstrap) -> Mapping[str, Resampled]:
        """Mean similarities, and the percentiles of the reference."""
        count = len(_KINDS) * self.steps
        columns = zip(self.columns[:count], rows[:, :count].T, strict=True)
        scores = {name: bootstrap.mean(column) for name, column in columns}
        maps = rows[:, count:].reshape(len(rows), 1, *self.images.shape[2:])
        defined = defined_maps(maps)
        kept = maps[defined]
        for name, similarity in (("spearman", spearman), ("ssim", ssim)):
            if len(kept) < 2:
                undefined = int((~defined).sum())
                scores[f"reference_{name}"] = Resampled(math.nan, n=len(kept), undefined=undefined)
                continue
            values = similarity(kept, kept[derangement(len(kept), seed=self.seed)])
            percentile = partial(weighted_percentile, values, percentile=95.0)
            scores[f"reference_{name}"] = bootstrap.of(percentile, defined)
        return scores


class _Copies:
    """The randomised copies of one classifier; made again when its weights change, and never pickled."""

    def __init__(self) -> None:
        self._weights = ""
        self._made: tuple[RandomisedCopy, ...] = ()

    def __reduce__(self) -> tuple[type[_Copies], tuple[()]]:
        return type(self), ()

    def of(
        self, classifier: nn.Module, images: Tensor, *, steps: int, seed: int
    ) -> tuple[RandomisedCopy, ...]:
        weights = state_hash(classifier)
        if weights != self._weights:
            self._made = tuple(randomised_copies(classifier, images, steps=steps, seed=seed))
            self._weights = weights
        return self._made
