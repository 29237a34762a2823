"""Sentences on what detectors find, for those who read no table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from verisal.results import Score, ScoreName


def detection_summary(
    scores: Mapping[ScoreName, Score],
    *,
    split: str,
    rows: Sequence[str],
    head: str,
    attacks: Sequence[str],
    rate: float = 0.05,
) -> tuple[str, ...]:
    """What the head row finds at its threshold, what the best other row finds, and what holds of new attacks.

    Without a threshold, or without attacks that fooled the classifier, the sentences say less.

    Args:
        scores: of :func:`.detection_report` and :func:`.transfer_report`.
        split: first part of their names.
        rows: names of the detectors.
        head: the row that is told of.
        attacks: names of the groups of successful attacks.
        rate: of false alarms, at which the threshold was set.
    """
    found = {row: _shares(scores, split, row, f"tpr_at_fpr{100 * rate:g}", attacks) for row in rows}
    sentences = list(_found(scores, split, head, found[head], rate)) if found[head] else []
    if not sentences:
        aurocs = _shares(scores, split, head, "auroc", attacks)
        sentences = [_told_apart(head, aurocs)] if aurocs else []
    others = {row: shares for row, shares in found.items() if row != head and shares}
    if found[head] and others:
        best = max(others, key=lambda row: _mean(others[row]))
        more = _mean(others[best]) > _mean(found[head])
        count = f"Of the {len(others)} other detectors, {best} finds" if len(others) > 1 else f"{best} finds"
        sentences.append(f"{count} {'more: ' if more else ''}{_span(others[best])}.")
    unseen = [scores.get(ScoreName(split, head, "auroc", f"{kind}_unseen")) for kind in ("mean", "worst")]
    if all(score is not None and not math.isnan(score.value) for score in unseen):
        mean, worst = (score.value for score in unseen if score is not None)
        sentences.append(
            f"On kinds of attacks that {head} was not fitted on, its AUROC is {mean:.2f} on average and"
            f" {worst:.2f} on the worst kind; 0.5 is chance."
        )
    return tuple(sentences)


def _shares(
    scores: Mapping[ScoreName, Score], split: str, row: str, metric: str, attacks: Sequence[str]
) -> dict[str, float]:
    """Attack to a score of a row, where it is defined."""
    found = {name: scores.get(ScoreName(split, row, metric, name)) for name in attacks}
    return {name: one.value for name, one in found.items() if one is not None and not math.isnan(one.value)}


def _found(
    scores: Mapping[ScoreName, Score], split: str, head: str, shares: Mapping[str, float], rate: float
) -> Iterator[str]:
    least = min(shares, key=lambda name: shares[name])
    told = f" (fewest of {least})" if len(shares) > 1 and len(set(shares.values())) > 1 else ""
    alarms = scores.get(ScoreName(split, head, "fpr", "clean"))
    known = alarms is not None and not math.isnan(alarms.value)
    at = f"{_percent(alarms.value)} % false alarms" if alarms is not None and known else ""
    at = at or f"a threshold meant for {100 * rate:g} % false alarms"
    yield f"{head} finds {_span(shares)} of the attacked images{told} at {at}."


def _told_apart(head: str, aurocs: Mapping[str, float]) -> str:
    low, high = min(aurocs.values()), max(aurocs.values())
    span = f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
    return f"{head} tells attacked from clean images with an AUROC of {span}; 0.5 is chance, 1 is perfect."


def _span(shares: Mapping[str, float]) -> str:
    low, high = _percent(min(shares.values())), _percent(max(shares.values()))
    return f"{low} %" if low == high else f"{low} to {high} %"


def _percent(share: float) -> str:
    """Two digits that count: 5.1, 96, 100."""
    text = f"{100 * share:.1f}"
    return text.removesuffix(".0") if share < 0.0995 else f"{100 * share:.0f}"


def _mean(shares: Mapping[str, float]) -> float:
    return sum(shares.values()) / len(shares)
