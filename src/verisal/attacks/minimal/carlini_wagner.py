"""Carlini and Wagner's attack of least L2 norm."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor

from verisal.attacks._base import Attack, Draw, check_settings
from verisal.attacks._victim import Victim, margin, wide
from verisal.functional.adversarial import noise_norm
from verisal.types import Norm

# Factors by which c grows while no round, falls while every round has succeeded.
_C_UP, _C_DOWN = 10.0, 3.0
# The guess is twice the least c that reaches the border of a linear classifier; bounded, for images whose
# margin is met or whose slope vanishes.
_C_SHARE, _C_LEAST, _C_MOST = 2.0, 1e-6, 1e6
_TINY = 1e-8
_LAST_STEP = 0.04
# Share of the steps of every other round that climb away from the label towards all other classes at once.
_UNDECIDED = 1 / 3


@final
@dataclass(frozen=True)
class CarliniWagnerL2(Attack):
    r"""Least L2 noise that makes another class win by a margin.

    .. math:: \min_{x' \in [0,1]} \|x' - x\|_2^2 + c\,[\kappa - m(x')]^+

    where ``m`` is the best other logit minus the label's (targeted: the goal's logit minus the best other).
    Every sample has its own ``c``: first guessed from the margin and its slope at the clean image, multiplied
    by 10 until a round succeeds, divided by 3 while all do, then bisected on a logarithmic scale. A round
    starts from the clean image; a step goes a share ``s`` of the way to the least value for the linearised
    margin,

    .. math:: r_{t+1} = \mathrm{clip}\!\left(x + (1 - s_t)\,r_t
        + s_t\,\tfrac{c}{2}\,[m < \kappa]\,\nabla m\right) - x

    with ``s`` falling along half a cosine, so that it depends neither on the logits' scale nor on how dark
    or light a pixel is. The first, third, ... round begins with steps that weigh the other classes by their
    probabilities, since the best of them at the clean image is often not that with the nearest border; the
    last of several rounds goes on from the smallest noise found, with half the steps' size. The smallest
    noise of any iterate with margin ``confidence`` is kept; a sample that never succeeds returns the last
    iterate of its last round, which had the largest ``c``. An image that already has that margin is returned
    as it is.

    With ``confidence=0`` the images lie so near to the border that many return to the label once they are
    rounded to 8 bits; use a margin of a few logits for stored images.

    Costs ``rounds * steps`` forward and backward passes per image, one more for the guess, and one forward
    for the verdict.

    Args:
        confidence: margin kappa in logits, >= 0.
        rounds: values of ``c`` tried per sample.
        steps: steps per round.
        step: first share ``s`` of a round, in (0, 1].
        initial_c: first ``c`` of every sample; guessed for each if None.
        targeted: ``y`` is the class to reach.

    Raises:
        ConfigError: settings out of range.

    References:
        carlini2017

    Differs from:
        the paper: pixels move themselves and are clipped, not through a tanh, in which black and white ones
        would hardly move; steps follow the slope, not Adam, which gives smaller noise in fewer steps; ``c``
        starts at a guess for each image, not at one for all, and is bisected on a logarithmic scale; the last
        round does not start anew; some steps weigh all other classes.
    """

    norm: ClassVar[Norm] = "l2"
    confidence: float = 0.0
    rounds: int = 5
    steps: int = 30
    step: float = 0.6
    initial_c: float | None = None
    targeted: bool = False

    def __post_init__(self) -> None:
        check_settings(self, "confidence", least=0)
        check_settings(self, "rounds", "steps", least=1)
        check_settings(self, "step", least=0, most=1, above=True)
        check_settings(self, "initial_c", least=0, above=True)

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        result, rows = images.clone(), victim.rows
        _, slope, logits = victim.gradient(images, rows, self._all_others(), later=True)
        missing, met = self._missing(victim, logits, rows)
        left = victim.left(~met)
        rows, c = rows[left], self._first_c(missing, slope)[left]
        if len(rows) == 0:
            return result
        clean = images[rows]
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
        best, best_norm, last = clean, torch.full_like(c, torch.inf), clean
        for number in range(self.rounds):
            goes_on = 0 < number == self.rounds - 1
            start = best if goes_on else clean
            reached, reached_norm, last = self._descend(
                victim, clean, start, rows, c, number, goes_on=goes_on
            )
            succeeded = reached_norm.isfinite()
            better = reached_norm < best_norm
            best = torch.where(wide(better), reached, best)
            best_norm = torch.minimum(reached_norm, best_norm)
            low, high = torch.where(succeeded, low, c), torch.where(succeeded, c, high)
            c = _next_c(low, high)
        result[rows] = torch.where(wide(best_norm.isfinite()), best, last)
        return result

    def _first_c(self, missing: Tensor, slope: Tensor) -> Tensor:
        if self.initial_c is not None:
            return torch.full_like(missing, self.initial_c)
        balanced = 2 * missing / noise_norm(slope, "l2").square().clamp_min(_TINY)
        return (_C_SHARE * balanced).clamp(_C_LEAST, _C_MOST)

    def _descend(
        self,
        victim: Victim,
        clean: Tensor,
        start: Tensor,
        rows: Tensor,
        c: Tensor,
        number: int,
        *,
        goes_on: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One round: smallest successful iterate, its norm (inf without success), and the last iterate."""
        best, best_norm = clean, torch.full_like(c, torch.inf)
        first = self.step / 2 if goes_on else self.step
        undecided = 0.0 if number % 2 else _UNDECIDED * self.steps
        current = following = start
        for step in range(self.steps):
            current = following
            aim = self._all_others() if step < undecided else partial(margin, targeted=self.targeted)
            _, slope, logits = victim.gradient(current, rows, aim)
            _, met = self._missing(victim, logits, rows)
            noise = current - clean
            norm = noise_norm(noise, "l2")
            better = met & (norm < best_norm)
            best = torch.where(wide(better), current, best)
            best_norm = torch.where(better, norm, best_norm)

            push = wide(torch.where(met, 0.0, c / 2)) * slope
            share = _share(first, step, self.steps)
            following = (clean + (1 - share) * noise + share * push).clamp(0, 1)
        return best, best_norm, current

    def _missing(self, victim: Victim, logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Lack of margin, at least 0, and True if there is none and the verdict is the wanted."""
        reached = margin(logits, victim.labels[rows], targeted=self.targeted)
        missing = (self.confidence - reached).clamp_min(0)
        return missing, (missing == 0) & victim.reached(logits, rows)

    def _all_others(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The margin with a smooth maximum, whose slope weighs the other classes by their probabilities."""
        return partial(margin, targeted=self.targeted, largest=torch.logsumexp)


def _share(first: float, step: int, steps: int) -> float:
    """Share of the way that a step goes: from ``first`` down to the last along half a cosine."""
    last = min(_LAST_STEP, first)
    return last + (first - last) * (1 + math.cos(math.pi * step / steps)) / 2


def _next_c(low: Tensor, high: Tensor) -> Tensor:
    """Logarithmic middle of the bracket; a factor beyond its known end while the other is unknown."""
    middle = torch.where(low > 0, (low * high).sqrt(), high / _C_DOWN)
    return torch.where(high.isinf(), low * _C_UP, middle)
