"""The table of detection numbers, its curves and its histograms, made from gathered scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, final

import torch
from torch import Tensor

from verisal.detection.metric import DetectionTable
from verisal.errors import ConfigError, NumericError
from verisal.functional.statistics.detection import (
    auroc,
    bootstrap_rate,
    bootstrap_weights,
    fpr_at_tpr95,
    negatives_needed,
    pair_by_image,
    roc_curve,
    threshold_at_fpr,
    weighted_auroc,
    weighted_fpr_at_tpr,
)
from verisal.functional.statistics.shares import (
    FEWEST_FOR_TPR95,
    greatest_share,
    least_share,
    share_of_resamples,
)
from verisal.results import Curve, Histogram, Score

__all__ = [
    "Role",
    "detection_curves",
    "detection_histogram",
    "detection_report",
    "detection_thresholds",
    "threshold_notes",
]

Role = Literal["clean", "attack", "failed", "benign"]
"""What a group of images stands for.

``clean``: correctly classified clean images, the negatives; exactly one group. ``attack``: successful
attacks, positives. ``failed``: attacks that did not fool the classifier; reported on their own, never in an
AUROC. ``benign``: noisy, corrupted or misclassified clean images, which should raise no alarm.
"""

_RATES = {0.05: ("tpr_at_fpr5", "fpr"), 0.01: ("tpr_at_fpr1", "fpr1")}


def detection_thresholds(
    table: DetectionTable, rows: Sequence[str], *, clean: int, rates: Sequence[float] = (0.05, 0.01)
) -> dict[str, dict[float, float | None]]:
    """Alarm thresholds of every row from the clean, correctly classified images of the *validation* split.

    Args:
        table: of the validation split.
        rows: names in the order of the table.
        clean: number of the clean group.
        rates: allowed false-positive rates.

    Returns:
        Row to rate to threshold; None where there are too few images for the rate.
    """
    negatives = table.of_group(clean)
    return {
        row: {rate: threshold_at_fpr(negatives.row_scores(index), rate) for rate in rates}
        for index, row in enumerate(rows)
    }


def threshold_notes(
    thresholds: Mapping[str, Mapping[float, float | None]], negatives: int
) -> tuple[str, ...]:
    """Sentences for rates that some row's threshold does not support.

    Args:
        thresholds: as from :func:`detection_thresholds`.
        negatives: number of clean validation images that were there.
    """
    missing = sorted({rate for row in thresholds.values() for rate, at in row.items() if at is None})
    return tuple(
        f"FPR {100 * rate:g} % not supported: its threshold needs {negatives_needed(rate)} clean validation"
        f" images, found {negatives}"
        for rate in missing
    )


def detection_report(
    table: DetectionTable,
    *,
    split: str,
    rows: Sequence[str],
    groups: Mapping[int, str],
    roles: Mapping[str, Role],
    thresholds: Mapping[str, Mapping[float, float | None]],
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Score]:
    """Every number of the detection table, each with its interval over images.

    Per row and attack: ``auroc``, ``fpr_at_tpr95`` (both paired 1:1 by image with the clean group),
    ``tpr_at_fpr5``, ``tpr_at_fpr1``; per row and clean or benign group: ``fpr`` and ``fpr1``, the share of
    alarms at the thresholds of 5 % and 1 %; per row and failed group: ``alarm_rate`` at the 5 % threshold.
    A row whose members differ also has ``auroc_member_min``, ``auroc_member_mean`` and ``auroc_member_max``.

    Args:
        table: of the split reported on.
        split: first part of every name.
        rows: names in the order of the table.
        groups: group number to name; an attack's failed group is named ``<attack>_failed``.
        roles: group name to its role.
        thresholds: from the validation split, never from this table; a missing row or rate, or None, gives
            undefined scores.
        seed: of the bootstrap.
        resamples: bootstrap resamples; 0 for values alone, e.g. every training epoch.

    Returns:
        ``<split>/<row>/<metric>/<attack or group>`` to its score.

    Raises:
        ConfigError: a group without a role, or not exactly one clean group.
        NumericError: a detector that gives only two distinct scores, naming the row and the attack.
    """
    clean = _clean_group(groups, roles)
    draw = _Resampling(seed=seed, resamples=resamples)
    report: dict[str, Score] = {}
    for row_index, row in enumerate(rows):
        at = {rate: thresholds.get(row, {}).get(rate) for rate in _RATES}
        negatives = table.of_group(clean)
        for number, group in groups.items():
            part = table.of_group(number)
            own = part.row_scores(row_index)
            role = roles[group]
            if role == "attack":
                paired = _paired(part, negatives, row_index, name=f"{row}, {group}", draw=draw)
                report.update({f"{split}/{row}/{metric}/{group}": score for metric, score in paired.items()})
            for rate, (tpr, fpr) in _RATES.items():
                metric = {"attack": tpr, "clean": fpr, "benign": fpr, "failed": "alarm_rate"}[role]
                if role != "failed" or rate == 0.05:
                    report[f"{split}/{row}/{metric}/{group}"] = draw.rate(own, at[rate])
    return report


def detection_curves(
    table: DetectionTable, *, rows: Sequence[str], groups: Mapping[int, str], roles: Mapping[str, Role]
) -> tuple[Curve, ...]:
    """ROC of every row on every attack, paired as in :func:`detection_report`; one figure an attack."""
    negatives = table.of_group(_clean_group(groups, roles))
    curves = []
    for number, group in groups.items():
        if roles[group] != "attack":
            continue
        part = table.of_group(number)
        first, second = pair_by_image(part.image_index, negatives.image_index)
        for index, row in enumerate(rows):
            fpr, tpr = roc_curve(part.row_scores(index)[first], negatives.row_scores(index)[second])
            if len(fpr):
                curves.append(
                    Curve(f"roc_{group}", row, fpr, tpr, "false-positive rate", "true-positive rate")
                )
    return tuple(curves)


def detection_histogram(
    table: DetectionTable,
    *,
    row: int,
    name: str,
    groups: Mapping[int, str],
    thresholds: Mapping[float, float | None],
) -> Histogram:
    """Scores of one row per group, with its thresholds; NaN scores are left out."""
    scores = {group: table.of_group(number).row_scores(row) for number, group in groups.items()}
    return Histogram(
        figure=f"scores_{name}",
        groups={group: values[~values.isnan()] for group, values in scores.items()},
        x_label="detector score (higher = more adversarial)",
        thresholds={f"FPR {100 * rate:g} %": at for rate, at in thresholds.items() if at is not None},
    )


@final
class _Resampling:
    """Draws the bootstrap weights of each number of images once, for all rows and groups of a report."""

    def __init__(self, *, seed: int, resamples: int) -> None:
        self.seed = seed
        self.resamples = resamples
        self._drawn: dict[int, Tensor] = {}

    def weights(self, images: int) -> Tensor:
        if images not in self._drawn:
            self._drawn[images] = bootstrap_weights(images, resamples=self.resamples, seed=self.seed)
        return self._drawn[images]

    def rate(self, scores: Tensor, threshold: float | None) -> Score:
        """Share of alarms; undefined for all images where the threshold is not supported."""
        if threshold is None:
            return Score(math.nan, math.nan, math.nan, n=0, undefined=len(scores))
        return bootstrap_rate(scores, threshold, resamples=self.resamples)


def _paired(
    attacked: DetectionTable, clean: DetectionTable, row: int, *, name: str, draw: _Resampling
) -> dict[str, Score]:
    first, second = pair_by_image(attacked.image_index, clean.image_index)
    positive, negative = attacked.scores[first, row], clean.scores[second, row]
    defined = ~(positive.isnan() | negative.isnan()).any(dim=1)
    positive, negative = positive[defined], negative[defined]
    n, undefined = len(positive), len(attacked) - len(positive)
    several = bool((positive != positive[:, :1]).any() or (negative != negative[:, :1]).any())
    names = ["auroc", "fpr_at_tpr95"]
    names += [f"auroc_member_{kind}" for kind in ("min", "mean", "max")] if several else []
    if n == 0:
        return {metric: Score(math.nan, math.nan, math.nan, n=0, undefined=undefined) for metric in names}
    weights = draw.weights(n)
    own = positive.mean(dim=1), negative.mean(dim=1)
    try:
        found = [
            share_of_resamples(auroc(*own), weighted_auroc(*own, weights), n),
            share_of_resamples(fpr_at_tpr95(*own), weighted_fpr_at_tpr(*own, weights), n),
        ]
        fewest = (0, FEWEST_FOR_TPR95)
        scores = [
            share.score(n=n, undefined=undefined, fewest=least)
            for share, least in zip(found, fewest, strict=True)
        ]
        if several:
            members = list(zip(positive.unbind(1), negative.unbind(1), strict=True))
            areas = [auroc(*sides) for sides in members]
            drawn = [weighted_auroc(*sides, weights) for sides in members]
            each = [share_of_resamples(area, one, n) for area, one in zip(areas, drawn, strict=True)]
            mean = share_of_resamples(sum(areas) / len(areas), torch.stack(drawn).mean(dim=0), n)
            ends = (least_share(each), (mean.value, *mean.limits()), greatest_share(each))
            scores += [Score(*end, n=n, undefined=undefined) for end in ends]
    except NumericError as error:
        raise NumericError(f"{name}: {error}") from error
    return dict(zip(names, scores, strict=True))


def _clean_group(groups: Mapping[int, str], roles: Mapping[str, Role]) -> int:
    without = [name for name in groups.values() if name not in roles]
    if without:
        raise ConfigError(f"groups without a role: {without}; give each one of clean, attack, failed, benign")
    clean = [number for number, name in groups.items() if roles[name] == "clean"]
    if len(clean) != 1:
        raise ConfigError(
            f"detection needs exactly one clean group, found {[groups[item] for item in clean]}"
        )
    return clean[0]
