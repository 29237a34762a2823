"""Infidelity of a method's attributions."""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor

from verisal._numbers import check_range
from verisal.errors import ConfigError
from verisal.functional.comparison.similarity import attribution_of, defined_maps
from verisal.functional.removal.infidelity import (
    Responses,
    gaussian_noises,
    infidelity,
    responses,
    square_responses,
)
from verisal.metrics._base import SaliencyMetric
from verisal.types import Explained

__all__ = ["Infidelity"]


@final
class Infidelity(SaliencyMetric):
    """Squared error of what an attribution foretells of the query logit, lower is better.

    Scores: ``value``, and ``normalised``, which does not depend on the attribution's scale.

    Args:
        perturbation: ``squares``: squares of side 1 to 10 px turned black. ``gaussian``: independent noise.
        samples: perturbations per image; None for all squares, which grow with the image: about 7 600 at
            32 px, 480 000 at 224 px.
        deviation: standard deviation of the Gaussian noise, in [0, 1] pixel units.
        chunk_size: images in one network pass.
        resamples: bootstrap resamples of the intervals.
        seed: of the perturbations and of the resampling.

    Raises:
        ConfigError: an unknown perturbation, or Gaussian noise without a number of samples.

    References:
        yeh2019

    Differs from:
        - Squares are drawn at random by default.
    """

    better = "low"

    def __init__(
        self,
        *,
        perturbation: Literal["squares", "gaussian"] = "squares",
        samples: int | None = 100,
        deviation: float = 0.2,
        chunk_size: int = 64,
        resamples: int = 2000,
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
        super().__init__(
            f"infidelity[{','.join(settings)}]", ("value", "normalised"), resamples=resamples, seed=seed
        )
        self.perturbation, self.samples, self.deviation = perturbation, samples, deviation
        self.chunk_size = chunk_size

    def rows_of(self, explained: Explained) -> Tensor:
        """One network pass per perturbation."""
        attribution = attribution_of(explained.result)
        found = self._responses(explained, attribution)
        values = torch.stack([infidelity(found, normalised=flag) for flag in (False, True)], dim=1)
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
