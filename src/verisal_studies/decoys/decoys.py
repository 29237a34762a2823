"""The study of decoys: ranges over decoys beside their base method's maps and beside every control."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from verisal.functional.statistics.intervals import bootstrap_mean
from verisal.results import Evaluation, Score
from verisal_studies.decoys.tables import (
    ATTACKS,
    attacked_panels,
    counted_images,
    halved,
    is_fidelity,
    is_sensitivity,
    share_verdict,
)
from verisal_studies.figures import interval_pixels
from verisal_studies.scores import Better, ImageScores, cell, difference_word, ratio_of_means, table
from verisal_studies.study import Finding, Section, Study, StudyFigure, StudyResult

__all__ = ["DecoyStudy"]

_BASES: Final = ("gradient", "smooth_grad", "integrated_gradients")
_OURS: Final = "_range_decoy"
_PLAIN, _MEAN = "plain base method", "mean over decoys"
_NO_DECOYS: Final = ("range over constant patches", "range over noise")
_CONTROLS: Final = {
    _PLAIN: "",
    _MEAN: "_mean_decoy",
    _NO_DECOYS[0]: "_range_constant",
    _NO_DECOYS[1]: "_range_noise",
}


@final
@dataclass(frozen=True)
class _Measure:
    """One column of a table: a score, and which end is good.

    Attributes:
        title: of the column.
        wanted: whether a full name of a score is this one.
        better: the good end.
    """

    title: str
    wanted: Callable[[str], bool]
    better: Better = "low"


_FIDELITY: Final = _Measure("fidelity ↓", is_fidelity)
_SENSITIVITIES: Final = tuple(_Measure(f"S_S {kind} ↓", is_sensitivity(kind, aimed=True)) for kind in ATTACKS)
_OWN: Final = _Measure("S_S top_k ↓, aimed at itself", is_sensitivity("top_k", aimed=False))
_MEASURES: Final = (
    _FIDELITY,
    _Measure(
        "insertion ↑", lambda name: name.startswith("insertion[dataset_mean]") and "/auc" in name, "high"
    ),
    _Measure("deletion ↓", lambda name: name.startswith("deletion[dataset_mean]") and "/auc" in name),
    *_SENSITIVITIES,
)


@final
class DecoyStudy(Study):
    """Whether ranges over decoys are better maps than their base method's, and than those of every control.

    Reads the rows ``<base>``, ``<base>_range_decoy``, ``<base>_mean_decoy``, ``<base>_range_constant`` and
    ``<base>_range_noise`` of three base methods: saliency fidelity, insertion and deletion with the data
    set's mean, S_S under three attacks aimed at the base method's maps, and for the second row S_S under
    ``top_k`` aimed at its own.

    Args:
        setting: what was measured on what, name to value, as the page shows it.
        commands: that make the page again.
    """

    def __init__(self, setting: Mapping[str, str], commands: Sequence[str]) -> None:
        self.setting, self.commands = dict(setting), tuple(commands)

    def result(self, found: Evaluation) -> StudyResult:
        """Five claims: fidelity, attacks, attacks on the decoys' own maps, features kept, range not mean."""
        read = _Read(ImageScores(found))
        findings = tuple(read.findings())
        words = [f"{finding.claim.lower()}: {finding.verdict}" for finding in findings]
        images = read.scores.values(_BASES[0], read.name(_BASES[0], _FIDELITY))
        setting = {
            **self.setting,
            "images": f"{counted_images(images)}; for attacks on the decoys' own maps {read.own_images()} of"
            " them",
            "attacks": f"{', '.join(f'`{kind}`' for kind in ATTACKS)}; direction, budget, steps and aim: "
            + ", ".join(dict.fromkeys(read.attack_names())),
            "intervals": "95 %, percentile bootstrap over images; differences are paired",
            "comparisons": f"{read.compared}, each with an interval of its own: a lone `better` or `worse` is"
            " weak evidence",
        }
        return StudyResult(
            title="Do ranges over decoys make better maps?",
            claim=(
                "A decoy has the features of the image at an early layer, and other pixels in small patches."
                " The range over decoys of what a base method says of each pixel was published as a map that"
                " is more faithful and harder to attack than the base method's own, than a mean over decoys"
                " and than ranges over images whose patches are constant (after Lu et al. 2021; their numbers"
                " are not repeated here). See [decoys](../decoys.md) and [attacks on"
                " maps](../map_attacks.md)."
            ),
            commands=self.commands,
            setting=setting,
            findings=findings,
            summary="; ".join(words)[:1].upper() + "; ".join(words)[1:] + ".",
            sections=tuple(read.sections(found)),
        )


@final
class _Read:
    """All comparisons of one evaluation."""

    def __init__(self, scores: ImageScores) -> None:
        self.scores = scores
        self.differences = {
            (base, control, measure.title): scores.difference(
                (base + _OURS, self.name(base + _OURS, measure)),
                (base + suffix, self.name(base + suffix, measure)),
            )
            for base in _BASES
            for control, suffix in _CONTROLS.items()
            for measure in _MEASURES
        }
        self.compared = len(self.differences) + len(_BASES)

    def name(self, row: str, measure: _Measure) -> str:
        return self.scores.one(row, measure.wanted)

    def word(self, base: str, control: str, measure: _Measure) -> str:
        return difference_word(self.differences[base, control, measure.title], measure.better)

    def pair(self, base: str, ours: _Measure, plain: _Measure) -> tuple[Score, Score, Score]:
        """Means of range over decoys and base method on the same images, and their ratio."""
        both = self.scores.stacked(
            [(base + _OURS, self.name(base + _OURS, ours)), (base, self.name(base, plain))]
        )
        one, other = (bootstrap_mean(values) for values in both)
        return one, other, ratio_of_means(both)

    def own_images(self) -> int:
        row = _BASES[0] + _OURS
        return len(self.scores.values(row, self.name(row, _OWN)))

    def attack_names(self) -> Iterator[str]:
        for base in _BASES:
            for measure in _SENSITIVITIES:
                yield f"`{self.name(base, measure).split(',', 1)[1].rsplit(']', 1)[0]}`"

    def findings(self) -> Iterator[Finding]:
        words = [self.word(base, _PLAIN, _FIDELITY) for base in _BASES]
        yield Finding(
            "Fidelity better than the base method's",
            "better, by the interval of the paired difference, for every base method; in part: for some, and"
            " worse for none",
            share_verdict(words.count("better"), words.count("worse"), len(words)),
            "; ".join(
                f"{base} {cell(self.differences[base, _PLAIN, _FIDELITY.title])} {word}"
                for base, word in zip(_BASES, words, strict=True)
            ),
        )
        cases = [self.pair(base, one, one)[:2] for base in _BASES for one in _SENSITIVITIES]
        yield self._halved("Sensitivity halved under attacks on the base method's map", cases)
        first = _SENSITIVITIES[0]
        yield self._halved(
            "Sensitivity halved also where the attack aims at the range over decoys itself",
            [self.pair(base, _OWN, first)[:2] for base in _BASES],
        )
        yield self._against("Better than the same range without features kept", _NO_DECOYS)
        yield self._against("Range better than mean over the same decoys", (_MEAN,))

    def _halved(self, claim: str, cases: Sequence[tuple[Score, Score]]) -> Finding:
        good = sum(halved(*case) for case in cases)
        lower = sum(ours.high < plain.low for ours, plain in cases)
        ratios = [ours.value / plain.value for ours, plain in cases]
        return Finding(
            claim,
            "S_S at most half of the base method's, intervals apart, in every case; in part: in some",
            share_verdict(good, 0, len(cases)),
            f"halved in {good} of {len(cases)}, lower with intervals apart in {lower}; ratios"
            f" {min(ratios):.3f} to {max(ratios):.3f}",
        )

    def _against(self, claim: str, controls: Sequence[str]) -> Finding:
        asked = (_FIDELITY, *_SENSITIVITIES)
        words = [self.word(base, one, part) for base in _BASES for one in controls for part in asked]
        return Finding(
            claim,
            "fidelity and every S_S better than each control's, by paired intervals, for every base method;"
            " in part: some are, none is worse",
            share_verdict(words.count("better"), words.count("worse"), len(words)),
            f"of {len(words)} comparisons {_counted(words)}",
        )

    def sections(self, found: Evaluation) -> Iterator[Section]:
        titles = [measure.title for measure in _MEASURES]
        figures = (
            StudyFigure(
                "differences",
                "Range over decoys minus each control, fidelity and S_S, with intervals",
                self._difference_picture(),
            ),
        )
        yield Section(
            "Answer",
            f"Verdicts of {len(_BASES)} base methods, range over decoys beside each control. `better` and"
            " `worse`: the 95 % interval of the paired difference leaves out 0.\n\n"
            + table(["range over decoys against", *titles], self._answer()),
            figures,
        )
        yield from attacked_panels(found)
        yield Section(
            "Sensitivity under attack",
            "Range over decoys divided by the base method, with interval. The first three columns: the attack"
            " aims at the base method's map, and both are scored on the same attacked images. Last column: it"
            " aims at the map that is scored, along the base method's direction.\n\n"
            + table(["base", *(one.title for one in _SENSITIVITIES), _OWN.title], self._ratios()),
        )
        yield Section("Differences", table(["base", "control", *titles], self._difference_rows()))
        yield Section("Scores", table(["", *titles], self._score_rows()))

    def _answer(self) -> Iterator[list[str]]:
        for control in _CONTROLS:
            yield [
                control,
                *(_counted([self.word(base, control, one) for base in _BASES]) for one in _MEASURES),
            ]

    def _ratios(self) -> Iterator[list[str]]:
        for base in _BASES:
            pairs = [self.pair(base, one, one) for one in _SENSITIVITIES]
            pairs.append(self.pair(base, _OWN, _SENSITIVITIES[0]))
            yield [
                f"`{base}`",
                *(
                    f"{cell(ratio)}, {'halved' if halved(ours, plain) else 'no'}"
                    for ours, plain, ratio in pairs
                ),
            ]

    def _difference_rows(self) -> Iterator[list[str]]:
        for base in _BASES:
            for control in _CONTROLS:
                cells = [
                    f"{cell(self.differences[base, control, one.title])} {self.word(base, control, one)}"
                    for one in _MEASURES
                ]
                yield [f"`{base}`", control, *cells]

    def _score_rows(self) -> Iterator[list[str]]:
        for row in self.scores.rows():
            names = [self.scores.names(row, one.wanted) for one in _MEASURES]
            if any(names) and row.startswith(_BASES):
                yield [f"`{row}`", *(cell(self.scores.mean(row, one[0])) if one else "" for one in names)]

    def _difference_picture(self) -> NDArray[np.uint8]:
        return interval_pixels(
            {
                one.title.rstrip(" ↓"): {
                    base: {control: self.differences[base, control, one.title] for control in _CONTROLS}
                    for base in _BASES
                }
                for one in (_FIDELITY, *_SENSITIVITIES)
            },
            title="Range over decoys minus control: left of the line the range is better",
            reference=0.0,
        )


def _counted(words: Sequence[str]) -> str:
    return ", ".join(f"{words.count(word)} {word}" for word in ("better", "worse", "open") if word in words)
