"""Finds the stages of a network by what runs in it, not by what its modules are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from verisal.errors import ConfigError
from verisal.functional.networks import channels_last, check_hookable, hooked
from verisal.functional.outputs import logits_of
from verisal.models._layout import InputShape, evaluating, probe_stages, run_once

_STAGES = 4
# A network whose outermost few modules of a size are all bypassed has no stage of that size.
_TRIES = 6
_MOST_OTHER_TOKENS = 16


@dataclass(frozen=True)
class _Call:
    """One module that ran once and what it gave out on an image of a height and width."""

    name: str
    order: int
    shape: tuple[int, ...]
    image: tuple[int, int]

    @property
    def depth(self) -> int:
        return self.name.count(".")

    @property
    def places(self) -> int:
        """Positions of the map, 0 where there is none larger than one position."""
        if len(self.shape) != 4:
            return 0
        first, second, third = self.shape[1:]
        if self.image[0] == self.image[1]:
            side = first if first == second != third else second
            return side**2 if side > 1 and (second == third or first == second) else 0
        # Rounding and borders leave other proportions than the image has.
        places = first * second if channels_last(self.shape, self.image) else second * third
        return places if places > 1 else 0


def find_stages(
    network: nn.Module, image_size: int | tuple[int, int], *, channels: int | None = None
) -> tuple[str, ...]:
    """Names of up to four stages through which everything flows.

    For convolutional and hierarchical networks: at each of the last four resolutions the last module that no
    shortcut bypasses. For vision transformers: the convolution that cuts the patches, and the outputs of
    three blocks, evenly spaced, that the logits still depend on.

    Args:
        network: maps normalised images to logits.
        image_size: side, or (height, width), in pixels that it takes.
        channels: that it takes; None for those of its first convolution.

    Raises:
        ConfigError: no such module; stages can then only be named by hand, if at all. Channels that are not
            given and not found.
    """
    return stages_of(network, InputShape.of(network, image_size, channels))


def stages_of(network: nn.Module, shape: InputShape) -> tuple[str, ...]:
    """:func:`find_stages` for images of a known shape."""
    calls = _calls(network, shape)
    stages: list[str] = []
    for places in sorted({call.places for call in calls if call.places}):
        name = _at_resolution(network, shape, calls, places)
        if name and not any(name.startswith(f"{coarser}.") for coarser in stages):
            stages.insert(0, name)
        if len(stages) == _STAGES:
            break
    if len(stages) == 1:
        stages += _blocks(network, shape, calls, stages[0])
    if not stages:
        found = f"no stages of {type(network).__name__} were found"
        others = "choose a method that reads no layers: Gradient, IntegratedGradients, Occlusion or RISE"
        if not any(call.places or len(call.shape) == 3 for call in calls):
            raise ConfigError(
                f"{found}, as no layer of it gives maps (B, C, h, w) of more than one position, or patch"
                f" tokens, for a method to read; {others}"
            )
        raise ConfigError(
            f"{found} that gates can act on: a stage is a module that runs once, gives maps (B, C, h, w) or"
            f" patch tokens, and is bypassed by nothing; name them by stages=[...], or {others}"
        )
    return tuple(stages)


def usable_stages(network: nn.Module, stages: Sequence[str], image_size: int) -> tuple[str, ...]:
    """The last four of the stages that a library names in running order; none if gates cannot act."""
    shape = InputShape.of(network, image_size)
    chosen = tuple(stages)[-_STAGES:]
    try:
        probe = probe_stages(network, chosen, shape)
    except ConfigError:
        return ()
    maps = all(layout.kind != "tokens" for layout in probe.layouts)
    if len(chosen) < 2 or not maps or any(_bypassed(network, shape, name) for name in chosen):
        return ()
    return chosen


def _calls(network: nn.Module, shape: InputShape) -> list[_Call]:
    check_hookable(network, "the search for stages", [""])
    calls: dict[str, _Call] = {}
    repeated: set[str] = set()

    def note(name: str, output: object) -> None:
        if name in calls:
            repeated.add(name)
        elif isinstance(output, Tensor):
            calls[name] = _Call(name, len(calls), tuple(output.shape), (shape.height, shape.width))

    named = network.named_modules()
    run_once(
        network,
        {name: part for name, part in named if name and not isinstance(part, torch.jit.ScriptModule)},
        note,
        shape,
    )
    return [call for name, call in calls.items() if name not in repeated]


def _at_resolution(network: nn.Module, shape: InputShape, calls: Sequence[_Call], places: int) -> str:
    """The last of the outermost modules with maps of as many places that nothing bypasses, or no name."""
    candidates = sorted(
        (call for call in calls if call.places == places and not _spans(network, calls, call)),
        key=lambda call: (call.depth, -call.order),
    )
    for call in candidates[:_TRIES]:
        if not _bypassed(network, shape, call.name) and _gives_lasting(network, shape, call.name):
            return call.name
    return ""


def _spans(network: nn.Module, calls: Sequence[_Call], call: _Call) -> bool:
    """True if a module holds several stages, or stretches maps that were smaller before, as pools may."""
    inside = [
        other for other in calls if other.name.startswith(f"{call.name}.") and other.places > call.places
    ]
    if len({other.places for other in inside}) > 1:
        return True
    steps = any(other.depth == call.depth + 1 for other in inside)
    if steps and isinstance(network.get_submodule(call.name), nn.Sequential):
        return True
    return any(0 < other.places < call.places and other.order < call.order for other in calls)


def _gives_lasting(network: nn.Module, shape: InputShape, name: str) -> bool:
    try:
        probe_stages(network, [name], shape)
    except ConfigError:
        return False
    return True


def _blocks(network: nn.Module, shape: InputShape, calls: Sequence[_Call], cut: str) -> list[str]:
    """Three evenly spaced blocks whose patch tokens still reach the logits."""
    patches = next(call for call in calls if call.name == cut)
    count = patches.places
    tokens = [
        call
        for call in calls
        if call.order > patches.order
        and len(call.shape) == 3
        and count <= call.shape[1] <= count + _MOST_OTHER_TOKENS
    ]
    groups: dict[tuple[str, type], list[str]] = {}
    for call in tokens:
        key = (call.name.rpartition(".")[0], type(network.get_submodule(call.name)))
        groups.setdefault(key, []).append(call.name)
    rows = [names for names in groups.values() if len(names) > 1]
    most = max(rows, key=lambda names: sum(_size(network, name) for name in names), default=[])
    # With a class token in front of the head, the last block's patch tokens go nowhere.
    # A head of zeros, as some libraries start with, tells nothing, so it is assumed then.
    used = [name for name in most if _sensitivity(network, shape, name)[1]] or most[:-1]
    chosen = {round((len(used) - 1) * part / 3) for part in (1, 2, 3)} if used else set()
    names = [used[index] for index in sorted(chosen)]
    return [name for name in names if not _bypassed(network, shape, name)]


def _size(network: nn.Module, name: str) -> int:
    return sum(parameter.numel() for parameter in network.get_submodule(name).parameters())


def _bypassed(network: nn.Module, shape: InputShape, name: str) -> bool:
    """True if logits still depend on the image once the module's output is held fixed."""
    return _sensitivity(network, shape, name)[0]


def _sensitivity(network: nn.Module, shape: InputShape, name: str) -> tuple[bool, bool]:
    """Dependence of the logits on the image otherwise than through a module, and on its last token."""
    kept: list[Tensor] = []

    def hold(_: str, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        # A copy, so that a module after it may work in place.
        return kept[0].clone()

    generator = torch.Generator().manual_seed(0)
    blank = shape.blank(network)
    image = torch.rand(blank.shape, generator=generator).to(blank).requires_grad_()
    held = hooked({name: network.get_submodule(name)}, hold)
    with torch.inference_mode(False), torch.enable_grad(), evaluating(network), held:
        logits = logits_of(network(image.clone()), 1)[0]
        # Of any fixed sum of logits but their plain one, which a softmax-like head may hold constant.
        score = (logits * torch.arange(1, len(logits) + 1).to(logits)).sum()
    if not score.requires_grad:
        return False, False
    around, through = torch.autograd.grad(score, [image, kept[0]], allow_unused=True)
    last = through[:, -1] if through is not None and through.ndim == 3 else through
    return bool(around is not None and around.any()), bool(last is not None and last.any())
