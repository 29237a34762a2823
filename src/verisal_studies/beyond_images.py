"""The study of decoys beyond images: rows of tables and embedded texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, final

from verisal.errors import ConfigError
from verisal.results import Evaluation
from verisal_studies.decoy_claims import OURS, DecoyComparisons
from verisal_studies.scores import INTERVALS, Scores, cell, quoted, table
from verisal_studies.study import Finding, Study, StudyResult

_KINDS: Final = ("top_k",)


@final
class DecoysBeyondImages(Study):
    """Ranges over decoys of inputs that are not images, against the base method and every control.

    Reads what :func:`.array_inputs.score` collects. Of the attacks on maps only ``top_k`` carries over: a
    centre of mass and a corner mean nothing where positions have no order.

    Args:
        commands: the ones that make the page again.
        inputs: from a kind of input, as the page calls it, to its data sets.
        bases: base methods.
        setting: what was measured on what, name to value, as the page shows it.

    Raises:
        ConfigError: no kind of input, or one without a data set.
    """

    page = "decoys_beyond_images"

    def __init__(
        self,
        *,
        commands: Sequence[str],
        inputs: Mapping[str, Sequence[str]],
        bases: Sequence[str],
        setting: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(commands=commands, setting=setting)
        if not inputs or not all(inputs.values()):
            raise ConfigError(f"inputs must name data sets of at least one kind, found {dict(inputs)}")
        self.inputs = {kind: tuple(names) for kind, names in inputs.items()}
        self.bases = tuple(bases)

    def result(self, evaluation: Evaluation) -> StudyResult:
        """The five claims of the study on images, for every kind of input."""
        scores = Scores(evaluation)
        rows = {
            kind: [f"{data}/{base}" for data in names for base in self.bases]
            for kind, names in self.inputs.items()
        }
        findings, words = [], []
        for kind, own in rows.items():
            found = [
                replace(finding, claim=f"{kind}: {finding.claim[:1].lower()}{finding.claim[1:]}")
                for finding in DecoyComparisons(scores, own, _KINDS).findings()
            ]
            findings += found
            words.append(f"{kind}: {_in_words(found)}")
        read = DecoyComparisons(scores, [row for own in rows.values() for row in own], _KINDS)
        counts = (
            f"{len(scores.values(f'{name}/{self.bases[0]}', 'constant map'))} of `{name}`"
            for names in self.inputs.values()
            for name in names
        )
        setting = {
            **self.setting,
            "inputs": ", ".join(counts),
            "attacks": f"direction, budget, steps and aim: {quoted(read.attack_names())}",
            "intervals": INTERVALS,
            "comparisons": f"{len(read.differences) + len(read.bases)}, each with its own interval: a"
            " lone `better` or `worse` is weak evidence",
        }
        values = {
            **read.tables(),
            "constant": self._constant(scores, read.bases),
            "reach": self._reach(scores),
        }
        return self.judged(
            findings,
            summary=f"{'; '.join(words)}.",
            setting=setting,
            values=values,
            figures={"differences": read.picture()},
        )

    def _constant(self, scores: Scores, bases: Sequence[str]) -> str:
        """Share of constant maps, and how alike ranges over decoys and over noise are."""
        rows = {}
        for base in bases:
            shares = [cell(scores.mean(row, "constant map")) for row in (base, base + OURS)]
            rows[base] = [*shares, cell(scores.mean(base + OURS, "likeness to noise"))]
        return table(["base", "constant, base", "constant, range over decoys", "likeness to noise"], rows)

    def _reach(self, scores: Scores) -> str:
        """How far decoys and noise of their size go, by tolerance."""
        rows = []
        for names in self.inputs.values():
            for name in names:
                tolerances = [
                    row.split(" ", 1)[1] for row in scores.rows() if row.startswith(f"{name}/decoy ")
                ]
                for tolerance in tolerances:
                    decoy, noise = (f"{name}/{kind} {tolerance}" for kind in ("decoy", "noise"))
                    cells = (
                        cell(scores.mean(row, score))
                        for row, score in (
                            (decoy, "deviation"),
                            (decoy, "infeasible"),
                            (noise, "infeasible"),
                            (decoy, "top1_agreement"),
                        )
                    )
                    rows.append([f"`{name}`", tolerance, *cells])
        return table(
            ["data", "tolerance", "deviation", "no decoy", "noise leaves the tolerance", "same prediction"],
            rows,
        )


def _in_words(findings: Sequence[Finding]) -> str:
    verdicts = [finding.verdict for finding in findings]
    return ", ".join(
        f"{verdicts.count(verdict)} of {len(verdicts)} {'claims' if len(verdicts) > 1 else 'claim'} {words}"
        for verdict, words in (
            ("holds", "hold"),
            ("holds in part", "hold in part"),
            ("does not hold here", "do not hold"),
            ("cannot be said", "cannot be judged"),
        )
        if verdict in verdicts
    )
