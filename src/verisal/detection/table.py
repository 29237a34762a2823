"""The table of detection numbers, its curves and its histograms, made from gathered scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from verisal.errors import ConfigError, NumericError
from verisal.functional.statistics import (
    Bootstrap,
    Resampled,
    negatives_needed,
    pair_by_image,
    roc_curve,
    threshold_at_fpr,
)
from verisal.results import Curve, Histogram, Score, ScoreName

if TYPE_CHECKING:
    # torchmetrics takes seconds to import.
    from verisal.detection.metric import DetectionTable

Role = Literal["clean", "attack", "failed", "benign"]
"""Role of a group of images.

``clean``: correctly classified clean images, the negatives; exactly one group. ``attack``: successful
attacks, positives. ``failed``: attacks that did not fool the classifier; reported on their own, never in an
AUROC. ``benign``: noisy, corrupted or misclassified clean images, which should raise no alarm.
"""

Thresholds = Mapping[str, Mapping[float, float | None]]
"""Row to rate of false alarms to threshold; None where validation had too few images."""

RATES = (0.05, 0.01)
# The table's rates are of all clean images.
_CLEAN_PARTNERS = "false alarms on the same images before the attack"


def detection_thresholds(
    table: DetectionTable,
    rows: Sequence[str],
    *,
    clean: int,
    also: Sequence[int] = (),
    rates: Sequence[float] = RATES,
) -> dict[str, dict[float, float | None]]:
    """Alarm thresholds of every row from the clean, correctly classified images of the *validation* split.

    Args:
        table: of the validation split.
        rows: names in the order of the table.
        clean: number of the clean group.
        also: numbers of groups of benign images for which the rates hold as well.
        rates: allowed false-positive rates.

    Returns:
        Row to rate to threshold; None where there are too few images for the rate.
    """
    negatives = [table.of_group(number) for number in (clean, *also)]
    return {
        row: {rate: highest_threshold([part.row_scores(index) for part in negatives], rate) for rate in rates}
        for index, row in enumerate(rows)
    }


def highest_threshold(scores: Sequence[Tensor], rate: float) -> float | None:
    """The least threshold above which no more than the share ``rate`` of each of these scores lies.

    None where one of them has too few.
    """
    found = [threshold_at_fpr(part, rate) for part in scores]
    known = [at for at in found if at is not None]
    return max(known) if len(known) == len(found) else None


def threshold_notes(thresholds: Thresholds, negatives: int, *, also: Sequence[str] = ()) -> tuple[str, ...]:
    """Sentences on what the thresholds hold for, and on rates that some row's does not support.

    Args:
        thresholds: as from :func:`detection_thresholds`.
        negatives: number of clean validation images that were there.
        also: names of the groups beside the clean one.
    """
    held = (f"thresholds hold for validation images under {', '.join(also)} as well",) if also else ()
    missing = sorted({rate for row in thresholds.values() for rate, at in row.items() if at is None})
    return held + tuple(
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
    thresholds: Thresholds,
    bootstrap: Bootstrap,
    rates: Sequence[float] = RATES,
    noise_of: Mapping[str, str] | None = None,
) -> dict[ScoreName, Score]:
    """Every number of the detection table, each with its interval over images.

    Per row and attack: ``auroc``, ``fpr_at_tpr95`` (both paired 1:1 by image with the clean group),
    ``tpr_at_fpr5``, ``tpr_at_fpr1``; per row and clean or benign group: ``fpr`` and ``fpr1``, the share of
    alarms at the thresholds of 5 % and 1 %; per row and failed group: ``alarm_rate`` at the 5 % threshold.
    Where ``noise_of`` names a group of noise that is as large as an attack, image by image, there is the
    attack's ``auroc_against_noise``: a row that only tells that something was added is at .5.
    A row whose members differ also has ``auroc_member_min``, ``auroc_member_mean`` and ``auroc_member_max``.

    Args:
        table: of the split reported on.
        split: first part of every name.
        rows: names in the order of the table.
        groups: group number to name; an attack's failed group is named ``<attack>_failed``.
        roles: group name to its role.
        thresholds: from the validation split, never from this table; a missing row or rate, or None, gives
            undefined scores.
        bootstrap: of the images; without resamples it gives values alone, e.g. every training epoch.
        rates: allowed shares of false alarms, which the names above follow; ``fpr`` and ``alarm_rate`` are
            at the first.
        noise_of: attack to the group of noise of its norms.

    Returns:
        ``<split>/<row>/<metric>/<attack or group>`` to its score.

    Raises:
        ConfigError: a group without a role, or not exactly one clean group.
        NumericError: a detector that gives only two distinct scores, naming the row and the attack.
    """
    clean, numbers = _clean_group(groups, roles), {name: number for number, name in groups.items()}
    report: dict[ScoreName, Score] = {}
    for row_index, row in enumerate(rows):
        at = {rate: thresholds.get(row, {}).get(rate) for rate in rates}
        negatives = table.of_group(clean)
        for number, group in groups.items():
            part = table.of_group(number)
            own = part.row_scores(row_index)
            role = roles[group]
            if role == "attack":
                paired = _paired(part, negatives, row_index, name=f"{row}, {group}", bootstrap=bootstrap)
                report |= {ScoreName(split, row, metric, group): score for metric, score in paired.items()}
                noise = (noise_of or {}).get(group)
                if noise in numbers:
                    report[ScoreName(split, row, "auroc_against_noise", group)] = _against(
                        part, table.of_group(numbers[noise]), row_index, bootstrap
                    )
            for rate in rates:
                fpr = "fpr" if rate == rates[0] else f"fpr{100 * rate:g}"
                tpr = f"tpr_at_fpr{100 * rate:g}"
                metric = {"attack": tpr, "clean": fpr, "benign": fpr, "failed": "alarm_rate"}[role]
                if role != "failed" or rate == rates[0]:
                    report[ScoreName(split, row, metric, group)] = _rate_above(own, at[rate], bootstrap)
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
                    Curve(f"roc_{group}", row, fpr, tpr, _CLEAN_PARTNERS, "share of attacked images found")
                )
    return tuple(curves)


def detection_histogram(
    table: DetectionTable,
    *,
    row: int,
    name: str,
    groups: Mapping[int, str],
    roles: Mapping[str, Role],
    thresholds: Mapping[float, float | None],
) -> Histogram:
    """Scores of one row per group, with its thresholds; NaN scores are left out."""
    scores = {group: table.of_group(number).row_scores(row) for number, group in groups.items()}
    return Histogram(
        figure=f"scores_{name}",
        groups={group: values[~values.isnan()] for group, values in scores.items()},
        x_label="detector score (higher = more adversarial)",
        thresholds={f"FPR {100 * rate:g} %": at for rate, at in thresholds.items() if at is not None},
        roles={group: roles[group] for group in scores},
    )


def _rate_above(scores: Tensor, threshold: float | None, bootstrap: Bootstrap) -> Score:
    """Share of alarms; undefined for all images where the threshold is not supported."""
    return bootstrap.rate_above(scores, math.nan if threshold is None else threshold).score()


def _paired(
    attacked: DetectionTable, clean: DetectionTable, row: int, *, name: str, bootstrap: Bootstrap
) -> dict[str, Score]:
    first, second = pair_by_image(attacked.image_index, clean.image_index)
    positive = attacked.scores[:, row].clone()
    negative = torch.full_like(positive, torch.nan)
    negative[first] = clean.scores[second, row]
    # An image counts where all members have scored both its sides.
    positive[(positive.isnan() | negative.isnan()).any(dim=1)] = torch.nan
    kept = ~positive.isnan().any(dim=1)
    several = any(bool((side[kept] != side[kept, :1]).any()) for side in (positive, negative))
    own = positive.mean(dim=1), negative.mean(dim=1)
    try:
        scores = {"auroc": bootstrap.auroc(*own), "fpr_at_tpr95": bootstrap.fpr_at_tpr95(*own)}
        if several:
            sides = zip(positive.unbind(1), negative.unbind(1), strict=True)
            members = [bootstrap.auroc(*member) for member in sides]
            scores["auroc_member_min"] = Resampled.least(members)
            scores["auroc_member_mean"] = Resampled.mean(members)
            scores["auroc_member_max"] = Resampled.greatest(members)
    except NumericError as error:
        raise NumericError(f"{name}: {error}") from error
    return {metric: resampled.score() for metric, resampled in scores.items()}


def _against(attacked: DetectionTable, noisy: DetectionTable, row: int, bootstrap: Bootstrap) -> Score:
    """AUROC of attacked images against the same images under noise, those that have both."""
    first, second = pair_by_image(attacked.image_index, noisy.image_index)
    return bootstrap.auroc(attacked.row_scores(row)[first], noisy.row_scores(row)[second]).score()


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
