"""The layer whose features a decoy leaves as they are: found by name, run without what comes after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Never

import torch
from torch import Tensor, nn

from verisal.errors import ConfigError
from verisal.functional.networks import channels_last, uncompiled
from verisal.functional.outputs import ask
from verisal.functional.seeding import derive_seed
from verisal.types import StagedClassifier

__all__ = ["check_not_linear", "find_layer", "stopped_at"]

# Pairs of random images on which a network is tried for being linear.
_PAIRS = 4


class _ReachedError(BaseException):
    """Carries a layer's output out of the network; no network's ``except Exception`` can swallow it."""

    def __init__(self, output: Tensor) -> None:
        super().__init__("a layer was reached")
        self.output = output


@contextmanager
def stopped_at(network: nn.Module, layer: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """Images to the output of ``layer``; whatever the network does after it is not run.

    The hook that stops the network is gone afterwards, on exceptions too.
    """

    def stop(_: nn.Module, __: Any, output: Tensor) -> Never:  # noqa: ANN401 - whatever a layer takes
        raise _ReachedError(output)

    def features(images: Tensor) -> Tensor:
        try:
            network(images.clone())
        except _ReachedError as reached:
            return reached.output
        raise ConfigError(f"the decoys' layer {type(layer).__name__} does not run for every image")

    handle = layer.register_forward_hook(stop)
    try:
        with uncompiled():
            yield features
    finally:
        handle.remove()


def find_layer(network: nn.Module, name: str | None, image: Tensor) -> nn.Module:
    """The module called ``name``, or the default one.

    Args:
        network: frozen, in eval mode.
        name: of a stage or a module; the end of a dotted name will do. None: the first max-pooling layer that
            runs, or the first stage where there is none.
        image: ``(1, 3, H, W)``, for one pass that shows what runs, in which order, and what it puts out.

    Raises:
        ConfigError: no such module, one that runs more than once or not at all, one above the head (its
            output has no places), or no default.
    """
    calls = _calls(network, image)
    modules = dict(network.named_modules())
    known = [full for full in calls if calls[full] == [True]]
    full = _default(network, modules, known) if name is None else _full_name(name, modules)
    if full is None:
        raise ConfigError(
            f"{type(network).__name__} has no layer {name!r}; known: {known[:30]}"
            if name is not None
            else "there is no max-pooling layer that runs once and no stage to choose the decoys' layer by"
            f" default; name one as layer: {known[:30]}"
        )
    found = calls.get(full, [])
    if found != [True]:
        why = "its output is no map (B, C, h, w) of several places"
        if len(found) != 1:
            why = f"it runs {len(found)} times, and a decoy keeps the output of one run"
        raise ConfigError(f"layer {name or full!r} does not suit decoys: {why}; known: {known[:30]}")
    module: nn.Module = modules[full]
    return module


def _calls(network: nn.Module, image: Tensor) -> dict[str, list[bool]]:
    """Per module in the order of first calls, whether the output of each call is a map of several places."""
    calls: dict[str, list[bool]] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def noted(_: nn.Module, __: Any, output: Any) -> None:  # noqa: ANN401 - whatever a layer gives
            is_map = (
                isinstance(output, Tensor)
                and output.ndim == 4
                and output.shape[-2:].numel() > 1
                and not channels_last(output.shape, (image.shape[-2], image.shape[-1]))
            )
            calls.setdefault(name, []).append(is_map)

        return noted

    handles = [module.register_forward_hook(note(name)) for name, module in network.named_modules() if name]
    try:
        with torch.no_grad(), uncompiled():
            network(image.clone())
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _default(network: nn.Module, modules: dict[str, nn.Module], known: list[str]) -> str | None:
    pools = [full for full in known if isinstance(modules[full], nn.MaxPool2d)]
    if pools:
        return pools[0]
    return _full_name(network.stages[0], modules) if isinstance(network, StagedClassifier) else None


def _full_name(name: str, modules: dict[str, nn.Module]) -> str | None:
    """The shortest dotted name that ends in ``name``."""
    return min((full for full in modules if full and f".{full}".endswith(f".{name}")), key=len, default=None)


def check_not_linear(network: nn.Module, size: tuple[int, int], device: torch.device) -> None:
    """Raise if the logits half-way between two images are the mean of the logits at both ends.

    Raises:
        ConfigError: it is so for several pairs of random images, up to rounding.
    """
    generator = torch.Generator().manual_seed(derive_seed("linear or not"))
    ends = torch.rand(2, _PAIRS, 3, *size, generator=generator).to(device)
    with torch.no_grad():
        first, second, middle = ask(network, torch.cat([*ends, ends.mean(dim=0)])).chunk(3)
    bend = (first + second - 2 * middle).abs().max()
    if bool(bend <= 1e-4 * (first - second).abs().max() + 1e-6 * middle.abs().max()):
        raise ConfigError(
            f"{type(network).__name__} is linear in the image: its gradient is the same at every decoy, so"
            " that decoys say nothing about it; use the base method alone"
        )
