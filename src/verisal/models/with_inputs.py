"""A network that takes more than images, with the other inputs held fixed for each image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from torch import Tensor, nn

from verisal.errors import ConfigError
from verisal.functional.outputs import output_of
from verisal.functional.per_image import PerImage
from verisal.models.function_network import Wrapper
from verisal.types import OutputKind


@final
class WithInputs(Wrapper):
    """A network of images and of other inputs, such as age and view position, as a network of images.

    Methods ask about many changed copies of an image, in parts of any size. Where the inputs differ between
    images, methods, attacks and metrics therefore go through these one at a time; they take as many images
    as there are rows, in their order.

    Args:
        network: called as ``network(images, *others, **named)``.
        others: further inputs in their order: tensors ``(B, ...)`` with a row for each image of a call, or
            ``(1, ...)`` with one for all; anything else is passed on as it is.
        call: in the place of the network's own call, a function ``(network, images, *others, **named)``, for
            one that takes a dictionary, say.
        named: further inputs by name, alike.

    Raises:
        ConfigError: tensors of different numbers of rows.

    >>> import torch
    >>> class Aged(torch.nn.Module):
    ...     def forward(self, images, age):
    ...         return images.mean(dim=(2, 3)) * age
    >>> network = WithInputs(Aged(), age=torch.tensor([[2.0]]))
    >>> network(torch.ones(1, 3, 4, 4))
    tensor([[2., 2., 2.]])
    """

    def __init__(
        self,
        network: nn.Module,
        *others: Any,  # noqa: ANN401 - whatever the network takes
        call: Callable[..., Any] | None = None,
        **named: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(network)
        self.held = _Held([*others, *named.values()])
        self._places, self._names, self._call = len(others), tuple(named), call

    @property
    def output(self) -> OutputKind:
        """What the network inside says of its logits."""
        return output_of(self.module)

    def forward(self, images: Tensor) -> Any:  # noqa: ANN401 - whatever holds the logits
        """What the network returns for the images and their inputs."""
        values = self.held(images)
        others = [values[place] for place in range(self._places)]
        named = {name: values[self._places + place] for place, name in enumerate(self._names)}
        if self._call is None:
            return self.module(images, *others, **named)
        return self._call(self.module, images, *others, **named)


@final
class _Held(PerImage):
    """The other inputs as a module, which a tracer leaves whole, with the tensors among the state."""

    def __init__(self, inputs: list[Any]) -> None:
        super().__init__()
        self._plain: dict[int, Any] = {}
        for place, value in enumerate(inputs):
            if isinstance(value, Tensor) and value.ndim:
                self.register_buffer(f"input_{place}", value.detach().clone())
            else:
                self._plain[place] = value
        self._count = len(inputs)
        counts = {len(value) for value in inputs if isinstance(value, Tensor) and value.ndim} - {1}
        if len(counts) > 1 or 0 in counts:
            raise ConfigError(
                "further inputs must have one row for each image, or one row for all, found tensors of"
                f" {' and '.join(map(str, sorted(counts)))} rows"
            )
        self._rows = counts.pop() if counts else None

    @property
    def rows(self) -> int | None:
        """Number of images that the inputs differ for."""
        return self._rows

    def forward(self, images: Tensor) -> list[Any]:
        """The inputs, each with a row for every image."""
        row = self.chosen or 0
        values = []
        for place in range(self._count):
            if place in self._plain:
                values.append(self._plain[place])
                continue
            held: Tensor = getattr(self, f"input_{place}")
            own = held[:1] if len(held) == 1 else held[row : row + 1]
            values.append(own.expand(len(images), *own.shape[1:]))
        return values
