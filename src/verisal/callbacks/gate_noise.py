"""Whether learned gates keep what the network says of a class, or make it say more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import final

import torch
from torch import Tensor

from verisal.callbacks._explaining import Context, ExplainingCallback, Part, Seen
from verisal.callbacks._samples import add_samples, no_samples
from verisal.errors import ConfigError
from verisal.functional.filters import gaussian_matrix
from verisal.functional.statistics.intervals import bootstrap_mean
from verisal.metrics import ImageTable
from verisal.results import Evaluation, Score
from verisal.saliency import GateMethod, Saliency
from verisal.types import StagedClassifier

__all__ = ["GateNoise"]

_NAME = "gate noise"
_COLUMNS = ("change", "excess", "fall", "mirrored_fall")


@final
class GateNoise(ExplainingCallback):
    """How far gates raise a class's logit, and how far it falls again when they are blurred.

    Gates that keep evidence leave the logit where it was. Gates that are noise to the network raise it, and
    depend on each cell. For the predicted class, those of the given ranks and the least likely one, as shares
    of the range of the image's logits, all with their mean over images:

    - ``change``: the query's logit with gates, minus without;
    - ``excess``: with gates, minus the larger of its values without gates and with all gates at 0. To lose
      what spoke against a class raises its logit up to the second value and is no noise; more is;
    - ``fall``: with gates, minus with the same gates under a Gaussian blur in each stage;
    - ``mirrored_fall``, a control: with gates, minus with the same gates mirrored left to right.

    :class:`ExplainingCallback` says what holds for all; the controls it adds have no gates and no row here.

    Args:
        methods: name to method with gates.
        ranks: of the further queries, from 2.
        sigma: of the blur, in cells of each stage.
        every_n_epochs: in a fit, explain in every so manieth validation.
        max_images: at most so many images, a fixed subset drawn by seed; None for all.
        seed: of the subset and the intervals.
        resamples: bootstrap resamples of the intervals.

    Raises:
        ConfigError: settings out of range, a method without gates, or a classifier without stages.

    References:
        wang2020haf

    Differs from:
        - The paper names adversarial noise as a cause of false responses; these measures are ours.
    """

    def __init__(
        self,
        methods: Mapping[str, GateMethod],
        *,
        ranks: Sequence[int] = (2,),
        sigma: float = 1.0,
        every_n_epochs: int = 1,
        max_images: int | None = None,
        seed: int = 0,
        resamples: int = 2000,
    ) -> None:
        wrong = [name for name, method in methods.items() if not isinstance(method, GateMethod)]
        if wrong or not methods or not 0 < sigma < math.inf or any(rank < 2 for rank in ranks):
            raise ConfigError(
                "methods must be at least one and have gates, sigma be positive and ranks from 2; found"
                f" {list(methods)}, without gates {wrong}, sigma {sigma} and ranks {list(ranks)}"
            )
        plain: dict[str, Saliency] = dict(methods)
        super().__init__(
            plain, every_n_epochs=every_n_epochs, max_images=max_images, seed=seed, resamples=resamples
        )
        self.gated, self.ranks, self.sigma = dict(methods), tuple(ranks), sigma

    def part(self, context: Context) -> Part:
        """An empty table per method."""
        return _Noise(context, self.gated, self.ranks, self.sigma)


@final
class _Noise(Part):
    def __init__(
        self, context: Context, methods: Mapping[str, GateMethod], ranks: Sequence[int], sigma: float
    ) -> None:
        self._context, self._methods, self._ranks, self._sigma = context, methods, ranks, sigma
        self._queries = ("c0", *(f"rank{rank}" for rank in ranks), "last")
        columns = [f"{column}[{query}]" for query in self._queries for column in _COLUMNS]
        self._tables = {name: ImageTable(columns).to(context.device) for name in methods}

    def add(self, seen: Seen) -> None:
        context, batch = self._context, seen.batch
        network = context.classifier
        if not isinstance(network, StagedClassifier):
            raise ConfigError(f"GateNoise gates stages, and {type(network).__name__} has none")
        order = seen.logits.sort(dim=1, descending=True, stable=True).indices
        last = order.shape[1]
        asked = [order[:, min(rank, last) - 1] for rank in (1, *self._ranks, last)]
        for name, method in self._methods.items():
            key = f"noise {self._ranks} {self._sigma}"
            rows = partial(_rows, network, method, batch.images, asked, self._sigma)
            found = context.store.rows(
                name, method, batch.images, image_ids=batch.image_ids, wanted={key: rows}
            )
            self._tables[name].update(batch.image_ids, found[key])
            context.session.step(name)

    def evaluation(self) -> Evaluation | None:
        split = self._context.split
        scores: dict[str, Score] = {}
        samples = no_samples()
        for name, own in self._tables.items():
            table = own.compute()
            if not table.image_ids:
                return None
            for column, values in zip(own.columns, table.rows.unbind(dim=1), strict=True):
                scores[f"{split}/{name}/{_NAME}/{column}"] = bootstrap_mean(
                    values, resamples=self._context.resamples, seed=self._context.seed
                )
                add_samples(samples, table.image_ids, name, f"{_NAME}/{column}", values)
        return Evaluation(split, scores, samples=samples)


def _rows(
    network: StagedClassifier, method: GateMethod, images: Tensor, asked: Sequence[Tensor], sigma: float
) -> Tensor:
    """``(B, R)`` in the order of the columns."""
    outputs = network.stage_outputs(images)
    first, clean = outputs.activations[0], outputs.logits
    spread = clean.amax(dim=1) - clean.amin(dim=1)
    nothing = network.gated(first, [torch.zeros_like(part) for part in outputs.activations])
    found = []
    for query in asked:
        gates = method.gates(network, images, query)

        def logit(values: Tensor, query: Tensor = query) -> Tensor:
            return values.gather(1, query[:, None])[:, 0] / spread

        plain, kept, floor = logit(clean), logit(network.gated(first, gates)), logit(nothing)
        blurred = logit(network.gated(first, [_blurred(gate, sigma) for gate in gates]))
        mirrored = logit(network.gated(first, [gate.flip(-1) for gate in gates]))
        found += [kept - plain, kept - torch.maximum(plain, floor), kept - blurred, kept - mirrored]
    return torch.stack(found, dim=1)


def _blurred(gate: Tensor, sigma: float) -> Tensor:
    down, across = (gaussian_matrix(length, sigma).to(gate) for length in gate.shape[-2:])
    return down @ gate @ across.T
