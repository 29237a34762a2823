"""Scores of an evaluation as a study reads, compares and prints them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional.statistics.detection import resampled_mean
from verisal.functional.statistics.resampled import Bootstrap
from verisal.results import Evaluation, Score, ScoreName

Better = Literal["low", "high"]
# The name of a score, as a regular expression.
FIDELITY: Final = r"saliency_fidelity\[.*/value"
INTERVALS: Final = "95 %, percentile bootstrap over images; differences are paired"
_REMEDY: Final = "give it the methods and callbacks of the study's configuration"


@final
class Scores:
    """Scores of an evaluation by row (a method, a detector, a baseline) and name, whole and image by image.

    Args:
        evaluation: with one line of samples per image, row and score.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self._values: dict[str, dict[str, dict[str, float]]] = {}
        samples = evaluation.samples
        columns = (samples.get(key, ()) for key in ("image_id", "row", "score", "value"))
        for image, row, score, value in zip(*columns, strict=True):
            own = self._values.setdefault(str(row), {}).setdefault(str(score), {})
            own[str(image)] = float(str(value))

    def rows(self, pattern: str = ".*") -> list[str]:
        """Rows with a score per image whose name matches a regular expression as a whole, in their order."""
        return [row for row in self._values if self.names(row, pattern)]

    def names(self, row: str, pattern: str) -> list[str]:
        """Names of a row's scores that match."""
        return [name for name in self._values.get(row, {}) if re.fullmatch(pattern, name)]

    def name(self, row: str, pattern: str) -> str:
        """The name of the one score of a row that matches.

        Raises:
            ConfigError: there is none, or several.
        """
        names = self.names(row, pattern)
        if len(names) != 1:
            raise ConfigError(
                f"the study reads one such score of {row!r}, found {names} among {self.names(row, '.*')};"
                " give the evaluation the methods and metrics of the study's configuration"
            )
        return names[0]

    def values(self, row: str, name: str) -> dict[str, float]:
        """Image to value.

        Raises:
            ConfigError: there is no such score.
        """
        if name not in self._values.get(row, {}):
            raise ConfigError(
                f"the study reads {name!r} of {row!r}, which the evaluation lacks; it has the methods"
                f" {self.rows()}, this one with {self.names(row, '.*')}"
            )
        return self._values[row][name]

    def mean(self, row: str, name: str) -> Score:
        """Mean over images with its interval."""
        return mean_of(torch.tensor(list(self.values(row, name).values()), dtype=torch.float64))

    def stacked(self, wanted: Sequence[tuple[str, str]]) -> Tensor:
        """``(len(wanted), n)`` float64: values on the images that all of them have; NaN is undefined."""
        tables = [self.values(row, name) for row, name in wanted]
        images = [image for image in tables[0] if all(image in table for table in tables)]
        return torch.tensor([[table[image] for image in images] for table in tables], dtype=torch.float64)

    def difference(self, ours: tuple[str, str], other: tuple[str, str]) -> Score:
        """Paired difference of two means, with its interval."""
        first, second = self.stacked([ours, other])
        return difference_of(first - second)

    def reported(self, row: str, name: str, *, remedy: str = _REMEDY) -> Score:
        """A score as the evaluation reports it; ``remedy`` is said where it lacks it.

        Raises:
            ConfigError: there is none.
        """
        full = ScoreName(self.evaluation.split, row, name)
        if full not in self.evaluation.scores:
            rows = sorted({known.row for known in self.evaluation.scores})
            raise ConfigError(
                f"the study reads {str(full)!r}, which the evaluation lacks; it has the rows {rows}; {remedy}"
            )
        return self.evaluation.scores[full]


def mean_of(values: Tensor) -> Score:
    """Mean ``(n)`` over images with its 95 % interval."""
    return Bootstrap().mean(values).score()


def difference_of(differences: Tensor) -> Score:
    """Mean of paired differences ``(n)`` with its 95 % interval."""
    return Bootstrap().mean(differences, kind="difference").score()


def ratio_of_means(pair: Tensor) -> Score:
    """Ratio of two means over the same images ``(2, n)``, with its 95 % interval; undefined are left out."""
    defined = pair.isfinite().all(dim=0)
    first, second = pair[:, defined]

    def ratio(weights: Tensor) -> Tensor:
        return resampled_mean(first, weights) / resampled_mean(second, weights)

    return Bootstrap().of(ratio, defined).score()


def difference_word(difference: Score, better: Better) -> Literal["better", "worse", "open"]:
    """What the interval of a difference says; ``open`` if it holds 0 or there is none."""
    if not (difference.low > 0 or difference.high < 0):
        return "open"
    return "better" if (difference.high < 0) == (better == "low") else "worse"


def counted(words: Sequence[str]) -> str:
    """How often each of ``better``, ``worse`` and ``open`` occurs."""
    return ", ".join(f"{words.count(word)} {word}" for word in ("better", "worse", "open") if word in words)


def is_defined(score: Score) -> bool:
    """True if there is a number."""
    return score.value == score.value


def cell(score: Score) -> str:
    """Value and interval; ``n/a`` where no image has one."""
    if not is_defined(score):
        return "n/a"
    digits = 3 if abs(score.value) < 1 else 2
    return f"{score.value:.{digits}f}{score.bracketed(digits)}"


def quoted(names: Iterable[str]) -> str:
    """Names as code, with commas between."""
    return ", ".join(f"`{name}`" for name in names)


def table(header: Sequence[str], rows: Iterable[Sequence[str]] | Mapping[str, Sequence[str]]) -> str:
    """Lines of Markdown; of a mapping the names, as code, are the first column."""
    listed = [[f"`{name}`", *cells] for name, cells in rows.items()] if isinstance(rows, Mapping) else rows
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in listed)])
