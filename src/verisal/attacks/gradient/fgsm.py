"""Fast gradient sign method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from verisal.attacks._base import Attack, Draw, require
from verisal.attacks._victim import Victim, cross_entropy
from verisal.types import Norm

__all__ = ["FGSM"]


@final
@dataclass(frozen=True)
class FGSM(Attack):
    r"""One signed step of the cross-entropy gradient.

    .. math:: x' = \mathrm{clip}_{[0,1]}(x + \epsilon\,\mathrm{sign}\,\nabla_x \mathrm{CE}(f(x), y))

    Pixels whose gradient is exactly zero stay as they are. Targeted: the step goes down instead of up.
    Costs 2 forward passes (one of them for the verdict) and 1 backward pass per image.

    Args:
        eps: step and largest change of a value, in [0, 1].
        targeted: ``y`` is the class to reach.

    Raises:
        ConfigError: ``eps`` outside [0, 1].

    References:
        goodfellow2015
    """

    norm: ClassVar[Norm] = "linf"
    eps: float
    targeted: bool = False

    def __post_init__(self) -> None:
        require(0 <= self.eps <= 1, "FGSM.eps", self.eps, "in [0, 1] pixel units, such as 0.0157 for 4/255")

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        rows = torch.arange(len(images), device=images.device)
        _, gradient, _ = victim.gradient(images, rows, cross_entropy)
        step = -self.eps if self.targeted else self.eps
        return (images + step * gradient.sign()).clamp(0, 1)
