"""The small CNN as a detector that reads any named maps of any measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal._numbers import check_range
from verisal.detectors._base import Detector
from verisal.detectors._fitting import require_rows, unfitted
from verisal.detectors._stacks import map_stack, scalar_stack
from verisal.detectors.attribution_cnn import AttributionCNN
from verisal.errors import ConfigError
from verisal.functional.scopes import gradient_scope, rng_preserved
from verisal.functional.seeding import derive_seed
from verisal.types import Measurement

__all__ = ["CNNDetector"]

_LEAST = 4
# Rows judged at once: bounds memory.
_ROWS = 512


@final
@dataclass(kw_only=True)
class CNNDetector(Detector):
    """A vote of small CNNs on maps that are brought to one grid; the score is the mean of their logits.

    Maps are standardised per channel by statistics of clean fit images. All networks see the same kind of
    batches: shuffled, flipped left to right half of the time, both classes weighing the same. The rate
    follows one cycle and the last step is kept: nothing is chosen by images that were not fitted.

    Args:
        source: what is measured of an image.
        reads: names of the maps to read, with ``*`` and ``?`` standing for anything, e.g. ``masks/*``.
        scalars: names of values per image, in the same way, that join the pooled features: ``(B,)``, or
            ``(B, K)``, which are sorted, e.g. ``logits``.
        folds: names of maps at the image's own resolution, whose blocks of pixels become channels.
        grid: side of the common grid.
        members: networks that vote.
        epochs: passes over the fit images.
        batch_size: rows per step.
        learning_rate: peak rate of AdamW.
        weight_decay: of AdamW.
        width: channels of the first block.
        dropout: of the pooled features.

    Raises:
        ConfigError: no name to read, or settings out of range.
    """

    source: Measurement
    reads: tuple[str, ...]
    scalars: tuple[str, ...] = ()
    folds: tuple[str, ...] = ("image", "*/image", "gradient", "*/gradient")
    grid: int = 16
    members: int = 3
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 0.004
    weight_decay: float = 0.02
    width: int = 16
    dropout: float = 0.2
    _networks: tuple[AttributionCNN, ...] = field(init=False, default=(), repr=False, compare=False)
    _scalar_statistics: tuple[Tensor, Tensor] | None = field(
        init=False, default=None, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check_range(0, learning_rate=self.learning_rate, weight_decay=self.weight_decay)
        counts = (self.grid, self.members, self.epochs, self.width, self.batch_size - 1)
        if not self.reads or min(counts) < 1 or self.learning_rate <= 0 or not 0 <= self.dropout < 1:
            raise ConfigError(
                "CNNDetector needs a name to read, grid, members, epochs and width of at least 1, a"
                " batch_size of at least 2, a learning_rate above 0 and a dropout in [0, 1); found"
                f" reads={list(self.reads)}, grid={self.grid}, members={self.members}, epochs={self.epochs},"
                f" width={self.width}, batch_size={self.batch_size}, learning_rate={self.learning_rate},"
                f" dropout={self.dropout}"
            )

    @property
    def measurement(self) -> Measurement:
        """The source."""
        return self.source

    def fit(
        self, measured: Mapping[str, Tensor], adversarial: Tensor, clean: Tensor, *, seed: int = 0
    ) -> None:
        """Train the networks from new weights.

        Raises:
            DataError: fewer than 4 clean or 4 adversarial images.
            ConfigError: a name that matches nothing, or a tensor of another shape.
        """
        require_rows(self, adversarial, clean, least_clean=_LEAST, least_adversarial=_LEAST)
        device = adversarial.device
        with gradient_scope(device.type), rng_preserved(device):
            maps = map_stack(measured, self.reads, folds=self.folds, grid=self.grid)
            self._scalar_statistics = None
            values = scalar_stack(measured, self.scalars)
            if values is not None:
                of_clean = values[clean]
                deviation = of_clean.std(dim=0, correction=0).clamp_min(1e-6)
                self._scalar_statistics = (of_clean.mean(dim=0), deviation)
            scalars = self._standardised(values)
            networks = []
            for member in range(self.members):
                torch.manual_seed(derive_seed(seed, "cnn detector", member))
                networks.append(self._new_network(maps, scalars, clean))
                self._train(networks[-1], maps, scalars, adversarial)
        self._networks = tuple(networks)

    def judge(self, measured: Mapping[str, Tensor]) -> Tensor:
        """``(B,)`` mean logits from the maps and values that are read; in their graph where they have one."""
        if not self._networks:
            raise unfitted(self)
        count = len(next(iter(measured.values())))
        device_type = next(iter(measured.values())).device.type
        with gradient_scope(device_type):
            parts = [
                self._votes({name: tensor[start : start + _ROWS] for name, tensor in measured.items()})
                for start in range(0, max(count, 1), _ROWS)
            ]
        return torch.cat(parts)

    def _votes(self, measured: Mapping[str, Tensor]) -> Tensor:
        maps = map_stack(measured, self.reads, folds=self.folds, grid=self.grid)
        scalars = self._standardised(scalar_stack(measured, self.scalars))
        return torch.stack([network(maps, scalars) for network in self._networks]).mean(dim=0)

    def _standardised(self, scalars: Tensor | None) -> Tensor | None:
        if scalars is None or self._scalar_statistics is None:
            return None
        mean, deviation = self._scalar_statistics
        return (scalars - mean) / deviation

    def _new_network(self, maps: Tensor, scalars: Tensor | None, clean: Tensor) -> AttributionCNN:
        joined = 0 if scalars is None else scalars.shape[1]
        network = AttributionCNN(maps.shape[1], in_scalars=joined, width=self.width, dropout=self.dropout)
        network.to(device=maps.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        network.set_input_statistics(maps[clean])
        return network

    def _train(
        self, network: AttributionCNN, maps: Tensor, scalars: Tensor | None, adversarial: Tensor
    ) -> None:
        target = adversarial.float()
        weight = torch.where(adversarial, (1 - target).sum() / target.sum(), 1.0)
        # A short last batch would have poor batch statistics; below one batch it is all there is.
        batches = max(len(maps) // self.batch_size, 1)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=self.learning_rate, total_steps=self.epochs * batches
        )
        network.train()
        for _ in range(self.epochs):
            order = torch.randperm(len(maps), device=maps.device)
            for step in range(batches):
                rows = order[step * self.batch_size : (step + 1) * self.batch_size]
                batch = maps[rows].flip(-1) if bool(torch.rand(()) < 0.5) else maps[rows]
                logits = network(batch, None if scalars is None else scalars[rows])
                loss = F.binary_cross_entropy_with_logits(logits, target[rows], weight=weight[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch says nothing of it
                optimizer.step()
                schedule.step()
        network.eval().requires_grad_(False)
