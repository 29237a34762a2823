"""What every saliency method is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from verisal.errors import ConfigError
from verisal.types import SaliencyResult, StagedClassifier, check_images

__all__ = ["GateMethod", "GateResult", "Saliency", "staged"]


class Saliency(ABC):
    """A method that explains one query class per image.

    Sub-classes are frozen dataclasses, so that their settings are plain data and can key a cache.
    """

    needs_module: ClassVar[bool]
    """Whether the classifier must be an ``nn.Module`` with stages, rather than any callable."""

    @abstractmethod
    def __call__(
        self, classifier: Callable[[Tensor], Tensor], images: Tensor, query_class: Tensor
    ) -> SaliencyResult:
        """Explain ``query_class (B,)`` int64 on ``images (B, 3, H, W)`` in [0, 1].

        The classifier's weights, gradients, modes, flags and hooks, and the global random state, are the
        same after the call, whether it returns or raises.
        """


class GateMethod(Saliency):
    """A method that finds gates on the stages, by optimisation or by a network; the detector reads them."""

    @property
    @abstractmethod
    def uses_query(self) -> bool:
        """Whether the gates depend on the query class."""

    @abstractmethod
    def gates(self, classifier: StagedClassifier, images: Tensor, query_class: Tensor) -> GateResult:
        """Gates of one batch ``(B, 3, H, W)`` for ``query_class (B,)``, all images at once."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that the gates depend on besides classifier and images, as plain data."""


@dataclass(frozen=True)
class GateResult:
    """Learned gates and how they were learned, per image.

    Attributes:
        gates: per stage ``(B, C_l, H_l, W_l)``, non-negative.
        distance: ``(B,)`` D of the kept iterate.
        penalty: ``(B,)`` R of the kept iterate.
        objective: ``(B,)`` J of the kept iterate.
        query_change: ``(B,)`` query logit with gates minus without.
        kept_step: ``(B,)`` int64, 0 (untouched gates) .. T.
        unchanged: ``(B,)`` bool, whether the predicted class is the same.
        zero_share: ``(B,)`` share of gates at exactly 0.
    """

    gates: tuple[Tensor, ...]
    distance: Tensor
    penalty: Tensor
    objective: Tensor
    query_change: Tensor
    kept_step: Tensor
    unchanged: Tensor
    zero_share: Tensor


def staged(classifier: object, images: Tensor, method: str) -> StagedClassifier:
    """The classifier as one with stages, or a clear refusal.

    Raises:
        ConfigError: it is not an ``nn.Module`` with stages.
        DataError: the images are not ``(B, 3, H, W)`` float32 in [0, 1].
    """
    check_images(images)
    if not isinstance(classifier, nn.Module) or not isinstance(classifier, StagedClassifier):
        raise ConfigError(
            f"{method} reads or gates stages and needs verisal.models.Classifier,"
            f" found {type(classifier).__name__}; wrap the network: Classifier(network, stages=[...], ...)"
        )
    return classifier
