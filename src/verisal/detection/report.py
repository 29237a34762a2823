"""The report of detectors on one split: scores, curves, heat maps, pictures and the per-image table."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from verisal._brief import brief
from verisal.detection.data import SPLITS, DetectorData
from verisal.detection.end_to_end import end_to_end, strongest
from verisal.detection.families import Families, transfer_report
from verisal.detection.groups import GroupTable
from verisal.detection.metric import DetectionTable
from verisal.detection.table import (
    RATES,
    Thresholds,
    detection_curves,
    detection_histogram,
    detection_report,
    threshold_notes,
)
from verisal.detection.words import detection_summary
from verisal.detectors import Detector, KernelDensity
from verisal.detectors.untrained import UntrainedDetector
from verisal.fingerprint import canonical
from verisal.functional.networks import uncompiled
from verisal.functional.statistics import Bootstrap, Drift, Resampled, ScoreSample
from verisal.models import Classifier
from verisal.pictures import OPACITY
from verisal.results import Evaluation, Heatmap, MaskPanel, Score, ScoreName
from verisal.saliency.gates.masks import fuse_layers, resize_maps

_PANELS_PER_ATTACK, _PANEL_ATTACKS = 2, 3
# Share of the images below which an attack hardly succeeds.
_FEW = 0.1


@dataclass(frozen=True, kw_only=True)
class DetectionResult:
    """Scores of all rows on one split.

    Attributes:
        split: ``det_val`` or ``det_test``.
        rows: names of the detectors in the order of the tables.
        head: the row that the others are compared with, and whose scores pictures show.
        default: the fit of the main columns.
        tables: fit to the scores of all rows.
        thresholds: fit to row to rate to threshold, from clean validation images.
        negatives: clean validation images that the thresholds were made from.
        masks: what a row with masks reads, the head if it has any, for pictures of them.
        timings: what was timed.
        learned: rows that learn from attacked images; see :func:`learned_rows`.
        clean_scores: row to what is known of the scores that set its threshold.
        opacity: of fused maps over images in pictures, in [0, 1]; 0 for no such pictures.
    """

    split: Literal["det_val", "det_test"]
    rows: Sequence[str]
    head: str
    default: str
    tables: Mapping[str, DetectionTable]
    thresholds: Mapping[str, Thresholds]
    negatives: int
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    learned: Collection[str] = ()
    clean_scores: Mapping[str, ScoreSample] = field(default_factory=dict)
    opacity: float = OPACITY

    __repr__ = brief


def build_evaluation(found: DetectionResult, data: DetectorData, bootstrap: Bootstrap) -> Evaluation:
    """The report of a split.

    Args:
        found: scores and thresholds.
        data: groups, families and names of the images.
        bootstrap: of the images; without resamples there are no intervals, histograms and per-image table.
    """
    split, groups = SPLITS[found.split], data.groups(found.split)
    names = dict(enumerate(groups.groups))
    table, thresholds = found.tables[found.default], found.thresholds[found.default]
    scores: dict[ScoreName, Score] = {}
    attacks = [number for number, name in names.items() if groups.roles[name] == "attack"]
    # A validation may be cut short before its attacked images.
    if bool(torch.isin(table.group, torch.tensor(attacks)).any()):
        families = data.families.among(groups.groups, found.tables)
        scores = transfer_report(
            found.tables, families, split=split, rows=found.rows, groups=names,
            clean=groups.groups.index("clean"), thresholds=found.thresholds, default=found.default,
            head=found.head, bootstrap=bootstrap,
        )  # fmt: skip
    scores |= detection_report(
        table, split=split, rows=found.rows, groups=names, roles=groups.roles, thresholds=thresholds,
        bootstrap=bootstrap, noise_of=groups.noise_of,
    )  # fmt: skip
    for index, row in enumerate(found.rows):
        scores |= _worst_benign(scores, split, row, groups, bootstrap)
        at = thresholds[row][RATES[0]]
        if at is not None:
            left = _worst_case(table, index, groups, at, bootstrap)
            scores |= {ScoreName(split, row, "end_to_end", name): score for name, score in left.items()}
    histograms = [
        detection_histogram(
            table, row=index, name=row, groups=names, roles=groups.roles, thresholds=thresholds[row]
        )
        for index, row in enumerate(found.rows if bootstrap.resamples else ())
    ]
    return Evaluation(
        split=split,
        scores=scores,
        counts=groups.counts(),
        curves=detection_curves(table, rows=found.rows, groups=names, roles=groups.roles),
        histograms=tuple(histograms),
        panels=_panels(found, groups, data),
        heatmaps=_heatmaps(scores, data.families, found) if bootstrap.resamples else (),
        samples=_samples(found, groups, data) if bootstrap.resamples else {},
        timings=found.timings,
        notes=(
            *threshold_notes(thresholds, found.negatives, also=data.threshold_noise),
            *(
                f"{name} fools the classifier on {after:.1%} of the images alone: its numbers are of few"
                for name, (_, after) in groups.attack_rates.items()
                if after < _FEW
            ),
            *_untrained_notes(scores, split, found, data.families),
            *(_drift_notes(table, found, groups) if found.split == "det_test" else ()),
        ),
        settings={
            f"success of {name}": f"{before:.1%} before and {after:.1%} after rounding to 8 bits"
            for name, (before, after) in groups.attack_rates.items()
        },
        summary=detection_summary(
            scores, split=split, rows=found.rows, head=found.head, attacks=[names[one] for one in attacks]
        ),
    )


def learned_rows(detectors: Mapping[str, Detector]) -> tuple[str, ...]:
    """Names of the detectors that learn from attacked images, so that none may be at chance on those."""
    return tuple(
        row for row, one in detectors.items() if not isinstance(one, UntrainedDetector | KernelDensity)
    )


def _untrained_notes(
    scores: Mapping[ScoreName, Score], split: str, found: DetectionResult, families: Families
) -> Iterator[str]:
    """Sentences on rows at chance on attacks that they were fitted on."""
    for row in found.learned:
        missed = {
            attack: score
            for attack in families.fits[found.default]
            if (score := scores.get(ScoreName(split, row, "auroc", attack))) is not None and score.low <= 0.5
        }
        if missed:
            told = ", ".join(f"{name} {score.value:.3f}" for name, score in missed.items())
            yield (
                f"{row} WAS NOT TRAINED: AUROC at chance on attacks that it was fitted on ({told}); its other"
                " numbers say nothing about what it reads. Train it longer, or on more images"
            )


def _drift_notes(table: DetectionTable, found: DetectionResult, groups: GroupTable) -> Iterator[str]:
    """Sentences on rows whose clean scores are others than those that set the threshold."""
    clean = table.of_group(groups.groups.index("clean"))
    for index, row in enumerate(found.rows):
        sample = found.clean_scores.get(row)
        drift = sample.drift(clean.row_scores(index)) if sample else None
        if drift is not None and drift.drifted:
            yield drift_words(row, drift, len(clean), "clean test images")


def drift_words(row: str, drift: Drift, count: int, images: str) -> str:
    """A sentence on scores of ``count`` images that are others than those that set the threshold."""
    return (
        f"{row}: scores of {images} ({count}) are not distributed as those of the clean images that set its"
        f" threshold: their distributions differ by {drift.distance:.2f}, beyond {drift.limit:.2f}. They are"
        " of another kind, or many are attacked; the share of false alarms need not hold for them"
    )


def _worst_benign(
    scores: Mapping[ScoreName, Score], split: str, row: str, groups: GroupTable, bootstrap: Bootstrap
) -> dict[ScoreName, Score]:
    """The highest rate of false alarms on a noisy or corrupted group; misclassified images stay apart."""
    names = [
        name
        for name, role in groups.roles.items()
        if role == "benign" and not name.endswith("_misclassified")
    ]
    rates = [scores[ScoreName(split, row, "fpr", name)] for name in names]
    asked = [score for score in rates if score.n + score.undefined]
    if not asked:
        return {}
    # Undefined for one group, undefined for the worst of all.
    parts = [bootstrap.rate(score.value, score.n, score.undefined) for score in asked]
    return {ScoreName(split, row, "fpr", "worst_benign"): Resampled.greatest(parts).score()}


def _worst_case(
    table: DetectionTable, row: int, groups: GroupTable, threshold: float, bootstrap: Bootstrap
) -> dict[str, Score]:
    """Classifier and detector together, each image under the attack that is worst for it."""
    clean = table.of_group(groups.groups.index("clean"))
    place = {image: position for position, image in enumerate(clean.image_index.tolist())}
    attacks = [number for number, name in enumerate(groups.groups) if groups.roles[name] == "attack"]
    if not attacks:
        return {}
    tried = torch.zeros(len(clean), dtype=torch.bool)
    for number, name in enumerate(groups.groups):
        if groups.roles[name] in ("attack", "failed"):
            tried[[place[image] for image in table.of_group(number).image_index.tolist()]] = True
    fooled = torch.zeros(len(attacks), len(clean), dtype=torch.bool)
    scored = torch.full((len(attacks), len(clean)), torch.nan, dtype=torch.float64)
    for position, number in enumerate(attacks):
        part = table.of_group(number)
        at = torch.tensor([place[image] for image in part.image_index.tolist()], dtype=torch.int64)
        fooled[position, at] = True
        scored[position, at] = part.row_scores(row)
    defined = tried & ~(fooled & scored.isnan()).any(dim=0)
    worst = strongest(fooled[:, defined], scored[:, defined])
    own = clean.row_scores(row)[defined]
    return vars(end_to_end(worst.fooled, worst.score, own, threshold, bootstrap))


def _heatmaps(
    scores: Mapping[ScoreName, Score], families: Families, found: DetectionResult
) -> tuple[Heatmap, ...]:
    """All rows by families, and the head row by fits and families where there are several fits."""
    columns = (*families.attacks, "mean_unseen", "worst_unseen")

    def of(row: str, fit: str, column: str) -> float:
        name = ScoreName(SPLITS[found.split], row, f"auroc_fitted_on_{fit}", column)
        score = scores.get(name)
        return math.nan if score is None else score.value

    def heatmap(
        figure: str, title: str, lines: Mapping[str, tuple[str, str]], label: str, caption: str
    ) -> Heatmap:
        return Heatmap(
            figure=figure,
            title=title,
            rows=tuple(lines),
            columns=columns,
            values=torch.tensor([[of(row, fit, name) for name in columns] for row, fit in lines.values()]),
            limits=(0.5, 1.0),
            row_label=label,
            column_label="family of attacks",
            marked=torch.tensor(
                [[name in families.seen(fit) for name in columns] for _, fit in lines.values()]
            ),
            caption=caption,
        )

    means = {row: of(row, found.default, "mean_unseen") for row in found.rows}
    # The best first, what is undefined last.
    ordered = sorted(found.rows, key=lambda row: math.inf if math.isnan(means[row]) else -means[row])
    compared = heatmap(
        "detectors",
        f"AUROC of all detectors, fitted on '{found.default}'",
        {row: (row, found.default) for row in ordered},
        "",
        "Framed: families of which an attack was fitted. Best mean over unseen families first.",
    )
    if len(found.tables) == 1:
        return (compared,)
    matrix = heatmap(
        f"transfer_{found.head}",
        f"AUROC of {found.head}",
        {fit: (found.head, fit) for fit in found.tables},
        "fitted on",
        "Framed: the fit has seen attacks of this family.",
    )
    return matrix, compared


def _samples(found: DetectionResult, groups: GroupTable, data: DetectorData) -> dict[str, Sequence[object]]:
    table = found.tables[found.default]
    columns: dict[str, Sequence[object]] = {
        "image_id": [data.image_id(found.split, index) for index in table.image_index.tolist()],
        "group": [groups.groups[index] for index in table.group.tolist()],
    }
    return columns | {row: table.row_scores(index).tolist() for index, row in enumerate(found.rows)}


def _panels(found: DetectionResult, groups: GroupTable, data: DetectorData) -> tuple[MaskPanel, ...]:
    """The first images of the last attacks of the list that succeeded: the same ones in every run."""
    queries = [name.split("/")[1] for name in _masks(found) if name.startswith("masks/")]
    if not queries:
        return ()
    query = "prediction" if "prediction" in queries else queries[0]
    attacks = [number for number, name in enumerate(groups.groups) if groups.roles[name] == "attack"]
    table = found.tables[found.default]
    return tuple(
        _panel(found, groups, data, index=index, attack=attack, query=query)
        for attack in attacks[-_PANEL_ATTACKS:]
        for index in table.of_group(attack).image_index[:_PANELS_PER_ATTACK].tolist()
    )


def _masks(found: DetectionResult) -> dict[str, Tensor]:
    """What a row reads, without the numbers that stand before the names of several measurements."""
    return {re.sub(r"^\d+/", "", name): tensor for name, tensor in found.masks.items()}


def _panel(
    found: DetectionResult, groups: GroupTable, data: DetectorData, *, index: int, attack: int, query: str
) -> MaskPanel:
    row, table = list(found.rows).index(found.head), found.tables[found.default]
    masks = _masks(found)
    sides = []
    for group in (groups.groups.index("clean"), attack):
        at = int(((groups.group == group) & (groups.image_index == index)).nonzero()[0])
        scored = table.of_group(group)
        score = float(scored.row_scores(row)[scored.image_index == index][0])
        image = groups.images[at].float() / 255
        layers = {
            stage: masks[f"masks/{query}/{number}"][at, 0].float()
            for number, stage in enumerate(data.classifier.stages, start=1)
        }
        said = data.classifier.class_names[int(groups.prediction[at])]
        sides.append((image, layers, _fused(list(layers.values()), image), f"{said} (score {score:z.2f})"))
    threshold = found.thresholds[found.default][found.head][RATES[0]]
    alarm = "" if threshold is None else f"; alarm above {threshold:z.2f}"
    (clean, clean_layers, clean_fused, before), (attacked, attacked_layers, attacked_fused, after) = sides
    return MaskPanel(
        image_id=data.image_id(found.split, index),
        attack=groups.groups[attack],
        clean=clean,
        attacked=attacked,
        clean_layers=clean_layers,
        attacked_layers=attacked_layers,
        clean_fused=clean_fused,
        attacked_fused=attacked_fused,
        caption=f"{before} -> {after}{alarm}",
        opacity=found.opacity,
    )


def _fused(layers: Sequence[Tensor], image: Tensor) -> Tensor:
    size = (image.shape[-2], image.shape[-1])
    return torch.squeeze(fuse_layers([resize_maps(one[None, None], size) for one in layers], "geometric"))


def costs_of(detectors: Mapping[str, Detector], classifier: Classifier, images: Tensor) -> dict[str, float]:
    """Milliseconds and passes through the last stage per image, from ``images (B, C, H, W)`` to the score.

    A measurement that several rows share is made and timed once, and counts in full for each of them.
    """
    timings: dict[str, float] = {}
    measured: dict[str, tuple[dict[str, Tensor], float, Mapping[str, int]]] = {}
    for row, detector in detectors.items():
        key = canonical(detector.measurement)
        if key not in measured:
            with _counted(classifier) as passes:
                started = time.perf_counter()
                tensors = detector.measurement(classifier, images)
                measured[key] = tensors, time.perf_counter() - started, passes
        tensors, seconds, passes = measured[key]
        started = time.perf_counter()
        detector.judge(tensors)
        seconds += time.perf_counter() - started
        timings |= {
            f"{row}: ms per image": 1000 * seconds / len(images),
            f"{row}: forward passes per image": passes["forward"] / len(images),
            f"{row}: backward passes per image": passes["backward"] / len(images),
        }
    return timings


@contextmanager
def _counted(classifier: Classifier) -> Iterator[Mapping[str, int]]:
    """Count images that go through the classifier's last stage, and gradients that come back."""
    passes = {"forward": 0, "backward": 0}

    def came_back(gradient: Tensor) -> None:
        passes["backward"] += len(gradient)

    def went_through(module: nn.Module, inputs: Sequence[Tensor], output: Tensor) -> None:
        passes["forward"] += len(output)
        if output.requires_grad:
            output.register_hook(came_back)  # type: ignore[no-untyped-call]  # torch says nothing of it

    stage = classifier.network.get_submodule(classifier.stages[-1])
    handle = stage.register_forward_hook(went_through)
    try:
        with uncompiled():
            yield passes
    finally:
        handle.remove()
