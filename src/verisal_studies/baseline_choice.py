"""The study of the few baselines that rank methods as all baselines together do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional.statistics import Bootstrap, kendall_tau_b, ranking_agreement
from verisal.results import Evaluation
from verisal.types import check_range
from verisal_studies.scores import RemovalScores, cell, difference_of, mean_of, quoted, table
from verisal_studies.study import Finding, Study, StudyResult


@dataclass(frozen=True)
class Step:
    """The best set of one size.

    Attributes:
        baselines: its members, in the order of all baselines.
        agreement: ``(n,)`` Kendall's tau-b per image between the methods' areas averaged over the set and
            over all baselines, mean over insertion and deletion.
    """

    baselines: tuple[str, ...]
    agreement: Tensor

    @property
    def mean(self) -> float:
        """Mean agreement over the images on which it is defined."""
        return float(self.agreement.nanmean())


def image_agreement(benefits: Mapping[str, Tensor], some: Sequence[int]) -> Tensor:
    """Agreement per image of the ranking by some baselines with the ranking by all.

    Args:
        benefits: by kind of curve ``(baselines, methods, n)``, higher is better.
        some: positions of baselines.
    """
    agreement = [
        kendall_tau_b(areas[list(some)].mean(dim=0).T, areas.mean(dim=0).T) for areas in benefits.values()
    ]
    return torch.stack(agreement).mean(dim=0)


def steps_of_choice(
    benefits: Mapping[str, Tensor], baselines: Sequence[str], candidates: Sequence[str], *, largest: int
) -> list[Step]:
    """The best set of candidates of every size; among equally good ones, the first in the order of baselines.

    Args:
        benefits: by kind of curve ``(baselines, methods, n)``, higher is better.
        baselines: names.
        candidates: those of them that may be chosen.
        largest: size of the largest set.

    Raises:
        ConfigError: no candidate.
    """
    places = [place for place, name in enumerate(baselines) if name in candidates]
    if not places:
        raise ConfigError(
            f"no baseline can be chosen; at least one of {baselines} must be neutral and need no mask or pool"
        )
    steps = []
    for size in range(1, min(largest, len(places)) + 1):
        sets = [
            Step(tuple(baselines[place] for place in some), image_agreement(benefits, some))
            for some in combinations(places, size)
        ]
        # Equal sets must not be told apart by rounding.
        steps.append(max(sets, key=lambda step: round(step.mean, 9)))
    return steps


def chosen_step(steps: Sequence[Step], *, gain: float) -> Step:
    """The first set to which one more baseline adds less than ``gain``; the last if there is none."""
    return next((step for step, larger in pairwise(steps) if larger.mean - step.mean < gain), steps[-1])


def candidates_of(removal: RemovalScores) -> list[str]:
    """Neutral baselines that need neither a mask nor a pool of images."""
    return [name for name in removal.neutral if name.partition("_seed")[0] != "other"]


class ChoiceStudy(Study):
    """A study of the rule by which baselines are chosen.

    Args:
        commands: the ones that make the page again.
        setting: what was measured on what, name to value, as the page shows it.
        gain: agreement that a further baseline must add.
        largest: size of the largest set considered.

    Raises:
        ConfigError: settings out of range.
    """

    def __init__(
        self,
        *,
        commands: Sequence[str],
        setting: Mapping[str, str] | None = None,
        gain: float = 0.02,
        largest: int = 5,
    ) -> None:
        super().__init__(commands=commands, setting=setting)
        check_range(0, above=True, gain=gain)
        check_range(1, largest=largest)
        self.gain, self.largest = gain, largest


@final
class BaselineChoice(ChoiceStudy):
    """Choice of the baselines over which removal curves are averaged by default.

    Candidates are neutral and need neither a mask nor a pool of images. All sets of candidates up to a size
    are compared by how the methods rank, image by image, when areas are averaged over the set and over all
    baselines; the smallest set to which one more baseline adds little is chosen.

    Args:
        commands: the ones that make the page again.
        setting: what was measured on what, name to value, as the page shows it.
        gain: agreement that a further baseline must add.
        largest: size of the largest set considered.

    Raises:
        ConfigError: settings out of range.
    """

    page = "baseline_choice"

    def result(self, evaluation: Evaluation) -> StudyResult:
        """The choice and how it came about."""
        removal = RemovalScores(evaluation)
        candidates = candidates_of(removal)
        benefits = removal.benefits(removal.methods(), removal.distinct)
        steps = steps_of_choice(benefits, removal.distinct, candidates, largest=self.largest)
        chosen, alone = chosen_step(steps, gain=self.gain), steps[0]
        more = difference_of(chosen.agreement - alone.agreement)
        finding = Finding(
            "a few neutral baselines together rank methods more like all baselines do than any single one",
            "the chosen set has more than one member, and its agreement with the ranking by all baselines is"
            " above that of the best single one, paired interval above 0",
            "holds" if len(chosen.baselines) > 1 and more.low > 0 else "does not hold here",
            f"set: {cell(mean_of(chosen.agreement))}, best single one `{alone.baselines[0]}`:"
            f" {cell(mean_of(alone.agreement))}, difference {cell(more)}",
        )
        same = [f"`{name}` equals `{earlier}` here" for name, earlier in removal.same_as.items()]
        setting = {
            "images": str(benefits["insertion"].shape[2]),
            "methods": quoted(removal.methods()),
            "baselines": quoted(removal.baselines),
            "candidates": quoted(candidates),
            "equal baselines": "; ".join(same) or "none",
            **self.setting,
        }
        values = {
            "largest": self.largest,
            "gain": self.gain,
            "limit": removal.limit,
            "steps": steps_table(steps, chosen, benefits, removal.distinct),
            "baselines": baselines_table(removal, candidates, benefits),
        }
        summary = f"Chosen: {quoted(chosen.baselines)}."
        return self.judged([finding], summary=summary, setting=setting, values=values, figures={})


def steps_table(
    steps: Sequence[Step], chosen: Step, benefits: Mapping[str, Tensor], baselines: Sequence[str]
) -> str:
    """The best set of every size, its agreement per image and on the mean."""
    rows = []
    for step in steps:
        some = [baselines.index(name) for name in step.baselines]
        of_means = (
            ranking_agreement(areas[some].mean(dim=0), areas.mean(dim=0), Bootstrap())["kendall"]
            for areas in benefits.values()
        )
        agreement = [cell(mean_of(step.agreement)), *map(cell, of_means)]
        mark = "**chosen**" if step is chosen else ""
        rows.append([str(len(some)), quoted(step.baselines), *agreement, mark])
    return table(
        ["size", "best set", "agreement per image", *(f"of mean {kind}" for kind in benefits), ""], rows
    )


def baselines_table(removal: RemovalScores, candidates: Sequence[str], benefits: Mapping[str, Tensor]) -> str:
    """Neutrality of every baseline, and the agreement of the ranking by it alone with that by all."""
    rows = {
        name: [
            cell(removal.scores.mean(name, "neutrality/query_probability")),
            "yes" if name in candidates else "",
            cell(mean_of(image_agreement(benefits, [place]))),
        ]
        for place, name in enumerate(removal.distinct)
    }
    return table(["baseline", "query probability on it (I1)", "candidate", "agreement alone"], rows)
