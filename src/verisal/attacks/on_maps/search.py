"""Choice among many changed images: the one of largest dissimilarity among those that keep the label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, final

import torch
from torch import Tensor

from verisal._brief import brief
from verisal.errors import ConfigError, DataError
from verisal.functional.adversarial import noise_norm
from verisal.functional.comparison.sensitivity import centre_of_mass, map_shares
from verisal.functional.comparison.similarity import attribution_of
from verisal.functional.outputs import ask
from verisal.types import SaliencyResult

MapAttackKind = Literal["top_k", "mass_centre", "target"]

# Where twin and method agree on the image, the squared shift of the centre is flat at its start. This many
# pixels off, it sends the centre the longer way, across the middle of the image.
_NUDGE = 0.01


def target_side(height: int, width: int) -> int:
    """Side of the square that the attack on a target region lights up: 4 px at 224 px, at least 2 px."""
    return max(2, round(4 * min(height, width) / 224))


@final
@dataclass(frozen=True)
class MapObjective:
    """Dissimilarity D of maps from those of the clean images; larger is what the attack wants.

    Attributes:
        kind: which of the three.
        region: ``(B, H, W)`` in {0, 1}: the pixels whose shares count, for ``top_k`` and ``target``.
        centre: ``(B, 2)`` centre of mass of the clean maps, for ``mass_centre``.
    """

    kind: MapAttackKind
    region: Tensor
    centre: Tensor

    __repr__ = brief

    def __call__(self, attribution: Tensor) -> Tensor:
        """``(B,)`` D of attributions ``(B, C, H, W)``, differentiable."""
        if self.kind == "mass_centre":
            return (centre_of_mass(attribution) - self.centre).square().sum(dim=1)
        inside = (map_shares(attribution) * self.region).sum(dim=(1, 2))
        return -inside if self.kind == "top_k" else inside

    def rows(self, index: Tensor) -> MapObjective:
        """The dissimilarity of some of the images."""
        return MapObjective(self.kind, self.region[index], self.centre[index])

    def nudged(self) -> MapObjective:
        """The same, with a slope where the centre of mass has not moved yet."""
        height, width = self.region.shape[1:]
        middle = self.centre.new_tensor([(width - 1) / 2, (height - 1) / 2])
        away = torch.where(self.centre >= middle, _NUDGE, -_NUDGE)
        return MapObjective(self.kind, self.region, self.centre + away)


def map_objective(kind: MapAttackKind, attribution: Tensor, *, top_share: float = 0.1) -> MapObjective:
    r"""D of an attack, from the maps of the clean images.

    With s the map (largest absolute value over the channels) divided by its sum:

    - ``top_k``: minus the sum of s over the k largest pixels of the clean map;
    - ``mass_centre``: squared distance in px of the centre of mass from that of the clean map;
    - ``target``: sum of s over the square in the lower right corner (:func:`target_side`).

    Args:
        kind: which of the three.
        attribution: ``(B, C, H, W)`` of the clean images.
        top_share: k as a share of the pixels, rounded, at least one pixel; of ties the first count.

    Raises:
        ConfigError: an unknown kind.

    References:
        ghorbani2019fragile

    Differs from:
        - The largest channel stands for a pixel, not the sum of the channels.
    """
    maps = attribution.detach().abs().amax(dim=1)
    height, width = maps.shape[1:]
    region = torch.zeros_like(maps)
    if kind == "top_k":
        count = max(1, round(top_share * height * width))
        order = maps.flatten(1).sort(dim=1, descending=True, stable=True).indices[:, :count]
        region.view(len(maps), -1).scatter_(1, order, 1.0)
    elif kind == "target":
        side = target_side(height, width)
        region[:, -side:, -side:] = 1.0
    elif kind != "mass_centre":
        raise ConfigError(f"kind must be top_k, mass_centre or target, found {kind!r}")
    return MapObjective(kind, region, centre_of_mass(attribution.detach()))


Explain = Callable[[Tensor, Tensor], SaliencyResult]

# Float error of a level of 1 / 255, in levels.
_SLACK = 1e-4


@final
@dataclass(frozen=True, repr=False)
class MapAttackResult:
    """Result of an attack on maps, per image; printed as one line.

    Attributes:
        images: ``(B, C, H, W)`` in [0, 1], rounded to 8 bits; the image itself where nothing was found.
        found: ``(B,)`` bool, True if a changed image kept the predicted label.
        maps: ``(B, 1, H, W)``, largest absolute attribution over the channels, of the method itself on
            ``images``; on the image where nothing was found.
        clean_objective: ``(B,)`` D of the method's map of the image.
        objective: ``(B,)`` D of the method's map of ``images``.
        step: ``(B,)`` int64, the step or draw that was kept, from 1; 0 where nothing was found.
        l2: ``(B,)`` L2 norm of the change, in [0, 1] pixel units.
        linf: ``(B,)`` Linf norm of the change.
        clean_confidence: ``(B,)`` softmax probability of the predicted label on the image.
        confidence: ``(B,)`` softmax probability of the same label on ``images``.
        n_fwd: ``(B,)`` forward passes spent, those of the method included.
        n_bwd: ``(B,)`` backward passes spent, those of the method included; a second derivative is one more.
    """

    images: Tensor
    found: Tensor
    maps: Tensor
    clean_objective: Tensor
    objective: Tensor
    step: Tensor
    l2: Tensor
    linf: Tensor
    clean_confidence: Tensor
    confidence: Tensor
    n_fwd: Tensor
    n_bwd: Tensor

    def __repr__(self) -> str:
        """Images whose map was moved, and the noise, without the tensors."""
        return (
            f"MapAttackResult({int(self.found.sum())} of {len(self.found)} images changed with their label"
            f" kept, linf noise up to {float(self.linf.max()):.4g})"
        )


def stored_within(changed: Tensor, images: Tensor, eps: float) -> Tensor:
    """Changed images rounded to 8 bits, towards the image where rounding would leave the Linf ball.

    A pixel of an image that is not in 8 bits itself stays as it is where no level lies within the ball.

    Args:
        changed: ``(B, C, H, W)``.
        images: ``(B, C, H, W)`` in [0, 1], the middle of the ball.
        eps: radius of the ball.
    """
    low = ((images - eps).clamp_min(0) * 255 - _SLACK).ceil()
    high = ((images + eps).clamp_max(1) * 255 + _SLACK).floor()
    levels = (changed * 255).round().maximum(low).minimum(high)
    moved = (low <= high) & ((levels - images * 255).abs() > _SLACK)
    return torch.where(moved, levels / 255, images)


@final
@dataclass(frozen=True)
class Problem:
    """Maps under attack, and what is wanted of them.

    Attributes:
        classifier: maps images to logits; may be differentiated.
        explain: the method: images and query class to maps.
        images: ``(B, C, H, W)`` in [0, 1].
        query_class: ``(B,)`` int64.
        maps: ``(B, 1, H, W)`` of the images.
        objective: D.
    """

    classifier: Callable[[Tensor], Tensor]
    explain: Explain
    images: Tensor
    query_class: Tensor
    maps: Tensor
    objective: MapObjective

    __repr__ = brief


def best_on_path(problem: Problem, path: Iterable[Tensor], *, eps: float, every: int) -> MapAttackResult:
    """Explain the last valid image of every stretch of a path, and keep the one of largest D.

    An image is valid if, rounded to 8 bits, it differs from the clean one, rounded alike, and keeps its
    predicted label: a step of zero is no change, whatever rounding makes of the image. One without a D,
    because its map is not finite, is kept only if there is no other.

    Args:
        problem: whose maps.
        path: changed images ``(B, C, H, W)``, one after the other.
        eps: radius of the ball that they lie in.
        every: images in a stretch.

    Returns:
        The result; its passes are those spent here and by ``explain``.
    """
    images, clean_odds = problem.images, _odds(problem.classifier, problem.images)
    clean_value, label = problem.objective(problem.maps), clean_odds.argmax(dim=1)
    best, maps, value = images.clone(), problem.maps.clone(), torch.full_like(clean_value, -torch.inf)
    kept = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    passes = torch.zeros(2, len(images), device=images.device)
    for last, step, asked in _stretches(_valid(problem, label, path, eps), every):
        passes[0] += asked
        rows = step.nonzero()[:, 0]
        if not len(rows):
            continue
        result = problem.explain(last[rows], problem.query_class[rows])
        attacked = _maps_of(result, like=maps)
        reached = problem.objective.rows(rows)(attacked).nan_to_num(nan=-torch.inf)
        better = (reached > value[rows]) | (kept[rows] == 0)
        chosen = rows[better]
        best[chosen], maps[chosen], value[chosen] = last[chosen], attacked[better], reached[better]
        kept[chosen] = step[chosen]
        passes[:, rows] += torch.tensor([[result.n_forward], [result.n_backward]], device=images.device)
    odds = _odds(problem.classifier, best)
    return MapAttackResult(
        images=best,
        found=kept > 0,
        maps=maps,
        clean_objective=clean_value,
        objective=torch.where(kept > 0, value.where(value.isfinite(), torch.nan), clean_value),
        step=kept,
        l2=noise_norm(best - images, "l2"),
        linf=noise_norm(best - images, "linf"),
        clean_confidence=clean_odds.gather(1, label[:, None])[:, 0],
        confidence=odds.gather(1, label[:, None])[:, 0],
        n_fwd=passes[0] + 2,
        n_bwd=passes[1],
    )


def _valid(
    problem: Problem, label: Tensor, path: Iterable[Tensor], eps: float
) -> Iterator[tuple[Tensor, Tensor]]:
    unmoved = stored_within(problem.images, problem.images, eps)
    for changed in path:
        stored = stored_within(changed, problem.images, eps)
        odds = _odds(problem.classifier, stored)
        # The largest of odds that are not numbers is no label that was kept.
        same = (odds.argmax(dim=1) == label) & ~odds.isnan().any(dim=1)
        yield stored, same & (stored != unmoved).flatten(1).any(dim=1)


def _stretches(
    candidates: Iterable[tuple[Tensor, Tensor]], every: int
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Of every stretch: each image's last valid candidate, its number from 1 (0 for none), the length."""
    numbered = enumerate(candidates, start=1)
    while stretch := list(islice(numbered, every)):
        last = stretch[0][1][0]
        step = torch.zeros(len(last), dtype=torch.int64, device=last.device)
        for number, (changed, valid) in stretch:
            last = torch.where(valid.view(-1, 1, 1, 1), changed, last)
            step = torch.where(valid, number, step)
        yield last, step, len(stretch)


@torch.no_grad()
def _odds(classifier: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return ask(classifier, images, allow_nan=True).softmax(dim=1)


def _maps_of(result: SaliencyResult, *, like: Tensor) -> Tensor:
    maps = attribution_of(result).detach().abs().amax(dim=1, keepdim=True)
    if maps.shape[1:] != like.shape[1:]:
        raise DataError(
            f"explain() gave maps {tuple(maps.shape[2:])} for attacked images, but those of the images are"
            f" {tuple(like.shape[2:])}; both must come from one method"
        )
    return maps
