"""The study of decoys: ranges over decoys against their base method's maps and against every control."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final, final

from verisal.pictures import Pixels
from verisal.results import Evaluation, Score
from verisal_studies.figures import attacked_figure, interval_pixels
from verisal_studies.scores import (
    ATTACKS,
    FIDELITY,
    INTERVALS,
    Scores,
    cell,
    counted,
    counted_images,
    difference_word,
    is_halved,
    mean_of,
    quoted,
    ratio_of_means,
    sensitivity_under,
    table,
)
from verisal_studies.study import (
    Finding,
    Study,
    StudyResult,
    verdict_of,
    verdict_of_words,
)

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
# Title of a column, whose arrow shows the good end, to the name of the score.
_FIDELITY, _OWN = "fidelity ↓", "S_S top_k ↓, aimed at itself"
_SENSITIVITIES: Final = tuple(f"S_S {kind} ↓" for kind in ATTACKS)
_MEASURES: Final = {
    _FIDELITY: FIDELITY,
    "insertion ↑": r"insertion\[dataset_mean\].*/auc.*",
    "deletion ↓": r"deletion\[dataset_mean\].*/auc.*",
    **{
        title: sensitivity_under(kind, aimed=True)
        for title, kind in zip(_SENSITIVITIES, ATTACKS, strict=True)
    },
}
_NAMES: Final = {**_MEASURES, _OWN: sensitivity_under("top_k", aimed=False)}


@final
class DecoyStudy(Study):
    """Better maps by ranges over decoys, against the base method and every control.

    Reads the rows ``<base>``, ``<base>_range_decoy``, ``<base>_mean_decoy``, ``<base>_range_constant`` and
    ``<base>_range_noise`` of three base methods: saliency fidelity, insertion and deletion with the data
    set's mean, S_S under three attacks aimed at the base method's maps, and for the second row S_S under
    ``top_k`` aimed at its own.
    """

    page = "decoys"

    def result(self, evaluation: Evaluation) -> StudyResult:
        """Five claims: fidelity, attacks, attacks on the decoys' own maps, features kept, range not mean."""
        read = _Comparisons(Scores(evaluation))
        findings = tuple(read.findings())
        words = "; ".join(f"{finding.claim.lower()}: {finding.verdict}" for finding in findings)
        images = read.scores.values(_BASES[0], read.name(_BASES[0], _FIDELITY))
        own = _BASES[0] + _OURS
        aimed = len(read.scores.values(own, read.name(own, _OWN)))
        setting = {
            **self.setting,
            "images": f"{counted_images(images)}; for attacks on the decoys' own maps {aimed} of them",
            "attacks": f"{quoted(ATTACKS)}; direction, budget, steps and aim: {quoted(read.attack_names())}",
            "intervals": INTERVALS,
            "comparisons": f"{len(read.differences) + len(_BASES)}, each with an interval of its own: a lone"
            " `better` or `worse` is weak evidence",
        }
        summary = f"{words[:1].upper()}{words[1:]}."
        figures = {"differences": read.picture(), **attacked_figure(evaluation)}
        return self.judged(findings, summary=summary, setting=setting, values=read.tables(), figures=figures)


@final
class _Comparisons:
    """All comparisons of one evaluation."""

    def __init__(self, scores: Scores) -> None:
        self.scores = scores
        self.differences = {
            (base, control, title): scores.difference(
                (base + _OURS, self.name(base + _OURS, title)),
                (base + suffix, self.name(base + suffix, title)),
            )
            for base in _BASES
            for control, suffix in _CONTROLS.items()
            for title in _MEASURES
        }

    def name(self, row: str, title: str) -> str:
        return self.scores.name(row, _NAMES[title])

    def word(self, base: str, control: str, title: str) -> str:
        difference = self.differences[base, control, title]
        return difference_word(difference, "high" if title.endswith("↑") else "low")

    def pair(self, base: str, ours: str, plain: str) -> tuple[Score, Score, Score]:
        """Means of range over decoys and base method on the same images, and their ratio."""
        rows = [(base + _OURS, self.name(base + _OURS, ours)), (base, self.name(base, plain))]
        both = self.scores.stacked(rows)
        return mean_of(both[0]), mean_of(both[1]), ratio_of_means(both)

    def attack_names(self) -> Iterator[str]:
        names = (self.name(base, title) for base in _BASES for title in _SENSITIVITIES)
        yield from dict.fromkeys(name.split(",", 1)[1].rsplit("]", 1)[0] for name in names)

    def findings(self) -> Iterator[Finding]:
        words = {base: self.word(base, _PLAIN, _FIDELITY) for base in _BASES}
        yield Finding(
            "Fidelity better than the base method's",
            "better, by the interval of the paired difference, for every base method; in part: for some, and"
            " worse for none",
            verdict_of_words(list(words.values())),
            "; ".join(
                f"{base} {cell(self.differences[base, _PLAIN, _FIDELITY])} {word}"
                for base, word in words.items()
            ),
        )
        yield self._halved(
            "Sensitivity halved under attacks on the base method's map",
            [self.pair(base, title, title) for base in _BASES for title in _SENSITIVITIES],
        )
        yield self._halved(
            "Sensitivity halved also where the attack aims at the range over decoys itself",
            [self.pair(base, _OWN, _SENSITIVITIES[0]) for base in _BASES],
        )
        yield self._against("Better than the same range without features kept", _NO_DECOYS)
        yield self._against("Range better than mean over the same decoys", (_MEAN,))

    def _halved(self, claim: str, cases: Sequence[tuple[Score, Score, Score]]) -> Finding:
        good = [is_halved(ours, plain) for ours, plain, _ in cases]
        lower = sum(ours.high < plain.low for ours, plain, _ in cases)
        ratios = [ours.value / plain.value for ours, plain, _ in cases]
        return Finding(
            claim,
            "S_S at most half of the base method's, intervals apart, in every case; in part: in some",
            verdict_of(good),
            f"halved in {sum(good)} of {len(cases)}, lower with intervals apart in {lower}; ratios"
            f" {min(ratios):.3f} to {max(ratios):.3f}",
        )

    def _against(self, claim: str, controls: Sequence[str]) -> Finding:
        asked = (_FIDELITY, *_SENSITIVITIES)
        words = [
            self.word(base, control, title) for base in _BASES for control in controls for title in asked
        ]
        return Finding(
            claim,
            "fidelity and every S_S better than each control's, by paired intervals, for every base method;"
            " in part: some are, none is worse",
            verdict_of_words(words),
            f"of {len(words)} comparisons {counted(words)}",
        )

    def picture(self) -> Pixels:
        panels = {
            title.rstrip(" ↓"): {
                base: {control: self.differences[base, control, title] for control in _CONTROLS}
                for base in _BASES
            }
            for title in (_FIDELITY, *_SENSITIVITIES)
        }
        title = "Range over decoys minus control: left of the line the range is better"
        return interval_pixels(panels, title=title, reference=0.0)

    def tables(self) -> dict[str, object]:
        answer, differences = [], []
        for control in _CONTROLS:
            words = ([self.word(base, control, title) for base in _BASES] for title in _MEASURES)
            answer.append([control, *map(counted, words)])
        for base, control in product(_BASES, _CONTROLS):
            cells = (
                f"{cell(self.differences[base, control, title])} {self.word(base, control, title)}"
                for title in _MEASURES
            )
            differences.append([f"`{base}`", control, *cells])
        ratios = {base: self._ratios(base) for base in _BASES}
        return {
            "bases": len(_BASES),
            "answer": table(["range over decoys against", *_MEASURES], answer),
            "ratios": table(["base", *_SENSITIVITIES, _OWN], ratios),
            "differences": table(["base", "control", *_MEASURES], differences),
            "scores": table(["", *_MEASURES], self._means()),
        }

    def _ratios(self, base: str) -> list[str]:
        pairs = [self.pair(base, title, title) for title in _SENSITIVITIES]
        pairs.append(self.pair(base, _OWN, _SENSITIVITIES[0]))
        return [f"{cell(ratio)}, {'halved' if is_halved(*both) else 'no'}" for *both, ratio in pairs]

    def _means(self) -> dict[str, list[str]]:
        lines = {}
        for row in self.scores.rows():
            names = [self.scores.names(row, pattern) for pattern in _MEASURES.values()]
            if any(names) and row.startswith(_BASES):
                lines[row] = [cell(self.scores.mean(row, name[0])) if name else "" for name in names]
        return lines
