"""Decoupled direction and norm: gradient descent whose noise has a length of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from verisal.attacks._base import Attack, Draw, check_settings, require
from verisal.attacks._victim import Victim, unit, wide
from verisal.functional.adversarial import noise_norm
from verisal.types import Norm

_LAST_STEP = 0.01


@final
@dataclass(frozen=True)
class DDN(Attack):
    r"""Small L2 noise in few steps: the direction follows the gradient, the length the verdict.

    .. math:: d_{t+1} = r_t + \alpha_t \frac{g_t}{\|g_t\|_2}, \qquad
        \epsilon_{t+1} = \epsilon_t (1 \mp \gamma), \qquad
        r_{t+1} = \mathrm{clip}\!\left(x + \epsilon_{t+1} \frac{d_{t+1}}{\|d_{t+1}\|_2}\right) - x

    with ``g`` the gradient of the cross-entropy; the length falls after an iterate that fools the classifier
    and grows after one that does not. The step size falls from 1 to 0.01 along half a cosine. The smallest
    noise that fools is kept; a sample that never does returns its last iterate. An image that is wrong from
    the start is returned as it is and leaves the batch.

    With ``levels=256`` every iterate is a storable 8-bit image, so that successes survive rounding.

    Costs at most ``steps`` forward and backward passes per image, and one forward for the verdict.

    Args:
        steps: gradient steps.
        gamma: share by which the length changes, in (0, 1).
        initial_norm: first length, above 0.
        levels: grey levels that iterates are rounded to, at least 2; no rounding if None.
        targeted: ``y`` is the class to reach.

    Raises:
        ConfigError: settings out of range.

    References:
        rony2019

    Differs from:
        the paper: a gradient of exactly zero gives no step, not a random one.
    """

    norm: ClassVar[Norm] = "l2"
    steps: int = 100
    gamma: float = 0.05
    initial_norm: float = 1.0
    levels: int | None = None
    targeted: bool = False

    def __post_init__(self) -> None:
        check_settings(self, "steps", least=1)
        require(0 < self.gamma < 1, "DDN.gamma", self.gamma, "a share in (0, 1)")
        check_settings(self, "initial_norm", least=0, above=True)
        check_settings(self, "levels", least=2)

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        rows, best, last = victim.rows, images.clone(), images.clone()
        best_norm = images.new_full((len(images),), torch.inf)
        # No noise within the unit box is longer.
        longest = noise_norm(torch.maximum(images, 1 - images), "l2")
        length = longest.clamp_max(self.initial_norm)
        clean, current = images, images
        for step in range(self.steps):
            first = step == 0
            _, slope, logits = victim.gradient(current, rows, victim.cross_entropy, later=first)
            noise = current - clean
            size = noise_norm(noise, "l2")
            fooled = victim.reached(logits, rows)
            better = fooled & (size < best_norm[rows])
            best[rows] = torch.where(wide(better), current, best[rows])
            best_norm[rows] = torch.where(better, size, best_norm[rows])
            last[rows] = current

            slope = -slope if self.targeted else slope
            noise = noise + self._step_size(step) * unit(slope)
            length = torch.minimum(length * (1 + self.gamma * torch.where(fooled, -1.0, 1.0)), longest)
            current = self._on_lattice((clean + wide(length) * unit(noise)).clamp(0, 1))
            if first:
                # Nothing is smaller than the zero noise of an image that is wrong from the start.
                left = victim.left(~fooled)
                rows, length, longest = rows[left], length[left], longest[left]
                clean, current = clean[left], current[left]
                if len(rows) == 0:
                    break
        return torch.where(wide(best_norm.isfinite()), best, last)

    def _step_size(self, step: int) -> float:
        return _LAST_STEP + (1 - _LAST_STEP) * (1 + math.cos(math.pi * step / self.steps)) / 2

    def _on_lattice(self, images: Tensor) -> Tensor:
        if self.levels is None:
            return images
        return (images * (self.levels - 1)).round() / (self.levels - 1)
