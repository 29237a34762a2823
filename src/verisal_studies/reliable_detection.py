"""The study of masks that answer reliably and give attacks away, after Wang et al. 2020."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, final

from verisal.errors import ConfigError
from verisal.results import Evaluation, Score
from verisal_studies.figures import dots_pixels
from verisal_studies.scores import INTERVALS, Scores, cell, difference_word, is_defined, quoted, table
from verisal_studies.study import Finding, Study, StudyResult, verdict_of

_USABLE: Final = 0.9
_COLUMNS: Final = ("mean_seen", "mean_unseen", "worst_unseen")


@final
class ReliableDetection(Study):
    """Detection of attacks by a network on hierarchical masks, against its competitors.

    Reads the result of :class:`.TransferTask`, whose head row must be ``masks``, so that the differences from
    every other row are there.

    Args:
        commands: the ones that make the page again.
        setting: what was measured on what, name to value.
        masks: the row of the network on masks, the task's head.
        published: the row of the network on masks of the image alone (the published form).
        controls: rows that read what the masks are made from.

    Raises:
        ConfigError: no controls.

    References:
        wang2020haf
    """

    page = "reliable_detection"

    def __init__(
        self,
        *,
        commands: Sequence[str],
        setting: Mapping[str, str],
        masks: str = "masks",
        published: str = "masks_unmoved",
        controls: Sequence[str] = ("activations", "raw_residuals", "gradient", "salient_pixels"),
    ) -> None:
        super().__init__(commands=commands, setting=setting)
        if not controls:
            raise ConfigError("the study compares masks with controls, found none")
        self.masks, self.published, self.controls = masks, published, tuple(controls)

    def result(self, evaluation: Evaluation) -> StudyResult:
        """Four claims: two detectors on masks, ahead of controls, ahead of comparison detectors."""
        scores = Scores(evaluation)
        full = (name for name in evaluation.scores if name.column == "auroc/mean_unseen")
        rows = list(dict.fromkeys(name.row for name in full))
        for row in (self.masks, self.published, *self.controls):
            if row not in rows:
                raise ConfigError(
                    f"the study reads detector {row!r}, which the evaluation lacks; it has {rows}; give the"
                    " task the detectors of the study's configuration"
                )
        remedy = f"is {self.masks!r} the head?"
        ahead = {
            row: scores.reported(f"{self.masks}_minus_{row}", "difference/mean_unseen", remedy=remedy)
            for row in rows
            if row != self.masks
        }
        rivals = [row for row in ahead if row not in (*self.controls, self.published)]
        findings = (
            _detects(scores, self.masks, "both views"),
            _detects(scores, self.published, "the image alone (the published form)"),
            self._beats(ahead, self.controls, "what the masks are made from", "control"),
            self._beats(ahead, rivals, "every comparison detector", "comparison detector"),
        )
        words = [difference_word(score, "high") for score in ahead.values()]
        summary = (
            f"Mean AUROC over unseen families {cell(scores.reported(self.masks, 'auroc/mean_unseen'))}; ahead"
            f" of {words.count('better')} of {len(words)} other detectors, behind {words.count('worse')}, the"
            " rest open. No attacker here knows the detector."
        )
        setting = {
            **self.setting,
            "test images": f"{evaluation.counts.get('clean', 0)} clean ones that are classified correctly",
            "detectors": quoted(rows),
            "intervals": INTERVALS,
        }
        areas = {row: {name: scores.reported(row, f"auroc/{name}") for name in _COLUMNS} for row in rows}
        means = {row: own["mean_unseen"] for row, own in areas.items()}
        # What is undefined comes last.
        rows.sort(key=lambda row: (not is_defined(means[row]), -means[row].value))
        lines = {
            row: [
                *map(cell, areas[row].values()),
                cell(scores.reported(row, "fpr/clean")),
                cell(ahead[row]) if row in ahead else "",
            ]
            for row in rows
        }
        header = ["", "seen ↑", "mean unseen ↑", "worst unseen ↑", "FPR clean", f"`{self.masks}` minus it"]
        picture = dots_pixels(
            {
                row.replace("_", " "): {name.replace("_", " "): one for name, one in areas[row].items()}
                for row in rows
            },
            title="Detecting attacks of families that were fitted or not (right is good)",
            label="AUROC, 95 % interval; 0.5 is chance",
            line=0.5,
        )
        return self.judged(
            findings,
            summary=summary,
            setting=setting,
            values={"differences": len(ahead), "detectors": table(header, lines)},
            figures={"detectors": picture},
        )

    def _beats(self, ahead: Mapping[str, Score], rows: Sequence[str], over: str, each: str) -> Finding:
        words = {row: difference_word(ahead[row], "high") for row in rows}
        better = [row for row, word in words.items() if word == "better"]
        worse = quoted(row for row, word in words.items() if word == "worse")
        known = [row for row in rows if is_defined(ahead[row])]
        closest = min(known, key=lambda row: ahead[row].value, default="")
        near = f"; the nearest or best is `{closest}`, difference {cell(ahead[closest])}" if closest else ""
        return Finding(
            f"`{self.masks}` is ahead of {over}.",
            "the paired difference of the mean AUROC over unseen families lies above 0 with its whole"
            f" interval for every {each}; in part if for some",
            verdict_of([row in better for row in rows]),
            f"ahead of {len(better)} of {len(rows)}{f', behind {worse}' if worse else ''}{near}.",
        )


def _detects(scores: Scores, row: str, views: str) -> Finding:
    areas = {column: scores.reported(row, f"auroc/{column}") for column in _COLUMNS}
    listed = ", ".join(f"{column.replace('_', ' ')} {cell(score)}" for column, score in areas.items())
    return Finding(
        f"A simple network on hierarchical masks of {views} detects attacks, even of unseen families"
        f" (`{row}`).",
        f"AUROC is at least {_USABLE:g} with its whole interval, as the mean over seen families, the mean"
        " over unseen ones and the worst unseen one; in part if for one or two of these",
        verdict_of([score.low >= _USABLE for score in areas.values()]),
        f"AUROC {listed}.",
    )
