"""Where labelled images come from, and the table of what was made of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from verisal._brief import brief
from verisal.detection.table import Role
from verisal.types import Sample

CLEAN = "clean"


@runtime_checkable
class ImageSource(Protocol):
    """Labelled images of one split, all of the classifier's size; ``EmojiScenes`` is one."""

    @property
    def split(self) -> str:
        """Name of the split; part of messages and of the names of stores."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """Plain data that names these images among all others; part of the key of a store."""
        ...

    def image_id(self, index: int) -> str:
        """Name of image ``index`` without reading it."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """Image ``index`` with its label."""
        ...


@final
@dataclass(frozen=True)
class GroupTable:
    """Rows of one split: every image of every group.

    Attributes:
        images: ``(N, C, H, W)`` uint8.
        image_index: ``(N,)`` position of the clean image in its split.
        group: ``(N,)`` index into ``groups``.
        label: ``(N,)`` true class.
        prediction: ``(N,)`` class that the classifier predicts on the image itself.
        groups: names of the groups.
        roles: group name to ``clean``, ``attack``, ``failed`` or ``benign``.
        attack_rates: attack name to its success rate before and after 8-bit rounding.
        near: group of images near the border to the attack that they come from.
        noise_of: attack to the group of Gaussian noise that copies its norms, image by image.
    """

    images: Tensor
    image_index: Tensor
    group: Tensor
    label: Tensor
    prediction: Tensor
    groups: tuple[str, ...]
    roles: Mapping[str, Role]
    attack_rates: Mapping[str, tuple[float, float]]
    near: Mapping[str, str] = field(default_factory=dict)
    noise_of: Mapping[str, str] = field(default_factory=dict)

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.group)

    @property
    def clean(self) -> Tensor:
        """``(N,)`` bool: unchanged images that the classifier gets right."""
        return self.group == self.groups.index(CLEAN)

    @property
    def adversarial(self) -> Tensor:
        """``(N,)`` bool: attacks that succeeded."""
        return self._of([name for name in self.groups if self.roles[name] == "attack"])

    def counts(self) -> dict[str, int]:
        """Group name to its number of images."""
        return {name: int((self.group == index).sum()) for index, name in enumerate(self.groups)}

    def fitted(self, attacks: Collection[str]) -> Tensor:
        """Rows that a detector learns from: clean and benign images, and the named attacks' successes."""
        names = [
            name
            for name in self.groups
            if self.roles[name] in ("clean", "benign") or self.near.get(name, name) in attacks
        ]
        return self._of(names).nonzero()[:, 0]

    def _of(self, names: Collection[str]) -> Tensor:
        return torch.isin(self.group, torch.tensor([self.groups.index(name) for name in names]))
