"""Scores of detectors on families of attacks that they were not fitted on."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch

from verisal.attacks import Attack
from verisal.detection.metric import DetectionTable
from verisal.errors import ConfigError, DataError
from verisal.functional.statistics import Bootstrap, Resampled, pair_by_image
from verisal.results import Score, ScoreName

_RATE = 0.05


@final
@dataclass(frozen=True)
class Families:
    """Attacks by kind, and those that each fit has seen.

    Attributes:
        attacks: family to the names of its attacks.
        fits: name of a fit to the names of the attacks that are fitted.
        merged: families that are so close that a fit on one says much about the others, e.g. one-step and
            iterated gradient attacks of one norm. The stricter columns count all of them as seen where one
            is.
    """

    attacks: Mapping[str, Sequence[str]]
    fits: Mapping[str, Sequence[str]]
    merged: Sequence[str] = ()

    def __post_init__(self) -> None:
        known = [name for names in self.attacks.values() for name in names]
        if twice := sorted({name for name in known if known.count(name) > 1}):
            raise ConfigError(f"attacks {twice} stand in two families")
        for fit, names in self.fits.items():
            if not names or (unknown := sorted(set(names) - set(known))):
                raise ConfigError(
                    f"fit {fit!r} must name attacks of some family, found {list(names)};"
                    f" unknown: {unknown if names else '(none given)'}"
                )
        if unknown := sorted(set(self.merged) - set(self.attacks)):
            raise ConfigError(f"merged names families {unknown}; known: {list(self.attacks)}")

    def among(self, attacks: Collection[str], fits: Collection[str]) -> Families:
        """The families of some attacks and fits, without those that have none of them."""
        families = {name: [one for one in of if one in attacks] for name, of in self.attacks.items()}
        families = {name: of for name, of in families.items() if of}
        fitted = {fit: [one for one in self.fits[fit] if one in attacks] for fit in fits}
        return Families(families, fitted, [name for name in self.merged if name in families])

    def seen(self, fit: str, *, strict: bool = False) -> tuple[str, ...]:
        """Families with at least one fitted attack, in order."""
        fitted = set(self.fits[fit])
        seen = {family for family, names in self.attacks.items() if fitted & set(names)}
        if strict and seen & set(self.merged):
            seen |= set(self.merged)
        return tuple(family for family in self.attacks if family in seen)

    def unseen(self, fit: str, *, strict: bool = False) -> tuple[str, ...]:
        """Families without a fitted attack, in order."""
        seen = self.seen(fit, strict=strict)
        return tuple(family for family in self.attacks if family not in seen)


_UNDEFINED = Score(math.nan)


def transfer_report(
    tables: Mapping[str, DetectionTable],
    families: Families,
    *,
    split: str,
    rows: Sequence[str],
    groups: Mapping[int, str],
    clean: int,
    thresholds: Mapping[str, Mapping[str, Mapping[float, float | None]]],
    default: str,
    head: str,
    bootstrap: Bootstrap,
) -> dict[ScoreName, Score]:
    """The leave-one-family-out matrix, its seen and unseen columns, and differences to the head row.

    A family's score is the mean over its attacks. ``mean_unseen`` and ``worst_unseen`` are mean and least
    over the families that the fit has not seen. One bootstrap over images serves every number: an image
    takes its clean and all its attacked versions along, and the mean is taken within a resample. The least
    has the limits of :meth:`.Resampled.least`, since the least of a resample is too low.
    A pair with a NaN score is left out and counted, for a difference if either row has one.

    Names, per row: ``<split>/<row>/auroc/mean_unseen`` and so on for the fit ``default``, also
    ``worst_unseen``, ``mean_seen``, ``mean_unseen_strict``, and the same of ``tpr_at_fpr5``;
    ``<split>/<row>/auroc_fitted_on_<fit>/<family>``, ``.../mean_unseen``, ``.../worst_unseen`` for every fit;
    ``<split>/<head>_minus_<row>/difference/mean_unseen`` and ``worst_unseen``, with the paired interval.

    Args:
        tables: name of a fit to the test scores of all rows that were fitted so.
        families: of the attacks.
        split: first part of every name.
        rows: names in the order of the tables.
        groups: group number to name.
        clean: number of the clean group.
        thresholds: fit to row to rate to threshold, from validation images.
        default: the fit of the main columns.
        head: the row that the others are compared with.
        bootstrap: of the images; its images are resampled together.

    Raises:
        ConfigError: a fit without a table, a head that is no row.
        DataError: no family with a successful attack.
    """
    if set(tables) != set(families.fits) or default not in tables or head not in rows:
        raise ConfigError(
            f"every fit needs its table, and default and head must be among them; found tables"
            f" {sorted(tables)}, fits {sorted(families.fits)}, default {default!r}, head {head!r}"
        )
    images = 1 + max(int(table.image_index.max()) for table in tables.values())
    bootstrap = bootstrap.jointly(images)
    numbers = {name: number for number, name in groups.items()}
    report: dict[ScoreName, Score] = {}
    compared: dict[str, dict[str, Resampled]] = {}
    for fit, table in tables.items():
        for index, row in enumerate(rows):
            cells = _by_family(table, index, families, numbers, clean, bootstrap)
            if not cells:
                raise DataError(
                    "no attack of any family succeeded; raise its eps or steps, or check the classifier"
                )
            columns = _columns(cells, families, fit)
            for family in families.attacks:
                name = ScoreName(split, row, f"auroc_fitted_on_{fit}", family)
                report[name] = cells[family].score() if family in cells else _UNDEFINED
            for column, found in columns.items():
                report[ScoreName(split, row, f"auroc_fitted_on_{fit}", column)] = found.score()
                if fit == default:
                    report[ScoreName(split, row, "auroc", column)] = found.score()
                    compared[row] = columns
            at = thresholds[fit].get(row, {}).get(_RATE)
            if fit == default and at is not None:
                rates = _by_family(table, index, families, numbers, clean, bootstrap, threshold=at)
                for column, found in _columns(rates, families, fit).items():
                    report[ScoreName(split, row, "tpr_at_fpr5", column)] = found.score()
    for row in (row for row in compared if row != head):
        first, other = compared[head], compared[row]
        if not all(map(Resampled.of_same_images, first.values(), other.values())):
            both = rows.index(head), rows.index(row)
            first, other = (
                _columns(
                    _by_family(tables[default], own, families, numbers, clean, bootstrap, beside=beside),
                    families,
                    default,
                )
                for own, beside in (both, both[::-1])
            )
        for column in ("mean_unseen", "worst_unseen"):
            if column in first:
                name = ScoreName(split, f"{head}_minus_{row}", "difference", column)
                report[name] = first[column].minus(other[column])
    return report


def _by_family(
    table: DetectionTable,
    row: int,
    families: Families,
    numbers: Mapping[str, int],
    clean: int,
    bootstrap: Bootstrap,
    *,
    threshold: float | None = None,
    beside: int | None = None,
) -> dict[str, Resampled]:
    """Mean over attacks of AUROC, or of the share above a threshold, of every family that has successes.

    With ``beside`` of the pairs alone that have scores in that row, too.
    """
    negatives = table.of_group(clean)
    found: dict[str, Resampled] = {}
    for family, attacks in families.attacks.items():
        parts = []
        for attack in attacks:
            part = table.of_group(numbers[attack])
            first, second = pair_by_image(part.image_index, negatives.image_index)
            positive, negative = part.row_scores(row)[first], negatives.row_scores(row)[second]
            if beside is not None:
                others = part.row_scores(beside)[first], negatives.row_scores(beside)[second]
                positive = positive.where(~(others[0].isnan() | others[1].isnan()), torch.nan)
            of = part.image_index[first]
            if threshold is None:
                resampled = bootstrap.auroc(positive, negative, images=of)
            else:
                unpaired = positive.where(~negative.isnan(), torch.nan)
                resampled = bootstrap.rate_above(unpaired, threshold, images=of)
            if resampled.n:
                parts.append(resampled)
        if parts:
            found[family] = Resampled.mean(parts)
    return found


def _columns(cells: Mapping[str, Resampled], families: Families, fit: str) -> dict[str, Resampled]:
    seen = [cells[family] for family in families.seen(fit) if family in cells]
    unseen = [cells[family] for family in families.unseen(fit) if family in cells]
    strict = [cells[family] for family in families.unseen(fit, strict=True) if family in cells]
    columns = {"mean_seen": Resampled.mean(seen)} if seen else {}
    if unseen:
        columns |= {"mean_unseen": Resampled.mean(unseen), "worst_unseen": Resampled.least(unseen)}
    if strict and len(strict) < len(unseen):
        columns["mean_unseen_strict"] = Resampled.mean(strict)
    return columns


def checked_names(
    attacks: Mapping[str, Attack],
    families: Mapping[str, Sequence[str]],
    fits: Mapping[str, Sequence[str]],
    noise: Mapping[str, Attack],
    noise_like: str,
    chosen_noise: Sequence[str],
) -> list[str]:
    """Attacks that some fit names, in the order of all.

    Raises:
        ConfigError: a name that is not defined, an attack without a family, or one that noise cannot copy.
    """
    grouped = {name for names in families.values() for name in names}
    if grouped != set(attacks):
        raise ConfigError(
            f"every attack must stand in one family; without a family: {sorted(set(attacks) - grouped)},"
            f" not defined: {sorted(grouped - set(attacks))}"
        )
    if unknown := sorted(set(chosen_noise) - set(noise)):
        raise ConfigError(f"fit_noise and threshold_noise name {unknown}; noise has {sorted(noise)}")
    fitted = {name for names in fits.values() for name in names}
    if noise_like not in fitted:
        raise ConfigError(f"noise_like must be a fitted attack, {sorted(fitted)}, found {noise_like!r}")
    return [name for name in attacks if name in fitted]
