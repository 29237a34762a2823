"""A short chain of unlike attacks, for a worst case at moderate cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from verisal.attacks._base import Attack, Draw
from verisal.attacks._losses import LossName, dlr_classes
from verisal.attacks._victim import Victim
from verisal.attacks.black_box.square import SquareAttack
from verisal.attacks.gradient.apgd import APGD
from verisal.types import Norm

__all__ = ["AALight"]


@final
@dataclass(frozen=True)
class AALight(Attack):
    """:class:`APGD` with cross-entropy, then with dlr, then :class:`SquareAttack`, each on the survivors.

    Where there are fewer classes than dlr needs (3, or 4 if targeted), the margin takes its place. A sample
    that no part fools returns the best iterate of the last part. This is *not* AutoAttack, which has two more
    parts, targeted ones, and fixed settings; its robust accuracy is lower or equal, and numbers of the two
    must not be compared.

    Args:
        eps: radius of the ball; in [0, 1] for Linf, any length >= 0 for L2.
        norm: ``linf`` or ``l2``.
        steps: steps of each APGD run.
        restarts: random starts of each APGD run.
        n_queries: queries of the Square attack.
        stop_when_fooled: see :class:`APGD`.
        targeted: ``y`` is the class to reach.

    Raises:
        ConfigError: settings out of range.

    References:
        croce2020, andriushchenko2020
    """

    rules: ClassVar[int] = SquareAttack.rules
    eps: float
    norm: Norm = "linf"
    steps: int = 50
    restarts: int = 1
    n_queries: int = 500
    stop_when_fooled: bool = False
    targeted: bool = False

    def __post_init__(self) -> None:
        # Made here once, so that settings are refused before anything is attacked.
        _ = self._climb("ce"), self._search

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        result = images.clone()
        rows = torch.arange(len(images), device=images.device)
        for part in self._parts(victim):
            found, fooled = part.attack_rows(victim, images, rows, draw=draw)
            result[rows] = found
            rows = rows[~fooled]
            if len(rows) == 0:
                break
        return result

    def _parts(self, victim: Victim) -> Iterator[APGD | SquareAttack]:
        yield self._climb("ce")
        # Known by now, as the first part has asked for logits.
        enough = victim.num_classes >= dlr_classes(targeted=self.targeted)
        yield self._climb("dlr" if enough else "margin")
        yield self._search

    def _climb(self, loss: LossName) -> APGD:
        return APGD(
            self.eps,
            self.norm,
            loss=loss,
            steps=self.steps,
            restarts=self.restarts,
            stop_when_fooled=self.stop_when_fooled,
            targeted=self.targeted,
        )

    @property
    def _search(self) -> SquareAttack:
        return SquareAttack(self.eps, self.norm, n_queries=self.n_queries, targeted=self.targeted)
