"""Turns gathered detector scores into the evaluation that is reported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from verisal.detection import DetectorData
from verisal.detection.attacked_images import GroupTable
from verisal.detection.metric import DetectionTable
from verisal.detection.table import detection_curves, detection_histogram, detection_report, threshold_notes
from verisal.functional.statistics.resampled import Bootstrap
from verisal.results import Evaluation, MaskPanel
from verisal.saliency.gates.masks import fuse_layers, resize_maps

__all__ = ["build_evaluation", "mean_auroc"]

_PANELS_PER_ATTACK = 2
_PANEL_ATTACKS = 3


def build_evaluation(
    split: str,
    table: DetectionTable,
    groups: GroupTable,
    *,
    rows: Sequence[str],
    thresholds: Mapping[str, Mapping[float, float | None]],
    bootstrap: Bootstrap,
    head: str,
    negatives: int,
    data: DetectorData,
) -> Evaluation:
    """Scores, curves, histograms, panels and the per-image table of one split.

    Args:
        split: ``val`` or ``test``.
        table: every row's scores of every image of every group.
        groups: the images, groups and features that were scored.
        rows: names in the order of the table.
        thresholds: row to rate to threshold, from validation.
        bootstrap: of the images; without resamples there are no intervals.
        head: row whose scores the panels' captions give.
        negatives: clean validation images that the thresholds were made from.
        data: names images and classes.
    """
    names = dict(enumerate(groups.groups))
    scores = detection_report(
        table, split=split, rows=rows, groups=names, roles=groups.roles, thresholds=thresholds,
        bootstrap=bootstrap,
    )  # fmt: skip
    whole = bootstrap.resamples > 0
    return Evaluation(
        split=split,
        scores=scores,
        counts=groups.counts(),
        curves=detection_curves(table, rows=rows, groups=names, roles=groups.roles),
        histograms=tuple(
            detection_histogram(table, row=index, name=row, groups=names, thresholds=thresholds[row])
            for index, row in enumerate(rows)
        )
        if whole
        else (),
        panels=_panels(split, table, groups, row=list(rows).index(head), data=data),
        samples=_samples(split, table, groups, rows, data) if whole else {},
        notes=_notes(groups, thresholds, negatives=negatives),
    )


def mean_auroc(evaluation: Evaluation, row: str) -> float:
    """Mean over attacks of a row's AUROC; attacks without a success are left out.

    Minus infinity, the worst, where none is left or one is undefined although it has images: a row that
    cannot score the hardest attack must not look better for it.
    """
    named = evaluation.scores.items()
    scores = [score for name, score in named if (name.row, name.metric) == (row, "auroc")]
    asked = [score.value for score in scores if score.n + score.undefined]
    return sum(asked) / len(asked) if asked and not any(map(math.isnan, asked)) else -math.inf


def _notes(
    groups: GroupTable, thresholds: Mapping[str, Mapping[float, float | None]], *, negatives: int
) -> tuple[str, ...]:
    rates = [
        f"{name}: success rate {before:.1%} before and {after:.1%} after rounding to 8 bits"
        for name, (before, after) in groups.attack_rates.items()
    ]
    return (*threshold_notes(thresholds, negatives), *rates)


def _samples(
    split: str, table: DetectionTable, groups: GroupTable, rows: Sequence[str], data: DetectorData
) -> dict[str, Sequence[object]]:
    columns: dict[str, Sequence[object]] = {
        "image_id": [data.image_id(split, index) for index in table.image_index.tolist()],
        "group": [groups.groups[index] for index in table.group.tolist()],
    }
    return columns | {row: table.row_scores(index).tolist() for index, row in enumerate(rows)}


def _panels(
    split: str, table: DetectionTable, groups: GroupTable, *, row: int, data: DetectorData
) -> tuple[MaskPanel, ...]:
    """The first images of the last attacks of the list that succeeded: the same ones in every run."""
    attacks = [name for name in groups.groups if groups.roles[name] == "attack"]
    clean = groups.groups.index("clean")
    chosen: list[tuple[int, int]] = []
    for attack in attacks[-_PANEL_ATTACKS:]:
        number = groups.groups.index(attack)
        first = groups.image_index[groups.group == number][:_PANELS_PER_ATTACK]
        chosen += [(index, number) for index in first.tolist()]
    return tuple(
        _panel(split, table, groups, index=index, attack=attack, clean=clean, row=row, data=data)
        for index, attack in chosen
    )


def _panel(
    split: str, table: DetectionTable, groups: GroupTable, *, index: int, attack: int, clean: int, row: int,
    data: DetectorData,
) -> MaskPanel:  # fmt: skip
    sides = []
    for group in (clean, attack):
        at = int(((groups.group == group) & (groups.image_index == index)).nonzero()[0])
        scored = table.of_group(group)
        score = float(scored.row_scores(row)[scored.image_index == index][0])
        image = groups.features["image"][at].float() / 255
        layers = {
            stage: groups.features[f"masks/{data.features.queries[0]}/{number}"][at, 0].float()
            for number, stage in enumerate(data.stages, start=1)
        }
        said = data.classifier.class_names[int(groups.features["prediction"][at])]
        sides.append((image, layers, _fused(list(layers.values()), image), said, score))
    (before, before_layers, before_fused, before_said, before_score) = sides[0]
    (after, after_layers, after_fused, after_said, after_score) = sides[1]
    return MaskPanel(
        image_id=data.image_id(split, index),
        attack=groups.groups[attack],
        clean=before,
        attacked=after,
        clean_layers=before_layers,
        attacked_layers=after_layers,
        clean_fused=before_fused,
        attacked_fused=after_fused,
        caption=f"{before_said} (score {before_score:.2f}) -> {after_said} (score {after_score:.2f})",
    )


def _fused(layers: Sequence[Tensor], image: Tensor) -> Tensor:
    size = (image.shape[-2], image.shape[-1])
    upsampled = [resize_maps(layer[None, None], size) for layer in layers]
    return torch.squeeze(fuse_layers(upsampled, "geometric"))
