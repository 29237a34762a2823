"""What every saliency method is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from verisal.errors import ConfigError
from verisal.types import SaliencyResult, StagedClassifier, check_images

__all__ = ["Saliency", "staged"]


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
