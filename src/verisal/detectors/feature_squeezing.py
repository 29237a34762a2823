"""How far the classifier's output moves when the image is squeezed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from verisal._numbers import check_range
from verisal.detectors._base import Detector
from verisal.detectors._outputs import logits_of
from verisal.detectors.squeezing import median_filter, non_local_means, reduce_bit_depth
from verisal.errors import ConfigError
from verisal.functional.filters import softmax_distance
from verisal.types import Measurement, StagedClassifier

__all__ = ["FeatureSqueezing", "SqueezedLogits"]


@final
@dataclass(frozen=True, kw_only=True)
class SqueezedLogits(Measurement):
    """``logits (B, K)`` of the image, and ``squeezed/<squeezer> (B, K)`` of its squeezed copies.

    Costs one forward pass per squeezer and one more, and no backward pass.

    Args:
        bits: of the reduced bit depth.
        median: side of the median's window in pixels.
        search: odd side of the search window of non-local means; 0 leaves them out.
        patch: odd side of their patches.
        strength: their *h*, in units of [0, 1].

    Raises:
        ConfigError: settings out of range.
    """

    bits: int = 5
    median: int = 2
    search: int = 13
    patch: int = 3
    strength: float = 2 / 255

    def __post_init__(self) -> None:
        check_range(1, patch=self.patch)
        check_range(0, above=True, strength=self.strength)
        odd = self.search == 0 or (self.search % 2 == 1 and self.patch % 2 == 1)
        if not 1 <= self.bits <= 7 or self.median < 2 or self.search < 0 or not odd or self.strength <= 0:
            raise ConfigError(
                "squeezing needs bits in 1..7, median of at least 2, search and patch odd (search 0 for no"
                f" non-local means) and strength above 0; found bits={self.bits}, median={self.median},"
                f" search={self.search}, patch={self.patch}, strength={self.strength}"
            )

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Logits of all copies of images ``(B, 3, H, W)`` in [0, 1]."""
        squeezed = {
            "squeezed/bit_depth": reduce_bit_depth(images, self.bits),
            "squeezed/median": median_filter(images, self.median),
        }
        if self.search:
            squeezed["squeezed/non_local_means"] = non_local_means(
                images, search=self.search, patch=self.patch, strength=self.strength
            )
        logits = {name: logits_of(classifier, copies) for name, copies in squeezed.items()}
        return {"logits": logits_of(classifier, images)} | logits


@final
@dataclass(kw_only=True)
class FeatureSqueezing(Detector):
    """Scores an image by the largest L1 distance of its softmax output to those of its squeezed copies.

    The defaults are the paper's for small images: 5 bits, a median of 2 x 2, non-local means 13-3-2.

    Args:
        bits: of the reduced bit depth.
        median: side of the median's window in pixels.
        search: odd side of the search window of non-local means; 0 leaves them out.
        patch: odd side of their patches.
        strength: their *h*, in units of [0, 1].

    Raises:
        ConfigError: settings out of range.

    References:
        xu2018squeezing

    Differs from:
        - Non-local means weigh patches by their colours as they are; the paper's library moves to another
          colour space and smooths colour and brightness apart.
        - Edge pixels are repeated outwards, where the paper's libraries reflect.
    """

    bits: int = 5
    median: int = 2
    search: int = 13
    patch: int = 3
    strength: float = 2 / 255

    def __post_init__(self) -> None:
        # Made here once, so that settings are refused before anything is measured.
        _ = self.measurement

    @property
    def measurement(self) -> Measurement:
        """The logits of all copies."""
        return SqueezedLogits(
            bits=self.bits,
            median=self.median,
            search=self.search,
            patch=self.patch,
            strength=self.strength,
        )

    def fit(
        self, measured: Mapping[str, Tensor], adversarial: Tensor, clean: Tensor, *, seed: int = 0
    ) -> None:
        """The score has no parameters; nothing is read."""

    def judge(self, measured: Mapping[str, Tensor]) -> Tensor:
        """``(B,)`` scores in [0, 2] from the logits ``(B, K)`` of the image and of its copies."""
        logits = measured["logits"]
        copies = [value for name, value in measured.items() if name.startswith("squeezed/")]
        return torch.stack([softmax_distance(logits, copy) for copy in copies]).amax(dim=0)
