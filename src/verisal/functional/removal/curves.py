r"""How a classifier's score falls or rises while pixels are removed or shown in the order of a saliency map.

The unit of removal is the pixel, all channels together. The score is that of the query class, which is fixed
from the clean image for all changed versions. Both end points belong to a curve, and its fractions are the
true shares of changed pixels, so that its area does not depend on the number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional.baselines import Baseline
from verisal.functional.comparison.similarity import defined_maps
from verisal.functional.removal.order import Order, check_maps, pixel_ranks, removal_counts
from verisal.functional.removal.removals import Removals, removal_results
from verisal.types import check_images

__all__ = ["aopc", "curve_area", "normalised_curve_area", "perturbation_curve", "removal_scores"]

_SMALLEST_DROP = 0.05


def perturbation_curve(
    classifier: Callable[[Tensor], Tensor],
    images: Tensor,
    maps: Tensor,
    query_class: Tensor,
    *,
    baseline: Baseline | Tensor,
    order: Order = "most_relevant_first",
    direction: Literal["remove", "insert"] = "remove",
    steps: int = 64,
    block_size: int = 1,
    score: Literal["probability", "logit"] = "probability",
    chunk_size: int = 32,
) -> tuple[Tensor, Tensor]:
    r"""Score of the query class at every share of changed pixels.

    At point :math:`k` the first :math:`n_k = \mathrm{round}(k H W / \mathrm{steps})` pixels of the order are
    changed: ``remove`` starts at the image and replaces them by the baseline, ``insert`` starts at the
    baseline and restores them. Removal in the order ``most_relevant_first`` is the deletion or MoRF curve, in
    the other order LeRF; ``insert`` with the most relevant first is the insertion curve.

    Args:
        classifier: gives logits ``(B, K)`` of images in [0, 1]; a module is put into eval mode meanwhile.
        images: ``(B, 3, H, W)`` float32 in [0, 1].
        maps: ``(B, 1, H, W)`` saliency maps. Where one is constant or not finite, its scores are NaN and the
            classifier is not called.
        query_class: ``(B,)`` int64.
        baseline: what replaces removed pixels; or the baseline images themselves, ``(B, 3, H, W)``.
        order: which pixels come first; see :func:`.pixel_ranks`.
        direction: whether pixels are removed or shown.
        steps: number of steps; the curve has one point more.
        block_size: pixels are changed in cells of this side. A cell is cut where a step ends inside it.
        score: what is kept of the logits.
        chunk_size: images per pass of the classifier; changes memory and speed only.

    Returns:
        Fractions ``(steps + 1,)`` float64, from 0 to 1, and scores ``(B, steps + 1)`` float32.

    Raises:
        ConfigError: a setting, a baseline or a query class that does not fit.
        DataError: images or maps that are none.

    References:
        petsiuk2018rise, samek2017

    Differs from:
        petsiuk2018rise: any image size, class count and batch; a step is a share of the pixels, and the last
        one ends at the fully changed image; trapezoid over true fractions.
        samek2017: pixels, or cells of any side, are replaced by any baseline, not by uniform noise alone.
    """
    if steps < 1:
        raise ConfigError(f"steps must be at least 1, found {steps}")
    if direction not in ("remove", "insert"):
        raise ConfigError(f"direction must be 'remove' or 'insert', found {direction!r}")
    check_images(images)
    check_maps(maps, images)
    pixels = images.shape[2] * images.shape[3]
    changed = removal_counts(pixels, steps)
    ranks = pixel_ranks(maps, order=order, block_size=block_size)
    removed = changed
    if direction == "insert":
        # What is shown first is missing last.
        ranks, removed = pixels - 1 - ranks, [pixels - count for count in changed]
    results = removal_results(
        classifier,
        Removals(images, query_class, ranks, removed, baseline),
        defined_maps(maps),
        score=score,
        chunk_size=chunk_size,
    )
    fractions = torch.tensor(changed, dtype=torch.float64, device=images.device) / pixels
    return fractions, results[..., 0]


def removal_scores(
    classifier: Callable[[Tensor], Tensor],
    images: Tensor,
    maps: Tensor,
    query_class: Tensor,
    *,
    baseline: Baseline | Tensor,
    shares: Sequence[float],
    order: Order = "most_relevant_first",
    chunk_size: int = 32,
) -> tuple[Tensor, Tensor]:
    """Probability of the query class, and whether it is still predicted, with given shares of pixels removed.

    Args:
        classifier: gives logits ``(B, K)`` of images in [0, 1]; a module is put into eval mode meanwhile.
        images: ``(B, 3, H, W)`` float32 in [0, 1].
        maps: ``(B, 1, H, W)``; constant ones and those that are not finite give NaN, as for a curve.
        query_class: ``(B,)`` int64.
        baseline: as for :func:`perturbation_curve`.
        shares: of the pixels, each in [0, 1]; rounded to whole pixels.
        order: which pixels come first.
        chunk_size: images per pass of the classifier; changes memory and speed only.

    Returns:
        Probabilities and 0 or 1, both ``(B, S)`` float32.

    Raises:
        ConfigError: a share, a baseline or a query class that does not fit.
        DataError: images or maps that are none.

    References:
        rong2022road
    """
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise ConfigError(f"shares must lie in [0, 1] and be at least one, found {list(shares)}")
    check_images(images)
    check_maps(maps, images)
    counts = [round(share * images.shape[2] * images.shape[3]) for share in shares]
    results = removal_results(
        classifier,
        Removals(images, query_class, pixel_ranks(maps, order=order), counts, baseline),
        defined_maps(maps),
        score="probability",
        chunk_size=chunk_size,
    )
    return results[..., 0], results[..., 1]


def curve_area(fractions: Tensor, scores: Tensor) -> Tensor:
    """Area under each curve by trapezoid: ``(B,)`` float64 from fractions ``(N,)`` and scores ``(B, N)``.

    >>> curve_area(torch.tensor([0.0, 0.3, 1.0]), torch.tensor([[1.0, 0.7, 0.0]]))
    tensor([0.5000], dtype=torch.float64)
    """
    widths = fractions.double().diff()
    values = scores.double()
    return ((values[:, 1:] + values[:, :-1]) * widths).sum(dim=1) / 2


def normalised_curve_area(fractions: Tensor, scores: Tensor, *, clean: Tensor, removed: Tensor) -> Tensor:
    r"""Area of :math:`(p - p_\mathrm{removed}) / (p_\mathrm{clean} - p_\mathrm{removed})`.

    Args:
        fractions: ``(N,)``.
        scores: ``(B, N)``.
        clean: ``(B,)`` score of the image as it is: the first point of a removal, the last of an insertion.
        removed: ``(B,)`` score with every pixel removed.

    Returns:
        ``(B,)`` float64; NaN where the whole removal costs less than 0.05, so that there is no scale.
    """
    drop = (clean - removed).double()
    drop = torch.where(drop < _SMALLEST_DROP, torch.nan, drop)
    return (curve_area(fractions, scores) - removed.double()) / drop


def aopc(scores: Tensor) -> Tensor:
    r"""Mean drop over the points of a MoRF curve: :math:`\frac{1}{N+1} \sum_{k=0}^{N} (p(x_0) - p(x_k))`.

    Args:
        scores: ``(B, N + 1)``, the clean image first.

    Returns:
        ``(B,)`` float64.

    References:
        samek2017
    """
    values = scores.double()
    return values[:, 0] - values.mean(dim=1)
