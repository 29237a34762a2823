"""The table of values per image that explaining callbacks report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

__all__ = ["add_samples", "no_samples"]


def no_samples() -> dict[str, list[object]]:
    """The table without a line."""
    return {key: [] for key in ("image_id", "row", "score", "value")}


def add_samples(
    samples: Mapping[str, list[object]], image_ids: Sequence[str], row: str, score: str, values: Tensor
) -> None:
    """One line per image.

    Args:
        samples: the table, which grows.
        image_ids: B names.
        row: whose score it is.
        score: its full name in the row.
        values: ``(B,)``.
    """
    samples["image_id"] += image_ids
    samples["row"] += [row] * len(image_ids)
    samples["score"] += [score] * len(image_ids)
    samples["value"] += values.tolist()
