"""Scores of an evaluation as a study reads, compares and prints them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional.statistics import Bootstrap
from verisal.functional.statistics.detection import resampled_mean
from verisal.reporting.escaping import markdown_code
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
        evaluation: with one line of samples per image, row and score, or none of these where a study
            reads no scores of single images.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self._values: dict[str, dict[str, dict[str, float]]] = {}
        keys = ("image_id", "row", "score", "value")
        # Detectors have one line per image and a column for each row.
        lined = evaluation.samples.keys() >= set(keys)
        columns = (evaluation.samples[key] for key in keys) if lined else ((),) * len(keys)
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
        """A score as the evaluation reports it; ``remedy`` ends the message if there is none.

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
    """Ratio of two means over the same images ``(2, n)``, with its 95 % interval; without undefined ones."""
    defined = pair.isfinite().all(dim=0)
    first, second = pair[:, defined]

    def ratio(weights: Tensor) -> Tensor:
        return resampled_mean(first, weights) / resampled_mean(second, weights)

    return Bootstrap().of(ratio, defined).score()


def difference_word(difference: Score, better: Better) -> Literal["better", "worse", "open"]:
    """Verdict of the interval of a difference; ``open`` if it holds 0 or there is none."""
    if not (difference.low > 0 or difference.high < 0):
        return "open"
    return "better" if (difference.high < 0) == (better == "low") else "worse"


def counted(words: Sequence[str]) -> str:
    """Counts of ``better``, ``worse`` and ``open``."""
    return ", ".join(f"{words.count(word)} {word}" for word in ("better", "worse", "open") if word in words)


def is_defined(score: Score) -> bool:
    """True if there is a number."""
    return score.value == score.value


def cell(score: Score) -> str:
    """Value and interval; ``n/a`` where no image has one."""
    if not is_defined(score):
        return "n/a"
    digits = 3 if abs(score.value) < 1 else 2
    return f"{score.value:z.{digits}f}{score.bracketed(digits)}"


def quoted(names: Iterable[str]) -> str:
    """Names as code, with commas between."""
    return ", ".join(map(markdown_code, names))


def table(header: Sequence[str], rows: Iterable[Sequence[str]] | Mapping[str, Sequence[str]]) -> str:
    """Lines of Markdown; of a mapping the names, as code, are the first column."""
    listed = (
        [[markdown_code(name), *cells] for name, cells in rows.items()] if isinstance(rows, Mapping) else rows
    )
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in listed)])


# Kinds of curves, with the sign that makes a higher area better.
KINDS: Final = {"insertion": 1, "deletion": -1}
_CONTROLS: Final = ("random", "centre")
_NEUTRALITY: Final = ("query_probability", "max_probability", "entropy", "change")


@final
class RemovalScores:
    """Baselines, methods, and the areas of all methods with all baselines.

    Args:
        evaluation: of ``BaselineNeutrality`` and ``PerturbationCurves`` with the same baselines.

    Attributes:
        scores: all scores of the evaluation.
        baselines: names.
        same_as: from a baseline to an earlier one that is the same to the classifier on every image.
        distinct: all other baselines.
        limit: mean query probability up to which a baseline is neutral.
        neutral: distinct baselines that are neutral by the classifier's own probability.

    Raises:
        ConfigError: no baseline was examined.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self.scores = Scores(evaluation)
        self.baselines = self.scores.rows("neutrality/change")
        if not self.baselines:
            raise ConfigError(
                "the study reads the neutrality of baselines, which the evaluation lacks; add the callback"
                " BaselineNeutrality, as the study's configuration does"
            )
        self.same_as = self._duplicates()
        self.distinct = [name for name in self.baselines if name not in self.same_as]
        self.limit = self.scores.reported(self.baselines[0], "neutrality/limit").value
        self.neutral = [name for name in self.distinct if self.is_neutral(name)]

    def is_neutral(self, name: str) -> bool | None:
        """True if the interval of the mean query probability reaches the limit; None where there is none.

        On a baseline that is the same for all images, the mean query probability over equally frequent
        classes is 1/K, which is the limit where K is small. So the mean alone would decide by chance.
        """
        probability = self.scores.mean(name, "neutrality/query_probability")
        return probability.low <= self.limit if is_defined(probability) else None

    def methods(self, generators: Iterable[str] = ()) -> list[str]:
        """Methods with removal curves, without controls and without maps of generators by baseline."""
        left_out = {*_CONTROLS, *(f"{one}_{baseline}" for one in generators for baseline in self.baselines)}
        return [row for row in self.scores.rows(self._pattern("insertion")) if row not in left_out]

    def areas(self, kind: str, methods: Sequence[str], baselines: Sequence[str]) -> Tensor:
        """``(baselines, methods, images)`` areas without a change of sign; NaN is undefined.

        Raises:
            ConfigError: a method lacks a curve.
        """
        rows = self.scores.rows(self._pattern(kind))
        if not rows:
            raise ConfigError(
                f"the study reads '{kind}[{self.baselines[0]}]', which no method of the evaluation has; add"
                " the callback PerturbationCurves with all baselines, as the study's configuration does"
            )
        # The steps are the same for all.
        first = f"{kind}[{self.baselines[0]}]"
        steps = self.scores.name(rows[0], self._pattern(kind)).removeprefix(first)
        wanted = [(row, f"{kind}[{baseline}]{steps}") for baseline in baselines for row in methods]
        return self.scores.stacked(wanted).view(len(baselines), len(methods), -1)

    def benefits(self, methods: Sequence[str], baselines: Sequence[str]) -> dict[str, Tensor]:
        """By kind, :meth:`areas` with the sign that makes higher better, on images defined for all."""
        signed = {kind: sign * self.areas(kind, methods, baselines) for kind, sign in KINDS.items()}
        kept = ~torch.stack([values.isnan().any(dim=0).any(dim=0) for values in signed.values()]).any(dim=0)
        return {kind: values[..., kept] for kind, values in signed.items()}

    def _pattern(self, kind: str) -> str:
        return rf"{kind}\[{re.escape(self.baselines[0])}\].*/auc"

    def _duplicates(self) -> dict[str, str]:
        said = {
            name: self.scores.stacked([(name, f"neutrality/{key}") for key in _NEUTRALITY])
            for name in self.baselines
        }
        same: dict[str, str] = {}
        for place, name in enumerate(self.baselines):
            for earlier in self.baselines[:place]:
                alike = torch.allclose(said[name], said[earlier], rtol=0, atol=1e-7, equal_nan=True)
                if earlier not in same and alike:
                    same.setdefault(name, earlier)
        return same


# Attacks on maps.
ATTACKS: Final = ("top_k", "mass_centre", "target")


def sensitivity_under(kind: str, *, aimed: bool) -> str:
    """Name, as a regular expression, of S_S under an attack, aimed at another method's map or not."""
    return rf"attacked_sensitivity\[{kind},{'.*,aim=' if aimed else '(?!.*,aim=)'}.*\]/sensitivity"


def counted_images(names: Iterable[str]) -> str:
    """Number of images, and the name of the first, which tells data set and split."""
    listed = sorted(names, key=lambda name: (len(name), name))
    return f"{len(listed)}, starting with {markdown_code(listed[0])}"


def is_halved(ours: Score, plain: Score) -> bool:
    """True if the first is at most half of the second, with disjoint intervals."""
    return ours.value <= plain.value / 2 and ours.high < plain.low
