"""One family of baseline images, shared by saliency methods and metrics.

A baseline is what replaces removed pixels. It is made in pixel space, before the classifier normalises, and
its name is part of every score that it enters. A new one is one frozen dataclass here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar, final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.types import Normalised

__all__ = ["Baseline", "Constant", "DatasetMean", "bound"]

RGB = tuple[float, float, float]
_NAMED_LEVELS = {0.0: "black", 0.5: "grey", 1.0: "white"}


class Baseline(ABC):
    """Makes the image that replaces removed pixels.

    Sub-classes are frozen dataclasses. What they draw at random depends on their seed and the content of the
    image, never on its place in a batch or on global random state.
    """

    needs_mask: ClassVar[bool]
    """Whether the baseline depends on which pixels are removed; if not, it is made once per image."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Short, file-name-safe, different for different settings; printed in every score: ``blur5``."""

    @abstractmethod
    def __call__(
        self, images: Tensor, masks: Tensor | None = None, *, query_class: Tensor | None = None
    ) -> Tensor:
        """Baseline images ``(B, 3, H, W)`` float32 in [0, 1], on the device of the images.

        Args:
            images: ``(B, 3, H, W)`` in [0, 1].
            masks: ``(B, 1, H, W)`` in [0, 1], 1 keeps; pixels below 0.5 count as removed. Read only by
                baselines with ``needs_mask``.
            query_class: ``(B,)`` int64, read only by baselines that choose an image of another class.

        Raises:
            ConfigError: something that this baseline needs was not given.
        """


BaselineType = TypeVar("BaselineType", bound=Baseline)


@final
@dataclass(frozen=True, kw_only=True)
class Constant(Baseline):
    """One grey level everywhere: 0 is ``black``, 0.5 ``grey``, 1 ``white``.

    Raises:
        ConfigError: a level outside [0, 1].
    """

    level: float = 0.0

    needs_mask: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.level <= 1:
            raise ConfigError(f"level must lie in [0, 1], found {self.level}")

    @property
    def name(self) -> str:
        """``black``, ``grey``, ``white``, or ``level<value>``."""
        return _NAMED_LEVELS.get(self.level, f"level{self.level:g}")

    def __call__(
        self, images: Tensor, masks: Tensor | None = None, *, query_class: Tensor | None = None
    ) -> Tensor:
        """The level in every channel of every pixel."""
        return torch.full_like(images, self.level)


@final
@dataclass(frozen=True, kw_only=True)
class DatasetMean(Baseline):
    """The training data's mean per channel: 0 once the classifier has normalised, and not black.

    Args:
        mean: per channel in [0, 1]; None stands for the mean that the classifier normalises with, filled in
            by :func:`bound`.
    """

    mean: RGB | None = None

    needs_mask: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """``dataset_mean``."""
        return "dataset_mean"

    def __call__(
        self, images: Tensor, masks: Tensor | None = None, *, query_class: Tensor | None = None
    ) -> Tensor:
        """The mean in every pixel."""
        if self.mean is None:
            raise ConfigError("DatasetMean without a mean: give mean=(r, g, b), or bind it to a classifier")
        return images.new_tensor(self.mean).view(1, 3, 1, 1).expand_as(images).clone()


def bound(baseline: BaselineType, classifier: object) -> BaselineType:
    """The baseline with the data set's statistics filled in from the classifier's normalisation.

    Raises:
        ConfigError: the baseline names no statistics and the classifier has none.
    """
    if not isinstance(baseline, DatasetMean) or baseline.mean is not None:
        return baseline
    if not isinstance(classifier, Normalised):
        raise ConfigError(
            f"{type(baseline).__name__} takes its mean from the classifier's normalisation, and"
            f" {type(classifier).__name__} has none; give mean=(r, g, b)"
        )
    mean = classifier.mean.flatten().tolist()
    return replace(baseline, mean=(mean[0], mean[1], mean[2]))
