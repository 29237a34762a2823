"""Comparisons of maps with those of other settings, noisy images and randomised networks; smoothness."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import final

import torch
from torch import Tensor, nn

from verisal.errors import ConfigError, DataError
from verisal.fingerprint import state_hash
from verisal.functional.comparison import (
    high_frequency_share,
    randomised_copies,
    sensitivity_max,
    spearman,
    ssim,
    uniform_noises,
)
from verisal.functional.comparison.randomisation import RandomisedCopy, derangement, weighted_percentile
from verisal.functional.comparison.similarity import (
    attribution_of,
    defined_maps,
    map_similarities,
    random_maps,
)
from verisal.functional.comparison.smoothness import variation_at_equal_mass
from verisal.functional.statistics import Bootstrap, Resampled
from verisal.metrics._base import SaliencyMetric
from verisal.metrics._given import AnyMethod, check_method, maps_by
from verisal.types import Explained, check_images, check_range

_KINDS = ("spearman", "ssim", "attribution")
# Maps that are compared together.
_AT_ONCE = 64


@final
class Smoothness(SaliencyMetric):
    """Total variation at equal mass, and the share of energy at high frequencies; neither end is good.

    Any blur makes a map smoother, so read it beside scores of what the map says; and beside
    :class:`.BlurredLike`, the plain blur of another method's map to the same variation.

    References:
        rudin1992
    """

    def __init__(self) -> None:
        columns = ("total_variation", "high_frequencies")
        super().__init__("smoothness", columns)

    def rows_of(self, explained: Explained) -> Tensor:
        """Of the maps as they are; the network is not asked."""
        maps = explained.result.saliency
        return torch.stack([variation_at_equal_mass(maps), high_frequency_share(maps)], dim=1)


@final
class MapSimilarity(SaliencyMetric):
    """Similarity of the maps to those of another method, or of another setting of the same method.

    Scores: ``spearman``, ``pearson``, ``ssim``, ``top_5``, ``top_10``, ``top_20`` (intersection over union),
    ``floor`` (Spearman of two runs of the same setting) and ``control`` (Spearman with random maps).

    Args:
        other: what is compared with: a :class:`.Saliency`, or a function of classifier, images and query
            class to maps.
        label: of the other, for the metric's name.
        repeat: the explained setting with other random numbers; None for a deterministic method, whose floor
            is 1.
        seed: of the random maps.
    """

    needs = ("images", "classifier")

    def __init__(
        self, other: AnyMethod, *, label: str, repeat: AnyMethod | None = None, seed: int = 0
    ) -> None:
        super().__init__(
            f"map_similarity[{label}]",
            ("spearman", "pearson", "ssim", "top_5", "top_10", "top_20", "floor", "control"),
            seed=seed,
        )
        for method, role in ((other, "other"), (repeat, "repeat")):
            if method is not None:
                check_method(method, role)
                self.asked += (method,)
        self.other, self.label, self.repeat = other, label, repeat

    def rows_of(self, explained: Explained) -> Tensor:
        """One map of the other and one of the repetition per image."""
        asked = explained.classifier, explained.images, explained.query_class
        maps = explained.result.saliency
        similarities = map_similarities(maps, maps_by(self.other, *asked).saliency)
        control = spearman(maps, random_maps(maps, image_ids=explained.image_ids, seed=self.seed))
        # A deterministic method is like itself wherever its map is defined.
        floor = spearman(maps, maps if self.repeat is None else maps_by(self.repeat, *asked).saliency)
        return torch.stack([*similarities.values(), floor, control], dim=1)


@final
class SensitivityMax(SaliencyMetric):
    """Largest relative change of the attribution under uniform noise, lower is better.

    Asks the method for maps of noisy images; the query class stays. Score: ``value``.

    Args:
        radius: r of the noise in [-r, r], in [0, 1] pixel units.
        samples: noisy copies per image.
        chunk_size: images explained at once, at least a batch.
        seed: of the noise.

    References:
        yeh2019

    Differs from:
        - See :func:`.sensitivity_max`.
    """

    better = "low"
    needs = ("images", "classifier", "method")

    def __init__(
        self, *, radius: float = 0.02, samples: int = 10, chunk_size: int = 64, seed: int = 0
    ) -> None:
        check_range(0, above=True, radius=radius)
        check_range(1, samples=samples, chunk_size=chunk_size)
        super().__init__(f"sensitivity_max[{radius:g},{samples}]", ("value",), seed=seed)
        self.radius, self.samples, self.chunk_size = radius, samples, chunk_size

    def rows_of(self, explained: Explained) -> Tensor:
        """As many maps per image as samples."""
        return sensitivity_max(
            explained.explain,
            explained.images,
            query_class=explained.query_class,
            attribution=attribution_of(explained.result),
            noises=uniform_noises(explained.images, radius=self.radius, samples=self.samples, seed=self.seed),
            chunk_size=self.chunk_size,
        )[:, None]


@final
class CascadingRandomisation(SaliencyMetric):
    """Similarity of maps to those of copies of the network with more and more layers re-initialised.

    Scores, for each step k from the logits downwards: ``spearman_k`` and ``ssim_k`` of saliency maps, and
    ``attribution_k``, Spearman of attributions, or of the maps if one side has none; low is good.
    ``reference_spearman`` and ``reference_ssim`` are the 95th percentiles of the similarity of the method's
    maps of unrelated images, each image against another one by a random derangement.
    :func:`.passes_randomisation` judges the last step by them.

    Args:
        method: the one whose maps are scored: a :class:`.Saliency`, or a function of classifier, images and
            query class to maps.
        images: ``(N, C, H, W)`` in [0, 1], fixed, of the size of those that are scored: running statistics of
            the re-initialised norm layers are estimated on them.
        steps: into which the layers are divided.
        seed: of the initial values, of the derangement.

    Raises:
        ConfigError: ``steps`` below 1, or a method that is bound to one network.

    References:
        adebayo2018
    """

    better = "low"
    needs = ("images", "classifier")

    def __init__(self, method: AnyMethod, images: Tensor, *, steps: int = 4, seed: int = 0) -> None:
        if steps < 1:
            raise ConfigError(f"steps must be at least 1, found {steps}")
        check_method(method, "method")
        check_images(images)
        height, width = images.shape[2:]
        # Maps are kept per image, because the reference compares images of different batches and processes.
        scores = [f"{kind}_{step}" for step in range(1, steps + 1) for kind in _KINDS]
        pixels = [f"pixel_{index}" for index in range(height * width)]
        super().__init__(
            f"cascading_randomisation[{steps}]",
            scores + pixels,
            main=f"spearman_{steps}",
            seed=seed,
            # Of maps, which are float32.
            dtype=torch.float32,
            precise=len(scores),
        )
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
            result = maps_by(self.method, copy.classifier, images, query)
            columns += [spearman(intact.saliency, result.saliency), ssim(intact.saliency, result.saliency)]
            signed = attribution_of(intact), attribution_of(result)
            alike = signed if signed[0].shape == signed[1].shape else (intact.saliency, result.saliency)
            columns.append(spearman(*alike))
        return torch.cat([torch.stack(columns, dim=1), intact.saliency.double().flatten(1)], dim=1)

    def reduce(self, rows: Tensor, bootstrap: Bootstrap) -> Mapping[str, Resampled]:
        """Mean similarities, and the percentiles of the reference."""
        count = len(_KINDS) * self.steps
        columns = zip(self.columns[:count], rows[:, :count].T, strict=True)
        # Equal maps may come out at 1 but for rounding, which must not decide what the limits are.
        scores = {name: bootstrap.mean(column, kind="measure") for name, column in columns}
        maps = rows[:, count:].reshape(len(rows), 1, *self.images.shape[2:])
        defined = defined_maps(maps)
        kept = maps[defined]
        for name, similarity in (("spearman", spearman), ("ssim", ssim)):
            if len(kept) < 2:
                undefined = int((~defined).sum())
                scores[f"reference_{name}"] = Resampled(math.nan, n=len(kept), undefined=undefined)
                continue
            others = derangement(len(kept), seed=self.seed)
            parts = torch.split(torch.arange(len(kept)), _AT_ONCE)
            values = torch.cat([similarity(kept[part], kept[others[part]]) for part in parts])
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
