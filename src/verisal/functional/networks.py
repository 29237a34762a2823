"""Networks inside wrappers, and compiled ones: precautions before a hook is set."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Never

import torch
from torch import Tensor, fx, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from verisal.errors import ConfigError
from verisal.types import StagedClassifier


def plain_network(network: nn.Module) -> nn.Module:
    """The network inside the wrappers of ``torch.compile``, DataParallel and DistributedDataParallel."""
    # Imported by torch.compile itself; where nothing is compiled it would cost two seconds.
    compiler = sys.modules.get("torch._dynamo")
    while True:
        if isinstance(network, (DataParallel, DistributedDataParallel)):
            network = network.module
        elif compiler is not None and isinstance(network, compiler.OptimizedModule):
            network = network._orig_mod
        else:
            return network


def staged_network(classifier: object, who: str) -> StagedClassifier:
    """The classifier as one with stages, outside of the wrappers of torch, or a clear refusal.

    Raises:
        ConfigError: it is not an ``nn.Module`` with stages.
    """
    if isinstance(classifier, nn.Module):
        classifier = plain_network(classifier)
    if not isinstance(classifier, StagedClassifier):
        raise ConfigError(
            f"{who} reads or gates stages and needs verisal.models.Classifier,"
            f" found {type(classifier).__name__}; wrap the network: Classifier(network, normalization=...)"
        )
    return classifier


def channels_last(shape: Sequence[int], size: tuple[int, int]) -> bool:
    """True if a layer's output is ``(B, h, w, C)``, as Swin transformers have it.

    Its second and third axis then have the proportions of the image, up to the rounding of a place, and its
    last two have them less well.

    Args:
        shape: of the output; other than four axes give False.
        size: height and width of the image.
    """
    if len(shape) != 4:
        return False
    rows, columns = size
    first, second, third = shape[1:]
    # By how many places the second of two axes is off, if the first is a height.
    as_map, as_last = abs(third - second * columns / rows), abs(second - first * columns / rows)
    within = 0 if rows == columns else 1 + columns / rows
    return as_last < as_map and as_last <= within


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run what ``torch.compile`` made as it was written.

    A compiled network that has run before does not look at hooks again, nor at a changed ReLU: without this
    they would be left out in silence, wherever in the network the compiled part is.
    """
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def hooked(
    modules: Mapping[str, nn.Module] | Iterable[tuple[str, nn.Module]], act: Callable[[str, Any], Any]
) -> Iterator[None]:
    """Hooks inside, which call ``act(name, output)`` after each module; gone afterwards, on exceptions too.

    Compiled parts run as they were written. What ``act`` returns, if not None, takes the output's place.
    """
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: act(name, output))
        for name, module in dict(modules).items()
    ]
    try:
        with uncompiled():
            yield
    finally:
        for handle in handles:
            handle.remove()


class _ReachedError(BaseException):
    """Carries a layer's output out of the network; no network's ``except Exception`` can swallow it."""

    def __init__(self, output: Any) -> None:  # noqa: ANN401 - whatever a layer gives
        super().__init__("a layer was reached")
        self.output = output


@contextmanager
def stopped_at(network: nn.Module, layer: nn.Module) -> Iterator[Callable[[Tensor], Any]]:
    """Images to the output of ``layer``, inside; whatever the network does after it is not run.

    The function raises :class:`ConfigError` if the layer does not run.
    """

    def stop(_: str, output: Any) -> Never:  # noqa: ANN401 - whatever a layer gives
        raise _ReachedError(output)

    def features(images: Tensor) -> Any:  # noqa: ANN401 - whatever a layer gives
        try:
            network(images.clone())
        except _ReachedError as reached:
            return reached.output
        raise ConfigError(f"layer {type(layer).__name__} does not run for every image")

    with hooked({"": layer}, stop):
        yield features


def check_hookable(network: nn.Module, who: str, names: Sequence[str] | None = None) -> None:
    """Raise :class:`ConfigError` where hooks would never run: in what TorchScript or torch.export has made.

    Args:
        network: whose modules are to be hooked.
        who: named in the error.
        names: of the modules to be hooked; None for all of them.
    """
    for name, module in network.named_modules():
        within = names is None or any(not name or f"{wanted}.".startswith(f"{name}.") for wanted in names)
        maker = _maker(module) if within else ""
        if maker:
            raise ConfigError(
                f"{who} hooks modules, and {f'module {name!r}' if name else 'the network'} was made by"
                f" {maker}, inside which hooks never run; give the network that it was made from"
            )


def _maker(module: nn.Module) -> str:
    """Maker of a module that runs none of the modules in it, or no name."""
    if isinstance(module, torch.jit.ScriptModule):
        return "TorchScript (torch.jit.script or torch.jit.trace)"
    # Operators themselves in the place of modules.
    flat = isinstance(module, fx.GraphModule) and any(
        isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes
    )
    return "torch.export" if flat else ""
