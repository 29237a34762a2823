"""Noise of learned gates: evidence of a class that they add, where they should only keep it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor

from verisal.callbacks.explaining.callback import ScoringCallback
from verisal.callbacks.explaining.epoch import Epoch, Seen
from verisal.callbacks.explaining.rows import row_evaluation
from verisal.errors import ConfigError
from verisal.functional.filters import gaussian_blur
from verisal.metrics import ImageTable
from verisal.reporting.publication import merge_evaluations
from verisal.results import Evaluation
from verisal.saliency import GateMethod
from verisal.types import StagedClassifier

_NAME = "gate noise"
_COLUMNS = ("change", "excess", "fall", "mirrored_fall")


@final
@dataclass(eq=False, repr=False)
class GateNoise(ScoringCallback):
    """Rise of a class's logit under its gates, and its fall when they are blurred.

    Gates that keep evidence leave the logit where it was. Gates that are noise to the network raise it, and
    depend on each cell. For the predicted class, those of the given ranks and the least likely one, as shares
    of the range of the image's logits, all with their mean over images:

    - ``change``: the query's logit with gates, minus without;
    - ``excess``: with gates, minus the larger of its values without gates and with all gates at 0. To lose
      what spoke against a class raises its logit up to the second value and is no noise; more is;
    - ``fall``: with gates, minus with the same gates under a Gaussian blur in each stage;
    - ``mirrored_fall``, a control: with gates, minus with the same gates mirrored left to right.

    Options as of :class:`ExplainingCallback`, whose controls have no gates and no row here.

    Args:
        methods: name to method with gates.
        ranks: of the further queries, from 2.
        sigma: of the blur, in cells of each stage.

    Raises:
        ConfigError: settings out of range, a method without gates, or a classifier without stages.

    References:
        wang2020haf

    Differs from:
        - The paper names adversarial noise as a cause of false responses; these measures are ours.
    """

    methods: Mapping[str, GateMethod] | Sequence[GateMethod]
    _: KW_ONLY
    ranks: Sequence[int] = (2,)
    sigma: float = 1.0

    controlled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._gated = {
            name: method for name, method in self.by_name.items() if isinstance(method, GateMethod)
        }
        wrong = [name for name in self.by_name if name not in self._gated]
        low = any(rank < 2 for rank in self.ranks)
        if wrong or not self.by_name or not 0 < self.sigma < math.inf or low:
            raise ConfigError(
                "methods must be at least one and have gates, sigma be positive and ranks from 2; found"
                f" {list(self.by_name)}, without gates {wrong}, sigma {self.sigma} and ranks"
                f" {list(self.ranks)}"
            )

    @property
    def headline(self) -> Mapping[str, str]:
        """Excess and fall of the logits of the predicted and of the least likely class."""
        queries = {"c0": "predicted", "last": "least likely"}
        return {
            f"gate noise: {column}, {words} class": f"{_NAME}/{column}[{query}]"
            for query, words in queries.items()
            for column in ("excess", "fall")
        }

    def begin(self, epoch: Epoch) -> None:
        """Empty tables."""
        super().begin(epoch)
        queries = ("c0", *(f"rank{rank}" for rank in self.ranks), "last")
        columns = [f"{column}[{query}]" for query in queries for column in _COLUMNS]
        self._tables = {name: ImageTable(columns).to(epoch.device) for name in self.by_name}

    def add(self, epoch: Epoch, seen: Seen) -> None:
        """Rows of every method, known or computed."""
        network = epoch.classifier
        if not isinstance(network, StagedClassifier):
            raise ConfigError(
                f"GateNoise gates stages, and {type(network).__name__} has none; name them by stages="
            )
        order = seen.logits.sort(dim=1, descending=True, stable=True).indices
        last = order.shape[1]
        asked = [order[:, min(rank, last) - 1] for rank in (1, *self.ranks, last)]
        key = f"noise {tuple(self.ranks)} {self.sigma}"
        for name, method in self._gated.items():
            rows = partial(gate_noise, network, method, seen.batch.images, asked, self.sigma)
            known = epoch.rows(name, [method], seen.batch, {key: rows})
            self._tables[name].update(seen.batch.image_ids, known[key])
            epoch.step(name)

    def finish(self, epoch: Epoch) -> Evaluation | None:
        """Means and values per image of every method."""
        parts = []
        for name, table in self._tables.items():
            kept = table.compute()
            if not kept.image_ids:
                return None
            columns = dict(zip(table.columns, kept.rows.unbind(dim=1), strict=True))
            means = self.means(epoch, columns)
            parts.append(
                row_evaluation(epoch.split, name, _NAME, means, image_ids=kept.image_ids, columns=columns)
            )
        return merge_evaluations(parts)


def gate_noise(
    network: StagedClassifier, method: GateMethod, images: Tensor, asked: Sequence[Tensor], sigma: float
) -> Tensor:
    """Columns of :class:`GateNoise`, ``(B, R)``, for query classes ``(B,)``."""
    outputs = network.stage_outputs(images)
    first, clean = outputs.activations[0], outputs.logits
    spread = clean.amax(dim=1) - clean.amin(dim=1)
    nothing = network.gated(first, [torch.zeros_like(part) for part in outputs.activations])
    columns = []
    for query in asked:
        gates = method.gates(network, images, query)

        def logit(values: Tensor, query: Tensor = query) -> Tensor:
            return values.gather(1, query[:, None])[:, 0] / spread

        plain, kept, floor = logit(clean), logit(network.gated(first, gates)), logit(nothing)
        blurred = logit(network.gated(first, [gaussian_blur(gate, sigma) for gate in gates]))
        mirrored = logit(network.gated(first, [gate.flip(-1) for gate in gates]))
        columns += [kept - plain, kept - torch.maximum(plain, floor), kept - blurred, kept - mirrored]
    return torch.stack(columns, dim=1)
