"""Whether what an attack climbs are logits."""

from __future__ import annotations

import re
import warnings
from functools import cache

from torch import Tensor

__all__ = ["warn_of_probabilities"]

_ROUNDING = 1e-3
_TEXT = (
    "the classifier's rows lie in [0, 1] and sum to 1: they are probabilities, not logits, and a softmax that"
    " is nearly sure leaves an attack hardly any gradient, so that the classifier looks more robust than it"
    " is; remove the softmax from its forward"
)


def warn_of_probabilities(logits: Tensor) -> None:
    """Warn where every row lies in [0, 1] and sums to 1: a softmax is inside the network.

    It is shown once in a process, not at every batch, unless a filter says otherwise. Rows that are all
    exactly 0 and 1 may as well be the logits of a network made by hand, and pass.
    """
    rows = logits.detach()
    probabilities = (rows >= 0) & (rows <= 1 + _ROUNDING)
    sums = (rows.sum(dim=1) - 1).abs() <= _ROUNDING
    if bool(probabilities.all() & sums.all() & ((rows > 0) & (rows < 1)).any()):
        if _filtered():
            warnings.warn(_TEXT, stacklevel=2)
        else:
            _warn_once()


def _filtered() -> bool:
    """Whether a filter of the caller's decides about the warning."""
    return any(
        module is None and issubclass(UserWarning, category) and (words is None or re.match(words, _TEXT))
        for _, words, category, module, _ in warnings.filters
    )


@cache
def _warn_once() -> None:
    """Python's own once lasts until any code touches a filter, as the decoding of every image does."""
    warnings.warn(_TEXT, stacklevel=3)
