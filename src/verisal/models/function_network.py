"""A network that is asked by a function, where no module takes images alone and gives logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from torch import Tensor, nn

from verisal.errors import ConfigError
from verisal.models.normalization import Normalization

PREFIX = "module."


class Wrapper(nn.Module):
    """A network around another one, whose stages are those inside and whose normalisation is its.

    Args:
        module: what is inside.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    @property
    def normalization(self) -> Normalization | None:
        """What the network inside says of its input; None where it says nothing."""
        return Normalization.found_in(self.module)


@final
class FunctionNetwork(nn.Module):
    """A module and the function that gets logits from it, as one network.

    For a module whose forward takes more than images, or whose logits are made in a method of another name.
    Its parts can be hooked and gated as those of any network, as long as the function calls them.

    Args:
        module: whose parts the function calls.
        function: ``(module, images)`` to what :func:`.logits_of` reads, of normalised images.

    >>> import torch
    >>> class Embedder(nn.Module):
    ...     def embed(self, images, scale):
    ...         return images.mean(dim=(2, 3)) * scale
    >>> network = FunctionNetwork(Embedder(), lambda module, images: module.embed(images, 2.0))
    >>> network(torch.ones(1, 3, 4, 4))
    tensor([[2., 2., 2.]])
    """

    def __init__(self, module: nn.Module, function: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        if not callable(function):
            raise ConfigError(
                "a function (module, images) that returns logits was expected, found"
                f" {type(function).__name__}"
            )
        self.module, self.function = module, function

    def forward(self, images: Tensor) -> Any:  # noqa: ANN401 - whatever holds the logits
        """What the function returns."""
        return self.function(self.module, images)


def names_inside(network: nn.Module, stages: tuple[str, ...]) -> tuple[str, ...]:
    """Names of stages as the network has them; those inside of what a wrapper holds, too."""
    own, names, inner, before = dict(network.named_modules()), stages, network, ""
    while isinstance(inner, (FunctionNetwork, Wrapper)) and not all(name in own for name in names):
        inner, before = inner.module, before + PREFIX
        names = tuple(name if name in own else before + name for name in stages)
    return names
