"""Which of many changed images is kept: the one of largest dissimilarity among those that keep the label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from typing import Self, final

import torch
from torch import Tensor

from verisal.errors import DataError
from verisal.types import SaliencyResult

from ._adversarial import noise_norm
from ._map_attack_objectives import MapObjective
from .postprocess import attribution_of

__all__ = ["Explain", "MapAttackResult", "best_candidates", "stored_within"]

Explain = Callable[[Tensor, Tensor], SaliencyResult]

# Float error of a level of 1 / 255, in levels.
_SLACK = 1e-3


@final
@dataclass(frozen=True)
class MapAttackResult:
    """What an attack on maps found, per image.

    Attributes:
        x_adv: ``(B, 3, H, W)`` in [0, 1], rounded to 8 bits; the image itself where nothing was found.
        found: ``(B,)`` bool, whether a changed image kept the predicted label.
        attribution: ``(B, C, H, W)`` of the method itself on ``x_adv``; that of the image where nothing was
            found.
        clean_objective: ``(B,)`` D of the method's map of the image.
        objective: ``(B,)`` D of the method's map of ``x_adv``.
        step: ``(B,)`` int64, the step or draw that was kept, from 1; 0 where nothing was found.
        l2: ``(B,)`` L2 norm of the change, in [0, 1] pixel units.
        linf: ``(B,)`` Linf norm of the change.
        n_fwd: ``(B,)`` forward passes spent, those of the method included.
        n_bwd: ``(B,)`` backward passes spent, those of the method included; a second derivative is one more.
    """

    x_adv: Tensor
    found: Tensor
    attribution: Tensor
    clean_objective: Tensor
    objective: Tensor
    step: Tensor
    l2: Tensor
    linf: Tensor
    n_fwd: Tensor
    n_bwd: Tensor

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """Results of several batches as one."""
        columns = zip(*([getattr(part, item.name) for item in fields(cls)] for part in parts), strict=True)
        return cls(*(torch.cat(column) for column in columns))


def stored_within(changed: Tensor, images: Tensor, eps: float) -> Tensor:
    """Changed images rounded to 8 bits, towards the image where rounding would leave the Linf ball.

    A pixel of an image that is not in 8 bits itself stays as it is where no level lies within the ball.

    Args:
        changed: ``(B, 3, H, W)``.
        images: ``(B, 3, H, W)`` in [0, 1], the middle of the ball.
        eps: radius of the ball.
    """
    low = ((images - eps).clamp_min(0) * 255 - _SLACK).ceil()
    high = ((images + eps).clamp_max(1) * 255 + _SLACK).floor()
    levels = (changed * 255).round().maximum(low).minimum(high)
    return torch.where(low <= high, levels / 255, images)


def best_candidates(
    explain: Explain,
    candidates: Iterable[tuple[Tensor, Tensor]],
    *,
    images: Tensor,
    query_class: Tensor,
    attribution: Tensor,
    objective: MapObjective,
    every: int,
) -> MapAttackResult:
    """Explain the last valid candidate of every stretch of candidates, and keep the one of largest D.

    A candidate without a map, because it is not finite, is kept only if there is no other.

    Args:
        explain: the method.
        candidates: changed images ``(B, 3, H, W)`` and which of them are valid ``(B,)``, one after the other.
        images: the clean images.
        query_class: ``(B,)``.
        attribution: of the clean images.
        objective: D.
        every: candidates in a stretch.

    Returns:
        The result; its passes are those of ``explain``.
    """
    clean = objective(attribution)
    best, maps, value = images.clone(), attribution.clone(), torch.full_like(clean, -torch.inf)
    kept = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    passes = torch.zeros(2, len(images), device=images.device)
    for last, step in _stretches(candidates, every):
        rows = step.nonzero()[:, 0]
        if not len(rows):
            continue
        result = explain(last[rows], query_class[rows])
        found = _checked(attribution_of(result).detach(), attribution)
        reached = objective.rows(rows)(found).nan_to_num(nan=-torch.inf)
        better = (reached > value[rows]) | (kept[rows] == 0)
        chosen = rows[better]
        best[chosen], maps[chosen], value[chosen] = last[chosen], found[better], reached[better]
        kept[chosen] = step[chosen]
        passes[:, rows] += torch.tensor([[result.n_forward], [result.n_backward]], device=images.device)
    change = best - images
    return MapAttackResult(
        x_adv=best,
        found=kept > 0,
        attribution=maps,
        clean_objective=clean,
        objective=torch.where(kept > 0, value.where(value.isfinite(), torch.nan), clean),
        step=kept,
        l2=noise_norm(change, "l2"),
        linf=noise_norm(change, "linf"),
        n_fwd=passes[0],
        n_bwd=passes[1],
    )


def _stretches(candidates: Iterable[tuple[Tensor, Tensor]], every: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Of every stretch the last valid candidate of each image, and its number from 1; 0 for none."""
    numbered = enumerate(candidates, start=1)
    while stretch := list(islice(numbered, every)):
        last = stretch[0][1][0]
        step = torch.zeros(len(last), dtype=torch.int64, device=last.device)
        for number, (changed, valid) in stretch:
            last = torch.where(valid.view(-1, 1, 1, 1), changed, last)
            step = torch.where(valid, number, step)
        yield last, step


def _checked(found: Tensor, attribution: Tensor) -> Tensor:
    if found.shape[1:] != attribution.shape[1:]:
        raise DataError(
            f"explain() gave maps {tuple(found.shape[1:])} for attacked images, but those of the images are"
            f" {tuple(attribution.shape[1:])}; both must come from one method"
        )
    return found
