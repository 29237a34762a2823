"""Turns the scores of the transfer study into the evaluation that is reported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from verisal.detection import TransferData
from verisal.detection.attacked_images import GroupTable
from verisal.detection.end_to_end import end_to_end, strongest
from verisal.detection.families import Families, transfer_report
from verisal.detection.metric import DetectionTable
from verisal.detection.table import detection_curves, detection_report, threshold_notes
from verisal.functional.statistics.resampled import Bootstrap, Resampled
from verisal.results import Evaluation, Heatmap, Score, ScoreName

__all__ = ["TransferResult", "build_transfer_evaluation"]

_RATE = 0.05
_HEADLINE = {
    "mean unseen": "auroc/mean_unseen",
    "worst unseen": "auroc/worst_unseen",
    "TPR mean unseen": "tpr_at_fpr5/mean_unseen",
    "TPR worst unseen": "tpr_at_fpr5/worst_unseen",
    "FPR clean": "fpr/clean",
    "FPR worst benign": "fpr/worst_benign",
    "right or rejected": "end_to_end/right_or_rejected",
}


@dataclass(frozen=True)
class TransferResult:
    """What the cells of the study found.

    Attributes:
        tables: fit to the test scores of all rows, one member per seed.
        thresholds: fit to row to rate to threshold, from clean validation images.
        groups: rows of the test split, in the order of the tables.
        negatives: clean validation images that the thresholds were made from.
        timings: what was timed.
    """

    tables: Mapping[str, DetectionTable]
    thresholds: Mapping[str, Mapping[str, Mapping[float, float | None]]]
    groups: GroupTable
    negatives: int
    timings: Mapping[str, float]


def build_transfer_evaluation(
    result: TransferResult,
    data: TransferData,
    *,
    rows: Sequence[str],
    head: str,
    default: str,
    bootstrap: Bootstrap,
) -> Evaluation:
    """Scores, figures and the per-image table of the study.

    Args:
        result: of the cells.
        data: names families and images.
        rows: names in the order of the tables.
        head: row that the others are compared with.
        default: fit of the main columns.
        bootstrap: of the images.
    """
    groups, table, thresholds = result.groups, result.tables[default], result.thresholds[default]
    names = dict(enumerate(groups.groups))
    scores = transfer_report(
        result.tables, data.families, split="test", rows=rows, groups=names,
        clean=groups.groups.index("clean"), thresholds=result.thresholds, default=default, head=head,
        bootstrap=bootstrap,
    )  # fmt: skip
    scores |= detection_report(
        table, split="test", rows=rows, groups=names, roles=groups.roles, thresholds=thresholds,
        bootstrap=bootstrap,
    )  # fmt: skip
    for index, row in enumerate(rows):
        scores |= _worst_benign(scores, row, groups, bootstrap)
        at = thresholds[row].get(_RATE)
        if at is not None:
            scores |= _worst_case(table, index, row, groups, at, bootstrap)
    return Evaluation(
        split="test",
        scores=scores,
        counts=groups.counts(),
        curves=detection_curves(table, rows=rows, groups=names, roles=groups.roles),
        heatmaps=_heatmaps(scores, data.families, rows=rows, head=head, default=default),
        samples=_samples(table, groups, rows, data),
        timings=result.timings,
        notes=(
            *threshold_notes(thresholds, result.negatives),
            *(
                f"{name}: success rate {before:.1%} before and {after:.1%} after rounding to 8 bits"
                for name, (before, after) in groups.attack_rates.items()
            ),
        ),
        headline=_HEADLINE,
    )


def _falling(value: float) -> float:
    """Key of an order from the greatest to the least, with what is undefined last."""
    return math.inf if math.isnan(value) else -value


def _worst_benign(
    scores: Mapping[ScoreName, Score], row: str, groups: GroupTable, bootstrap: Bootstrap
) -> dict[ScoreName, Score]:
    """The highest rate of false alarms on a noisy or corrupted group; misclassified images stay apart."""
    names = [
        name
        for name, role in groups.roles.items()
        if role == "benign" and not name.endswith("_misclassified")
    ]
    found = [scores[ScoreName("test", row, "fpr", name)] for name in names]
    asked = [score for score in found if score.n + score.undefined]
    if not asked:
        return {}
    # Undefined for one group, undefined for the worst of all.
    parts = [bootstrap.rate(score.value, score.n, score.undefined) for score in asked]
    return {ScoreName("test", row, "fpr", "worst_benign"): Resampled.greatest(parts).score()}


def _worst_case(
    table: DetectionTable,
    index: int,
    row: str,
    groups: GroupTable,
    threshold: float,
    bootstrap: Bootstrap,
) -> dict[ScoreName, Score]:
    """Classifier and detector together, each image under the attack that is worst for it."""
    clean = table.of_group(groups.groups.index("clean"))
    place = {image: position for position, image in enumerate(clean.image_index.tolist())}
    attacks = [number for number, name in enumerate(groups.groups) if groups.roles[name] == "attack"]
    fooled = torch.zeros(len(attacks), len(clean), dtype=torch.bool)
    scored = torch.full((len(attacks), len(clean)), torch.nan, dtype=torch.float64)
    for position, number in enumerate(attacks):
        part = table.of_group(number)
        at = torch.tensor([place[image] for image in part.image_index.tolist()], dtype=torch.int64)
        fooled[position, at] = True
        scored[position, at] = part.row_scores(index)
    worst = strongest(fooled, scored)
    found = end_to_end(worst.fooled, worst.score, clean.row_scores(index), threshold, bootstrap)
    return {ScoreName("test", row, "end_to_end", name): score for name, score in vars(found).items()}


def _heatmaps(
    scores: Mapping[ScoreName, Score], families: Families, *, rows: Sequence[str], head: str, default: str
) -> tuple[Heatmap, ...]:
    columns = (*families.attacks, "mean_unseen", "worst_unseen")

    def of(row: str, fit: str, column: str) -> float:
        score = scores.get(ScoreName("test", row, f"auroc_fitted_on_{fit}", column))
        return math.nan if score is None else score.value

    fits = tuple(families.fits)
    seen = torch.tensor([[column in families.seen(fit) for column in columns] for fit in fits])
    matrix = Heatmap(
        figure=f"transfer_{head}",
        title=f"AUROC of {head}",
        rows=fits,
        columns=columns,
        values=torch.tensor([[of(head, fit, column) for column in columns] for fit in fits]),
        limits=(0.5, 1.0),
        row_label="fitted on",
        column_label="family of attacks",
        marked=seen,
        caption="Framed: the fit has seen attacks of this family.",
    )
    ordered = sorted(rows, key=lambda row: _falling(of(row, default, "mean_unseen")))
    compared = Heatmap(
        figure="detectors",
        title=f"AUROC of all detectors, fitted on '{default}'",
        rows=tuple(ordered),
        columns=columns,
        values=torch.tensor([[of(row, default, column) for column in columns] for row in ordered]),
        limits=(0.5, 1.0),
        row_label="",
        column_label="family of attacks",
        marked=torch.tensor([[column in families.seen(default) for column in columns] for _ in ordered]),
        caption="Framed: families of which an attack was fitted. Best mean over unseen families first.",
    )
    return matrix, compared


def _samples(
    table: DetectionTable, groups: GroupTable, rows: Sequence[str], data: TransferData
) -> dict[str, Sequence[object]]:
    columns: dict[str, Sequence[object]] = {
        "image_id": [data.image_id("det_test", index) for index in table.image_index.tolist()],
        "group": [groups.groups[index] for index in table.group.tolist()],
    }
    return columns | {row: table.row_scores(index).tolist() for index, row in enumerate(rows)}
