"""Noise residuals: what a pixel has beyond what its neighbours predict, by fixed filters of steganalysis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.errors import ConfigError

ResidualFilter = Literal["mean3", "first", "second", "third", "square3", "square5"]
FILTERS: tuple[ResidualFilter, ...] = get_args(ResidualFilter)
# Weights of the pixels across, centred; those of the pixel itself are minus the order of the difference.
_LINES: dict[str, tuple[float, ...]] = {
    "first": (0, 0, -1, 1, 0),
    "second": (0, 1, -2, 1, 0),
    "third": (0, 1, -3, 3, -1),
}
_SQUARE3 = ((-1.0, 2, -1), (2, -4, 2), (-1, 2, -1))
_SQUARE5 = (
    (-1.0, 2, -2, 2, -1),
    (2, -6, 8, -6, 2),
    (-2, 8, -12, 8, -2),
    (2, -6, 8, -6, 2),
    (-1, 2, -2, 2, -1),
)
_REACH = 2


def residual_kernels(filters: Sequence[ResidualFilter]) -> Tensor:
    """Kernels ``(F, 5, 5)`` of filters by name; differences have two, across and down.

    Each is divided by the weight of the pixel itself, so that the residual is in units of the pixel.

    Raises:
        ConfigError: a filter that does not exist.

    >>> residual_kernels(["second"])[0, 2]
    tensor([ 0.0000,  0.5000, -1.0000,  0.5000,  0.0000])
    """
    kernels: list[Tensor] = []
    for name in filters:
        if name in _LINES:
            line = torch.zeros(5, 5)
            line[_REACH] = torch.tensor(_LINES[name])
            kernels += [line / line[_REACH, _REACH].abs(), line.T / line[_REACH, _REACH].abs()]
        elif name == "mean3":
            mean = torch.ones(3, 3) / 9
            mean[1, 1] -= 1
            kernels.append(F.pad(mean, (1, 1, 1, 1)))
        elif name == "square3":
            kernels.append(F.pad(torch.tensor(_SQUARE3) / 4, (1, 1, 1, 1)))
        elif name == "square5":
            kernels.append(torch.tensor(_SQUARE5) / 12)
        else:
            raise ConfigError(
                f"residual filters are {', '.join(FILTERS)}; found {name!r}; name some of them, or none to"
                " read the maps as they are"
            )
    return torch.stack(kernels) if kernels else torch.zeros(0, 5, 5)


def residuals(images: Tensor, kernels: Tensor, *, cut_off: float) -> Tensor:
    r"""Truncated residuals of every channel under every kernel, in grey levels.

    .. math:: r = \mathrm{clip}_{\pm T}\Big(\frac{255}{w_0} \sum_{q} w_q\, x(p + q)\Big)

    which is by how much the neighbours' prediction exceeds the pixel. Edge pixels are repeated outwards. The
    gradient is that of the filters, and 0 where a residual is cut off.

    Args:
        images: ``(B, C, H, W)`` in [0, 1].
        kernels: ``(F, 5, 5)`` of :func:`residual_kernels`.
        cut_off: T, largest residual, in grey levels of 1/255.

    Returns:
        ``(B, C * F, H, W)``, all filters of the first channel first.

    References:
        fridrich2012rich

    Differs from:
        - Linear filters alone, differences across and down alone; the paper also has diagonals, edges, and
          the smallest and largest of several residuals.
        - Residuals are not quantised, so that they have a gradient, and a network takes the place of joint
          histograms. ``mean3`` (the 3 x 3 mean less the pixel) is not among the paper's filters.
    """
    channels = images.shape[1]
    padded = F.pad(images * 255, [_REACH] * 4, mode="replicate")
    # Channels last is several times as fast on a CPU.
    padded = padded.contiguous(memory_format=torch.channels_last)
    found = F.conv2d(padded, kernels[:, None].repeat(channels, 1, 1, 1), groups=channels)
    return found.clamp_(-cut_off, cut_off)
