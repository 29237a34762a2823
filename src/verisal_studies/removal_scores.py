"""What an evaluation of several baselines found, as tensors over images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.results import Evaluation
from verisal_studies.scores import ImageScores

__all__ = ["CONTROLS", "KINDS", "RemovalScores"]

KINDS: Final = ("insertion", "deletion")
CONTROLS: Final = ("random", "centre")
_NEUTRALITY: Final = ("query_probability", "max_probability", "entropy", "change")


@final
class RemovalScores:
    """Baselines, methods, and the areas of all methods with all baselines.

    Args:
        found: of ``BaselineNeutrality`` and ``PerturbationCurves`` with the same baselines.

    Raises:
        ConfigError: no baseline was looked at.
    """

    def __init__(self, found: Evaluation) -> None:
        self.images = ImageScores(found)
        self._found = found
        rows = dict.fromkeys(
            str(row)
            for row, score in zip(found.samples.get("row", ()), found.samples.get("score", ()), strict=True)
            if score == "neutrality/change"
        )
        self.baselines = list(rows)
        if not self.baselines:
            raise ConfigError(
                "the study reads the neutrality of baselines, which the evaluation lacks; add the callback"
                " BaselineNeutrality, as the study's configuration does"
            )
        self.same_as = self._duplicates()
        self._suffix: dict[str, str] = {}

    @property
    def distinct(self) -> list[str]:
        """Baselines whose images say the same to the classifier as no earlier one's."""
        return [name for name in self.baselines if name not in self.same_as]

    @property
    def limit(self) -> float:
        """Mean query probability up to which a baseline is neutral."""
        return self.number(self.baselines[0], "neutrality/limit")

    @property
    def neutral(self) -> list[str]:
        """Distinct baselines that are neutral by the classifier's own probability."""
        return [name for name in self.distinct if self.is_neutral(name)]

    def is_neutral(self, name: str) -> bool | None:
        """Whether the interval of the mean query probability reaches the limit; None where there is none.

        On a baseline image that is the same for all images, the query probability is 1/K on the mean over
        equally frequent classes, which is the limit where K is small. So a mean alone would decide by chance.
        """
        found = self.images.mean(name, "neutrality/query_probability")
        return None if found.value != found.value else found.low <= self.limit

    def number(self, row: str, score: str) -> float:
        """Value of a score that is no mean over images.

        Raises:
            ConfigError: there is none.
        """
        name = f"{self._found.split}/{row}/{score}"
        if name not in self._found.scores:
            raise ConfigError(f"the study reads the score {name!r}, which the evaluation lacks")
        return self._found.scores[name].value

    def methods(self, generators: Iterable[str] = ()) -> list[str]:
        """Methods with removal curves, without controls and without maps of generators by baseline."""
        left_out = {*CONTROLS, *(f"{one}_{baseline}" for one in generators for baseline in self.baselines)}
        return [row for row in self._with_curves() if row not in left_out]

    def areas(self, kind: str, methods: Sequence[str], baselines: Sequence[str]) -> Tensor:
        """``(baselines, methods, images)`` areas as they are; NaN is undefined.

        Raises:
            ConfigError: a method lacks a curve.
        """
        wanted = [(row, self._area(kind, baseline)) for baseline in baselines for row in methods]
        return self.images.stacked(wanted).view(len(baselines), len(methods), -1)

    def benefits(self, methods: Sequence[str], baselines: Sequence[str]) -> dict[str, Tensor]:
        """By kind, :meth:`areas` with the sign that makes higher better, on images defined for all."""
        found = {"insertion": self.areas("insertion", methods, baselines)}
        found["deletion"] = -self.areas("deletion", methods, baselines)
        kept = ~torch.stack([one.isnan().any(dim=0).any(dim=0) for one in found.values()]).any(dim=0)
        return {kind: one[..., kept] for kind, one in found.items()}

    def _with_curves(self) -> list[str]:
        first = f"insertion[{self.baselines[0]}]"
        return [
            row for row in self.images.rows() if self.images.names(row, lambda name: name.startswith(first))
        ]

    def _area(self, kind: str, baseline: str) -> str:
        """Full name of a score; the steps are the same for all."""
        if kind not in self._suffix:
            start = f"{kind}[{self.baselines[0]}]"
            rows = self._with_curves()
            if not rows:
                raise ConfigError(
                    f"the study reads {start!r}, which no method of the evaluation has; add the callback"
                    " PerturbationCurves with all baselines, as the study's configuration does"
                )
            name = self.images.one(rows[0], lambda one: one.startswith(start) and one.endswith("/auc"))
            self._suffix[kind] = name.removeprefix(start)
        return f"{kind}[{baseline}]{self._suffix[kind]}"

    def _duplicates(self) -> Mapping[str, str]:
        """Baselines that say to the classifier what an earlier one says, on every image."""
        said = {
            name: self.images.stacked([(name, f"neutrality/{key}") for key in _NEUTRALITY])
            for name in self.baselines
        }
        same: dict[str, str] = {}
        for place, name in enumerate(self.baselines):
            for earlier in self.baselines[:place]:
                if earlier not in same and torch.allclose(
                    said[name], said[earlier], rtol=0, atol=1e-7, equal_nan=True
                ):
                    same.setdefault(name, earlier)
        return same
