"""Squeezed copies of images (fewer grey levels, medians, non-local means), and the logits of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.detectors.measurements import Measurement, measured_logits
from verisal.errors import ConfigError
from verisal.functional.filters import median_filter
from verisal.types import StagedClassifier, check_range


def reduce_bit_depth(images: Tensor, bits: int) -> Tensor:
    """Images in [0, 1] rounded to ``2 ** bits`` levels, both ends included.

    >>> reduce_bit_depth(torch.tensor([0.0, 0.4, 0.6, 1.0]), 1)
    tensor([0., 0., 1., 1.])
    """
    top = 2**bits - 1
    squeezed: Tensor = (images * top).round() / top
    return squeezed


def non_local_means(images: Tensor, *, search: int, patch: int, strength: float) -> Tensor:
    r"""Mean of the pixels around, weighted by how alike the patches around them are.

    .. math:: \hat x(p) = \frac{\sum_q w(p, q)\, x(q)}{\sum_q w(p, q)}, \qquad
              w(p, q) = \exp\left(-\frac{d^2(p, q)}{h^2}\right)

    with *q* in the search window of *p*, and :math:`d^2` the mean squared difference over the pixels and
    channels of the two patches. Edge pixels are repeated outwards.

    Args:
        images: ``(B, C, H, W)`` in [0, 1].
        search: odd side of the search window in pixels.
        patch: odd side of the patches in pixels.
        strength: *h*, in units of [0, 1].

    Returns:
        ``(B, C, H, W)``.
    """
    reach, border = search // 2, patch // 2
    height, width = images.shape[-2:]
    padded = F.pad(images, [reach + border] * 4, mode="replicate")
    # The pixel itself, whose patch is its own.
    total, weights = images.clone(), torch.ones_like(images[:, :1])
    for down in range(reach + 1):
        for right in range(-reach if down else 1, reach + 1):
            # Two pixels weigh the same for each other, so that one step serves the one behind, too.
            top, left = reach - down, reach - max(right, 0)
            rows, columns = height + 2 * border + down, width + 2 * border + abs(right)
            here = padded[..., top : top + rows, left : left + columns]
            there = padded[..., top + down : top + down + rows, left + right : left + right + columns]
            alike = _window_sums(_squared_distance(here, there), patch)
            alike.mul_(-1 / (images.shape[1] * patch**2 * strength**2)).exp_()
            for sign, first_row, first_column in ((1, down, max(right, 0)), (-1, 0, max(-right, 0))):
                weight = alike[..., first_row : first_row + height, first_column : first_column + width]
                row, column = reach + border + sign * down, reach + border + sign * right
                total.addcmul_(weight, padded[..., row : row + height, column : column + width])
                weights += weight
    return total / weights


def _squared_distance(one: Tensor, two: Tensor) -> Tensor:
    """``(B, 1, h, w)``, summed over the channels one by one, which is faster than over all of a pixel."""
    apart = one - two
    total = apart[:, :1].square()
    for channel in range(1, apart.shape[1]):
        total.addcmul_(apart[:, channel : channel + 1], apart[:, channel : channel + 1])
    return total


def _window_sums(values: Tensor, side: int) -> Tensor:
    """Sums over all windows of ``side`` x ``side`` pixels that fit."""
    for axis in (2, 3):
        length = values.shape[axis] - side + 1
        sums = values.narrow(axis, 0, length).clone()
        for place in range(1, side):
            sums += values.narrow(axis, place, length)
        values = sums
    return values


@final
@dataclass(frozen=True, kw_only=True)
class SqueezedLogits(Measurement):
    """``logits (B, K)`` of the image, and ``squeezed/<squeezer> (B, K)`` of its squeezed copies.

    Costs one forward pass per squeezer and one more, and no backward pass. The defaults are the paper's for
    small images: 5 bits, a median of 2 x 2, non-local means 13-3-2.

    Args:
        bits: of the reduced bit depth.
        median: side of the median's window in pixels.
        search: odd side of the search window of non-local means; 0 leaves them out.
        patch: odd side of their patches.
        strength: their *h*, in units of [0, 1].

    Raises:
        ConfigError: settings out of range.
    """

    needs_stages = False

    bits: int = 5
    median: int = 2
    search: int = 13
    patch: int = 3
    strength: float = 2 / 255

    def __post_init__(self) -> None:
        check_range(1, patch=self.patch)
        check_range(0, above=True, strength=self.strength)
        odd = self.search == 0 or (self.search % 2 == 1 and self.patch % 2 == 1)
        if not 1 <= self.bits <= 7 or self.median < 2 or self.search < 0 or not odd:
            raise ConfigError(
                "squeezing needs bits in 1..7, median of at least 2, search and patch odd (search 0 for no"
                f" non-local means) and strength above 0; found bits={self.bits}, median={self.median},"
                f" search={self.search}, patch={self.patch}, strength={self.strength}"
            )

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Logits of all copies of images ``(B, C, H, W)`` in [0, 1]."""
        squeezed = {
            "squeezed/bit_depth": reduce_bit_depth(images, self.bits),
            "squeezed/median": median_filter(images, self.median),
        }
        if self.search:
            squeezed["squeezed/non_local_means"] = non_local_means(
                images, search=self.search, patch=self.patch, strength=self.strength
            )
        copies = {"logits": images} | squeezed
        return {name: measured_logits(classifier, copy) for name, copy in copies.items()}
