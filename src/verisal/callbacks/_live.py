"""A network that somebody else trains, as a classifier of images in [0, 1], and its normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from verisal.errors import ConfigError
from verisal.functional.networks import plain_network
from verisal.functional.outputs import logits_of
from verisal.types import OutputKind

_NAMED = {"none": ((0.0,), (1.0,)), "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}


@final
@dataclass(frozen=True)
class Normalization:
    """Mean and deviation per channel, in units of [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def over(self, channels: int) -> Self:
        """The same for that many channels."""
        return self if len(self.mean) > 1 else type(self)(self.mean * channels, self.std * channels)

    def apply(self, images: Tensor) -> Tensor:
        """What the network takes."""
        own = self.over(images.shape[-3])
        return (images - images.new_tensor(own.mean).view(-1, 1, 1)) / images.new_tensor(own.std).view(
            -1, 1, 1
        )

    def undo(self, images: Tensor) -> Tensor:
        """Images in [0, 1]."""
        own = self.over(images.shape[-3])
        return images * images.new_tensor(own.std).view(-1, 1, 1) + images.new_tensor(own.mean).view(-1, 1, 1)

    @classmethod
    def of(cls, told: Any) -> Self:  # noqa: ANN401 - whatever a project has
        """The normalisation that a user means."""
        if isinstance(told, str) and told in _NAMED:
            return cls(*_NAMED[told])
        if isinstance(told, Sequence) and len(told) == 2 and not isinstance(told, str):
            return cls(tuple(told[0]), tuple(told[1]))
        found = cls.found_in(told)
        if found is None:
            raise ConfigError(f"no normalisation was found in {told!r}")
        return found

    @classmethod
    def found_in(cls, thing: Any) -> Self | None:  # noqa: ANN401 - whatever a project has
        """The normalisation that a transform or a data set says of itself."""
        if isinstance(thing, cls):
            return thing
        mean, std = getattr(thing, "mean", None), getattr(thing, "std", None)
        if isinstance(mean, Sequence) and isinstance(std, Sequence):
            return cls(tuple(map(float, mean)), tuple(map(float, std)))
        inside = [getattr(thing, name, None) for name in ("transform", "transforms", "dataset")]
        for part in [*(inside[1] if isinstance(inside[1], list) else ()), inside[0], inside[2]]:
            if part is not None and (found := cls.found_in(part)) is not None:
                return found
        return None


@final
class Classifier(nn.Module):
    """Logits of images in [0, 1]; stages come later."""

    def __init__(
        self,
        network: nn.Module,
        stages: Sequence[str] | None = None,
        *,
        normalization: Normalization,
        class_names: Sequence[str] | None = None,
        output: OutputKind = "softmax",
    ) -> None:
        super().__init__()
        self.network, self.normalization, self.output = plain_network(network), normalization, output
        own = normalization.over(3)
        self.register_buffer("mean", torch.tensor(own.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(own.std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)``."""
        return logits_of(self.network(self.normalization.apply(images)), len(images))
