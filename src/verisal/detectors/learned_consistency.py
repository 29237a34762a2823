"""What can be learned from how the classifier's output changes when the image moves by one pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from verisal.detectors._base import Detector
from verisal.detectors._fitting import LogisticScore, require_rows, unfitted
from verisal.detectors._outputs import ShiftedLogits
from verisal.functional.filters import softmax_distance
from verisal.functional.outputs import log_odds
from verisal.types import Measurement

__all__ = ["LearnedConsistency"]

_LEAST = 4


@final
@dataclass(kw_only=True)
class LearnedConsistency(Detector):
    r"""A logistic regression on four numbers of the logits of an image and of its shifted copy.

    They are the log odds of the predicted class c on the image, those of the same class on the shifted copy,
    the L1 distance of the two softmax outputs, and :math:`\log \frac1K \sum_k (\log p_k - \log p'_k)^2`.
    It reads no mask, no activation and no gradient: whatever a dearer detector finds that this one does not
    is what the masks add to the shift.

    Args:
        source: what measures ``logits`` and ``shifted/logits``.

    References:
        xu2018squeezing

    Differs from:
        the paper, which thresholds the largest distance over several squeezers.
    """

    source: Measurement = field(default_factory=ShiftedLogits)
    _logistic: LogisticScore | None = field(init=False, default=None, repr=False, compare=False)

    @property
    def measurement(self) -> Measurement:
        """The source."""
        return self.source

    def fit(
        self, measured: Mapping[str, Tensor], adversarial: Tensor, clean: Tensor, *, seed: int = 0
    ) -> None:
        """Fit the regression; its optimum is unique, so the seed is not read.

        Raises:
            DataError: fewer than 4 clean or 4 adversarial images.
        """
        require_rows(self, adversarial, clean, least_clean=_LEAST, least_adversarial=_LEAST)
        self._logistic = LogisticScore.fitted(_numbers(measured), adversarial)

    def judge(self, measured: Mapping[str, Tensor]) -> Tensor:
        """``(B,)`` log odds from both views' logits ``(B, K)``."""
        if self._logistic is None:
            raise unfitted(self)
        return self._logistic(_numbers(measured))


def _numbers(measured: Mapping[str, Tensor]) -> Tensor:
    logits, shifted = measured["logits"].float(), measured["shifted/logits"].float()
    predicted = logits.argmax(dim=1, keepdim=True)
    rest = shifted.scatter(1, predicted, -torch.inf).logsumexp(dim=1)
    change = (logits.log_softmax(dim=1) - shifted.log_softmax(dim=1)).square().mean(dim=1)
    numbers = (
        log_odds(logits),
        shifted.gather(1, predicted)[:, 0] - rest,
        softmax_distance(logits, shifted),
        change.clamp_min(1e-8).log(),
    )
    return torch.stack(numbers, dim=1)
