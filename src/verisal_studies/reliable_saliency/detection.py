"""Do masks that answer reliably also give attacks away? After Wang et al. 2020."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import final

from verisal.errors import ConfigError
from verisal.results import Evaluation, Score
from verisal_studies.figures import dots_pixels
from verisal_studies.scores import cell, difference_word, table
from verisal_studies.study import Finding, Section, Study, StudyFigure, StudyResult, Verdict

__all__ = ["ReliableDetection"]

_CLAIM = (
    "A simple convolutional network that reads hierarchical attribution masks detects adversarial inputs. Of"
    " the paper only the abstract was read: its detector, data, attacks and numbers are unknown, and none is"
    " repeated."
)
_USABLE = 0.9


@final
class ReliableDetection(Study):
    """Whether a network on hierarchical masks detects attacks, and better than what it competes with.

    Reads what :class:`.TransferTask` found; its head row must be ``masks``, so that differences
    to every other row are there.

    Args:
        command: that makes the page again.
        setting: what was measured on what, name to value.
        masks: the row of the network on masks, the task's head.
        published: the row of the network on masks of the image alone, the published form.
        controls: rows that are the same network on what the masks are made from.

    Raises:
        ConfigError: no controls.

    References:
        wang2020haf
    """

    def __init__(
        self,
        *,
        command: str,
        setting: Mapping[str, str],
        masks: str = "masks",
        published: str = "masks_unmoved",
        controls: Sequence[str] = ("activations", "raw_image", "gradient", "salient_pixels"),
    ) -> None:
        if not controls:
            raise ConfigError("the study compares masks with controls, found none")
        self.command, self.setting, self.controls = command, dict(setting), tuple(controls)
        self.masks, self.published = masks, published

    def result(self, found: Evaluation) -> StudyResult:
        """The claims, judged by intervals.

        Raises:
            ConfigError: the evaluation lacks scores that the study reads.
        """
        rows = list(
            dict.fromkeys(name.split("/")[1] for name in found.scores if "/auroc/mean_unseen" in name)
        )
        for row in (self.masks, self.published, *self.controls):
            if row not in rows:
                raise ConfigError(
                    f"the study reads detector {row!r}, which the evaluation lacks; it has {rows}; give the"
                    " task the detectors of the study's configuration"
                )
        ahead = {row: self._difference(found, row, "mean_unseen") for row in rows if row != self.masks}
        rivals = [row for row in ahead if row not in (*self.controls, self.published)]
        judged = (
            self._detects(found, self.masks, "both views"),
            self._detects(found, self.published, "the image alone, the published form"),
            self._beats(ahead, self.controls, "what the masks are made from", "control"),
            self._beats(ahead, rivals, "every comparison detector", "comparison detector"),
        )
        return StudyResult(
            title="Do hierarchical masks give attacks away?",
            claim=_CLAIM,
            commands=(self.command,),
            setting={
                **self.setting,
                "test images": f"{found.counts.get('clean', 0)} clean ones that are classified correctly",
                "detectors": ", ".join(f"`{row}`" for row in rows),
                "intervals": "95 %, percentile bootstrap over images; differences are paired",
            },
            findings=judged,
            summary=self._summary(found, ahead),
            sections=self._sections(found, rows, ahead),
        )

    def _score(self, found: Evaluation, row: str, name: str) -> Score:
        full = f"{found.split}/{row}/{name}"
        if full not in found.scores:
            raise ConfigError(
                f"the study reads {full!r}, which the evaluation lacks; is {self.masks!r} the head?"
            )
        return found.scores[full]

    def _difference(self, found: Evaluation, row: str, column: str) -> Score:
        return self._score(found, f"{self.masks}_minus_{row}", f"difference/{column}")

    def _detects(self, found: Evaluation, row: str, said: str) -> Finding:
        columns = ("mean_seen", "mean_unseen", "worst_unseen")
        scores = {column: self._score(found, row, f"auroc/{column}") for column in columns}
        held = [score.low >= _USABLE for score in scores.values()]
        verdict: Verdict = "holds" if all(held) else "holds in part" if any(held) else "does not hold here"
        listed = ", ".join(f"{column.replace('_', ' ')} {cell(score)}" for column, score in scores.items())
        return Finding(
            f"A simple network on hierarchical masks of {said} detects attacks, of unseen families too"
            f" (`{row}`).",
            f"AUROC is at least {_USABLE:g} with its whole interval, as the mean over seen families, the mean"
            " over unseen ones and the worst unseen one; in part if for one or two of these",
            verdict,
            f"AUROC {listed}.",
        )

    def _beats(self, ahead: Mapping[str, Score], rows: Sequence[str], said: str, one: str) -> Finding:
        words = {row: difference_word(ahead[row], "high") for row in rows}
        better = [row for row, word in words.items() if word == "better"]
        worse = [row for row, word in words.items() if word == "worse"]
        verdict: Verdict = "cannot be said"
        if rows:
            verdict = (
                "holds" if len(better) == len(rows) else "holds in part" if better else "does not hold here"
            )
        known = [row for row in rows if not math.isnan(ahead[row].value)]
        closest = min(known, key=lambda row: ahead[row].value, default="")
        near = f"; the nearest or best is `{closest}`, difference {cell(ahead[closest])}" if closest else ""
        behind = f", behind {', '.join(f'`{row}`' for row in worse)}" if worse else ""
        return Finding(
            f"`{self.masks}` is ahead of {said}.",
            "the paired difference of the mean AUROC over unseen families lies above 0 with its whole"
            f" interval for every {one}; in part if for some",
            verdict,
            f"ahead of {len(better)} of {len(rows)}{behind}{near}.",
        )

    def _summary(self, found: Evaluation, ahead: Mapping[str, Score]) -> str:
        own = self._score(found, self.masks, "auroc/mean_unseen")
        words = [difference_word(score, "high") for score in ahead.values()]
        return (
            f"Mean AUROC over unseen families {cell(own)}; ahead of {words.count('better')} of {len(words)}"
            f" other detectors, behind {words.count('worse')}, the rest open. Nothing here was attacked by"
            " someone who knows the detector."
        )

    def _sections(
        self, found: Evaluation, rows: Sequence[str], ahead: Mapping[str, Score]
    ) -> tuple[Section, ...]:
        columns = ("mean_seen", "mean_unseen", "worst_unseen")
        means = {row: self._score(found, row, "auroc/mean_unseen").value for row in rows}
        # What is undefined comes last.
        ordered = sorted(rows, key=lambda row: (math.isnan(means[row]), -means[row]))
        scores = {
            row: {name: self._score(found, row, f"auroc/{name}") for name in columns} for row in ordered
        }
        figure = StudyFigure(
            "detectors",
            "AUROC of every detector on seen and unseen families of attacks",
            dots_pixels(
                {
                    row.replace("_", " "): {name.replace("_", " "): one for name, one in own.items()}
                    for row, own in scores.items()
                },
                title="Detecting attacks of families that were fitted or not (right is good)",
                label="AUROC, 95 % interval; 0.5 is chance",
                line=0.5,
            ),
        )
        header = ["", "seen ↑", "mean unseen ↑", "worst unseen ↑", "FPR clean", f"`{self.masks}` minus it"]
        lines = {
            f"`{row}`": [
                *(cell(one) for one in own.values()),
                cell(self._score(found, row, "fpr/clean")),
                cell(ahead[row]) if row in ahead else "",
            ]
            for row, own in scores.items()
        }
        caution = (
            "Seen families are those of which an attack was fitted; only successful attacks count, each"
            " paired with its clean image. FPR is the realised share of false alarms at the threshold for 5 %"
            " on other images. These attackers do not know the detector; what is left with those who do, say"
            f" [adaptive attacks](../adaptive.md). {len(ahead)} differences were judged, each by its own"
            " interval, without correction."
        )
        return (Section("Detectors", f"{caution}\n\n{table(header, lines)}", (figure,)),)
