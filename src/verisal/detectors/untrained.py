"""Untrained detectors: scores of the logits, of their change on altered copies, and attack cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal._checks import as_tuples
from verisal.detectors.base import Detector, matching
from verisal.detectors.measurements import Logits, Measured, Measurement, ShiftedLogits, StepsToFlip
from verisal.detectors.squeezing import SqueezedLogits
from verisal.errors import ConfigError
from verisal.functional.outputs import log_odds, softmax_distance

# Beyond it log(1 + exp(-x)) is exp(-x) to the last digit of a double.
_LINEAR = 40.0


class UntrainedDetector(Detector):
    """A score without parameters, of whatever its ``source`` measures under the names that it reads."""

    @final
    def fit(
        self,
        measured: Measured,
        adversarial: Tensor,
        clean: Tensor,
        *,
        images: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        """Nothing is read."""

    @final
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Accept the empty state alone."""
        if state:
            raise ConfigError(f"{type(self).__name__} is not trained; this is the state of another detector")


@final
@dataclass(kw_only=True)
class MaxSoftmax(UntrainedDetector):
    """Scores an image by minus the log odds of its largest softmax probability.

    The order is that of one minus the probability; log odds do not saturate.

    References:
        hendrycks2017baseline
    """

    source: Measurement = field(default_factory=Logits)

    def judge(self, measured: Measured) -> Tensor:
        """``(B,)`` scores from ``logits (B, K)``."""
        (logits,) = matching(measured, ("logits",)).values()
        return -log_odds(logits)


@final
@dataclass(kw_only=True)
class SoftmaxEntropy(UntrainedDetector):
    r"""Scores an image by the logarithm of its softmax output's entropy.

    .. math:: \log \sum_k -p_k \log p_k

    The order is that of the entropy. The sum is taken over logarithms, so that very confident predictions
    are told apart where the entropy itself would round to 0.

    References:
        hendrycks2017baseline
    """

    source: Measurement = field(default_factory=Logits)

    def judge(self, measured: Measured) -> Tensor:
        """``(B,)`` float64 scores from ``logits (B, K)``."""
        (logits,) = matching(measured, ("logits",)).values()
        logits = logits.double()
        log_p = logits.log_softmax(dim=1)
        top = logits.argmax(dim=1, keepdim=True)
        odds = log_odds(logits)[:, None]
        # -log p of the top class: rounds to 0 if taken from log p.
        of_top = torch.where(odds > _LINEAR, -odds, F.softplus(-odds.clamp_max(_LINEAR)).log())
        # A class that is impossible has no share.
        of_rest = torch.where(log_p.isneginf(), 0.0, (-log_p).log())
        return (log_p + of_rest.scatter(1, top, of_top)).logsumexp(dim=1)


@final
@dataclass(kw_only=True)
class LogitMargin(UntrainedDetector):
    """Scores an image by minus the difference of its two largest logits.

    Unlike the largest probability it does not look at how the other classes share the rest.

    References:
        hendrycks2017baseline
    """

    source: Measurement = field(default_factory=Logits)

    def judge(self, measured: Measured) -> Tensor:
        """``(B,)`` scores from ``logits (B, K)``."""
        (logits,) = matching(measured, ("logits",)).values()
        top = logits.topk(2, dim=1).values
        return top[:, 1] - top[:, 0]


@final
@dataclass(kw_only=True)
class ShiftConsistency(UntrainedDetector):
    """Scores an image by the L1 distance of the softmax outputs of it and of its shifted copy, or of several.

    The control of every detector that reads a shifted copy: it says how much of the alarm the shift alone
    accounts for. On a network that an attack makes sure and wrong on every copy it is worse than chance.

    Args:
        source: :class:`ViewLogits` for other copies, with ``reads`` of ``("*/logits",)``.
        reads: names of the copies' logits, with ``*`` and ``?`` standing for anything.
        over: of several copies, the ``largest`` or the ``mean`` distance.

    Raises:
        ConfigError: no name to read, or another word for ``over``.

    References:
        xu2018squeezing

    Differs from:
        the paper squeezes by bit depth, median filter and non-local means, here by a shift of one pixel.
    """

    source: Measurement = field(default_factory=ShiftedLogits)
    reads: tuple[str, ...] = ("shifted/logits",)
    over: Literal["largest", "mean"] = "largest"

    def __post_init__(self) -> None:
        as_tuples(self)
        if not self.reads or self.over not in ("largest", "mean"):
            raise ConfigError(
                "ShiftConsistency needs reads to name a copy's logits, such as */logits, and over largest or"
                f" mean; found reads={list(self.reads)}, over={self.over!r}"
            )

    def _decisive(self) -> dict[str, Any]:
        # Settings of one copy are those from before there were several, so that what was kept stays valid.
        plain = {"reads": ("shifted/logits",), "over": "largest"}
        return {name: value for name, value in super()._decisive().items() if value != plain.get(name)}

    def judge(self, measured: Measured) -> Tensor:
        """``(B,)`` scores in [0, 2] from the logits ``(B, K)`` of the image and of its copies."""
        logits, *copies = matching(measured, ("logits", *self.reads)).values()
        distances = torch.stack([softmax_distance(logits, copy) for copy in copies])
        return distances.amax(dim=0) if self.over == "largest" else distances.mean(dim=0)


@final
@dataclass(kw_only=True)
class FeatureSqueezing(UntrainedDetector):
    """Scores an image by the largest L1 distance of its softmax output to those of its squeezed copies.

    Args:
        source: its settings are those of the squeezers.

    References:
        xu2018squeezing

    Differs from:
        - Non-local means weigh patches by their colours as they are; the paper's library moves to another
          colour space and smooths colour and brightness apart.
        - Edge pixels are repeated outwards, where the paper's libraries reflect.
    """

    source: Measurement = field(default_factory=SqueezedLogits)

    def judge(self, measured: Measured) -> Tensor:
        """``(B,)`` scores in [0, 2] from the logits ``(B, K)`` of the image and of its copies."""
        logits, *copies = matching(measured, ("logits", "squeezed/*")).values()
        return torch.stack([softmax_distance(logits, copy) for copy in copies]).amax(dim=0)


@final
@dataclass(kw_only=True)
class AttackCost(UntrainedDetector):
    """Scores an image by minus the number of steps that change its prediction.

    An adversarial image was stopped just beyond the border, so that little brings it back.

    Args:
        source: its settings are those of the attack.

    References:
        zhao2021attack

    Differs from:
        - One attack, whose steps follow the margin rather than the cross-entropy, which goes flat for
          confident predictions; the paper compares several attacks.
        - The crossing is interpolated, so that the score is continuous; it needs no fitting.
    """

    source: Measurement = field(default_factory=StepsToFlip)

    def judge(self, measured: Measured) -> Tensor:
        """``(B,)`` scores from ``steps (B,)``."""
        (steps,) = matching(measured, ("steps",)).values()
        return -steps
