"""How a picture of any shape becomes a square of the classifier's size, with its masks and boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Frame"]


@final
@dataclass(frozen=True)
class Frame:
    """A resize followed by a central square crop, the same for an image and everything marked in it.

    Attributes:
        height: of the picture before, in pixels.
        width: of the picture before.
        scaled: height and width after the resize.
        size: side of the square.
    """

    height: int
    width: int
    scaled: tuple[int, int]
    size: int

    @classmethod
    def around(cls, height: int, width: int, *, size: int, crop_share: float = 1.0) -> Self:
        """The frame whose square covers ``crop_share`` of the short side, about the middle."""
        short, target = min(height, width), round(size / crop_share)
        scaled = (max(target, round(height * target / short)), max(target, round(width * target / short)))
        return cls(height, width, scaled, size)

    def image(self, image: Tensor) -> Tensor:
        """``(C, H, W)`` float32 in [0, 1] to ``(C, size, size)``: bilinear, antialiased."""
        return self._cropped(self._resized(image)).clamp(0.0, 1.0)

    def masks(self, masks: Tensor) -> Tensor:
        """``(N, H, W)`` bool to ``(N, size, size)``: pixels of which the object covers at least one half."""
        return self._cropped(self._resized(masks.float())) >= 0.5

    def boxes(self, boxes: Tensor) -> Tensor:
        """``(N, 4)`` xyxy to the same in the square, cut off at its border; what lies outside is empty."""
        ratio = torch.tensor([self.scaled[1] / self.width, self.scaled[0] / self.height]).repeat(2)
        offset = torch.tensor([self._left, self._top]).repeat(2)
        return (boxes * ratio - offset).clamp(0.0, float(self.size))

    @property
    def _top(self) -> int:
        return (self.scaled[0] - self.size) // 2

    @property
    def _left(self) -> int:
        return (self.scaled[1] - self.size) // 2

    def _resized(self, values: Tensor) -> Tensor:
        if self.scaled == (self.height, self.width) or not len(values):
            return values
        return F.interpolate(
            values[None], size=self.scaled, mode="bilinear", align_corners=False, antialias=True
        )[0]

    def _cropped(self, values: Tensor) -> Tensor:
        if not len(values):
            return values.new_zeros(0, self.size, self.size)
        return values[:, self._top : self._top + self.size, self._left : self._left + self.size]
