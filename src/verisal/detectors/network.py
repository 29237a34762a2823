"""The small CNN that reads any named maps of any measurement, and the detector of several of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verisal._checks import as_tuples
from verisal.detectors.base import TrainedDetector, matching
from verisal.detectors.measurements import Measured, Measurement
from verisal.detectors.residuals import ResidualFilter, residual_kernels, residuals
from verisal.errors import ConfigError
from verisal.functional.scopes import rng_preserved
from verisal.functional.seeding import derive_seed
from verisal.saliency.gates.masks import CHANNEL_STATISTICS, stack_layers
from verisal.types import check_range

# Rows prepared and judged at once, of maps as large as the grid; fewer of larger maps: bounds memory.
_ROWS, _GRID = 512, 16
# Strides of the blocks where the maps are on a grid.
_STRIDES = (2, 2, 2, 2)
_MAPS, _SCALARS = "inputs/maps", "inputs/scalars"


@final
@dataclass(kw_only=True)
class CNNDetector(TrainedDetector):
    """A vote of small CNNs on maps that are brought to one grid; the score is the mean of their logits.

    Maps are standardised per channel by statistics of clean fit images. Batches are flipped left to right
    half of the time, and both classes weigh the same.

    Noise of a few grey levels is a few hundredths of a pixel's deviation: a network on the image as it is
    learns hardly anything from a few hundred images. For the image itself give ``filters``, no grid and a
    first stride of 1, so that what is read is the noise at full resolution.

    Args:
        source: what is measured of an image.
        reads: names of the maps to read, with ``*`` and ``?`` standing for anything, e.g. ``masks/*``.
        scalars: names of values per image, in the same way, that join the pooled features: ``(B,)``, or
            ``(B, K)``, which are sorted, e.g. ``logits``.
        folds: names of maps at the image's own resolution, whose blocks of pixels become channels.
        statistics: which statistics over channels are read of the other maps that hold all three.
        grid: side of the common grid; None leaves maps at the size of the largest one, and folds nothing.
        filters: fixed filters of steganalysis whose :func:`.residuals` are read in place of the maps.
        cut_off: largest residual, in grey levels of maps in [0, 1]; read with ``filters`` alone.
        strides: of the blocks, whose number they give.
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
    grid: int | None = _GRID
    filters: tuple[ResidualFilter, ...] = ()
    cut_off: float = 4.0
    strides: tuple[int, ...] = _STRIDES
    width: int = 16
    dropout: float = 0.2

    def __post_init__(self) -> None:
        as_tuples(self)
        check_range(0, learning_rate=self.learning_rate, weight_decay=self.weight_decay)
        check_range(0, above=True, cut_off=self.cut_off)
        residual_kernels(self.filters)
        if not self.strides or min(self.strides) < 1:
            raise ConfigError(
                "CNNDetector.strides must be whole numbers of at least 1, one for each block, such as 1 2 2;"
                f" found {list(self.strides)}"
            )
        grid = _GRID if self.grid is None else self.grid
        counts = (grid, self.members, self.epochs, self.width, self.batch_size - 1)
        if not self.reads or min(counts) < 1 or self.learning_rate <= 0 or not 0 <= self.dropout < 1:
            raise ConfigError(
                "CNNDetector needs a name to read, grid (or none), members, epochs and width of at least 1, a"
                " batch_size of at least 2, a learning_rate above 0 and a dropout in [0, 1); found"
                f" reads={list(self.reads)}, grid={self.grid}, members={self.members}, epochs={self.epochs},"
                f" width={self.width}, batch_size={self.batch_size}, learning_rate={self.learning_rate},"
                f" dropout={self.dropout}"
            )
        if not self.statistics or not set(self.statistics) <= set(CHANNEL_STATISTICS):
            known = ", ".join(CHANNEL_STATISTICS)
            raise ConfigError(f"CNNDetector.statistics must be of {known}; found {list(self.statistics)}")

    def _decisive(self) -> dict[str, Any]:
        """Without what came later, where it changes nothing, so that stored detectors stay valid."""
        settings = super()._decisive()
        if not self.filters:
            del settings["filters"], settings["cut_off"]
        if self.strides == _STRIDES:
            del settings["strides"]
        return settings

    def prepare(self, measured: Measured) -> Mapping[str, Tensor]:
        """Maps ``(B, C, grid, grid)``, or as large as they are, and scalars ``(B, S)`` that networks read."""
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
        weights: Tensor,
        seed: int,
        step: int,
    ) -> Tensor:
        """Sum over members of the mean weighted binary cross-entropy of a batch."""
        maps, scalars = self._inputs(measured)
        if derive_seed(seed, "flip", step) % 2:
            maps = maps.flip(-1)
        target = adversarial.float()
        losses = []
        # The same for all members, so made once.
        standardised = networks[0].standardised(maps)  # type: ignore[operator]  # a list of modules
        for member, network in enumerate(networks):
            with rng_preserved(maps.device, seed=derive_seed(seed, "dropout", member, step)):
                logits = network.judged(standardised, scalars)  # type: ignore[operator]
            losses.append(F.binary_cross_entropy_with_logits(logits, target, weight=weights))
        return torch.stack(losses).sum()

    def votes(self, networks: nn.ModuleList, measured: Measured) -> Tensor:
        """Logits ``(B, members)`` of networks in eval mode; in the graph of what was measured."""
        maps, scalars = self._inputs(measured)
        rows = rows_at_once(maps)
        votes = []
        for some, values in zip(torch.split(maps, rows), torch.split(scalars, rows), strict=True):
            standardised = networks[0].standardised(some)  # type: ignore[operator]  # a list of modules
            logits = [network.judged(standardised, values) for network in networks]  # type: ignore[operator]
            votes.append(torch.stack(logits, dim=1))
        return torch.cat(votes)

    def state(self) -> dict[str, Tensor]:
        """Weights and statistics of every member; empty where nothing was learned."""
        state = {} if self._networks is None else self._networks.state_dict()
        return {f"CNNDetector.{name}": tensor for name, tensor in state.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over the networks of a detector with equal settings."""
        own = self._own(state)
        try:
            mean, scalars = own["0.input_mean"], len(own["0.scalar_mean"])
            channels = mean.shape[1] // max(len(residual_kernels(self.filters)), 1)
            networks = self._networks_of(channels, scalars, seed=0).to(mean.device)
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
            with rng_preserved(seed=derive_seed(seed, "cnn detector", member)):
                networks.append(
                    AttributionCNN(
                        channels,
                        in_scalars=scalars,
                        width=self.width,
                        dropout=self.dropout,
                        filters=self.filters,
                        cut_off=self.cut_off,
                        strides=self.strides,
                    )
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

    With ``filters`` the blocks read the residuals of the maps, which the network takes itself: kept for all
    images they would be several times as large as the maps.

    Positive logits mean *adversarial*. Inputs are standardised by statistics that are set once from clean
    fit images (:meth:`set_input_statistics`) and travel with the weights.

    Args:
        in_channels: channels of the stack.
        in_scalars: values per image that join the pooled features.
        width: channels of the first block; later blocks have 2, 4 and 4 times as many.
        dropout: share of pooled features dropped in training; scalars are not dropped.
        filters: residual filters that the stack goes through first.
        cut_off: largest residual in grey levels.
        strides: of the blocks, whose number they give.

    Raises:
        ConfigError: values out of range.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        in_scalars: int = 0,
        width: int = 16,
        dropout: float = 0.2,
        filters: Sequence[ResidualFilter] = (),
        cut_off: float = 4.0,
        strides: Sequence[int] = _STRIDES,
    ) -> None:
        super().__init__()
        check_range(1, in_channels=in_channels, width=width, strides=strides)
        check_range(0, in_scalars=in_scalars)
        check_range(0, 1, dropout=dropout)
        check_range(0, above=True, cut_off=cut_off)
        # Fixed by the settings, so not a part of the state.
        self.kernels = nn.Buffer(residual_kernels(filters), persistent=False)
        self.cut_off = cut_off
        in_channels *= max(len(self.kernels), 1)
        self.input_mean = nn.Buffer(torch.zeros(1, in_channels, 1, 1))
        self.input_std = nn.Buffer(torch.ones(1, in_channels, 1, 1))
        self.scalar_mean = nn.Buffer(torch.zeros(in_scalars))
        self.scalar_std = nn.Buffer(torch.ones(in_scalars))
        layers: list[nn.Module] = []
        channels = in_channels
        for block, stride in enumerate(strides):
            block_width = width * min(2**block, 4)
            layers += [
                nn.Conv2d(channels, block_width, 3, stride=stride, padding=1, bias=False),
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
        if len(self.kernels):
            mean, std = self._residual_statistics(maps)
        else:
            mean, std = maps.mean(dim=(0, 2, 3)), maps.std(dim=(0, 2, 3))
        self.input_mean.copy_(mean.view(1, -1, 1, 1))
        self.input_std.copy_(std.clamp_min(1e-6).view(1, -1, 1, 1))
        if scalars is not None:
            self.scalar_mean.copy_(scalars.mean(dim=0))
            apart = scalars - self.scalar_mean
            self.scalar_std.copy_(apart.square().mean(dim=0).sqrt().clamp_min(1e-6))

    def forward(self, maps: Tensor, scalars: Tensor | None = None) -> Tensor:
        """Logits ``(B,)`` of stacks ``(B, C, H, W)`` and, if any, scalars ``(B, S)``."""
        return self.judged(self.standardised(maps), scalars)

    def standardised(self, maps: Tensor) -> Tensor:
        """What the blocks read of stacks ``(B, C, H, W)``: equal for networks of equal statistics."""
        if not len(self.kernels):
            return (maps - self.input_mean) / self.input_std
        return residuals(maps, self.kernels, cut_off=self.cut_off).sub_(self.input_mean).div_(self.input_std)

    def judged(self, standardised: Tensor, scalars: Tensor | None = None) -> Tensor:
        """Logits ``(B,)`` of stacks that are :meth:`standardised`."""
        features = self.head[:-1](self.body(standardised))
        if scalars is not None:
            features = torch.cat([features, (scalars - self.scalar_mean) / self.scalar_std], dim=1)
        logits: Tensor = self.head[-1](features)
        return logits[:, 0]

    def _residual_statistics(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation per channel, from sums of a few rows at a time."""
        sums, squares = torch.zeros(2, self.input_mean.shape[1], dtype=torch.float64, device=maps.device)
        for some in torch.split(maps, rows_at_once(maps)):
            found = residuals(some, self.kernels, cut_off=self.cut_off).double()
            sums += found.sum(dim=(0, 2, 3))
            squares += found.square().sum(dim=(0, 2, 3))
        mean, mean_square = (part / (len(maps) * maps[0, 0].numel()) for part in (sums, squares))
        return mean, (mean_square - mean.square()).clamp_min(0).sqrt()


def rows_at_once(maps: Tensor) -> int:
    """How many of the maps ``(N, C, H, W)`` fit into the memory that many small ones take."""
    return max(min(_ROWS, _ROWS * _GRID**2 // max(maps.shape[2] * maps.shape[3], 1)), 1)


def map_stack(
    measured: Measured,
    reads: Sequence[str],
    *,
    folds: Sequence[str],
    grid: int | None,
    statistics: Sequence[int] = (0, 1, 2),
) -> Tensor:
    """Tensors whose names match ``reads``, side by side on one grid: ``(B, C, grid, grid)`` float32.

    Without a grid they come to the largest height and width among them.

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
            maps = maps if grid is None else _fold(maps, grid)
        elif maps.shape[1] == len(CHANNEL_STATISTICS) and len(statistics) < len(CHANNEL_STATISTICS):
            maps = maps[:, list(statistics)]
        layers.append(maps)
    if grid is not None:
        return stack_layers(layers, (grid, grid))
    return stack_layers(
        layers, (max(each.shape[2] for each in layers), max(each.shape[3] for each in layers))
    )


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
