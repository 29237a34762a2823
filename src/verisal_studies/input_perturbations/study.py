"""Input perturbations, after Brunke, Agrawal and George: baselines and settings, of maps and of metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, final

from verisal.results import Evaluation
from verisal_studies.input_perturbations.claims import (
    Divergence,
    axes,
    hyperparameters,
    maps_by_baseline,
    maps_of_neutral,
    metric_values,
)
from verisal_studies.input_perturbations.ranking import Rankings, diagonals, own_baseline
from verisal_studies.input_perturbations.sections import (
    area_section,
    axis_section,
    diagonal_section,
    map_section,
    ranking_section,
    recommended_section,
)
from verisal_studies.removal_scores import RemovalScores
from verisal_studies.study import Finding, Study, StudyResult

__all__ = ["InputPerturbations"]

_COMMANDS: Final = (
    "verisal validate --config configs/study/input_perturbations.yaml --trainer.devices 2"
    " --trainer.strategy ddp",
)
_CLAIM: Final = (
    "Baseline images that a classifier holds for neutral still change perturbation maps and their evaluation;"
    " many choices of hyperparameters make perturbation maps diverge; such methods disagree and are not"
    " robust, neither as generators of maps nor as metrics (Brunke, Agrawal and George, 2020). The claims"
    " are tested here on settings of ours; no table of the paper is repeated."
)


@final
class InputPerturbations(Study):
    """Judges what baselines, hyperparameters and metric settings do to maps, areas and rankings.

    Reads ``BaselineNeutrality`` and, with the same baselines, ``PerturbationCurves`` of the methods that are
    ranked and of maps named ``<generator>_<baseline>`` for the generators ``rise``, ``occlusion`` and
    ``extremal``; ``MapAgreement`` with a group ``<generator> baselines`` of these and a group for each
    hyperparameter; ROAD in both orders of the ranked methods; a ``SaliencyPanel`` of the maps, if any.

    Args:
        setting: what else to say of it, name to value.
        commands: that make the page again.

    References:
        brunke2020
    """

    def __init__(
        self, *, setting: Mapping[str, str] | None = None, commands: Sequence[str] = _COMMANDS
    ) -> None:
        self.setting, self.commands = dict(setting or {}), tuple(commands)

    def result(self, found: Evaluation) -> StudyResult:
        """Six claims, and the evidence."""
        scores = RemovalScores(found)
        generators, changes = maps_by_baseline(scores), axes(scores)
        rankings, pairings = Rankings(scores), diagonals(scores)
        findings = (
            maps_of_neutral(generators),
            metric_values(scores),
            hyperparameters(changes),
            rankings.change(),
            rankings.orders_differ(),
            own_baseline(pairings),
        )
        return StudyResult(
            title="Input perturbations",
            claim=_CLAIM,
            commands=self.commands,
            setting={**_setting(scores, rankings, changes), **self.setting},
            findings=findings,
            summary=_summary(findings),
            sections=(
                map_section(found, scores, generators),
                area_section(scores),
                axis_section(changes),
                ranking_section(rankings),
                diagonal_section(pairings, scores.neutral),
                recommended_section(scores),
            ),
        )


def _summary(findings: Sequence[Finding]) -> str:
    claims: dict[str, list[str]] = {}
    for finding in findings:
        claims.setdefault(finding.verdict, []).append(finding.claim)
    parts = [f"{verdict}: {'; '.join(own)}" for verdict, own in sorted(claims.items())]
    return " ".join(f"{part[:1].upper()}{part[1:]}." for part in parts)


def _setting(scores: RemovalScores, rankings: Rankings, changes: Sequence[Divergence]) -> dict[str, str]:
    pairs = len(rankings.agreement)
    return {
        "images": str(len(next(iter(rankings.benefits.values()))[0])),
        "baselines": ", ".join(f"`{name}`" for name in scores.baselines),
        "neutral, each once": ", ".join(f"`{name}`" for name in scores.neutral),
        "hyperparameters": ", ".join(one.name for one in changes),
        "methods that are ranked": str(len(rankings.methods)),
        "metric settings": f"{len(rankings.settings)} ({pairs} pairs)",
        "intervals": "95 %, bootstrap over images; none is corrected for the number of comparisons",
    }
