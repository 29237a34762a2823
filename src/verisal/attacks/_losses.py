"""What attacks climb: losses that rise as the classifier gets closer to the error, one per sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from verisal.attacks._victim import cross_entropy
from verisal.errors import ConfigError

__all__ = ["LossName", "dlr_classes", "margin", "rising_loss"]

LossName = Literal["ce", "dlr", "margin"]

# Keeps the ratio finite where the logits are all equal.
_TINY = 1e-12


def rising_loss(name: LossName, *, targeted: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """Maps logits ``(n, K)`` and labels ``(n,)`` to a loss ``(n,)`` that an attack maximises.

    ``ce`` is the cross-entropy, ``margin`` see :func:`margin`, ``dlr`` the margin divided by the difference
    of the largest and the third largest logit (targeted: the mean of the third and the fourth), which makes
    it independent of the logits' scale. Targeted, the cross-entropy is that of the goal, negated.

    References:
        croce2020
    """
    if name == "ce":
        sign = -1.0 if targeted else 1.0
        return lambda logits, labels: sign * cross_entropy(logits, labels)
    if name == "margin":
        return lambda logits, labels: margin(logits, labels, targeted=targeted)
    return lambda logits, labels: _dlr(logits, labels, targeted=targeted)


def margin(logits: Tensor, labels: Tensor, *, targeted: bool) -> Tensor:
    """Best other logit minus the label's; targeted: the goal's logit minus the best other."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    # -inf and not 0: the other logits may all be negative.
    other = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    return own - other if targeted else other - own


def dlr_classes(*, targeted: bool) -> int:
    """Number of classes that the dlr loss needs."""
    return 4 if targeted else 3


def _dlr(logits: Tensor, labels: Tensor, *, targeted: bool) -> Tensor:
    needed = dlr_classes(targeted=targeted)
    if logits.shape[1] < needed:
        raise ConfigError(
            f"the {'targeted ' if targeted else ''}dlr loss needs a classifier of at least {needed} classes,"
            f" found {logits.shape[1]}; use loss: margin"
        )
    top = logits.topk(needed, dim=1).values
    width = top[:, 0] - (top[:, 2] + top[:, 3]) / 2 if targeted else top[:, 0] - top[:, 2]
    return margin(logits, labels, targeted=targeted) / (width + _TINY)
