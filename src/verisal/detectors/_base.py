"""What every detector of adversarial images is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from verisal.errors import NumericError
from verisal.fingerprint import Configured
from verisal.functional.outputs import require_softmax
from verisal.types import Measurement, StagedClassifier

__all__ = ["Detector"]


class Detector(Configured, ABC):
    """Scores images; a higher score means more adversarial.

    A detector works in two halves. Its *measurement* asks the classifier about images: the dear half, which
    a store keeps and detectors with equal measurements share. :meth:`fit` and :meth:`judge` read what was
    measured. The score is continuous, so that thresholds can be chosen on clean validation images afterwards.

    Sub-classes are dataclasses whose fields are settings, or hold what was learned (``init=False``). One that
    is not fitted may be copied.
    """

    @property
    @abstractmethod
    def measurement(self) -> Measurement:
        """What the detector reads of an image."""

    @abstractmethod
    def fit(
        self, measured: Mapping[str, Tensor], adversarial: Tensor, clean: Tensor, *, seed: int = 0
    ) -> None:
        """Learn from measured images, forgetting what was learned before.

        Args:
            measured: name to ``(N, ...)``, of clean, noisy and attacked images.
            adversarial: ``(N,)`` bool, successful attacks; a detector without labels does not look at it.
            clean: ``(N,)`` bool, unchanged images that the classifier gets right. The others are noisy.
            seed: of everything random.

        Raises:
            DataError: too few images of a kind.
        """

    @abstractmethod
    def judge(self, measured: Mapping[str, Tensor]) -> Tensor:
        """``(B,)`` scores of measured images; the score of one does not depend on the others.

        Networks and regressions give scores in the graph of what was measured, where it has one: attacks
        that know the detector need that.

        Raises:
            ConfigError: it needs fitting and was not fitted.
        """

    @final
    def score(self, classifier: StagedClassifier, images: Tensor) -> Tensor:
        """``(B,)`` scores of images ``(B, 3, H, W)`` in [0, 1].

        Raises:
            ConfigError: it needs fitting and was not fitted, or the classifier says ``output: sigmoid``.
            NumericError: a score that is not a number.
        """
        require_softmax(classifier, f"{type(self).__name__}, a detector of adversarial images,")
        scores = self.judge(self.measurement(classifier, images))
        if bool(torch.isnan(scores).any()):
            raise NumericError(
                f"{type(self).__name__}: {int(scores.isnan().sum())} of {len(scores)} scores are not"
                " a number; check the classifier's weights and its normalisation"
            )
        return scores
