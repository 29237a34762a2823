"""Parts of somebody's module that map images to logits: by path, by a function, by its own forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from verisal.errors import ConfigError

Explains = Callable[[Any, Tensor], Any]
"""The module and images as the loader gives them, to logits or what holds them."""

FORWARD = "forward"


@final
class Answer(nn.Module):
    """What a function makes of a module and images, as a network with the module's own parts.

    Args:
        module: its parts, parameters and buffers are this network's, too.
        function: of the module and images.
    """

    def __init__(self, module: nn.Module, function: Explains) -> None:
        super().__init__()
        for name, child in module.named_children():
            self.add_module(name, child)
        for name, parameter in module.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in module.named_buffers(recurse=False):
            self.register_buffer(name, buffer, persistent=False)
        # Not as a part: it would list everything twice.
        object.__setattr__(self, "_of", (module, function))
        self._of: tuple[nn.Module, Explains]

    def forward(self, images: Tensor) -> Any:  # noqa: ANN401 - whatever the function returns
        """The function's answer."""
        module, function = self._of
        return function(module, images)

    def is_of(self, module: nn.Module) -> bool:
        """True if the module still has exactly these parts."""
        own, others = list(self.children()), list(module.children())
        return len(own) == len(others) and all(one is other for one, other in zip(own, others, strict=True))


def part_of(module: LightningModule, explains: str | Explains) -> nn.Module:
    """The network at a path, or the answer of the module's own forward or of a function.

    Raises:
        ConfigError: a path that leads to no ``nn.Module``.
    """
    if not isinstance(explains, str):
        return Answer(module, explains)
    if explains == FORWARD:
        return Answer(module, _own_forward)
    found: object = module
    for name in explains.split("."):
        found = getattr(found, name, None)
    if not isinstance(found, nn.Module):
        known = [name for name, _ in module.named_children()]
        raise ConfigError(
            f"explains={explains!r} names no part of {type(module).__name__}; found the parts {known};"
            " give one of them or a path inside, 'forward' for the module's own, or a function f(module,"
            " images)"
        )
    return found


def _own_forward(module: Any, images: Tensor) -> Any:  # noqa: ANN401 - anybody's module
    return module.forward(images)
