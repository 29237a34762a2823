"""Claims about ranges over decoys, judged by paired comparisons with the base method and every control."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final, final

from verisal.pictures import Pixels
from verisal.results import Score
from verisal_studies.figures import interval_pixels
from verisal_studies.scores import (
    FIDELITY,
    Scores,
    cell,
    counted,
    difference_word,
    is_halved,
    mean_of,
    ratio_of_means,
    sensitivity_under,
    table,
)
from verisal_studies.study import Finding, verdict_of, verdict_of_words

OURS: Final = "_range_decoy"
_PLAIN, _MEAN = "plain base method", "mean over decoys"
_NO_DECOYS: Final = ("range over constant patches", "range over noise")
CONTROLS: Final = {
    _PLAIN: "",
    _MEAN: "_mean_decoy",
    _NO_DECOYS[0]: "_range_constant",
    _NO_DECOYS[1]: "_range_noise",
}
# Titles of columns; the arrow points to the good end.
FIDELITY_TITLE, OWN_TITLE = "fidelity ↓", "S_S top_k ↓, aimed at itself"


@final
class DecoyComparisons:
    """All comparisons of one evaluation.

    Args:
        scores: with the rows ``<base>`` and ``<base>`` followed by every suffix.
        bases: base methods, the rows' names.
        kinds: attacks on maps, aimed at the base method's map; ``top_k`` also at that of the range.

    Attributes:
        measures: title of a column to the name of its score, as a regular expression.
        differences: by base, control and title, the range over decoys minus the control.
    """

    def __init__(self, scores: Scores, bases: Sequence[str], kinds: Sequence[str]) -> None:
        self.scores, self.bases = scores, tuple(bases)
        self.sensitivities = tuple(f"S_S {kind} ↓" for kind in kinds)
        aimed = (sensitivity_under(kind, aimed=True) for kind in kinds)
        self.measures = {
            FIDELITY_TITLE: FIDELITY,
            "insertion ↑": r"insertion\[dataset_mean\].*/auc.*",
            "deletion ↓": r"deletion\[dataset_mean\].*/auc.*",
            **dict(zip(self.sensitivities, aimed, strict=True)),
        }
        self.differences = {
            (base, control, title): scores.difference(
                (base + OURS, self.name(base + OURS, title)),
                (base + suffix, self.name(base + suffix, title)),
            )
            for base in self.bases
            for control, suffix in CONTROLS.items()
            for title in self.measures
        }

    def name(self, row: str, title: str) -> str:
        """Name of a row's score."""
        own = sensitivity_under("top_k", aimed=False)
        return self.scores.name(row, own if title == OWN_TITLE else self.measures[title])

    def word(self, base: str, control: str, title: str) -> str:
        """``better``, ``worse`` or ``open``."""
        difference = self.differences[base, control, title]
        return difference_word(difference, "high" if title.endswith("↑") else "low")

    def pair(self, base: str, ours: str, plain: str) -> tuple[Score, Score, Score]:
        """Means of range over decoys and base method on the same images, and their ratio."""
        rows = [(base + OURS, self.name(base + OURS, ours)), (base, self.name(base, plain))]
        both = self.scores.stacked(rows)
        return mean_of(both[0]), mean_of(both[1]), ratio_of_means(both)

    def attack_names(self) -> Iterator[str]:
        """Settings of the attacks on the base methods' maps, each once."""
        names = (self.name(base, title) for base in self.bases for title in self.sensitivities)
        yield from dict.fromkeys(name.split(",", 1)[1].rsplit("]", 1)[0] for name in names)

    def findings(self) -> Iterator[Finding]:
        """Five claims: fidelity, attacks, attacks on the range itself, features kept, range against mean."""
        words = {base: self.word(base, _PLAIN, FIDELITY_TITLE) for base in self.bases}
        yield Finding(
            "Better fidelity than the base method",
            "better for every base method, by the interval of the paired difference; in part: better for some"
            " and worse for none",
            verdict_of_words(list(words.values())),
            "; ".join(
                f"{base} {cell(self.differences[base, _PLAIN, FIDELITY_TITLE])} {word}"
                for base, word in words.items()
            ),
        )
        yield self._halved(
            "Sensitivity halved under attacks on the base method's map",
            [self.pair(base, title, title) for base in self.bases for title in self.sensitivities],
        )
        yield self._halved(
            "Sensitivity halved even where the attack aims at the range over decoys itself",
            [self.pair(base, OWN_TITLE, self.sensitivities[0]) for base in self.bases],
        )
        yield self._against("Better than the same range over images that do not keep features", _NO_DECOYS)
        yield self._against("The range is better than the mean over the same decoys", (_MEAN,))

    def _halved(self, claim: str, cases: Sequence[tuple[Score, Score, Score]]) -> Finding:
        good = [is_halved(ours, plain) for ours, plain, _ in cases]
        lower = sum(ours.high < plain.low for ours, plain, _ in cases)
        ratios = [ours.value / plain.value for ours, plain, _ in cases]
        return Finding(
            claim,
            "S_S at most half of the base method's, with disjoint intervals, in every case; in part: in some",
            verdict_of(good),
            f"halved in {sum(good)} of {len(cases)}, lower with disjoint intervals in {lower};"
            f" ratios {min(ratios):.3f} to {max(ratios):.3f}",
        )

    def _against(self, claim: str, controls: Sequence[str]) -> Finding:
        asked = (FIDELITY_TITLE, *self.sensitivities)
        words = [
            self.word(base, control, title) for base in self.bases for control in controls for title in asked
        ]
        return Finding(
            claim,
            "fidelity and every S_S better than each control's, by paired intervals, for every base method;"
            " in part: some are better and none is worse",
            verdict_of_words(words),
            f"{len(words)} comparisons: {counted(words)}",
        )

    def picture(self) -> Pixels:
        """Differences with their intervals, one panel per score that decides."""
        panels = {
            title.rstrip(" ↓"): {
                base: {control: self.differences[base, control, title] for control in CONTROLS}
                for base in self.bases
            }
            for title in (FIDELITY_TITLE, *self.sensitivities)
        }
        title = "Range over decoys minus control: left of the line the range is better"
        return interval_pixels(panels, title=title, reference=0.0)

    def tables(self) -> dict[str, object]:
        """Numbers and tables for the page's text, by name."""
        answer, differences = [], []
        for control in CONTROLS:
            words = ([self.word(base, control, title) for base in self.bases] for title in self.measures)
            answer.append([control, *map(counted, words)])
        for base, control in product(self.bases, CONTROLS):
            cells = (
                f"{cell(self.differences[base, control, title])} {self.word(base, control, title)}"
                for title in self.measures
            )
            differences.append([f"`{base}`", control, *cells])
        ratios = {base: self._ratios(base) for base in self.bases}
        return {
            "bases": len(self.bases),
            "answer": table(["range over decoys against", *self.measures], answer),
            "ratios": table(["base", *self.sensitivities, OWN_TITLE], ratios),
            "differences": table(["base", "control", *self.measures], differences),
            "scores": table(["", *self.measures], self._means()),
        }

    def _ratios(self, base: str) -> list[str]:
        pairs = [self.pair(base, title, title) for title in self.sensitivities]
        pairs.append(self.pair(base, OWN_TITLE, self.sensitivities[0]))
        return [f"{cell(ratio)}, {'halved' if is_halved(*both) else 'no'}" for *both, ratio in pairs]

    def _means(self) -> dict[str, list[str]]:
        lines = {}
        for row in self.scores.rows():
            names = [self.scores.names(row, pattern) for pattern in self.measures.values()]
            if any(names) and row.startswith(self.bases):
                lines[row] = [cell(self.scores.mean(row, name[0])) if name else "" for name in names]
        return lines
