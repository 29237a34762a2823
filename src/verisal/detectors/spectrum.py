"""Magnitudes of the Fourier transform, of images and of stage outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.detectors.measurements import Measurement, measured_logits
from verisal.detectors.stages import stage_outputs
from verisal.functional.filters import fourier
from verisal.types import StagedClassifier, check_images, check_range

# Magnitude that counts as none: that of rounding an image to 8 bits.
_FLOOR = 1e-3


def log_spectrum(maps: Tensor, *, limit: int) -> Tensor:
    r"""Log magnitude of the two-dimensional Fourier transform of every channel, with few numbers.

    .. math:: \log \max\bigg(\sqrt{\frac{1}{|K|} \sum_{(u, v) \in K} \Big|\frac{1}{\sqrt{HW}} \sum_{y, x}
              m(y, x)\, e^{-2 \pi i (uy/H + vx/W)}\Big|^2}, 10^{-3}\bigg)

    for *v* from 0 to W/2, as real maps repeat the other half, with *u* from negative to positive frequencies.
    *K* are neighbouring frequencies, one cell of a grid of 2n x n for each channel, with the largest n whose
    grids have at most ``limit`` numbers in all channels together; one number a channel is the least.

    Args:
        maps: ``(B, C, H, W)`` float.
        limit: most numbers.

    Returns:
        ``(B, F)`` float32, channel by channel.
    """
    channels = maps.shape[1]
    energy = torch.fft.fftshift(fourier(maps.float(), half=True, norm="ortho").abs().square(), dim=2)
    across = max(math.isqrt(limit // (2 * channels)), 1)
    down = 2 * across if 2 * across**2 * channels <= limit else 1
    size = (min(down, energy.shape[2]), min(across, energy.shape[3]))
    # A batch without images has no size to infer a number from.
    cells = F.adaptive_avg_pool2d(energy, size).reshape(len(maps), channels * size[0] * size[1])
    # Not the log of the root, whose gradient has no number where there is no energy.
    return cells.clamp_min(_FLOOR**2).log() / 2


@final
@dataclass(frozen=True, kw_only=True)
class Spectrum(Measurement):
    """``spectrum (B, F)``, the :func:`log_spectrum` of the image, and ``logits (B, K)``. One forward pass.

    Args:
        limit: most numbers; there are at least as many as channels.

    Raises:
        ConfigError: a limit below 1.

    References:
        harder2021spectral

    Differs from:
        - The paper's magnitudes are as they are (``InputMFS``, its black-box defence), here logarithms.
        - Of magnitudes that are equal for real images one is kept, and of neighbouring ones the root of the
          mean square.
    """

    needs_stages = False

    limit: int = 1024

    def __post_init__(self) -> None:
        check_range(1, limit=self.limit)

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Spectrum and logits of images ``(B, C, H, W)`` in [0, 1]."""
        check_images(images)
        logits = measured_logits(classifier, images)
        return {"spectrum": log_spectrum(images, limit=self.limit), "logits": logits}


@final
@dataclass(frozen=True, kw_only=True)
class StageSpectrum(Measurement):
    """Per stage ``spectrum/<l> (B, F_l)``, the :func:`log_spectrum` of its output, and ``logits (B, K)``.

    Stages are numbered from 1. One forward pass.

    Args:
        limit: most numbers of a stage; there are at least as many as channels.

    Raises:
        ConfigError: a limit below 1.

    References:
        harder2021spectral, lorenz2021detecting

    Differs from:
        - Outputs of the stages, where the papers choose layers for each network (``LayerMFS``, their
          white-box defence).
        - Logarithms, half of the plane and cells, as in :class:`Spectrum`.
    """

    limit: int = 512

    def __post_init__(self) -> None:
        check_range(1, limit=self.limit)

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Spectra and logits of images ``(B, C, H, W)`` in [0, 1]."""
        _, outputs = stage_outputs(classifier, images, "StageSpectrum")
        spectra = [log_spectrum(each, limit=self.limit) for each in outputs.activations]
        return {"logits": outputs.logits} | {f"spectrum/{n}": each for n, each in enumerate(spectra, start=1)}
