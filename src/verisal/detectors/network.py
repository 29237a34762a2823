"""The small CNN that reads any named maps of any measurement, and the detector of several of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verisal._checks import as_tuples
from verisal.detectors.base import TrainedDetector, matching
from verisal.detectors.measurements import Measured, Measurement
from verisal.errors import ConfigError
from verisal.functional.scopes import rng_preserved
from verisal.functional.seeding import derive_seed
from verisal.saliency.gates.masks import CHANNEL_STATISTICS, stack_layers
from verisal.types import check_range

# Rows prepared and judged at once: bounds memory.
_ROWS = 512
_MAPS, _SCALARS = "inputs/maps", "inputs/scalars"


@final
@dataclass(kw_only=True)
class CNNDetector(TrainedDetector):
    """A vote of small CNNs on maps that are brought to one grid; the score is the mean of their logits.

    Maps are standardised per channel by statistics of clean fit images. Batches are flipped left to right
    half of the time, and both classes weigh the same.

    Args:
        source: what is measured of an image.
        reads: names of the maps to read, with ``*`` and ``?`` standing for anything, e.g. ``masks/*``.
        scalars: names of values per image, in the same way, that join the pooled features: ``(B,)``, or
            ``(B, K)``, which are sorted, e.g. ``logits``.
        folds: names of maps at the image's own resolution, whose blocks of pixels become channels.
        statistics: which statistics over channels are read of the other maps that hold all three.
        grid: side of the common grid.
        members: networks that vote.
        epochs: passes over the fit images, where the loop is :meth:`fit`; another has its own.
        batch_size: rows per step, likewise.
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
    statistics: tuple[Literal["mean", "std", "max"], ...] = ("mean", "std", "max")
    grid: int = 16
    width: int = 16
    dropout: float = 0.2

    def __post_init__(self) -> None:
        as_tuples(self)
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
        if not self.statistics or not set(self.statistics) <= set(CHANNEL_STATISTICS):
            known = ", ".join(CHANNEL_STATISTICS)
            raise ConfigError(f"CNNDetector.statistics must be of {known}; found {list(self.statistics)}")

    def prepare(self, measured: Measured) -> Mapping[str, Tensor]:
        """Maps ``(B, C, grid, grid)`` and scalars ``(B, S)`` as the networks read them."""
        if _MAPS in measured:
            return measured
        chosen = [CHANNEL_STATISTICS.index(name) for name in self.statistics]
        read = matching(measured, (*self.reads, *self.scalars))
        maps, scalars = [], []
        for start in range(0, max(len(next(iter(read.values()))), 1), _ROWS):
            rows = {name: tensor[start : start + _ROWS] for name, tensor in read.items()}
            maps.append(map_stack(rows, self.reads, folds=self.folds, statistics=chosen, grid=self.grid))
            scalars.append(scalar_stack(rows, self.scalars))
        return {_MAPS: torch.cat(maps), _SCALARS: torch.cat(scalars)}

    def build(self, clean: Measured, *, seed: int) -> nn.ModuleList:
        """Networks with their first weights, standardising by the clean fit images."""
        maps, scalars = self._inputs(clean)
        networks = self._networks_of(maps.shape[1], scalars.shape[1], seed=seed)
        for network in networks.to(maps.device):
            network.set_input_statistics(maps, scalars)  # type: ignore[operator]  # a list of modules
        return networks

    def loss(
        self,
        networks: nn.ModuleList,
        measured: Measured,
        adversarial: Tensor,
        *,
        positive_weight: float,
        seed: int,
        step: int,
    ) -> Tensor:
        """Sum over members of the mean weighted binary cross-entropy of a batch."""
        maps, scalars = self._inputs(measured)
        if derive_seed(seed, "flip", step) % 2:
            maps = maps.flip(-1)
        target, weight = adversarial.float(), torch.where(adversarial, positive_weight, 1.0)
        losses = []
        for member, network in enumerate(networks):
            with rng_preserved(maps.device):
                torch.manual_seed(derive_seed(seed, "dropout", member, step))
                logits = network(maps, scalars)
            losses.append(F.binary_cross_entropy_with_logits(logits, target, weight=weight))
        return torch.stack(losses).sum()

    def votes(self, networks: nn.ModuleList, measured: Measured) -> Tensor:
        """Logits ``(B, members)`` of networks in eval mode; in the graph of what was measured."""
        maps, scalars = self._inputs(measured)
        parts = zip(torch.split(maps, _ROWS), torch.split(scalars, _ROWS), strict=True)
        return torch.cat([torch.stack([network(*part) for network in networks], dim=1) for part in parts])

    def state(self) -> dict[str, Tensor]:
        """Weights and statistics of every member; empty where nothing was learned."""
        state = {} if self._networks is None else self._networks.state_dict()
        return {f"CNNDetector.{name}": tensor for name, tensor in state.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over the networks of a detector with equal settings."""
        own = self._own(state)
        try:
            mean, scalars = own["0.input_mean"], len(own["0.scalar_mean"])
            networks = self._networks_of(mean.shape[1], scalars, seed=0).to(mean.device)
            networks.load_state_dict(own)
        except (KeyError, RuntimeError) as error:
            raise ConfigError(
                f"this is the state of a CNNDetector with other settings than members={self.members} and"
                f" width={self.width}, or no whole one: {str(error).splitlines()[-1].strip()}"
            ) from None
        self.finish(networks)

    def _networks_of(self, channels: int, scalars: int, *, seed: int) -> nn.ModuleList:
        networks = []
        for member in range(self.members):
            with rng_preserved():
                torch.manual_seed(derive_seed(seed, "cnn detector", member))
                networks.append(
                    AttributionCNN(channels, in_scalars=scalars, width=self.width, dropout=self.dropout)
                )
        # channels_last makes the CPU convolutions faster.
        return nn.ModuleList(networks).to(memory_format=torch.channels_last)

    def _inputs(self, measured: Measured) -> tuple[Tensor, Tensor]:
        inputs = self.prepare(measured)
        # The same layout whichever way the rows came, so that the networks come to the same bits.
        return inputs[_MAPS].contiguous(memory_format=torch.channels_last), inputs[_SCALARS]


@final
class AttributionCNN(nn.Module):
    """Four blocks (3x3 convolution of stride 2, batch normalisation, ReLU), average pooling, one logit.

    Positive logits mean *adversarial*. Inputs are standardised by statistics that are set once from clean
    fit images (:meth:`set_input_statistics`) and travel with the weights.

    Args:
        in_channels: channels of the stack.
        in_scalars: values per image that join the pooled features.
        width: channels of the first block; later blocks have 2, 4 and 4 times as many.
        dropout: share of pooled features dropped in training; scalars are not dropped.

    Raises:
        ConfigError: values out of range.
    """

    def __init__(
        self, in_channels: int, *, in_scalars: int = 0, width: int = 16, dropout: float = 0.2
    ) -> None:
        super().__init__()
        check_range(1, in_channels=in_channels, width=width)
        check_range(0, in_scalars=in_scalars)
        check_range(0, 1, dropout=dropout)
        self.input_mean = nn.Buffer(torch.zeros(1, in_channels, 1, 1))
        self.input_std = nn.Buffer(torch.ones(1, in_channels, 1, 1))
        self.scalar_mean = nn.Buffer(torch.zeros(in_scalars))
        self.scalar_std = nn.Buffer(torch.ones(in_scalars))
        layers: list[nn.Module] = []
        channels = in_channels
        for block_width in (width, 2 * width, 4 * width, 4 * width):
            layers += [
                nn.Conv2d(channels, block_width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(block_width),
                nn.ReLU(),
            ]
            channels = block_width
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels + in_scalars, 1)
        )

    def set_input_statistics(self, maps: Tensor, scalars: Tensor | None = None) -> None:
        """Take mean and deviation from maps ``(N, C, H, W)``, per channel, and scalars ``(N, S)``."""
        self.input_mean.copy_(maps.mean(dim=(0, 2, 3)).view(1, -1, 1, 1))
        self.input_std.copy_(maps.std(dim=(0, 2, 3)).clamp_min(1e-6).view(1, -1, 1, 1))
        if scalars is not None:
            self.scalar_mean.copy_(scalars.mean(dim=0))
            apart = scalars - self.scalar_mean
            self.scalar_std.copy_(apart.square().mean(dim=0).sqrt().clamp_min(1e-6))

    def forward(self, maps: Tensor, scalars: Tensor | None = None) -> Tensor:
        """Logits ``(B,)`` of stacks ``(B, C, H, W)`` and, if any, scalars ``(B, S)``."""
        features = self.head[:-1](self.body((maps - self.input_mean) / self.input_std))
        if scalars is not None:
            features = torch.cat([features, (scalars - self.scalar_mean) / self.scalar_std], dim=1)
        logits: Tensor = self.head[-1](features)
        return logits[:, 0]


def map_stack(
    measured: Measured,
    reads: Sequence[str],
    *,
    folds: Sequence[str],
    grid: int,
    statistics: Sequence[int] = (0, 1, 2),
) -> Tensor:
    """Tensors whose names match ``reads``, side by side on one grid: ``(B, C, grid, grid)`` float32.

    Those that match ``folds`` become blocks of pixels as channels before, so that nothing is averaged away;
    bytes are divided by 255. Of other maps of three channels the ``statistics`` are taken.

    Raises:
        ConfigError: a pattern that matches nothing, or a tensor that is no map.
    """
    layers = []
    for name, maps in matching(measured, reads).items():
        if maps.ndim != 4:
            raise ConfigError(
                f"{name} is {tuple(maps.shape)}, not a map (B, C, h, w); name it in scalars, not in reads"
            )
        maps = maps.float() / 255 if maps.dtype == torch.uint8 else maps.float()
        if any(fnmatchcase(name, pattern) for pattern in folds):
            maps = _fold(maps, grid)
        elif maps.shape[1] == len(CHANNEL_STATISTICS) and len(statistics) < len(CHANNEL_STATISTICS):
            maps = maps[:, list(statistics)]
        layers.append(maps)
    return stack_layers(layers, (grid, grid))


def scalar_stack(measured: Measured, names: Sequence[str]) -> Tensor:
    """Tensors ``(B,)`` and ``(B, K)`` whose names match, side by side: ``(B, S)`` float32.

    Rows of ``(B, K)`` are sorted, largest first: what stands where must not name a class.

    Raises:
        ConfigError: a pattern that matches nothing, or a tensor that is a map.
    """
    columns = []
    for name, tensor in matching(measured, names).items():
        values = tensor.float()
        if values.ndim > 2:
            raise ConfigError(
                f"{name} is {tuple(values.shape)}, not (B,) or (B, K); name it in reads, not in scalars"
            )
        columns.append(values[:, None] if values.ndim == 1 else values.sort(dim=1, descending=True).values)
    some = next(iter(measured.values()))
    return torch.cat(columns, dim=1) if columns else torch.zeros(len(some), 0, device=some.device)


def _fold(maps: Tensor, grid: int) -> Tensor:
    """Blocks of pixels as channels; their side is the largest that leaves at least the grid.

    Not ``pixel_unshuffle``, which gives an empty batch another number of channels.
    """
    count, channels, height, width = maps.shape
    side = min(height, width)
    block = max(
        size
        for size in range(1, side + 1)
        if height % size == 0 and width % size == 0 and side // size >= min(grid, side)
    )
    blocks = maps.reshape(count, channels, height // block, block, width // block, block)
    folded = blocks.permute(0, 1, 3, 5, 2, 4)
    return folded.reshape(count, channels * block**2, height // block, width // block)
