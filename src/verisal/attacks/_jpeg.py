"""The lossy part of JPEG on tensors: what an image looks like after encoding and decoding."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


# The standard's example tables for brightness and colour, which encoders scale by the quality.
_LUMA = """
16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99
"""
_CHROMA = """
17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99
"""


def jpeg(images: Tensor, quality: int) -> Tensor:
    """Encode and decode at ``quality`` 1..100, with colour at half resolution (4:2:0).

    Differs from a usual codec by less than a grey level in the mean, far less than the loss itself; runs on
    any device, and gives every image the same whatever batch it is in.

    Args:
        images: ``(B, 3, H, W)`` in [0, 1]; rounded to 8 bits first.
        quality: as of the usual encoders.

    Returns:
        ``(B, 3, H, W)``, multiples of 1/255.

    References:
        wallace1992
    """
    height, width = images.shape[2:]
    pixels = (images.double() * 255).round()
    # Edges are repeated up to whole blocks of 16 px, which are 8 px of colour.
    padded = F.pad(pixels, (0, -width % 16, 0, -height % 16), mode="replicate")
    red, green, blue = padded.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    colours = torch.stack([0.564334 * (blue - luma), 0.713267 * (red - luma)], dim=1)
    luma = _quantised(_rounded(luma)[:, None] - 128, _table(_LUMA, quality, pixels)) + 128
    coarse = _quantised(_halved(_rounded(colours)), _table(_CHROMA, quality, pixels))
    coarse = coarse[..., : (height + 1) // 2, : (width + 1) // 2]
    # Bilinear at factor 2 is the triangle filter of the usual decoders.
    colours = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    colours = _dithered(colours)[..., :height, :width]
    luma = luma[..., :height, :width]
    light, cb, cr = luma[:, 0], colours[:, 0], colours[:, 1]
    decoded = torch.stack([light + 1.402 * cr, light - 0.344136 * cb - 0.714136 * cr, light + 1.772 * cb], 1)
    return (_rounded(decoded).clamp(0, 255) / 255).to(images)


def _rounded(values: Tensor) -> Tensor:
    """Nearest whole number, halves up; within 1e-6 of a half counts as one, so that no last digit decides."""
    return (values + 0.500001).floor()


def _halved(planes: Tensor) -> Tensor:
    """Means of 2 x 2 values; half values go down and up in turns, column by column, as in usual encoders."""
    bias = torch.tensor([1.0, 2.0]).to(planes).repeat(planes.shape[3] // 4 + 1)[: planes.shape[3] // 2]
    return (F.avg_pool2d(planes, 2, divisor_override=1) + bias).div(4).floor()


def _dithered(planes: Tensor) -> Tensor:
    """Rounded to whole numbers, half values up in even columns and down in odd ones."""
    bias = torch.tensor([8.0, 7.0]).to(planes).repeat(planes.shape[3] // 2)
    return ((planes * 16).round() + bias).div(16).floor()


def _quantised(planes: Tensor, table: Tensor) -> Tensor:
    """Planes ``(B, C, H, W)`` around 0, cosine coefficients of 8 x 8 blocks rounded to whole steps."""
    count, channels, height, width = planes.shape
    blocks = planes.view(count, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    basis = _cosines().to(planes)
    coefficients = basis @ blocks @ basis.T
    levels = coefficients.sign() * _rounded((coefficients / table).abs())
    kept = basis.T @ (levels * table) @ basis
    return _rounded(kept.transpose(3, 4).reshape(planes.shape)).clamp(-128, 127)


def _cosines() -> Tensor:
    """Orthonormal discrete cosine transform of length 8, one frequency a row."""
    place, frequency = torch.arange(8).double(), torch.arange(8).double()[:, None]
    basis = torch.cos(math.pi / 8 * (place + 0.5) * frequency) / 2
    basis[0] /= math.sqrt(2)
    return basis


def _table(text: str, quality: int, like: Tensor) -> Tensor:
    base = torch.tensor([int(word) for word in text.split()]).view(8, 8)
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((base * scale + 50) // 100).clamp(1, 255).to(like)
