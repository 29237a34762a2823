"""Faithfulness of maps: the classifier's answers when the image is cropped or changed as the map says."""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional.comparison import postprocess
from verisal.functional.comparison.similarity import attribution_of, defined_maps
from verisal.functional.removal import (
    dabkowski_gal,
    gaussian_noises,
    infidelity,
    responses,
    saliency_fidelity,
    square_responses,
)
from verisal.functional.removal.infidelity import Responses
from verisal.metrics._base import SaliencyMetric
from verisal.types import Explained, check_range


@final
class DabkowskiGal(SaliencyMetric):
    """Log area of the crop round the map minus the crop's log probability, lower is better.

    Score: ``value``.

    Args:
        threshold: share of the map's maximum that belongs to the crop; choose it with
            :func:`.tuned_threshold` on images that are not scored.
        empty_probability: probability of the empty crop of an all-zero map; None leaves it undefined.
        chunk_size: images in one network pass.

    References:
        dabkowski2017

    Differs from:
        - See :func:`.dabkowski_gal`.
    """

    better = "low"
    needs = ("images", "classifier")

    def __init__(
        self, *, threshold: float = 0.5, empty_probability: float | None = None, chunk_size: int = 64
    ) -> None:
        check_range(0, 1, above=True, threshold=threshold)
        check_range(0, 1, above=True, empty_probability=empty_probability)
        check_range(1, chunk_size=chunk_size)
        setting = "" if empty_probability is None else f",empty={empty_probability:g}"
        super().__init__(f"dabkowski_gal[{threshold:g}{setting}]", ("value",))
        self.threshold, self.empty_probability = threshold, empty_probability
        self.chunk_size = chunk_size

    def rows_of(self, explained: Explained) -> Tensor:
        """One network pass per image."""
        return dabkowski_gal(
            explained.classifier,
            explained.images,
            maps=explained.result.saliency,
            query_class=explained.query_class,
            threshold=self.threshold,
            empty_probability=self.empty_probability,
            chunk_size=self.chunk_size,
        )[:, None]


@final
class SaliencyFidelity(SaliencyMetric):
    """Saliency fidelity S_F of post-processed attributions, lower is better.

    Scores: ``value``, and ``floored``, the share of images with a probability below its floor.

    Args:
        percentile: at which attributions are winsorised; see :func:`.postprocess`.
        chunk_size: images in one network pass.

    References:
        lu2021decoys

    Differs from:
        - See :func:`.saliency_fidelity`.
    """

    better = "low"
    needs = ("images", "classifier")

    def __init__(self, *, percentile: float = 95.0, chunk_size: int = 64) -> None:
        check_range(0, 100, above=True, percentile=percentile)
        check_range(1, chunk_size=chunk_size)
        setting = "" if percentile == 95.0 else f",p{percentile:g}"
        super().__init__(f"saliency_fidelity[black{setting}]", ("value", "floored"))
        self.percentile, self.chunk_size = percentile, chunk_size

    def rows_of(self, explained: Explained) -> Tensor:
        """Two network passes per image."""
        fidelity = saliency_fidelity(
            explained.classifier,
            explained.images,
            maps=postprocess(attribution_of(explained.result), percentile=self.percentile),
            query_class=explained.query_class,
            chunk_size=self.chunk_size,
        )
        floored = fidelity.floored.double().where(~fidelity.values.isnan(), torch.nan)
        return torch.stack([fidelity.values, floored], dim=1)


@final
class Infidelity(SaliencyMetric):
    """Squared error of what an attribution predicts of the query logit, lower is better.

    Scores: ``value``, and ``normalised``, which does not depend on the attribution's scale.

    Args:
        perturbation: ``squares``: squares of side 1 to 10 px turned black. ``gaussian``: independent noise.
        samples: perturbations per image; None for all squares, which grow with the image: about 7 600 at
            32 px, 480 000 at 224 px.
        deviation: standard deviation of the Gaussian noise, in [0, 1] pixel units.
        chunk_size: images in one network pass.
        seed: of the perturbations.

    Raises:
        ConfigError: an unknown perturbation, or Gaussian noise without a number of samples.

    References:
        yeh2019

    Differs from:
        - Squares are drawn at random by default.
    """

    better = "low"
    needs = ("images", "classifier")

    def __init__(
        self,
        *,
        perturbation: Literal["squares", "gaussian"] = "squares",
        samples: int | None = 100,
        deviation: float = 0.2,
        chunk_size: int = 64,
        seed: int = 0,
    ) -> None:
        check_range(1, samples=samples, chunk_size=chunk_size)
        check_range(0, above=True, deviation=deviation)
        if perturbation not in ("squares", "gaussian"):
            raise ConfigError(f"perturbation must be squares or gaussian, found {perturbation!r}")
        if perturbation == "gaussian" and samples is None:
            raise ConfigError("gaussian perturbations need a number of samples, found None; 100 is usual")
        settings = [
            perturbation if perturbation == "squares" else f"gaussian{deviation:g}",
            "all" if samples is None else str(samples),
        ]
        super().__init__(f"infidelity[{','.join(settings)}]", ("value", "normalised"), seed=seed)
        self.perturbation, self.samples, self.deviation = perturbation, samples, deviation
        self.chunk_size = chunk_size

    def rows_of(self, explained: Explained) -> Tensor:
        """One network pass per perturbation."""
        attribution = attribution_of(explained.result)
        asked = self._responses(explained, attribution)
        values = torch.stack([infidelity(asked, normalised=flag) for flag in (False, True)], dim=1)
        return values.where(defined_maps(attribution)[:, None], torch.nan)

    def _responses(self, explained: Explained, attribution: Tensor) -> Responses:
        if self.perturbation == "squares" or self.samples is None:
            return square_responses(
                explained.classifier,
                explained.images,
                attribution=attribution,
                query_class=explained.query_class,
                samples=self.samples,
                seed=self.seed,
                chunk_size=self.chunk_size,
            )
        noises = gaussian_noises(
            explained.images, deviation=self.deviation, samples=self.samples, seed=self.seed
        )
        return responses(
            explained.classifier,
            explained.images,
            attribution=attribution,
            query_class=explained.query_class,
            perturbations=noises,
            chunk_size=self.chunk_size,
        )
