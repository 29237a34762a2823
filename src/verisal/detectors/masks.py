"""Classical learners on learned masks: dispersion of the maps, and forests on channel gates."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from verisal._checks import as_tuples
from verisal.detectors.base import matching
from verisal.detectors.forests import ForestDetector, named_vectors, require_names
from verisal.detectors.measurements import Measured, Measurement
from verisal.detectors.statistical import LogisticDetector
from verisal.errors import ConfigError

# Values that take longer to sort than threads to start.
_WORTH_THREADS = 2**17


def map_dispersion(maps: Tensor) -> Tensor:
    r"""How a map's values spread: six statistics per image.

    Mean, largest value, standard deviation (biased), interquartile range, entropy
    :math:`-\sum_i p_i \log p_i` of the values scaled to sum 1, and total variation: the mean absolute
    difference of neighbours across and down.

    Args:
        maps: ``(B, h, w)``, non-negative.

    Returns:
        ``(B, 6)``, in this order.
    """
    flat = maps.flatten(1)
    ranked = ranked_rows(flat)
    share = flat / flat.sum(dim=1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    across, down = maps.diff(dim=2).abs().flatten(1), maps.diff(dim=1).abs().flatten(1)
    steps = torch.cat([across, down], dim=1)
    variation = steps.sum(dim=1) / max(steps.shape[1], 1)
    mean = flat.mean(dim=1)
    # Not ``std``, which warns where there is no image.
    deviation = (flat - mean[:, None]).square().mean(dim=1).sqrt()
    spread = ranked_quantile(ranked, 0.75) - ranked_quantile(ranked, 0.25)
    entropy = torch.special.entr(share).sum(dim=1)
    return torch.stack([mean, ranked[:, -1], deviation, spread, entropy, variation], dim=1)


def ranked_rows(values: Tensor) -> Tensor:
    """Rows ``(B, N)`` in ascending order, by NumPy where it can, which takes a quarter of torch's time."""
    if values.device.type != "cpu" or values.requires_grad or values.dtype == torch.bfloat16:
        return values.sort(dim=1).values
    threads = torch.get_num_threads()
    if threads == 1 or values.numel() < _WORTH_THREADS:
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    # In a copy, of which each thread sorts a part in place.
    ranked = np.array(values.numpy())
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda part: part.sort(axis=1), np.array_split(ranked, threads)))
    return torch.from_numpy(ranked)


def ranked_quantile(ranked: Tensor, share: float) -> Tensor:
    """Quantile ``(B,)`` of sorted rows ``(B, N)``, by linear interpolation between ranks.

    Unlike ``torch.quantile`` it takes rows of any length, and no row too.
    """
    at = share * (ranked.shape[1] - 1)
    below = int(at)
    above = min(below + 1, ranked.shape[1] - 1)
    return torch.lerp(ranked[:, below], ranked[:, above], at - below)


@final
@dataclass(kw_only=True)
class MaskStatistics(LogisticDetector):
    """Logistic regression on the dispersion of every mask: mean, maximum, deviation, IQR, entropy, variation.

    Args:
        source: what is measured of an image.
        reads: names of the masks ``(B, S, h, w)``, with ``*`` and ``?`` standing for anything. The first of
            their S channels is read, which is the mean over the channels of a gate.

    Raises:
        ConfigError: no name to read.
    """

    source: Measurement
    reads: tuple[str, ...] = ("masks/*",)

    def __post_init__(self) -> None:
        as_tuples(self)
        if not self.reads:
            raise ConfigError("MaskStatistics.reads must name a mask, such as masks/*, found none")

    def _numbers(self, measured: Measured) -> Tensor:
        """``(B, 6 * masks)`` float64."""
        masks = matching(measured, self.reads).values()
        return torch.cat([map_dispersion(mask[:, 0].double()) for mask in masks], dim=1)


@final
@dataclass(kw_only=True)
class MaskForest(ForestDetector):
    """A random forest on channel gates; the score is the mean share of adversarial images in the leaves.

    Args:
        source: what is measured of an image; :class:`ChannelGates` for the paper's inputs.
        reads: names of vectors ``(B, C)``, with ``*`` and ``?`` standing for anything.
        trees: of the forest.
        least_leaf: fewest fit images in a leaf; above 1, so that a tree answers with shares, not with votes.

    Raises:
        ConfigError: no name to read, or settings out of range.

    References:
        wang2018cdrp

    Differs from:
        - The paper learns one gate per channel; here gates are full maps, of which the channel means are
          read.
        - Both classes weigh the same.
        - The authors' code gives hard predictions to its AUC; the score here is continuous.
    """

    source: Measurement
    reads: tuple[str, ...] = ("gates/*",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_names(self, self.reads)

    def _numbers(self, measured: Measured) -> Tensor:
        return named_vectors(measured, self.reads)
