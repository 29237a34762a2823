"""Any saliency methods by any metrics, during validation and test."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import final

from verisal.callbacks._explaining import Context, ExplainingCallback
from verisal.callbacks._metric_table import MetricTable
from verisal.errors import ConfigError
from verisal.metrics import CascadingRandomisation, SaliencyMetric
from verisal.saliency import Saliency

__all__ = ["SaliencyMetrics"]


@final
class SaliencyMetrics(ExplainingCallback):
    """Scores the maps of every method by every metric; :class:`ExplainingCallback` says what holds for all.

    Args:
        methods: name to method.
        metrics: what is measured; their names and settings name the scores.
        randomisation_steps: re-initialise the network's layers in so many steps for
            :class:`.CascadingRandomisation` of every method; 0 leaves it out.
        every_n_epochs: in a fit, explain in every so manieth validation.
        max_images: at most so many images, a fixed subset drawn by seed; None for all.
        seed: of the subset, the controls, the re-initialised layers and the intervals.
        resamples: bootstrap resamples of the intervals.

    Raises:
        ConfigError: settings out of range, or two metrics of one name.
    """

    def __init__(
        self,
        methods: Mapping[str, Saliency],
        metrics: Sequence[SaliencyMetric],
        *,
        randomisation_steps: int = 0,
        every_n_epochs: int = 1,
        max_images: int | None = None,
        seed: int = 0,
        resamples: int = 2000,
    ) -> None:
        super().__init__(
            methods, every_n_epochs=every_n_epochs, max_images=max_images, seed=seed, resamples=resamples
        )
        names = [metric.name for metric in metrics]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or randomisation_steps < 0 or not (names or randomisation_steps):
            raise ConfigError(
                "metrics must be at least one, each once, and randomisation_steps not negative;"
                f" found {len(names)} metrics, twice {twice}, and {randomisation_steps} steps"
            )
        self.metrics, self.randomisation_steps = tuple(metrics), randomisation_steps

    def part(self, context: Context) -> MetricTable:
        """Metrics of its own for every method."""
        return MetricTable(context, {name: self._metrics_of(name, context) for name in context.methods})

    def _metrics_of(self, name: str, context: Context) -> list[SaliencyMetric]:
        own = [copy.deepcopy(metric) for metric in self.metrics]
        if self.randomisation_steps:
            own.append(
                CascadingRandomisation(
                    context.methods[name],
                    context.example_images(),
                    steps=self.randomisation_steps,
                    seed=context.seed,
                )
            )
        return own
