"""The study of patches: which maps show where the attack is, and help to heal the image."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, final

from verisal.errors import ConfigError
from verisal.pictures import Pixels
from verisal.results import Evaluation, Score
from verisal_studies.figures import interval_pixels
from verisal_studies.scores import INTERVALS, Scores, cell, counted_images, difference_word, quoted, table
from verisal_studies.study import Finding, Study, StudyResult, verdict_of, verdict_of_words

#: The least that a map must reach, by score.
_LIMITS: Final = {"energy": 0.70, "pointing": 0.95, "box": 0.93}
_HEADER: Final = ("energy ↑", "pointing ↑", "box ↑", "healed ↑")
_NO_METHODS: Final = ("true_place", "random_place")
_FEWEST: Final = 100
_GOALS: Final = ("targeted", "untargeted")


@final
class PatchLocalisation(Study):
    """Maps of patched images: limits for one method, that method against all others, and healing.

    Reads ``PatchedImages``.

    Args:
        commands: the ones that make the page again.
        setting: what was measured on what, name to value.
        ours: the row that is compared with the others.
        parts: rows that are parts or variants of ours, with which it is not compared.
        note: other observations, for the end of the page.

    References:
        brown2017
    """

    page = "patch_localisation"

    def __init__(
        self,
        *,
        commands: Sequence[str],
        setting: Mapping[str, str] | None = None,
        ours: str = "evidence_masks",
        parts: Sequence[str] = (),
        note: str = "",
    ) -> None:
        super().__init__(commands=commands, setting=setting)
        self.ours, self.parts, self.note = ours, tuple(parts), note

    def result(self, evaluation: Evaluation) -> StudyResult:
        """Limits, comparisons and healing, of all patches and of those of each kind of goal."""
        scores = Scores(evaluation)
        rows = scores.rows("patches/energy")
        if self.ours not in rows:
            raise ConfigError(
                f"the study reads the localisation of patches by {self.ours!r}, found that of {rows}; add the"
                " callback PatchedImages with the methods of the study's configuration"
            )
        attacks = [
            match[1]
            for name in scores.names(self.ours, r"patches\[.*\]/energy")
            if (match := re.fullmatch(r"patches\[(.*)\]/energy", name))
        ]
        patches = evaluation.counts.get("patches that fool", 0)
        others = [row for row in rows if row != self.ours and row not in self.parts]
        goals = [goal for goal in _GOALS if scores.names(self.ours, f"patches_{goal}/energy")]
        groups = {f"{goal} patches": f"patches_{goal}" for goal in goals} or {"patches": "patches"}
        findings = tuple(
            finding
            for words, metric in groups.items()
            for finding in (
                self._reached(scores, words, metric, patches),
                *(self._ahead(scores, others, words, metric, score) for score in _LIMITS),
                self._heals(scores, words, metric),
            )
        )
        values = scores.values(self.ours, "patches/energy")
        setting = {
            **self.setting,
            "images": counted_images(values),
            "patches": f"{patches} that fool, in 8 bits",
            "intervals": INTERVALS,
        }
        summary = " ".join(self._in_short(scores, others, words, metric) for words, metric in groups.items())
        shown = [*rows, *_NO_METHODS]
        return self.judged(
            findings,
            summary=summary,
            setting=setting,
            values={
                "patches": "\n\n".join(
                    f"{words[0].upper()}{words[1:]}:\n\n"
                    + table(["", *_HEADER], {row: _cells(scores, row, metric) for row in shown})
                    for words, metric in groups.items()
                ),
                "attacks": "`, `".join(attacks),
                "by_attack": self._by_attack(scores, attacks, rows),
                "note": self.note,
            },
            figures={"patches": _picture(scores, rows, groups)},
        )

    def _in_short(self, scores: Scores, others: Sequence[str], words: str, metric: str) -> str:
        def figures(row: str) -> str:
            return ", ".join(
                f"{score} {scores.mean(row, f'{metric}/{score}').value:.2f}" for score in (*_LIMITS, "healed")
            )

        best = max(others, key=lambda row: scores.mean(row, f"{metric}/energy").value, default="")
        healed = scores.mean("true_place", f"{metric}/healed").value
        return (
            f"{words[0].upper()}{words[1:]}: `{self.ours}` have {figures(self.ours)}"
            + (f"; `{best}`, the best other map by energy, {figures(best)}" if best else "")
            + f". To fill the patch itself heals {healed:.2f}."
        )

    def _reached(self, scores: Scores, words: str, metric: str, patches: int) -> Finding:
        own = {score: scores.mean(self.ours, f"{metric}/{score}") for score in _LIMITS}
        limits = ", ".join(f"{score} {limit:g}" for score, limit in _LIMITS.items())
        reached = [own[score].value >= limit for score, limit in _LIMITS.items()]
        return Finding(
            f"`{self.ours}` point at {words}",
            f"mean at least {limits}, on {_FEWEST} patches or more in all; in part: some of these limits",
            verdict_of(reached) if patches >= _FEWEST else "cannot be said",
            ", ".join(f"{score} {cell(value)}" for score, value in own.items())
            + f", {patches} patches in all",
        )

    def _ahead(
        self, scores: Scores, others: Sequence[str], words_of: str, metric: str, score: str
    ) -> Finding:
        name = f"{metric}/{score}"
        words = {
            row: difference_word(scores.difference((self.ours, name), (row, name)), "high") for row in others
        }
        best = max(others, key=lambda row: scores.mean(row, name).value, default="")
        listed = list(words.values())
        rest = quoted(row for row, word in words.items() if word != "better")
        return Finding(
            f"`{self.ours}` are ahead of all other methods in {score} on {words_of}",
            "the interval of the paired difference is above 0 for every other method; in part: above 0 for"
            " some and below 0 for none",
            verdict_of_words(listed),
            f"ahead of {listed.count('better')} of {len(listed)}, behind {listed.count('worse')}"
            + (f"; not ahead of {rest}" if rest else "")
            + (f"; the best other one is `{best}` with {cell(scores.mean(best, name))}" if best else ""),
        )

    def _heals(self, scores: Scores, words: str, metric: str) -> Finding:
        name = f"{metric}/healed"
        own, random, true = (scores.mean(row, name) for row in (self.ours, "random_place", "true_place"))
        word = difference_word(scores.difference((self.ours, name), ("random_place", name)), "high")
        return Finding(
            f"Filling the box of `{self.ours}` heals {words} more often than filling a random one",
            "the interval of the paired difference is above 0",
            verdict_of_words([word]),
            f"{cell(own)}, a random box {cell(random)}, the patch itself {cell(true)}",
        )

    def _by_attack(self, scores: Scores, attacks: Sequence[str], rows: Sequence[str]) -> str:
        lines = []
        for attack in attacks:
            fooled = scores.mean(f"attack_{attack}", "patches/fooled")
            named = f"`{attack}` ({fooled.value:.2f})"
            lines += [
                [named, f"`{row}`", *_cells(scores, row, f"patches[{attack}]")]
                for row in [*rows, *_NO_METHODS]
            ]
        return table(["attack (share that fools)", "", *_HEADER], lines)


def _cells(scores: Scores, row: str, metric: str) -> list[str]:
    names = [f"{metric}/{score}" for score in (*_LIMITS, "healed")]
    return [cell(scores.mean(row, name)) if scores.names(row, re.escape(name)) else "" for name in names]


def _picture(scores: Scores, rows: Sequence[str], groups: Mapping[str, str]) -> Pixels:
    panels: dict[str, dict[str, dict[str, Score]]] = {
        score: {
            row: {words: scores.mean(row, f"{metric}/{score}") for words, metric in groups.items()}
            for row in rows
        }
        for score in (*_LIMITS, "healed")
    }
    return interval_pixels(panels, title="Maps of the class that a patch forces: right is good")
