"""Whether ranges over decoys depend on how decoys are made: one setting at a time is changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, final

from verisal.errors import ConfigError
from verisal.results import Evaluation, Score
from verisal_studies.decoys.tables import counted_images, halved, is_fidelity, is_sensitivity
from verisal_studies.figures import interval_pixels
from verisal_studies.scores import ImageScores, cell, difference_word, ratio_of_means, table
from verisal_studies.study import Finding, Section, Study, StudyFigure, StudyResult, Verdict

__all__ = ["DecoyGrid"]

_AGREEMENT: Final = "map_agreement"
# Maps of an axis may be this much less alike than two runs of one setting.
_MARGIN: Final = 0.1


@final
class DecoyGrid(Study):
    """Whether maps and scores of ranges over decoys stay the same over settings of the decoys.

    Reads saliency fidelity and S_S under ``top_k`` (aimed at the base method's map) of every setting and of
    the base method, and the agreement of maps of every axis (groups of
    :class:`.MapAgreement`, with a repetition of the default).

    Args:
        axes: name of an axis, a group of the agreement, to the settings on it, the default among them.
        default: the row of the setting that was chosen.
        strict: the row of decoys that keep features as closely as was meant.
        plain: the row of the base method.
        setting: what was measured on what, name to value, as the page shows it.
        commands: that make the page again.

    Raises:
        ConfigError: no axis, or one without the default or without another setting.
    """

    def __init__(
        self,
        axes: Mapping[str, Sequence[str]],
        *,
        default: str,
        strict: str,
        plain: str,
        setting: Mapping[str, str],
        commands: Sequence[str],
    ) -> None:
        self.axes = {name: tuple(members) for name, members in axes.items()}
        bad = [name for name, members in self.axes.items() if default not in members or len(members) < 2]
        if bad or not self.axes:
            raise ConfigError(
                f"axes must be at least one, each with the default {default!r} and another setting; found"
                f" {list(self.axes)}, of which not so {bad}"
            )
        self.default, self.strict, self.plain = default, strict, plain
        self.setting, self.commands = dict(setting), tuple(commands)

    def result(self, found: Evaluation) -> StudyResult:
        """One claim per axis, and whether decoys as they were meant beat the base method."""
        read = _Read(self, found)
        findings = (*(read.axis(name) for name in self.axes), read.strict())
        return StudyResult(
            title="Do decoys depend on how they are made?",
            claim=(
                "It was published that results of ranges over decoys are insensitive to the size of the"
                " patches,"
                " the layer whose features are kept and the multiplier of the constraint (after Lu et al."
                " 2021;"
                " their numbers are not repeated here). Tolerance and schedule are asked as well."
                " See [decoys](../decoys.md) and [the study of decoys](decoys.md)."
            ),
            commands=self.commands,
            setting={
                **self.setting,
                "images": read.images,
                "intervals": "95 %, percentile bootstrap over images; differences are paired",
                "comparisons": f"{len(read.others)} settings with the default by two scores, {len(self.axes)}"
                " groups of maps",
            },
            findings=findings,
            summary="; ".join(f"{one.claim}: {one.verdict}" for one in findings) + ".",
            sections=tuple(read.sections()),
        )


@final
class _Read:
    def __init__(self, study: DecoyGrid, found: Evaluation) -> None:
        self._study, self._found, self._scores = study, found, ImageScores(found)
        members = [one for group in study.axes.values() for one in group]
        self.others = [one for one in dict.fromkeys(members) if one != study.default]
        self.images = counted_images(
            self._scores.values(study.default, self._name(study.default, "fidelity"))
        )

    def _name(self, row: str, score: str) -> str:
        wanted = is_fidelity if score == "fidelity" else is_sensitivity("top_k", aimed=True)
        return self._scores.one(row, wanted)

    def _mean(self, row: str, score: str) -> Score:
        return self._scores.mean(row, self._name(row, score))

    def _difference(self, row: str, other: str, score: str) -> Score:
        return self._scores.difference((row, self._name(row, score)), (other, self._name(other, score)))

    def _agreement(self, axis: str, score: str) -> Score:
        name = f"{self._found.split}/{axis}/{_AGREEMENT}/{score}"
        if name not in self._found.scores:
            raise ConfigError(
                f"the study reads {name!r}, which the evaluation lacks; add a MapAgreement whose groups are"
                f" the"
                f" study's axes {list(self._study.axes)}"
            )
        return self._found.scores[name]

    def _alike(self, axis: str, row: str) -> Score:
        """Similarity of a setting's maps to those of the default."""
        members = self._study.axes[axis]
        one, other = sorted((row, self._study.default), key=members.index)
        return self._agreement(axis, f"{one} ~ {other}")

    def axis(self, axis: str) -> Finding:
        similarity, floor = self._agreement(axis, "similarity"), self._agreement(axis, "floor")
        alike = similarity.low >= floor.value - _MARGIN
        apart = [
            f"{row} ({score})"
            for row in self._study.axes[axis]
            if row != self._study.default
            for score in ("fidelity", "S_S")
            if _apart(self._mean(row, score), self._mean(self._study.default, score))
        ]
        good = [alike, not apart]
        verdict: Verdict = "holds" if all(good) else "holds in part" if any(good) else "does not hold here"
        return Finding(
            f"Insensitive to {axis}",
            f"maps: lower end of the median pairwise Spearman at least that of another seed minus"
            f" {_MARGIN:g};"
            " scores: no setting's fidelity or S_S has an interval apart from the default's; in part: one of"
            " the"
            " two",
            verdict,
            f"Spearman {cell(similarity)}, another seed {cell(floor)}; apart from the default:"
            f" {', '.join(apart) or 'none'}",
        )

    def strict(self) -> Finding:
        row, plain = self._study.strict, self._study.plain
        difference = self._difference(row, plain, "fidelity")
        word = difference_word(difference, "low")
        is_halved = halved(self._mean(row, "S_S"), self._mean(plain, "S_S"))
        good = [word == "better", is_halved]
        pair = [(row, self._name(row, "S_S")), (plain, self._name(plain, "S_S"))]
        return Finding(
            f"Decoys that keep features as meant ({row}) beat the base method",
            "fidelity better by the paired interval and S_S halved, intervals apart; in part: one of the two",
            "holds" if all(good) else "holds in part" if any(good) else "does not hold here",
            f"fidelity {cell(difference)} {word}; S_S times"
            f" {cell(ratio_of_means(self._scores.stacked(pair)))}",
        )

    def sections(self) -> Iterator[Section]:
        study = self._study
        place = {row: axis for axis, members in study.axes.items() for row in members if row != study.default}
        lines = [study.plain, study.default, *self.others]
        picture = interval_pixels(
            {
                "fidelity, left is good": {row: {"": self._mean(row, "fidelity")} for row in lines},
                "S_S top_k, left is good": {row: {"": self._mean(row, "S_S")} for row in lines},
                "Spearman with default": {
                    row: {"": self._alike(place[row], row)} if row in place else {} for row in lines
                },
            },
            title="One setting changed at a time",
        )
        yield Section(
            "Settings",
            "`better` and `worse` than the default: the 95 % interval of the paired difference leaves out 0."
            " Passes: forward passes of the whole network per map. Spearman: mean over images, with the maps"
            " of the"
            " default.\n\n"
            + table(
                [
                    "setting",
                    "axis",
                    "passes",
                    "fidelity ↓",
                    "against default",
                    "S_S top_k ↓",
                    "against default",
                    "Spearman",
                ],
                (self._line(row, place.get(row, "")) for row in lines),
            ),
            (StudyFigure("settings", "Fidelity, S_S and likeness of maps for every setting", picture),),
        )
        yield Section(
            "Maps",
            "Median over the pairs of an axis, per image; the default with another seed; random maps.\n\n"
            + table(
                [
                    "axis",
                    "settings",
                    "Spearman ↑",
                    "another seed",
                    "random maps",
                    "wholly below another seed",
                ],
                (
                    [
                        axis,
                        ", ".join(members),
                        *(cell(self._agreement(axis, one)) for one in ("similarity", "floor", "control")),
                        _yes(self._agreement(axis, "diverges")),
                    ]
                    for axis, members in study.axes.items()
                ),
            ),
        )

    def _line(self, row: str, axis: str) -> list[str]:
        passes = self._found.scores.get(f"{self._found.split}/{row}/network passes per map/forward")
        cells = [f"`{row}`", axis, "" if passes is None else f"{passes.value:g}"]
        for score in ("fidelity", "S_S"):
            word = difference_word(self._difference(row, self._study.default, score), "low")
            cells += [cell(self._mean(row, score)), "" if row == self._study.default else word]
        return [*cells, cell(self._alike(axis, row)) if axis else ""]


def _apart(one: Score, other: Score) -> bool:
    return one.high < other.low or other.high < one.low


def _yes(score: Score) -> str:
    return "n/a" if score.value != score.value else "yes" if score.value else "no"
