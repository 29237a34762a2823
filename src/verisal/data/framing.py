"""How a picture of any shape becomes a square of the classifier's size, with its masks and boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Frame"]

_SPARE = 4
"""Times the pixels of the square that a whole picture may have after the resize; of a longer one, see
:meth:`Frame._middle`, the middle alone is made."""


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
        return self._framed(image).clamp(0.0, 1.0)

    def masks(self, masks: Tensor) -> Tensor:
        """``(N, H, W)`` bool to ``(N, size, size)``: pixels of which the object covers at least one half."""
        return self._framed(masks) >= 0.5

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

    def _framed(self, values: Tensor) -> Tensor:
        """``(N, H, W)`` to ``(N, size, size)`` float32."""
        if not len(values):
            return torch.zeros(0, self.size, self.size)
        if self.scaled != (self.height, self.width):
            if self.scaled[0] * self.scaled[1] > _SPARE * self.size**2:
                return self._middle(values)
            values = F.interpolate(
                values[None].float(), size=self.scaled, mode="bilinear", align_corners=False, antialias=True
            )[0]
        return values[:, self._top : self._top + self.size, self._left : self._left + self.size].float()

    def _middle(self, values: Tensor) -> Tensor:
        """The square alone, out of the pixels that it is made of: a long strip would become a long image."""
        rows, down = _taps(self.height, self.scaled[0], self._top, self.size)
        columns, across = _taps(self.width, self.scaled[1], self._left, self.size)
        return down @ (values[:, rows, columns].float() @ across.T)


def _taps(length: int, scaled: int, first: int, count: int) -> tuple[slice, Tensor]:
    """Where results ``first`` to ``first + count`` of an antialiased bilinear resize of a line come from.

    Args:
        length: pixels of the line.
        scaled: pixels after the resize of the whole line.
        first: first result that is wanted.
        count: of results.

    Returns:
        The pixels, and their weights ``(count, pixels)``; they are rounded where ``F.interpolate`` rounds, so
        that both ways give equal images.
    """
    step = float(torch.tensor(length / scaled))
    reach = max(step, 1.0)
    centres = (step * (torch.arange(first, first + count, dtype=torch.float64) + 0.5)).float().double()
    low = (centres - reach + 0.5).long().clamp_min(0)
    high = (centres + reach + 0.5).long().clamp_max(length)
    places = torch.arange(int(low[0]), int(high[-1]))
    weights = (1 - ((places - centres[:, None] + 0.5) / reach).abs()).clamp_min(0)
    weights *= (places >= low[:, None]) & (places < high[:, None])
    return slice(int(low[0]), int(high[-1])), (weights / weights.sum(dim=1, keepdim=True)).float()
