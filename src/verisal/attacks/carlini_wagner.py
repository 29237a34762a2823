"""Carlini and Wagner's attack of least L2 norm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from verisal.attacks._base import Attack, Draw, require
from verisal.attacks._vectors import wide
from verisal.attacks._victim import Victim
from verisal.functional import noise_norm
from verisal.types import Norm

__all__ = ["CarliniWagnerL2"]

# A value of exactly 0 or 1 lies at infinity in the tanh variable and could never move.
_EDGE = 1e-6
_BETA_MEAN, _BETA_SQUARE, _TINY = 0.9, 0.999, 1e-8
# Factors by which c grows while no round, falls while every round has succeeded.
_C_UP, _C_DOWN = 10.0, 3.0
# The guess is twice the least c that reaches the border of a linear classifier; bounded, for images whose
# margin is met or whose slope vanishes.
_C_SHARE, _C_LEAST, _C_MOST = 2.0, 1e-6, 1e6
# A sample that has succeeded leaves its round when this many steps do not lower its loss by this share.
# One that has not may be about to: black and white pixels start slowly.
_CHECK_EVERY, _MIN_GAIN = 10, 1e-3


@final
@dataclass(frozen=True)
class CarliniWagnerL2(Attack):
    r"""Least L2 noise that makes another class win by a margin.

    .. math:: \min_w \|x'(w) - x\|_2^2 + c\,[\kappa - m(x'(w))]^+, \qquad x'(w) = (\tanh w + 1) / 2

    where ``m`` is the best other logit minus the label's (targeted: the goal's logit minus the best other).
    Every sample has its own ``c``: first guessed from the margin and its slope at the clean image, multiplied
    by 10 until a round succeeds, divided by 3 while all do, then bisected on a logarithmic scale. Each round
    is one run of Adam from the clean image. The smallest noise of any iterate with margin ``confidence`` is
    kept; a sample that never succeeds returns the last iterate of its last round, which had the largest
    ``c``. Successful samples whose loss stalls leave the batch until the next round. An image that already
    has that margin is returned nearly unchanged.

    With ``confidence=0`` the images lie so near to the border that many return to the label once they are
    rounded to 8 bits; use a margin of a few logits for stored images.

    Costs at most ``rounds * steps`` forward and backward passes per image, one more for the guess, and one
    forward for the verdict.

    Args:
        confidence: margin kappa in logits, >= 0.
        rounds: values of ``c`` tried per sample.
        steps: Adam steps per round.
        lr: first step size in the tanh variable; falls linearly to 0 within a round.
        initial_c: first ``c`` of every sample; guessed for each if None.
        targeted: ``y`` is the class to reach.

    Raises:
        ConfigError: settings out of range.

    References:
        carlini2017

    Differs from:
        the paper: the step size falls within a round, which gives smaller noise in fewer steps;
        ``c`` starts at a guess for each image, not at one for all, and is bisected on a logarithmic scale;
        stalled samples stop one by one, not the batch as a whole.
    """

    norm: ClassVar[Norm] = "l2"
    confidence: float = 0.0
    rounds: int = 5
    steps: int = 30
    lr: float = 0.03
    initial_c: float | None = None
    targeted: bool = False

    def __post_init__(self) -> None:
        name = type(self).__name__
        require(0 <= self.confidence < math.inf, f"{name}.confidence", self.confidence, "a margin >= 0")
        require(self.rounds >= 1, f"{name}.rounds", self.rounds, "at least 1")
        require(self.steps >= 1, f"{name}.steps", self.steps, "at least 1")
        require(0 < self.lr < math.inf, f"{name}.lr", self.lr, "above 0")
        require(
            self.initial_c is None or 0 < self.initial_c < math.inf,
            f"{name}.initial_c",
            self.initial_c,
            "above 0, or null for a guess per image",
        )

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        low = images.new_zeros(len(images))
        high = torch.full_like(low, torch.inf)
        c = self._first_c(victim, images)
        best, best_norm = images, high
        last = images
        for _ in range(self.rounds):
            found, found_norm, last = self._descend(victim, images, c)
            better = found_norm < best_norm
            best = torch.where(wide(better), found, best)
            best_norm = torch.minimum(found_norm, best_norm)
            succeeded = found_norm.isfinite()
            low, high = torch.where(succeeded, low, c), torch.where(succeeded, c, high)
            c = _next_c(low, high)
        return torch.where(wide(best_norm.isfinite()), best, last)

    def _first_c(self, victim: Victim, images: Tensor) -> Tensor:
        if self.initial_c is not None:
            return images.new_full((len(images),), self.initial_c)
        rows = torch.arange(len(images), device=images.device)
        missing, slope, _ = victim.gradient(images, rows, self._missing_margin)
        balanced = 2 * missing / noise_norm(slope, "l2").square().clamp_min(_TINY)
        return (_C_SHARE * balanced).clamp(_C_LEAST, _C_MOST)

    def _descend(self, victim: Victim, images: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One round: smallest successful iterate, its norm (inf without success), and the last iterate."""
        found, last = images.clone(), images.clone()
        found_norm = torch.full_like(c, torch.inf)
        rows = torch.arange(len(images), device=images.device)
        variable = torch.atanh((2 * images - 1) * (1 - 2 * _EDGE))
        mean, square = torch.zeros_like(images), torch.zeros_like(images)
        lowest, before = torch.full_like(c, torch.inf), torch.full_like(c, torch.inf)
        for step in range(1, self.steps + 1):
            curve = torch.tanh(variable)
            current = (curve + 1) / 2
            missing, slope, logits = victim.gradient(current, rows, self._missing_margin)
            noise = current - images[rows]
            norm = noise_norm(noise, "l2")
            better = (missing <= 0) & victim.reached(logits, rows) & (norm < found_norm[rows])
            found[rows] = torch.where(wide(better), current, found[rows])
            found_norm[rows] = torch.where(better, norm, found_norm[rows])
            lowest = torch.minimum(lowest, norm.square() + c[rows] * missing)

            gradient = (2 * noise + wide(c[rows]) * slope) * (1 - curve.square()) / 2
            mean = torch.lerp(gradient, mean, _BETA_MEAN)
            square = torch.lerp(gradient.square(), square, _BETA_SQUARE)
            size = self.lr * (1 - (step - 1) / self.steps) / (1 - _BETA_MEAN**step)
            variable = variable - size * mean / ((square / (1 - _BETA_SQUARE**step)).sqrt() + _TINY)

            if step % _CHECK_EVERY == 0 or step == self.steps:
                last[rows] = current
                goes_on = (lowest < before * (1 - _MIN_GAIN)) | found_norm[rows].isinf()
                # Compaction: whatever belongs to a sample that goes on is kept, in one order.
                rows, lowest = rows[goes_on], lowest[goes_on]
                variable, mean, square = variable[goes_on], mean[goes_on], square[goes_on]
                before = lowest
                if len(rows) == 0:
                    break
        return found, found_norm, last

    def _missing_margin(self, logits: Tensor, labels: Tensor) -> Tensor:
        own = logits.gather(1, labels[:, None]).squeeze(1)
        # -inf and not 0: the other logits may all be negative.
        other = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
        margin = own - other if self.targeted else other - own
        return (self.confidence - margin).clamp_min(0)


def _next_c(low: Tensor, high: Tensor) -> Tensor:
    """Logarithmic middle of the bracket; a factor beyond its known end while the other is unknown."""
    middle = torch.where(low > 0, (low * high).sqrt(), high / _C_DOWN)
    return torch.where(high.isinf(), low * _C_UP, middle)
