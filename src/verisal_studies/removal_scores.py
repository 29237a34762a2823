"""Areas of removal curves of all methods with all baselines, as tensors over images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.results import Evaluation
from verisal_studies.scores import Scores, is_defined

# Kinds of curves, with the sign that makes a higher area better.
KINDS: Final = {"insertion": 1, "deletion": -1}
_CONTROLS: Final = ("random", "centre")
_NEUTRALITY: Final = ("query_probability", "max_probability", "entropy", "change")


@final
class RemovalScores:
    """Baselines, methods, and the areas of all methods with all baselines.

    Args:
        evaluation: of ``BaselineNeutrality`` and ``PerturbationCurves`` with the same baselines.

    Attributes:
        scores: all scores of the evaluation.
        baselines: names.
        same_as: baselines that say to the classifier what an earlier one says, on every image, to that one.
        distinct: all other baselines.
        limit: mean query probability up to which a baseline is neutral.
        neutral: distinct baselines that are neutral by the classifier's own probability.

    Raises:
        ConfigError: no baseline was looked at.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self.scores = Scores(evaluation)
        self.baselines = self.scores.rows("neutrality/change")
        if not self.baselines:
            raise ConfigError(
                "the study reads the neutrality of baselines, which the evaluation lacks; add the callback"
                " BaselineNeutrality, as the study's configuration does"
            )
        self.same_as = self._duplicates()
        self.distinct = [name for name in self.baselines if name not in self.same_as]
        self.limit = self.scores.reported(self.baselines[0], "neutrality/limit").value
        self.neutral = [name for name in self.distinct if self.is_neutral(name)]

    def is_neutral(self, name: str) -> bool | None:
        """True if the interval of the mean query probability reaches the limit; None where there is none.

        On a baseline image that is the same for all images, the query probability is 1/K on the mean over
        equally frequent classes, which is the limit where K is small. So a mean alone would decide by chance.
        """
        probability = self.scores.mean(name, "neutrality/query_probability")
        return probability.low <= self.limit if is_defined(probability) else None

    def methods(self, generators: Iterable[str] = ()) -> list[str]:
        """Methods with removal curves, without controls and without maps of generators by baseline."""
        left_out = {*_CONTROLS, *(f"{one}_{baseline}" for one in generators for baseline in self.baselines)}
        return [row for row in self.scores.rows(self._pattern("insertion")) if row not in left_out]

    def areas(self, kind: str, methods: Sequence[str], baselines: Sequence[str]) -> Tensor:
        """``(baselines, methods, images)`` areas as they are; NaN is undefined.

        Raises:
            ConfigError: a method lacks a curve.
        """
        rows = self.scores.rows(self._pattern(kind))
        if not rows:
            raise ConfigError(
                f"the study reads '{kind}[{self.baselines[0]}]', which no method of the evaluation has; add"
                " the callback PerturbationCurves with all baselines, as the study's configuration does"
            )
        # The steps are the same for all.
        first = f"{kind}[{self.baselines[0]}]"
        steps = self.scores.name(rows[0], self._pattern(kind)).removeprefix(first)
        wanted = [(row, f"{kind}[{baseline}]{steps}") for baseline in baselines for row in methods]
        return self.scores.stacked(wanted).view(len(baselines), len(methods), -1)

    def benefits(self, methods: Sequence[str], baselines: Sequence[str]) -> dict[str, Tensor]:
        """By kind, :meth:`areas` with the sign that makes higher better, on images defined for all."""
        signed = {kind: sign * self.areas(kind, methods, baselines) for kind, sign in KINDS.items()}
        kept = ~torch.stack([values.isnan().any(dim=0).any(dim=0) for values in signed.values()]).any(dim=0)
        return {kind: values[..., kept] for kind, values in signed.items()}

    def _pattern(self, kind: str) -> str:
        return rf"{kind}\[{re.escape(self.baselines[0])}\].*/auc"

    def _duplicates(self) -> dict[str, str]:
        said = {
            name: self.scores.stacked([(name, f"neutrality/{key}") for key in _NEUTRALITY])
            for name in self.baselines
        }
        same: dict[str, str] = {}
        for place, name in enumerate(self.baselines):
            for earlier in self.baselines[:place]:
                alike = torch.allclose(said[name], said[earlier], rtol=0, atol=1e-7, equal_nan=True)
                if earlier not in same and alike:
                    same.setdefault(name, earlier)
        return same
