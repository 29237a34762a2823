"""Adaptive white-box attacks: fool a classifier and stay below the alarm of a detector beside it."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from verisal.attacks._base import (
    Draw,
    Pick,
    by_chunk,
    check_ball,
    check_settings,
    checked_inputs,
    inside_boxes,
    joined,
    require,
    seed_of,
    shown_range,
)
from verisal.attacks._victim import unit, wide
from verisal.attacks.adaptive.target import Aim, Defence, Judged, Orthogonal, Selective, Target, Weighted
from verisal.attacks.patch import AdversarialPatch
from verisal.errors import DataError
from verisal.fingerprint import Configured
from verisal.functional.adversarial import round_to_8bit
from verisal.functional.outputs import require_softmax
from verisal.types import Labels, check_images

_LEVELS = 255


@final
@dataclass(frozen=True, repr=False)
class AdaptiveResult:
    """Result of an adaptive attack, per image; printed as one line.

    Attributes:
        images: ``(B, C, H, W)`` in whole 8-bit levels of [0, 1]: of all iterates that fool the classifier the
            one with the lowest score; where there is none, the one of highest cross-entropy.
        fooled: ``(B,)`` bool, the classifier errs on ``images``.
        score: ``(B,)`` of the alarm for ``images``; NaN where not fooled.
        n_fwd: ``(B,)`` int64 forward passes of the classifier, and of ``embed``.
        n_bwd: ``(B,)`` int64 backward passes of them.
        n_alarm_fwd: ``(B,)`` int64 times the alarm was asked.
        n_alarm_bwd: ``(B,)`` int64 times its gradient was taken.
    """

    images: Tensor
    fooled: Tensor
    score: Tensor
    n_fwd: Tensor
    n_bwd: Tensor
    n_alarm_fwd: Tensor
    n_alarm_bwd: Tensor

    def __repr__(self) -> str:
        """Images that fool the classifier, and their scores, without the tensors."""
        count, fooled = len(self.images), int(self.fooled.sum())
        scores = f", scores {shown_range(self.score[self.fooled])}" if fooled else ""
        return f"AdaptiveResult({fooled} of {count} images fool the classifier{scores})"


@final
@dataclass(frozen=True, kw_only=True)
class AdaptivePGD(Configured):
    r"""Projected steps in an Linf ball towards images that are misclassified and not noticed.

    Every iterate is rounded to 8 bits before it is judged, and the gradients are those at the rounded image:
    what is kept is what a file can hold. Steps add up unrounded, so that they may be shorter than a level.
    The first restart begins at the image, the others uniformly inside the ball.

    Costs, per restart and image, at most ``steps + 1`` times what ``aim`` asks for.

    Args:
        aim: where to step.
        eps: radius of the Linf ball in [0, 1]; rounded down to whole 8-bit levels.
        steps: gradient steps per restart.
        restarts: starts.
        step: length of a step; ``2.5 * eps / steps`` if None.
        shape: ``sign``: every value moves by a step. ``l2``: the gradient scaled to the length that the
            sign's would have, which keeps its direction.
        stop_below: a sample is finished once it fools the classifier with a score of at most this; None for
            no such goal.
        share: of the image's area that may change, in (0, 1): a patch at a place drawn for each image, as
            that of :class:`.AdversarialPatch`; with ``eps=1`` of any content. None for the whole image.

    Raises:
        ConfigError: settings out of range.

    References:
        madry2018, bryniarski2021, carlini2017bypass

    Differs from:
        bryniarski2021: iterates are judged and differentiated as rounded to 8 bits, and the least noticed of
        all fooling iterates is returned.
    """

    aim: Aim
    eps: float
    steps: int = 100
    restarts: int = 5
    step: float | None = None
    shape: Literal["sign", "l2"] = "sign"
    stop_below: float | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        check_ball(self, self.eps)
        check_settings(self, "steps", "restarts", least=1)
        check_settings(self, "step", least=0, above=True)
        require(self.shape in ("sign", "l2"), "AdaptivePGD.shape", self.shape, "'sign' or 'l2'")
        # A score may be any number.
        check_settings(self, "stop_below", least=-sys.float_info.max)
        if self.share is not None:
            AdversarialPatch(self.share)

    @classmethod
    def suite(
        cls,
        *,
        eps: float,
        steps: int = 100,
        restarts: int = 5,
        weights: Sequence[float] = (0.1, 0.3, 1.0, 3.0, 10.0),
        stop_below: float | None = None,
    ) -> tuple[AdaptivePGD, ...]:
        """One attack per weight of the alarm, the selective and the orthogonal one, for an alarm in logits.

        Args:
            eps: of every attack, as are the next two and ``stop_below``.
            steps: see the class.
            restarts: see the class.
            weights: mu of :class:`Weighted`.
            stop_below: see the class.
        """
        aims: list[Aim] = [*(Weighted(mu=mu) for mu in weights), Selective(), Orthogonal()]
        return tuple(
            cls(
                aim=aim,
                eps=eps,
                steps=steps,
                restarts=restarts,
                shape="l2" if isinstance(aim, Orthogonal) else "sign",
                stop_below=stop_below,
            )
            for aim in aims
        )

    def __call__(
        self,
        defence: Defence,
        images: Tensor,
        labels: Labels,
        *,
        generator: torch.Generator | None = None,
        guides: Tensor | None = None,
        sample_ids: Sequence[object] | None = None,
        chunk_size: int = 32,
    ) -> AdaptiveResult:
        """Attack every image of a batch.

        A sample's result depends on its image, label, guide and id and the generator's initial seed only.
        The classifier, and an alarm that is an ``nn.Module``, are frozen and in eval mode meanwhile. Works
        inside ``no_grad``, ``inference_mode`` and autocast; computes in float32.

        Args:
            defence: classifier and alarm.
            images: ``(B, C, H, W)`` float32 in whole 8-bit levels of [0, 1].
            labels: ``(B,)`` whole numbers, a tensor or a list, the true classes. An image that is wrong from
                the start counts as fooled.
            generator: its initial seed seeds all draws; 0 without one.
            guides: ``(B, C, H, W)``, an image of a wrong class for each; for :class:`FeatureMatching`.
            sample_ids: one stable name per image; by default made from its content, see
                :func:`.content_ids`.
            chunk_size: images per pass, fewer above 128 x 128 pixels; changes memory and speed, never the
                result (up to float order).

        Raises:
            DataError: images of another shape, dtype or range, or not in 8-bit levels.
            ConfigError: labels, ids, guides or functions that do not fit the images.
            NumericError: scores or gradients that are not finite.
        """
        require_softmax(defence.classifier, type(self).__name__)
        labels, ids = checked_inputs(images, labels, sample_ids, chunk_size)
        _check_levels(images)
        if guides is not None:
            check_images(guides)
            expected = f"{tuple(images.shape)}, one per image"
            require(guides.shape == images.shape, "guides", tuple(guides.shape), expected)

        def attack_chunk(pick: Pick, draw: Draw) -> AdaptiveResult:
            clean = pick(images)
            inside = None
            if self.share is not None:
                inside = inside_boxes(AdversarialPatch(self.share)._boxes(clean, draw=draw), clean)
            target = Target(defence, pick(labels), None if guides is None else pick(guides), inside)
            return self._attack_chunk(target, clean, draw)

        seed, networks = seed_of(generator), (defence.classifier, defence.alarm)
        results = by_chunk(attack_chunk, networks, images, seed=seed, ids=ids, size=chunk_size)
        return joined([_nothing(images), *results])

    def _attack_chunk(self, target: Target, images: Tensor, draw: Draw) -> AdaptiveResult:
        best = _Best(images)
        budget = math.floor(self.eps * _LEVELS + 1e-4) / _LEVELS
        for restart in range(self.restarts):
            rows = torch.nonzero(~best.finished(self.stop_below)).squeeze(1)
            if len(rows) == 0:
                break
            noise = torch.zeros_like(images)
            if restart:
                noise = draw(
                    lambda rng: torch.rand(images.shape[1:], generator=rng),
                    stream=f"adaptive start {restart}",
                )
                noise = budget * (2 * noise - 1)
            if target.inside is not None:
                noise = noise * target.inside
            self._climb(target, images, noise, rows, best, budget)
        return AdaptiveResult(
            images=best.images,
            fooled=best.fooled,
            score=torch.where(best.fooled, best.score, torch.nan),
            n_fwd=target.victim.n_fwd,
            n_bwd=target.victim.n_bwd,
            n_alarm_fwd=target.n_alarm_fwd,
            n_alarm_bwd=target.n_alarm_bwd,
        )

    def _climb(
        self, target: Target, clean: Tensor, noise: Tensor, rows: Tensor, best: _Best, budget: float
    ) -> None:
        """One restart of the samples ``rows``; ``clean`` and ``noise`` are those of the whole chunk."""
        length = 2.5 * budget / self.steps if self.step is None else self.step
        current = (clean + noise).clamp(0, 1)[rows]
        for _ in range(self.steps):
            seen = round_to_8bit(current).float() / _LEVELS
            looks = target.victim.looks
            judged, ascent = self.aim.ascent(target, seen, rows)
            best.offer(seen, rows, judged)
            if self.stop_below is not None:
                left = target.victim.left(~best.finished(self.stop_below)[rows])
                current, ascent, rows = current[left], ascent[left], rows[left]
                if len(rows) == 0:
                    return
            elif looks == target.victim.looks:
                target.victim.verify()
            if target.inside is not None:
                ascent = ascent * target.inside[rows]
            moved = current + length * self._shaped(ascent) - clean[rows]
            current = (clean[rows] + moved.clamp(-budget, budget)).clamp(0, 1)
        seen = round_to_8bit(current).float() / _LEVELS
        best.offer(seen, rows, target.judge(seen, rows))
        target.victim.verify()

    def _shaped(self, ascent: Tensor) -> Tensor:
        if self.shape == "sign":
            return ascent.sign()
        return unit(ascent) * math.sqrt(ascent[0].numel())


class _Best:
    """The iterate to return, per image of a chunk."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.clone()
        self.fooled = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.score = images.new_full((len(images),), torch.inf)
        self._loss = images.new_full((len(images),), -torch.inf)

    def offer(self, images: Tensor, rows: Tensor, judged: Judged) -> None:
        unnoticed = judged.fooled & (~self.fooled[rows] | (judged.score < self.score[rows]))
        nearer = ~judged.fooled & ~self.fooled[rows] & (judged.loss > self._loss[rows])
        better = unnoticed | nearer
        self.images[rows] = torch.where(wide(better), images, self.images[rows])
        self._loss[rows] = torch.where(better, judged.loss, self._loss[rows])
        self.score[rows] = torch.where(unnoticed, judged.score, self.score[rows])
        self.fooled[rows] |= unnoticed

    def finished(self, goal: float | None) -> Tensor:
        """``(B,)`` bool: fooled with a score that needs no improvement; none without a goal."""
        if goal is None:
            return torch.zeros_like(self.fooled)
        return self.fooled & (self.score <= goal)


def _check_levels(images: Tensor) -> None:
    off = (images - round_to_8bit(images).float() / _LEVELS).abs()
    if len(images) and float(off.max()) > 1e-5:
        raise DataError(
            f"adaptive attacks judge 8-bit images, and these are up to {float(off.max()):.2g} off whole"
            " levels; pass round_to_8bit(images).float() / 255"
        )


def _nothing(images: Tensor) -> AdaptiveResult:
    counts = torch.zeros(0, dtype=torch.int64, device=images.device)
    return AdaptiveResult(images[:0].detach().clone(), counts.bool(), images.new_zeros(0), *[counts] * 4)
