"""A regression on any vectors that were measured: pooled activations, gates, contributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from verisal._checks import as_tuples
from verisal.detectors.base import matching
from verisal.detectors.forests import named_vectors, require_names
from verisal.detectors.measurements import Measured, Measurement
from verisal.detectors.statistical import LogisticDetector
from verisal.types import check_range


@final
@dataclass(kw_only=True)
class LogisticRegression(LogisticDetector):
    """Logistic regression on all numbers of named vectors, each standardised; the score is the log odds.

    On :class:`PooledActivations` of the image and of a view, with ``reads`` of ``("pooled/*", "*/pooled/*")``
    and ``sizes`` of ``("*/change/*",)``, it is the control of whatever reads activations: all channels,
    nothing but their means. An attack changes a channel one way or the other, so that a regression finds
    little in a change and much in its size.

    Args:
        source: what is measured of an image.
        reads: names of vectors ``(B, C)`` or values ``(B,)``, with ``*`` and ``?`` standing for anything.
        sizes: names of those among them whose absolute values are read.
        penalty: strength of the L2 penalty, the factor of half the squared length of the weights beside the
            sum of the losses; more of it for more numbers than images.

    Raises:
        ConfigError: no name to read, or a penalty that is not above 0.
    """

    source: Measurement
    reads: tuple[str, ...]
    sizes: tuple[str, ...] = ()
    penalty: float = 1.0

    def __post_init__(self) -> None:
        as_tuples(self)
        check_range(0, above=True, penalty=self.penalty)
        require_names(self, self.reads)

    def _decisive(self) -> dict[str, Any]:
        """Without what came later, where it changes nothing, so that stored detectors stay valid."""
        settings = super()._decisive()
        if not self.sizes:
            del settings["sizes"]
        return settings

    def _numbers(self, measured: Measured) -> Tensor:
        """``(B, F)`` float32."""
        if not self.sizes:
            return named_vectors(measured, self.reads)
        absolute = matching(measured, self.sizes)
        return named_vectors(
            {name: tensor.abs() if name in absolute else tensor for name, tensor in measured.items()},
            self.reads,
        )
