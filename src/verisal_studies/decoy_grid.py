"""The study of how decoys are made: one setting at a time is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, final

from verisal.errors import ConfigError
from verisal.pictures import Pixels
from verisal.results import Evaluation, Score, ScoreName
from verisal_studies.figures import interval_pixels
from verisal_studies.scores import (
    FIDELITY,
    INTERVALS,
    Scores,
    cell,
    counted_images,
    difference_word,
    is_defined,
    is_halved,
    ratio_of_means,
    sensitivity_under,
    table,
)
from verisal_studies.study import Finding, Study, StudyResult, verdict_of

# Maps of an axis may be less alike than two runs of one setting by this much.
_MARGIN: Final = 0.1
_NAMES: Final = {"fidelity": FIDELITY, "S_S": sensitivity_under("top_k", aimed=True)}


@final
class DecoyGrid(Study):
    """Insensitivity of maps and scores of ranges over decoys to the settings of the decoys.

    Reads saliency fidelity and S_S under ``top_k`` (aimed at the base method's map) of every setting and of
    the base method, and the agreement of maps of every axis (groups of :class:`.MapAgreement`, with a
    repetition of the default).

    Args:
        axes: name of an axis, a group of the agreement, to the settings on it, the default among them.
        default: the row of the setting that was chosen.
        strict: the row of decoys that keep features as closely as intended.
        plain: the row of the base method.
        setting: what was measured on what, name to value, as the page shows it.
        commands: the ones that make the page again.

    Raises:
        ConfigError: no axis, or one without the default or without another setting.
    """

    page = "decoy_grid"

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
        super().__init__(commands=commands, setting=setting)
        self.axes = {name: tuple(members) for name, members in axes.items()}
        bad = [name for name, members in self.axes.items() if default not in members or len(members) < 2]
        if bad or not self.axes:
            raise ConfigError(
                f"expected at least one axis, each with the default {default!r} and another setting; found"
                f" {list(self.axes)}, of which {bad} lack one of the two"
            )
        self.default, self.strict, self.plain = default, strict, plain

    def result(self, evaluation: Evaluation) -> StudyResult:
        """One claim per axis, and one that compares decoys as intended with the base method."""
        read = _Comparisons(self, Scores(evaluation))
        findings = (*(read.axis(name) for name in self.axes), read.strict())
        setting = {
            **self.setting,
            "images": read.images,
            "intervals": INTERVALS,
            "comparisons": f"{len(read.place)} settings with the default on two scores,"
            f" {len(self.axes)} groups of maps",
        }
        summary = "; ".join(f"{finding.claim}: {finding.verdict}" for finding in findings) + "."
        figures = {"settings": read.picture()}
        return self.judged(findings, summary=summary, setting=setting, values=read.tables(), figures=figures)


@final
class _Comparisons:
    def __init__(self, study: DecoyGrid, scores: Scores) -> None:
        self.study, self.scores = study, scores
        members = [(row, axis) for axis, group in study.axes.items() for row in group if row != study.default]
        # A setting on several axes counts for the last one.
        self.place = dict(members)
        self._rows = [study.plain, study.default, *self.place]
        self.images = counted_images(scores.values(*self._key(study.default, "fidelity")))

    def _key(self, row: str, score: str) -> tuple[str, str]:
        return row, self.scores.name(row, _NAMES[score])

    def _mean(self, row: str, score: str) -> Score:
        return self.scores.mean(*self._key(row, score))

    def _difference(self, row: str, other: str, score: str) -> Score:
        return self.scores.difference(self._key(row, score), self._key(other, score))

    def _agreement(self, axis: str, score: str) -> Score:
        remedy = f"add a MapAgreement whose groups are the study's axes {list(self.study.axes)}"
        return self.scores.reported(axis, f"map_agreement/{score}", remedy=remedy)

    def _alike(self, row: str) -> Score:
        """Similarity of a setting's maps to those of the default."""
        axis = self.place[row]
        first, second = sorted((row, self.study.default), key=self.study.axes[axis].index)
        return self._agreement(axis, f"{first} ~ {second}")

    def axis(self, axis: str) -> Finding:
        similarity, floor = self._agreement(axis, "similarity"), self._agreement(axis, "floor")
        default = self.study.default
        apart = [
            f"{row} ({score})"
            for row in self.study.axes[axis]
            if row != default
            for score in _NAMES
            if _are_apart(self._mean(row, score), self._mean(default, score))
        ]
        return Finding(
            f"Insensitive to {axis}",
            "maps: the lower end of the median pairwise Spearman correlation is at least that of another seed"
            f" minus {_MARGIN:g}; scores: no setting's interval of fidelity or S_S is disjoint from the"
            " default's; in part: one of the two",
            verdict_of([similarity.low >= floor.value - _MARGIN, not apart]),
            f"Spearman {cell(similarity)}, another seed {cell(floor)}; disjoint from the default's:"
            f" {', '.join(apart) or 'none'}",
        )

    def strict(self) -> Finding:
        row, plain = self.study.strict, self.study.plain
        difference = self._difference(row, plain, "fidelity")
        word = difference_word(difference, "low")
        ratio = ratio_of_means(self.scores.stacked([self._key(row, "S_S"), self._key(plain, "S_S")]))
        return Finding(
            f"Decoys that keep features as intended ({row}) beat the base method",
            "fidelity better by the paired interval, and S_S halved with disjoint intervals; in part: one of"
            " the two",
            verdict_of([word == "better", is_halved(self._mean(row, "S_S"), self._mean(plain, "S_S"))]),
            f"fidelity {cell(difference)} {word}; S_S multiplied by {cell(ratio)}",
        )

    def picture(self) -> Pixels:
        rows = self._rows
        panels = {
            "fidelity, left is good": {row: {"": self._mean(row, "fidelity")} for row in rows},
            "S_S top_k, left is good": {row: {"": self._mean(row, "S_S")} for row in rows},
            "Spearman with default": {
                row: {"": self._alike(row)} if row in self.place else {} for row in rows
            },
        }
        return interval_pixels(panels, title="One setting changed at a time")

    def tables(self) -> dict[str, object]:
        settings = {row: self._cells(row) for row in self._rows}
        header = ["setting", "axis", "passes", "fidelity ↓", "against default", "S_S top_k ↓"]
        maps = (
            [
                axis,
                ", ".join(members),
                *(cell(self._agreement(axis, score)) for score in ("similarity", "floor", "control")),
                _yes(self._agreement(axis, "diverges")),
            ]
            for axis, members in self.study.axes.items()
        )
        titles = ["axis", "settings", "Spearman ↑", "another seed", "random maps"]
        return {
            "settings": table([*header, "against default", "Spearman"], settings),
            "maps": table([*titles, "wholly below another seed"], maps),
        }

    def _cells(self, row: str) -> list[str]:
        evaluation, default = self.scores.evaluation, self.study.default
        passes = evaluation.scores.get(ScoreName(evaluation.split, row, "network passes per map", "forward"))
        cells = [self.place.get(row, ""), "" if passes is None else f"{passes.value:g}"]
        for score in _NAMES:
            word = "" if row == default else difference_word(self._difference(row, default, score), "low")
            cells += [cell(self._mean(row, score)), word]
        return [*cells, cell(self._alike(row)) if row in self.place else ""]


def _are_apart(one: Score, other: Score) -> bool:
    return one.high < other.low or other.high < one.low


def _yes(score: Score) -> str:
    return "n/a" if not is_defined(score) else "yes" if score.value else "no"
