"""How sure a classifier is, without saturation."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["log_odds"]


def log_odds(logits: Tensor) -> Tensor:
    r"""Log odds of the largest softmax probability, :math:`\log p - \log(1 - p)`.

    A rising function of the largest probability, which itself rounds to 1 for confident predictions and so
    makes ties.

    Args:
        logits: ``(B, K)``, K at least 2.

    Returns:
        ``(B,)``.

    >>> log_odds(torch.tensor([[2.0, 0.0]]))
    tensor([2.])
    """
    top = logits.argmax(dim=1, keepdim=True)
    rest = logits.scatter(1, top, -torch.inf).logsumexp(dim=1)
    return logits.gather(1, top)[:, 0] - rest
