"""How far attacks on maps move the maps of any method, beside random signs of the same budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

from verisal.errors import ConfigError
from verisal.results import Evaluation, Score
from verisal_studies.decoys.tables import ATTACKS, attacked_panels, counted_images, share_verdict
from verisal_studies.figures import interval_pixels
from verisal_studies.scores import ImageScores, cell, difference_word, table
from verisal_studies.study import Finding, Section, Study, StudyFigure, StudyResult

__all__ = ["MapRobustness"]

_START: Final = "attacked_sensitivity["
_NO_METHODS: Final = ("random", "centre")


@dataclass(frozen=True)
class _Case:
    """One method under one attack.

    ``plain`` is S_S under the attack, ``control`` under random signs; ``less`` the paired difference of the
    overlaps. S_S does not decide: it divides by the size of the change, which is larger for random signs, so
    that it is above theirs for any map that the attack does not touch, one of noise among them.
    """

    row: str
    kind: str
    direction: str
    plain: Score
    control: Score
    less: Score
    overlap: Score
    control_overlap: Score

    @property
    def is_own(self) -> bool:
        """Whether the direction is that of the method's own map."""
        return self.direction.rstrip("0123456789") == self.row

    @property
    def word(self) -> str:
        """``better``, for the attacker, where less is left of the largest pixels than under random signs."""
        return difference_word(self.less, "low")


@final
class MapRobustness(Study):
    """Whether noise that nobody sees and that keeps the label moves maps further than random signs do.

    Reads all methods with ``attacked_sensitivity`` under ``top_k``, ``mass_centre`` and ``target``.

    Args:
        setting: what was measured on what, name to value, as the page shows it.
        commands: that make the page again.
    """

    def __init__(self, setting: Mapping[str, str], commands: Sequence[str]) -> None:
        self.setting, self.commands = dict(setting), tuple(commands)

    def result(self, found: Evaluation) -> StudyResult:
        """Two claims: methods attacked along their own direction, and all others along the gradient's."""
        scores = ImageScores(found)
        cases = list(_cases(scores))
        own = [case for case in cases if case.is_own]
        others = [case for case in cases if not case.is_own and case.row not in _NO_METHODS]
        if not own or not others:
            raise ConfigError(
                "the study reads attacked_sensitivity of methods under attacks with their own direction and"
                f" with another one, found {sorted({(case.row, case.direction) for case in cases})}"
            )
        first = cases[0]
        findings = (
            _moved("Attacks along a method's own direction move its map further than random signs", own),
            _moved("Attacks along the gradient move the maps of other methods further, too", others),
        )
        images = scores.values(first.row, scores.names(first.row, _is_sensitivity)[0])
        return StudyResult(
            title="How far do attacks move the maps of any method?",
            claim=(
                "Noise that nobody sees and that keeps the prediction was published to move saliency maps"
                " almost"
                " at will (after Ghorbani et al. 2019; their numbers are not repeated here). See"
                " [attacks on maps](../map_attacks.md)."
            ),
            commands=self.commands,
            setting={
                **self.setting,
                "images": counted_images(images),
                "attacks": f"{', '.join(f'`{kind}`' for kind in ATTACKS)}; direction, budget, steps: "
                + ", ".join(dict.fromkeys(_attack_names(scores))),
                "intervals": "95 %, percentile bootstrap over images; differences are paired",
                "comparisons": f"{len(own) + len(others)}, each with an interval of its own",
            },
            findings=findings,
            summary="; ".join(f"{one.claim}: {one.verdict} ({one.evidence})" for one in findings) + ".",
            sections=tuple(_sections(cases, found)),
        )


def _is_sensitivity(name: str) -> bool:
    return name.startswith(_START) and name.endswith("]/sensitivity") and ",aim=" not in name


def _attack_names(scores: ImageScores) -> Iterator[str]:
    for row in scores.rows():
        for name in scores.names(row, _is_sensitivity):
            yield f"`{name.removesuffix(']/sensitivity').split(',', 1)[1]}`"


def _cases(scores: ImageScores) -> Iterator[_Case]:
    for row in scores.rows():
        for name in scores.names(row, _is_sensitivity):
            kind, direction = name.removeprefix(_START).split(",")[:2]
            stem = name.removesuffix("sensitivity")
            yield _Case(
                row,
                kind,
                direction,
                scores.mean(row, name),
                scores.mean(row, f"{stem}control_sensitivity"),
                scores.difference((row, f"{stem}top_k"), (row, f"{stem}control_top_k")),
                scores.mean(row, f"{stem}top_k"),
                scores.mean(row, f"{stem}control_top_k"),
            )


def _moved(claim: str, cases: Sequence[_Case]) -> Finding:
    words = [case.word for case in cases]
    rest = sorted({f"`{case.row}`" for case in cases if case.word != "better"})
    return Finding(
        claim,
        "overlap of the largest pixels with those of the clean map below that under random signs of the same"
        " budget, by the paired interval, for every method and attack; in part: for some, and above it for"
        " none",
        share_verdict(words.count("better"), words.count("worse"), len(words)),
        f"below in {words.count('better')} of {len(words)}, above in {words.count('worse')}"
        + (f"; not below for {', '.join(rest)}" if rest else ""),
    )


def _sections(cases: Sequence[_Case], found: Evaluation) -> Iterator[Section]:
    lines = list(dict.fromkeys((case.row, case.direction) for case in cases))
    known = {(case.row, case.direction, case.kind): case for case in cases}
    picture = interval_pixels(
        {
            f"S_S {kind}": {
                _line(row, direction): {"attack": case.plain, "random signs": case.control}
                for row, direction in lines
                for case in [known[row, direction, kind]]
            }
            for kind in ATTACKS
        },
        title="Change of the map per change of the image: left is robust",
    )
    yield Section(
        "Sensitivity",
        "S_S with 95 % intervals, in brackets that of random signs of the same budget; low is good. Random"
        " signs"
        " change the image more, by which S_S is divided: compare methods in one column, not with the"
        " brackets."
        " Where the direction is not that of the method's own map, it is a transfer attack: a weaker one, so"
        " that methods compare only within one direction, and a low value is no proof of robustness."
        " `random` and"
        " `centre` are controls: maps of noise drawn by content, and maps that do not look at the image.\n\n"
        + table(
            ["method", "direction", *(f"{kind} ↓" for kind in ATTACKS)],
            (
                [f"`{row}`", direction, *(_sensitivity(known[row, direction, kind]) for kind in ATTACKS)]
                for row, direction in lines
            ),
        ),
        (StudyFigure("sensitivity", "S_S of every method under attack and under random signs", picture),),
    )
    yield Section(
        "Overlap of the largest pixels",
        "Intersection over union of the largest pixels before and after, in brackets that of random signs;"
        " high"
        " is good. `below`, `above`: the interval of the paired difference leaves out 0. This decides,"
        " because it"
        " does not divide by the size of the change, which random signs have more of.\n\n"
        + table(
            ["method", "direction", *(f"{kind} ↑" for kind in ATTACKS)],
            (
                [f"`{row}`", direction, *(_overlap(known[row, direction, kind]) for kind in ATTACKS)]
                for row, direction in lines
            ),
        ),
    )
    yield from attacked_panels(found)


def _line(row: str, direction: str) -> str:
    return row if direction == "gradient" else f"{row}, {direction}"


def _sensitivity(case: _Case) -> str:
    return f"{cell(case.plain)} ({cell(case.control).split(' ')[0]})"


def _overlap(case: _Case) -> str:
    mark = {"better": "below", "worse": "above", "open": "open"}[case.word]
    return f"{cell(case.overlap)} ({cell(case.control_overlap).split(' ')[0]}) {mark}"
