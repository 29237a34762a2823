"""What a detector says about a batch of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

from torch import Tensor


@final
@dataclass(frozen=True)
class Verdicts:
    """One entry per image.

    Attributes:
        scores: higher is more adversarial.
        alarms: whether the score is above the threshold.
        words: both as a reader wants them.
    """

    scores: tuple[float, ...]
    alarms: tuple[bool, ...]
    words: tuple[str, ...]


class Alarm(Protocol):
    """A detector that judges images of the classifier's size."""

    def __call__(self, images: Tensor, names: Sequence[str]) -> Verdicts:
        """Judge ``images (B, 3, H, W)`` in [0, 1]."""
        ...
