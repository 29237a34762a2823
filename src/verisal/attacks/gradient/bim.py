"""Basic iterative method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from verisal.attacks._base import Attack, Draw, require
from verisal.attacks._victim import Victim
from verisal.attacks.gradient.pgd import PGD
from verisal.types import Norm

__all__ = ["BIM"]


@final
@dataclass(frozen=True)
class BIM(Attack):
    """:class:`PGD` from the image itself, with steps of ``1.25 * eps / steps``; nothing is drawn at random.

    Args:
        eps: radius of the ball; in [0, 1] for Linf, any length >= 0 for L2.
        norm: ``linf`` or ``l2``.
        steps: gradient steps.
        targeted: ``y`` is the class to reach.

    Raises:
        ConfigError: settings out of range.

    References:
        kurakin2017
    """

    eps: float
    norm: Norm = "linf"
    steps: int = 10
    targeted: bool = False

    def __post_init__(self) -> None:
        require(self.steps >= 1, "BIM.steps", self.steps, "at least 1")
        self._pgd()

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        return self._pgd()._perturb(victim, images, draw=draw)

    def _pgd(self) -> PGD:
        step = 1.25 * self.eps / self.steps
        return PGD(
            self.eps, self.norm, steps=self.steps, step=step, random_start=False, targeted=self.targeted
        )
