"""The study of the few baselines that rank methods as all of them together do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Final, final

import torch
from torch import Tensor

from verisal._numbers import check_range
from verisal.errors import ConfigError
from verisal.functional.statistics.ranking import kendall_tau_b, ranking_agreement
from verisal.functional.statistics.resampled import Bootstrap
from verisal.results import Evaluation
from verisal_studies.removal_scores import RemovalScores
from verisal_studies.scores import cell, difference_of, mean_of, quoted, table
from verisal_studies.study import Finding, Section, Study, StudyResult

_COMMANDS: Final = ("verisal validate --config configs/study/baseline_choice.yaml",)


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
    """The best set of candidates of every size; of equally good ones the first in the order of baselines.

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
            f"no baseline may be chosen; neutral and without mask or pool must be one of {baselines}"
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


@final
class BaselineChoice(Study):
    """Choice of the baselines over which removal curves are averaged unless told otherwise.

    Candidates are neutral and need neither a mask nor a pool of images. All sets of candidates up to a size
    are compared by how the methods rank, image by image, when areas are averaged over the set and over all
    baselines; the smallest set to which one more baseline adds little is chosen.

    Args:
        gain: agreement that a further baseline must add.
        largest: size of the largest set looked at.
        setting: what else to say of it, name to value.
        commands: that make the page again.

    Raises:
        ConfigError: settings out of range.
    """

    title = "Which baselines to average over"
    claim = (
        "No single baseline is innocent, so curves are averaged over several. Which ones is decided here,"
        " once, on scenes that no report uses. (The choice is ours, not a claim of the paper.)"
    )

    def __init__(
        self,
        *,
        gain: float = 0.02,
        largest: int = 5,
        setting: Mapping[str, str] | None = None,
        commands: Sequence[str] = _COMMANDS,
    ) -> None:
        super().__init__(setting or {}, commands)
        check_range(0, above=True, gain=gain)
        check_range(1, largest=largest)
        self.gain, self.largest = gain, largest

    def result(self, evaluation: Evaluation) -> StudyResult:
        """The choice and how it came about."""
        scores = RemovalScores(evaluation)
        candidates = [name for name in scores.neutral if name.partition("_seed")[0] != "other"]
        benefits = scores.benefits(scores.methods(), scores.distinct)
        steps = steps_of_choice(benefits, scores.distinct, candidates, largest=self.largest)
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
        same = [f"`{name}` is `{earlier}` here" for name, earlier in scores.same_as.items()]
        setting = {
            "images": str(benefits["insertion"].shape[2]),
            "methods": quoted(scores.methods()),
            "baselines": quoted(scores.baselines),
            "candidates": quoted(candidates),
            "equal baselines": "; ".join(same) or "none",
            **self.setting,
        }
        sections = self._sections(scores, candidates, benefits, steps, chosen)
        return self.judged(
            [finding], sections, summary=f"Chosen: {quoted(chosen.baselines)}.", setting=setting
        )

    def _sections(
        self,
        scores: RemovalScores,
        candidates: Sequence[str],
        benefits: Mapping[str, Tensor],
        steps: Sequence[Step],
        chosen: Step,
    ) -> Iterator[Section]:
        yield Section(
            "The rule",
            "Areas of insertion and deletion of every method are averaged over a set of baselines. On every"
            " image Kendall's tau-b compares the order of the methods by these averages with their order by"
            " the areas averaged over all baselines; the agreement of a set is the mean over both curves and"
            f" all images. All sets of up to {self.largest} candidates are compared. The choice is the best"
            f" set of the smallest size at which the best set one larger adds less than {self.gain:g}."
            " Candidates are neutral, differ from each other, and need neither a mask nor a pool of images,"
            " so that the choice works on any data. What is chosen here is the default of"
            " `PerturbationCurves`. Sets are found and judged on the same scenes here, none of which other"
            " pages report; [Input perturbations](input_perturbations.md) judges the choice on scenes that"
            " had no part in it.",
        )
        rows = []
        for step in steps:
            some = [scores.distinct.index(name) for name in step.baselines]
            means = (
                ranking_agreement(areas[some].mean(dim=0), areas.mean(dim=0), Bootstrap())["kendall"]
                for areas in benefits.values()
            )
            mark = "**chosen**" if step is chosen else ""
            agreement = [cell(mean_of(step.agreement)), *map(cell, means)]
            rows.append([str(len(some)), quoted(step.baselines), *agreement, mark])
        header = ["size", "best set", "agreement per image", *(f"of mean {kind}" for kind in benefits), ""]
        note = "In the columns of means: Kendall's tau-b between the rankings of the methods' mean areas."
        yield Section("The best set of every size", f"{table(header, rows)}\n\n{note}")
        lines = {
            name: [
                cell(scores.scores.mean(name, "neutrality/query_probability")),
                "yes" if name in candidates else "",
                cell(mean_of(image_agreement(benefits, [place]))),
            ]
            for place, name in enumerate(scores.distinct)
        }
        yield Section(
            "The baselines",
            table(["baseline", "query probability on it (I1)", "candidate", "agreement alone"], lines)
            + f"\n\nA baseline is neutral if its mean query probability is at most {scores.limit:.4f}, as"
            " far as its interval can tell: a baseline that shows the same for all classes has a mean of"
            " exactly 1/K when classes are equally frequent.",
        )
