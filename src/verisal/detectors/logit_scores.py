"""Untrained scores of the shape of the logits: entropy and margin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.detectors._logit_score import LogitScore
from verisal.functional.outputs import log_odds

__all__ = ["LogitMargin", "SoftmaxEntropy"]

# Beyond it log(1 + exp(-x)) is exp(-x) to the last digit of a double.
_LINEAR = 40.0


@final
@dataclass
class SoftmaxEntropy(LogitScore):
    r"""Scores an image by the logarithm of its softmax output's entropy.

    .. math:: \log \sum_k -p_k \log p_k

    The order is that of the entropy. The sum is taken over logarithms, so that very confident predictions
    are told apart where the entropy itself would round to 0.

    References:
        hendrycks2017baseline
    """

    def judge(self, measured: Mapping[str, Tensor]) -> Tensor:
        """``(B,)`` float64 scores from ``logits (B, K)``."""
        logits = measured["logits"].double()
        log_p = logits.log_softmax(dim=1)
        top = logits.argmax(dim=1, keepdim=True)
        odds = log_odds(logits)[:, None]
        # -log p of the top class: rounds to 0 if taken from log p.
        of_top = torch.where(odds > _LINEAR, -odds, F.softplus(-odds.clamp_max(_LINEAR)).log())
        # A class that is impossible has no share.
        of_rest = torch.where(log_p.isneginf(), 0.0, (-log_p).log())
        return (log_p + of_rest.scatter(1, top, of_top)).logsumexp(dim=1)


@final
@dataclass
class LogitMargin(LogitScore):
    """Scores an image by minus the difference of its two largest logits.

    Unlike the largest probability it does not look at how the other classes share the rest.

    References:
        hendrycks2017baseline
    """

    def judge(self, measured: Mapping[str, Tensor]) -> Tensor:
        """``(B,)`` scores from ``logits (B, K)``."""
        top = measured["logits"].topk(2, dim=1).values
        return top[:, 1] - top[:, 0]
