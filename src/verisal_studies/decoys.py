"""The study of decoys: ranges over decoys against their base method's maps and against every control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

from verisal.results import Evaluation
from verisal_studies.decoy_claims import FIDELITY_TITLE, OURS, OWN_TITLE, DecoyComparisons
from verisal_studies.figures import attacked_figure
from verisal_studies.scores import ATTACKS, INTERVALS, Scores, counted_images, quoted, table
from verisal_studies.study import Finding, Section, Study, StudyResult, verdicts_of_page


@final
class DecoyStudy(Study):
    """Better maps by ranges over decoys, against the base method and every control.

    Reads the rows ``<base>``, ``<base>_range_decoy``, ``<base>_mean_decoy``, ``<base>_range_constant`` and
    ``<base>_range_noise`` of the base methods: saliency fidelity, insertion and deletion with the data
    set's mean, S_S under three attacks aimed at the base method's maps, and for the second row S_S under
    ``top_k`` aimed at its own.

    Args:
        commands: the ones that make the page again.
        setting: what was measured on what, name to value, as the page shows it.
        title: of the page.
        bases: base methods, the rows' names.
        beside: a page of the same study on other images, whose verdicts are shown beside these, or None.
    """

    page = "decoys"

    def __init__(
        self,
        *,
        commands: Sequence[str],
        setting: Mapping[str, str] | None = None,
        title: str = "Do ranges over decoys make better maps?",
        bases: Sequence[str] = ("gradient", "smooth_grad", "integrated_gradients"),
        beside: Path | str | None = None,
    ) -> None:
        super().__init__(commands=commands, setting=setting)
        self.bases = tuple(bases)
        self.title, self.beside = title, None if beside is None else Path(beside)

    def result(self, evaluation: Evaluation) -> StudyResult:
        """Five claims: fidelity, attacks, attacks on the range itself, features kept, range against mean."""
        read = DecoyComparisons(Scores(evaluation), self.bases, ATTACKS)
        findings = tuple(read.findings())
        words = "; ".join(f"{finding.claim.lower()}: {finding.verdict}" for finding in findings)
        setting = {
            **self.setting,
            "images": _counts(read),
            "attacks": f"{quoted(ATTACKS)}; direction, budget, steps and aim: {quoted(read.attack_names())}",
            "intervals": INTERVALS,
            "comparisons": f"{len(read.differences) + len(self.bases)}, each with its own interval: a"
            " lone `better` or `worse` is weak evidence",
        }
        summary = f"{words[:1].upper()}{words[1:]}."
        figures = {"differences": read.picture(), **attacked_figure(evaluation)}
        values = {"title": self.title, **read.tables()}
        judged = self.judged(findings, summary=summary, setting=setting, values=values, figures=figures)
        if self.beside is None:
            return judged
        return replace(judged, sections=(_beside(findings, self.beside), *judged.sections))


def _counts(read: DecoyComparisons) -> str:
    """Numbers of images: all, those with attacks, and those with attacks on the decoys' own maps."""
    base = read.bases[0]
    own = base + OURS
    images = read.scores.values(base, read.name(base, FIDELITY_TITLE))
    attacked = len(read.scores.values(base, read.name(base, read.sensitivities[0])))
    aimed = len(read.scores.values(own, read.name(own, OWN_TITLE)))
    some = f"{attacked} of them for attacks; " if attacked < len(images) else ""
    return f"{counted_images(images)}; {some}{aimed} of them for attacks on the decoys' own maps"


def _beside(findings: Sequence[Finding], page: Path) -> Section:
    """The verdicts of another page beside these."""
    others = verdicts_of_page(page)
    rows = []
    for finding in findings:
        verdict, evidence = others.get(finding.claim, ("not asked", ""))
        change = "the same" if verdict == finding.verdict else "changes"
        rows.append([finding.claim, finding.verdict, finding.evidence, verdict, evidence, change])
    there = f"[there]({page.name})"
    return Section(
        "What changes",
        f"The same claims and rules, here and {there}:\n\n"
        + table(["claim", "here", "evidence here", "there", "evidence there", ""], rows),
    )
