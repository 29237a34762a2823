"""DeepFool: the nearest border of a linearised classifier, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from verisal.attacks._base import Attack, Draw, check_settings
from verisal.attacks._victim import Victim, wide
from verisal.functional.adversarial import noise_norm
from verisal.types import Norm

# Added to every step, since a step that ends exactly on the border does not change the prediction.
_NUDGE = 1e-4
_TINY = 1e-12


@final
@dataclass(frozen=True)
class DeepFoolL2(Attack):
    r"""Least L2 noise that crosses the nearest border, as the classifier's linearisation sees it.

    .. math:: r_{t+1} = r_t + \frac{|f_k - f_y|}{\|\nabla (f_k - f_y)\|_2^2} \nabla (f_k - f_y), \qquad
        x_{t+1} = \mathrm{clip}_{[0,1]}(x + (1 + \mathrm{overshoot})\,r_{t+1})

    where ``k`` is the class, among the ``candidates`` that the clean image makes most likely, whose border is
    nearest at :math:`x_t`. A sample leaves the batch as soon as its prediction changes; one that never does
    returns its last iterate. An image that is wrong from the start is returned as it is. Targeted: the step
    goes to the border between the goal and the class that is ahead of it most.

    The images lie so near to the border that many return to the label once they are rounded to 8 bits; use
    ``overshoot=0.1`` for stored images.

    Costs, per step of an image, two forward passes (the verdict on the step before needs no graph, and saves
    finished samples the backward passes) and ``candidates - 1`` backward passes (targeted: one).

    Args:
        overshoot: share by which the noise is longer than the linearisation asks for, >= 0.
        steps: most steps per image.
        candidates: classes considered, the label among them, at least 2; all if there are fewer.
        targeted: ``y`` is the class to reach.

    Raises:
        ConfigError: settings out of range.

    References:
        moosavi2016

    Differs from:
        the paper: every step, not only the last, overshoots, as in the authors' code; few candidate
        classes; iterates are clipped to [0, 1].
    """

    norm: ClassVar[Norm] = "l2"
    overshoot: float = 0.02
    steps: int = 50
    candidates: int = 10
    targeted: bool = False

    def __post_init__(self) -> None:
        check_settings(self, "overshoot", least=0)
        check_settings(self, "steps", least=1)
        check_settings(self, "candidates", least=2)

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        result, rows = images.clone(), victim.rows
        with torch.no_grad():
            logits = victim.logits(images, rows, later=True)
        rivals = self._rivals(logits, victim.labels)
        total, current = torch.zeros_like(images), images
        for _ in range(self.steps):
            goes_on = victim.left(~victim.reached(logits, rows))
            rows, rivals = rows[goes_on], rivals[goes_on]
            total, current, logits = total[goes_on], current[goes_on], logits[goes_on]
            if len(rows) == 0:
                break
            if self.targeted:
                rivals = self._rivals(logits, victim.labels[rows])
            total = total + self._step(victim, current, rows, rivals)
            current = (images[rows] + (1 + self.overshoot) * total).clamp(0, 1)
            result[rows] = current
            with torch.no_grad():
                logits = victim.logits(current, rows, later=True)
        victim.verify()
        return result

    def _rivals(self, logits: Tensor, labels: Tensor) -> Tensor:
        """``(n, C)`` classes other than the label, likeliest first; the likeliest only where targeted."""
        others = logits.scatter(1, labels[:, None], -torch.inf)
        count = 1 if self.targeted else min(self.candidates, logits.shape[1]) - 1
        return others.topk(count, dim=1).indices

    def _step(self, victim: Victim, images: Tensor, rows: Tensor, rivals: Tensor) -> Tensor:
        """Noise ``(n, C, H, W)`` to the nearest of the linearised borders."""
        labels = victim.labels[rows][:, None]
        nearest = images.new_full((len(rows),), torch.inf)
        best = torch.zeros_like(images)

        def gaps(logits: Tensor) -> Tensor:
            return logits.gather(1, rivals) - logits.gather(1, labels)

        for gap, slope in victim.gradients(images, rows, gaps):
            steepness = noise_norm(slope, "l2").clamp_min(_TINY)
            distance = gap.abs() / steepness
            nearer = distance < nearest
            nearest = torch.where(nearer, distance, nearest)
            way = wide((distance + _NUDGE) / steepness) * slope
            best = torch.where(wide(nearer), way, best)
        return -best if self.targeted else best
