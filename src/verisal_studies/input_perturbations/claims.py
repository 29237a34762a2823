"""Claims about single settings: neutral baselines and hyperparameters, judged by an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional.statistics.intervals import bootstrap_mean
from verisal.results import Score
from verisal_studies.removal_scores import KINDS, RemovalScores
from verisal_studies.scores import cell
from verisal_studies.study import Finding, Verdict

__all__ = [
    "GENERATORS",
    "Divergence",
    "area_differences",
    "axes",
    "hyperparameters",
    "maps_by_baseline",
    "maps_of_neutral",
    "metric_values",
]

GENERATORS: Final = ("rise", "occlusion", "extremal")
_GROUP: Final = " baselines"
_AGREEMENT: Final = "map_agreement"
_SIMILARITY: Final = f"{_AGREEMENT}/similarity"
# A deterministic method has floor 1, below which any change whatever lies.
_ALIKE: Final = 0.9
_HALF: Final = 0.5
_CHANCE: Final = 0.1


@dataclass(frozen=True)
class Divergence:
    """How alike the maps of some settings are.

    Attributes:
        name: of the settings.
        similarity: per image the median Spearman similarity over pairs of settings, mean over images.
        floor: of the same setting run twice.
        control: of the settings to random maps.
        repeats: pairs that the floor was measured with; 0 if it is 1 by statement.
    """

    name: str
    similarity: Score
    floor: Score
    control: Score
    repeats: int

    @property
    def diverges(self) -> bool:
        """Below the floor's interval, and, where the floor is stated, below 0.9 too."""
        below = self.similarity.high < self.floor.low
        return below and (self.repeats > 0 or self.similarity.high < _ALIKE)

    @property
    def words(self) -> str:
        """Name, similarity and floor."""
        floor = f"floor {cell(self.floor)}" if self.repeats else "floor 1"
        return f"{self.name} {cell(self.similarity)} ({floor})"


RULE_OF_MAPS: Final = (
    "the 95 % interval of the median pairwise Spearman similarity lies below that of the same setting run"
    f" twice; for methods without random numbers, whose floor is 1, below {_ALIKE:g}"
)


def maps_by_baseline(scores: RemovalScores) -> list[Divergence]:
    """Divergence of every generator's maps over the distinct neutral baselines.

    Raises:
        ConfigError: fewer than two such baselines.
    """
    neutral = scores.neutral
    if len(neutral) < 2:
        raise ConfigError(
            f"the study compares neutral baselines, of which there are {neutral}; give at least two"
        )
    return [_of_baselines(scores, generator, neutral) for generator in GENERATORS]


def maps_of_neutral(found: Sequence[Divergence]) -> Finding:
    """Whether neutral baselines change maps, of :func:`maps_by_baseline`."""
    return Finding(
        "baselines that are neutral by the classifier's own probability still change the maps",
        f"for all generators, {RULE_OF_MAPS}; in part if for some",
        _share_verdict([one.diverges for one in found]),
        "; ".join(one.words for one in found),
    )


def metric_values(scores: RemovalScores) -> Finding:
    """Whether neutral baselines change metric values."""
    methods = scores.methods(GENERATORS)
    differences, spread = area_differences(scores, methods)
    apart = [one for one in differences if one.low > 0 or one.high < 0]
    share = len(apart) / len(differences)
    sizes = torch.tensor([abs(one.value) for one in differences])
    verdict: Verdict = "does not hold here"
    if share > _CHANCE:
        verdict = "holds" if share >= _HALF else "holds in part"
    return Finding(
        "neutral baselines change metric values",
        "of all paired differences of areas between two neutral baselines (every method, insertion and"
        f" deletion) at least {_HALF:.0%} have an interval without 0; in part if more than {_CHANCE:.0%},"
        " where chance alone gives about 5%",
        verdict,
        f"{len(apart)} of {len(differences)} differences ({share:.0%}); median size {sizes.median():.3f},"
        f" largest {sizes.max():.3f}; between two methods under one baseline the median is {spread:.3f}",
    )


def area_differences(scores: RemovalScores, methods: Sequence[str]) -> tuple[list[Score], float]:
    """Paired differences between neutral baselines, and the median difference between methods.

    Args:
        scores: of the evaluation.
        methods: whose areas are compared.

    Returns:
        One difference per method, curve and pair of distinct neutral baselines; the median over curves,
        baselines and pairs of methods of the size of the difference of their mean areas.
    """
    found: list[Score] = []
    between: list[Tensor] = []
    for kind in KINDS:
        areas = scores.areas(kind, methods, scores.neutral)
        means = areas.nanmean(dim=2)
        between += [(means[:, i] - means[:, j]).abs() for i, j in combinations(range(len(methods)), 2)]
        found += [
            bootstrap_mean(areas[i, row] - areas[j, row], kind="difference")
            for i, j in combinations(range(len(scores.neutral)), 2)
            for row in range(len(methods))
        ]
    return found, float(torch.cat(between).median()) if between else torch.nan


def axes(scores: RemovalScores) -> list[Divergence]:
    """Divergence along every hyperparameter: all groups of maps that are not those by baseline.

    Raises:
        ConfigError: there is none.
    """
    rows = [
        row
        for row in scores.images.rows()
        if not row.endswith(_GROUP) and scores.images.names(row, lambda name: name == f"{_AGREEMENT}/floor")
    ]
    if not rows:
        raise ConfigError(
            "the study reads the agreement of maps along hyperparameters, which the evaluation lacks; add the"
            " callback MapAgreement with a group per hyperparameter"
        )
    return [_divergence(scores, row, row, scores.images.mean(row, _SIMILARITY)) for row in rows]


def hyperparameters(found: Sequence[Divergence]) -> Finding:
    """Whether maps diverge along hyperparameters."""
    apart = [one for one in found if one.diverges]
    alike = [one for one in found if not one.diverges]
    return Finding(
        "the choice of hyperparameters makes maps diverge",
        f"along every hyperparameter, {RULE_OF_MAPS}; in part if along some",
        _share_verdict([one.diverges for one in found]),
        f"{len(apart)} of {len(found)} diverge"
        + (f": {'; '.join(one.words for one in apart)}" if apart else "")
        + (f"; not: {'; '.join(one.words for one in alike)}" if alike else ""),
    )


def _of_baselines(scores: RemovalScores, generator: str, baselines: Sequence[str]) -> Divergence:
    row = f"{generator}{_GROUP}"
    known = set(scores.images.names(row, lambda name: " ~ " in name))
    pairs = []
    for one, other in combinations((f"{generator}_{name}" for name in baselines), 2):
        # A pair is named in the order of its group.
        name = f"{_AGREEMENT}/{other} ~ {one}"
        pairs.append((row, name if name in known else f"{_AGREEMENT}/{one} ~ {other}"))
    similarity = bootstrap_mean(scores.images.stacked(pairs).quantile(0.5, dim=0))
    return _divergence(scores, row, generator, similarity)


def _divergence(scores: RemovalScores, row: str, name: str, similarity: Score) -> Divergence:
    floor, control = (scores.images.mean(row, f"{_AGREEMENT}/{key}") for key in ("floor", "control"))
    repeats = round(scores.number(row, f"{_AGREEMENT}/repeats"))
    if not repeats:
        # Stated, not measured.
        floor = replace(floor, low=floor.value, high=floor.value)
    return Divergence(name, similarity, floor, control, repeats)


def _share_verdict(held: Sequence[bool]) -> Verdict:
    if all(held):
        return "holds"
    return "holds in part" if any(held) else "does not hold here"
