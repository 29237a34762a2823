"""Layouts of stage outputs: maps, maps with channels last, or tokens of which a few are no patches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from verisal.errors import ConfigError
from verisal.functional.networks import channels_last, check_hookable, hooked
from verisal.functional.outputs import logits_of
from verisal.functional.scopes import rng_preserved

Kind = Literal["map", "channels_last", "tokens"]


@dataclass(frozen=True)
class InputShape:
    """What one image of a network is like: its channels, and its height and width in pixels."""

    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, network: nn.Module, size: int | tuple[int, int], channels: int | None = None) -> InputShape:
        """The shape for a side or (height, width), with these channels or those found in the network.

        Raises:
            ConfigError: none are given or found.
        """
        found = channels or channels_of(network)
        if found is None:
            raise ConfigError(
                f"the number of channels that this {type(network).__name__} takes is not known before its"
                " first images; give channels, such as 1 for grey images and 3 for RGB"
            )
        return cls(found, *both_sides(size))

    def __str__(self) -> str:
        """As in messages."""
        return f"{self.height} x {self.width} px and {self.channels} channel(s)"

    def blank(self, network: nn.Module) -> Tensor:
        """Zeros ``(1, channels, height, width)`` of the network's device and dtype."""
        parameter = next(network.parameters(), torch.zeros(()))
        shape = (1, self.channels, self.height, self.width)
        return torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)

    def like(self, first: Tensor, grid: tuple[int, int]) -> Tensor:
        """A tensor without values, shaped like the images that gave this map of the first stage.

        Images of this shape are known to give maps of height and width ``grid``.
        """
        rows, columns = (
            side * length // known
            for side, length, known in zip((self.height, self.width), first.shape[-2:], grid, strict=True)
        )
        return torch.empty(len(first), self.channels, rows, columns, device="meta", dtype=first.dtype)


def both_sides(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a side, or of both.

    Raises:
        ConfigError: other than one or two numbers.
    """
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2:
        raise ConfigError(f"image_size must be a side or (height, width) in pixels, found {size}")
    return sides[0], sides[1]


def channels_of(network: nn.Module) -> int | None:
    """Number of channels that a network's first convolution takes; None where it has none."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels:
            return module.in_channels
    # Scripted and exported networks have the weights of their convolutions, and none of their classes.
    kernels = (weight for name, weight in network.named_parameters() if name.endswith("weight"))
    return next((weight.shape[1] for weight in kernels if weight.ndim == 4), None)


@dataclass(frozen=True)
class StageLayout:
    """Layout by which a stage's output becomes a map ``(B, C, h, w)`` and back.

    Attributes:
        kind: ``map`` is ``(B, C, h, w)``; ``channels_last`` is ``(B, h, w, C)``; ``tokens`` is ``(B, N, C)``.
        grid_of: for tokens, index of the earlier stage whose map has their height and width.
    """

    kind: Kind = "map"
    grid_of: int = 0


@dataclass(frozen=True)
class Probe:
    """Findings of one pass over a blank image of the trained size.

    Attributes:
        layouts: one per stage.
        shapes: ``(1, C, h, w)`` of each stage's map.
        num_classes: number of logits.
        input_shape: of the blank image.
    """

    layouts: tuple[StageLayout, ...]
    shapes: tuple[tuple[int, ...], ...]
    num_classes: int
    input_shape: InputShape

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the first stage's map."""
        return self.shapes[0][2], self.shapes[0][3]


def image_like(first: Tensor, channels: int, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """:meth:`InputShape.like`, as a graph can call it."""
    return InputShape(channels, *size).like(first, grid)


def to_map(value: Tensor, kind: Kind, grid: Tensor) -> Tensor:
    """A stage's output as a map; tokens that are no patches (class, registers) come first and are left out.

    Tokens have the height and width of the map ``grid``, which is read for them only.
    """
    if kind == "map":
        return value
    if kind == "channels_last":
        return value.permute(0, 3, 1, 2)
    height, width = grid.shape[-2:]
    patches = value[:, value.shape[1] - height * width :]
    return patches.transpose(1, 2).reshape(len(value), -1, height, width)


def to_maps(values: Sequence[Tensor], layouts: Sequence[StageLayout]) -> tuple[Tensor, ...]:
    """Outputs of all stages, as maps."""
    maps: list[Tensor] = []
    for value, layout in zip(values, layouts, strict=True):
        maps.append(to_map(value, layout.kind, maps[layout.grid_of] if layout.kind == "tokens" else value))
    return tuple(maps)


def from_map(value: Tensor, kind: Kind) -> Tensor:
    """A map as the stage gave it out; not for tokens, of which a map holds only a part."""
    return value.permute(0, 2, 3, 1) if kind == "channels_last" else value


def apply_gate(value: Tensor, gate: Tensor, kind: Kind, grid: Tensor) -> Tensor:
    """A stage's output, as it lies, with every patch multiplied by its gate, broadcastable to its map.

    Tokens have the height and width of the map ``grid``, which is read for them only.
    """
    if kind == "map":
        return value * gate
    if kind == "channels_last":
        return value * (gate.permute(0, 2, 3, 1) if gate.ndim == 4 else gate)
    height, width = grid.shape[-2:]
    others = value.shape[1] - height * width
    weights = gate.flatten(2).transpose(1, 2) if gate.ndim == 4 else gate
    return torch.cat([value[:, :others], value[:, others:] * weights], dim=1)


def check_stage_names(network: nn.Module, stages: Sequence[str]) -> None:
    """Raise ``ConfigError``, naming some that there are, unless every stage is a sub-module."""
    known = dict(network.named_modules())
    missing = [name for name in stages if name not in known]
    if missing or not stages:
        named = [name for name in known if name and name.count(".") <= 1]
        raise ConfigError(
            f"stages {missing or '(none)'} are not sub-modules of the network; known: {named[:30]}"
        )


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode inside, every module's own mode and the global random state again outside."""
    modes = [(module, module.training) for module in network.modules()]
    device = next((parameter.device for parameter in network.parameters()), None)
    # Not network.eval(), which exported networks refuse.
    for module, _ in modes:
        module.training = False
    try:
        with rng_preserved(device):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def check_forward(network: nn.Module, error: Exception) -> None:
    """Raise ``ConfigError`` if a network failed because it, or a part of it, has no forward."""
    if isinstance(error, NotImplementedError) and 'the required "forward"' in str(error):
        raise ConfigError(
            f"{type(network).__name__} has no forward; give the part that takes images and returns logits,"
            " e.g. module.net, or FunctionNetwork(module, function)"
        ) from error


def run_once(
    network: nn.Module,
    modules: Mapping[str, nn.Module],
    note: Callable[[str, object], None],
    shape: InputShape,
) -> object:
    """Answer of a network to a blank image; ``note(name, output)`` is called after each of ``modules``."""
    try:
        with torch.no_grad(), evaluating(network), hooked(modules, note):
            return network(shape.blank(network))
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        check_forward(network, error)
        raise ConfigError(
            f"{type(network).__name__} fails on an image of {shape} ({error}); give the image_size that it"
            " was trained at, and channels where these are wrong"
        ) from error


def count_classes(network: nn.Module, shape: InputShape) -> int:
    """Number of logits that a network gives for a blank image."""
    return logits_of(run_once(network, {}, lambda *_: None, shape), 1, source=type(network).__name__).shape[1]


def probe_stages(
    network: nn.Module, stages: Sequence[str], shape: InputShape, *, classes: int | None = None
) -> Probe:
    """Run the network once on a blank image of its size and see what the named stages give out.

    Raises:
        ConfigError: a stage that does not exist, does not run exactly once and in the given order, or gives
            out something that is neither maps nor tokens, or lies where hooks never run; a network that does
            not take such an image or gives no logits.
    """
    check_hookable(network, "a classifier with stages", stages)
    check_stage_names(network, stages)
    calls: list[tuple[str, object]] = []
    versions: list[int] = []

    def note(name: str, output: object) -> None:
        calls.append((name, output))
        versions.append(output._version if isinstance(output, Tensor) else 0)

    answer = run_once(network, {name: network.get_submodule(name) for name in stages}, note, shape)
    logits = logits_of(answer, 1, classes=classes, source=type(network).__name__)
    order = [name for name, _ in calls]
    if order != list(stages):
        raise ConfigError(
            f"stages must each run exactly once and in the given order; given {list(stages)},"
            f" the network runs {order}"
        )
    layouts = _layouts(calls, (shape.height, shape.width))
    for (name, output), version in zip(calls, versions, strict=True):
        if isinstance(output, Tensor) and output._version != version:
            raise ConfigError(
                f"what stage {name!r} gives out is changed in place by the module after it;"
                " name that module instead"
            )
    maps = to_maps([output for _, output in calls if isinstance(output, Tensor)], layouts)
    return Probe(layouts, tuple(tuple(part.shape) for part in maps), logits.shape[1], shape)


def _layouts(outputs: Sequence[tuple[str, object]], size: tuple[int, int]) -> tuple[StageLayout, ...]:
    layouts: list[StageLayout] = []
    grid, grid_of = (0, 0), 0
    for index, (name, output) in enumerate(outputs):
        if isinstance(output, Tensor) and output.ndim == 4:
            first, second, third = output.shape[1:]
            last = channels_last(output.shape, size)
            layouts.append(StageLayout("channels_last" if last else "map"))
            grid, grid_of = (first, second) if last else (second, third), index
        elif isinstance(output, Tensor) and output.ndim == 3 and 0 < grid[0] * grid[1] <= output.shape[1]:
            layouts.append(StageLayout("tokens", grid_of))
        else:
            shown = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ConfigError(
                f"stage {name!r} gives {shown}, which cannot be gated: maps (B, C, h, w) were expected, or"
                " tokens (B, N, C) after a stage whose map has one position per patch; for a vision"
                " transformer name the convolution that cuts the patches first"
                " ('conv_proj' in torchvision, 'patch_embed.proj' in timm)"
            )
    return tuple(layouts)
