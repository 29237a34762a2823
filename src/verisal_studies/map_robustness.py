"""The study of attacks on maps: the change of any method's maps, beside random signs of the same budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

from verisal.errors import ConfigError
from verisal.pictures import Pixels
from verisal.results import Evaluation, Score
from verisal_studies.figures import attacked_figure, interval_pixels
from verisal_studies.scores import (
    ATTACKS,
    INTERVALS,
    Scores,
    cell,
    counted_images,
    difference_word,
    quoted,
    sensitivity_under,
    table,
)
from verisal_studies.study import Finding, Study, StudyResult, verdict_of_words

_SENSITIVITY: Final = sensitivity_under("[^,]*", aimed=False)
_NO_METHODS: Final = ("random", "centre")
_OVERLAP_WORDS: Final = {"better": "below", "worse": "above", "open": "open"}


@dataclass(frozen=True)
class _Case:
    """One method under one attack.

    ``plain`` is S_S under the attack, ``control`` under random signs; ``less`` the paired difference of the
    overlaps. S_S does not decide: it divides by the size of the change, which is larger for random signs, so
    it is larger under the attack even for a map that the attack does not touch, such as one of noise.
    """

    row: str
    kind: str
    direction: str
    settings: str
    images: Mapping[str, float]
    plain: Score
    control: Score
    less: Score
    overlap: Score
    control_overlap: Score

    @property
    def is_own(self) -> bool:
        """True if the direction is that of the method's own map."""
        return self.direction.rstrip("0123456789") == self.row

    @property
    def word(self) -> str:
        """``better``, for the attacker, where fewer of the largest pixels remain than under random signs."""
        return difference_word(self.less, "low")


@final
class MapRobustness(Study):
    """Maps moved further by invisible noise that keeps the label than by random signs.

    Reads all methods with ``attacked_sensitivity`` under ``top_k``, ``mass_centre`` and ``target``.
    """

    page = "map_robustness"

    def result(self, evaluation: Evaluation) -> StudyResult:
        """Two claims: methods attacked along their own direction, and all others along the gradient's."""
        cases = list(_cases(Scores(evaluation)))
        own = [case for case in cases if case.is_own]
        others = [case for case in cases if not case.is_own and case.row not in _NO_METHODS]
        if not own or not others:
            raise ConfigError(
                "the study reads attacked_sensitivity of methods under attacks with their own direction and"
                f" with another one, found {sorted({(case.row, case.direction) for case in cases})}"
            )
        findings = (
            _moved("Attacks along a method's own direction move its map further than random signs do", own),
            _moved("Attacks along the gradient also move the maps of other methods further", others),
        )
        settings = dict.fromkeys(case.settings for case in cases)
        setting = {
            **self.setting,
            "images": counted_images(cases[0].images),
            "attacks": f"{quoted(ATTACKS)}; direction, budget, steps: {quoted(settings)}",
            "intervals": INTERVALS,
            "comparisons": f"{len(own) + len(others)}, each with its own interval",
        }
        summary = "; ".join(f"{one.claim}: {one.verdict} ({one.evidence})" for one in findings) + "."
        lines: dict[tuple[str, str], dict[str, _Case]] = {}
        for case in cases:
            lines.setdefault((case.row, case.direction), {})[case.kind] = case
        figures = {"sensitivity": _picture(lines), **attacked_figure(evaluation)}
        return self.judged(findings, summary=summary, setting=setting, values=_tables(lines), figures=figures)


def _cases(scores: Scores) -> Iterator[_Case]:
    for row in scores.rows():
        for name in scores.names(row, _SENSITIVITY):
            stem = name.removesuffix("sensitivity")
            kind, _, settings = stem.partition("[")[2].removesuffix("]/").partition(",")
            yield _Case(
                row,
                kind,
                settings.partition(",")[0],
                settings,
                scores.values(row, name),
                scores.mean(row, name),
                scores.mean(row, f"{stem}control_sensitivity"),
                scores.difference((row, f"{stem}top_k"), (row, f"{stem}control_top_k")),
                scores.mean(row, f"{stem}top_k"),
                scores.mean(row, f"{stem}control_top_k"),
            )


def _moved(claim: str, cases: Sequence[_Case]) -> Finding:
    words = [case.word for case in cases]
    rest = quoted(sorted({case.row for case in cases if case.word != "better"}))
    return Finding(
        claim,
        "the overlap of the largest pixels with those of the clean map is below that under random signs of"
        " the same budget, by the paired interval, for every method and attack; in part: below for some and"
        " above for none",
        verdict_of_words(words),
        f"below in {words.count('better')} of {len(words)}, above in {words.count('worse')}"
        + (f"; not below for {rest}" if rest else ""),
    )


def _picture(lines: Mapping[tuple[str, str], Mapping[str, _Case]]) -> Pixels:
    panels = {
        f"S_S {kind}": {
            row if direction == "gradient" else f"{row}, {direction}": {
                "attack": own[kind].plain,
                "random signs": own[kind].control,
            }
            for (row, direction), own in lines.items()
        }
        for kind in ATTACKS
    }
    return interval_pixels(panels, title="Change of the map per change of the image: left is robust")


def _tables(lines: Mapping[tuple[str, str], Mapping[str, _Case]]) -> dict[str, object]:
    sensitivity, overlap = [], []
    for (row, direction), own in lines.items():
        shown = [own[kind] for kind in ATTACKS]
        sensitivity.append([f"`{row}`", direction, *(_beside(case.plain, case.control) for case in shown)])
        words = (
            f"{_beside(case.overlap, case.control_overlap)} {_OVERLAP_WORDS[case.word]}" for case in shown
        )
        overlap.append([f"`{row}`", direction, *words])
    return {
        "sensitivity": table(["method", "direction", *(f"{kind} ↓" for kind in ATTACKS)], sensitivity),
        "overlap": table(["method", "direction", *(f"{kind} ↑" for kind in ATTACKS)], overlap),
    }


def _beside(score: Score, control: Score) -> str:
    return f"{cell(score)} ({cell(control).split(' ')[0]})"
