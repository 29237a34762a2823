"""Evaluations of one metric in one row of the report."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

from torch import Tensor

from verisal._column import Column, Same
from verisal.results import Evaluation, Score, ScoreName


def row_evaluation(
    split: str,
    row: str,
    metric: str,
    scores: Mapping[str, Score],
    *,
    image_ids: Sequence[str] = (),
    columns: Mapping[str, Tensor] | None = None,
) -> Evaluation:
    """Scores of one metric in one row, and its values per image.

    Args:
        split: ``val`` or ``test``.
        row: whose scores they are.
        metric: what is measured.
        scores: by their names in the metric.
        image_ids: n names, of which no copy is made.
        columns: name in the metric to values ``(n,)``.
    """
    values, n = dict(columns or {}), len(image_ids)
    samples: dict[str, Sequence[object]] = {
        "image_id": Column([image_ids] * len(values)),
        "row": Column([Same(row, n * len(values))]),
        "score": Column(Same(f"{metric}/{name}", n) for name in values),
        "value": Column(array("d", column.tolist()) for column in values.values()),
    }
    named = {ScoreName(split, row, metric, name): score for name, score in scores.items()}
    return Evaluation(split, named, samples=samples if values else {})
