"""Whether what an attack climbs are logits."""

from __future__ import annotations

import warnings

from torch import Tensor

__all__ = ["warn_of_probabilities"]

_ROUNDING = 1e-3


def warn_of_probabilities(logits: Tensor) -> None:
    """Warn where every row lies in [0, 1] and sums to 1: a softmax is inside the network.

    The text is always the same, so that Python's filter shows it once, not at every batch. Rows that are all
    exactly 0 and 1 may as well be the logits of a network made by hand, and pass.
    """
    rows = logits.detach()
    probabilities = (rows >= 0) & (rows <= 1 + _ROUNDING)
    sums = (rows.sum(dim=1) - 1).abs() <= _ROUNDING
    if bool(probabilities.all() & sums.all() & ((rows > 0) & (rows < 1)).any()):
        warnings.warn(
            "the classifier's rows lie in [0, 1] and sum to 1: they are probabilities, not logits, and a"
            " softmax that is nearly sure leaves an attack hardly any gradient, so that the classifier looks"
            " more robust than it is; remove the softmax from its forward",
            stacklevel=2,
        )
