"""Numbers of an evaluation as a study reads and prints them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional.statistics.detection import bootstrap_weights, percentile_score
from verisal.functional.statistics.intervals import bootstrap_mean, weighted_means
from verisal.results import Evaluation, Score

__all__ = ["Better", "ImageScores", "cell", "difference_word", "ratio_of_means", "table"]

Better = Literal["low", "high"]


@final
class ImageScores:
    """Values per image of an evaluation, by method and score.

    Args:
        found: an evaluation with samples: one line per image, method and score.
    """

    def __init__(self, found: Evaluation) -> None:
        self._values: dict[tuple[str, str], dict[str, float]] = {}
        lines = zip(
            *(found.samples.get(key, ()) for key in ("image_id", "row", "score", "value")), strict=True
        )
        for image, row, score, value in lines:
            known = self._values.setdefault((str(row), str(score)), {})
            known[str(image)] = float(str(value))

    def rows(self) -> list[str]:
        """All methods, in their order."""
        return list(dict.fromkeys(row for row, _ in self._values))

    def names(self, row: str, wanted: Callable[[str], bool]) -> list[str]:
        """Full names of the scores of a method that are wanted."""
        return [score for name, score in self._values if name == row and wanted(score)]

    def one(self, row: str, wanted: Callable[[str], bool]) -> str:
        """The one score of a method that is wanted.

        Raises:
            ConfigError: there is none, or several.
        """
        names = self.names(row, wanted)
        if len(names) != 1:
            has = self.names(row, lambda _: True)
            raise ConfigError(
                f"the study reads one such score of {row!r}, found {names} among {has}; give the evaluation"
                " the methods and metrics of the study's configuration"
            )
        return names[0]

    def values(self, row: str, score: str) -> dict[str, float]:
        """Image to value.

        Raises:
            ConfigError: there is no such score.
        """
        if (row, score) not in self._values:
            raise ConfigError(
                f"the study reads {score!r} of {row!r}, which the evaluation lacks; it has the methods"
                f" {self.rows()}, this one with {self.names(row, lambda _: True)}"
            )
        return self._values[row, score]

    def mean(self, row: str, score: str) -> Score:
        """Mean over images with interval."""
        return bootstrap_mean(torch.tensor(list(self.values(row, score).values()), dtype=torch.float64))

    def stacked(self, wanted: Sequence[tuple[str, str]]) -> Tensor:
        """``(len(wanted), n)`` float64: values on the images that all of them have; NaN is undefined."""
        tables = [self.values(row, score) for row, score in wanted]
        images = [image for image in tables[0] if all(image in one for one in tables)]
        return torch.tensor([[one[image] for image in images] for one in tables], dtype=torch.float64)

    def difference(self, one: tuple[str, str], other: tuple[str, str]) -> Score:
        """Paired difference of two means, with interval."""
        first, second = self.stacked([one, other])
        return bootstrap_mean(first - second, kind="difference")


def ratio_of_means(pair: Tensor) -> Score:
    """Ratio of two means over the same images ``(2, n)``, with its 95 % interval; undefined are left out."""
    defined = pair.isfinite().all(dim=0)
    both, left_out = pair[:, defined], int((~defined).sum())
    if not both.shape[1]:
        return Score(torch.nan, torch.nan, torch.nan, n=0, undefined=left_out)
    weights = bootstrap_weights(both.shape[1])
    drawn = weighted_means(both[0], weights) / weighted_means(both[1], weights)
    ratio = float(both[0].mean() / both[1].mean())
    return percentile_score(ratio, drawn[~drawn.isnan()], n=both.shape[1], undefined=left_out)


def difference_word(difference: Score, better: Better) -> Literal["better", "worse", "open"]:
    """What the interval of a difference says; ``open`` if it holds 0 or there is none."""
    if not (difference.low > 0 or difference.high < 0):
        return "open"
    return "better" if (difference.high < 0) == (better == "low") else "worse"


def cell(score: Score) -> str:
    """Value and interval; ``n/a`` where no image has one."""
    if score.value != score.value:
        return "n/a"
    digits = 3 if abs(score.value) < 1 else 2
    return f"{score.value:.{digits}f}{score.bracketed(digits)}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]] | Mapping[str, Sequence[str]]) -> str:
    """Lines of Markdown; of a mapping the names are the first column."""
    listed = [[name, *cells] for name, cells in rows.items()] if isinstance(rows, Mapping) else rows
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in listed)])
