"""What the study of reliable saliency reads from an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from verisal.errors import ConfigError
from verisal.results import Evaluation, Score
from verisal_studies.scores import ImageScores
from verisal_studies.study import Verdict

__all__ = ["ABSENT", "Evidence", "Names", "above", "below", "together"]

ABSENT = ("c1", "c2", "c3")
"""Second most likely class, one drawn at random, least likely one."""
_DISTURBED = "D-WSOL (our protocol)"


@final
@dataclass(frozen=True)
class Names:
    """Rows of the evaluation by their part in the study.

    Attributes:
        earlier: comparison methods that existed before.
        masks: masks learned while something of the output is kept.
        ablation: masks learned to raise the class instead.
        logit: gradient of the logit.
        probability: gradient of the probability.
        fused: fused map to the row of the gradient's blur that is as smooth.
        layers: maps of single layers.
        controls: that answer nothing.
    """

    earlier: tuple[str, ...]
    masks: tuple[str, ...]
    ablation: str
    logit: str
    probability: str
    fused: tuple[tuple[str, str], ...]
    layers: tuple[str, ...]
    controls: tuple[str, ...] = ("random", "centre")

    @property
    def asked(self) -> tuple[str, ...]:
        """All methods that are asked for absent classes, controls last."""
        rows = (*self.earlier, self.probability, *self.masks, self.ablation, *self.controls)
        return tuple(dict.fromkeys(rows))


@final
@dataclass
class Evidence:
    """Scores of an evaluation by method, and how many paired comparisons were made of them.

    Attributes:
        found: the evaluation.
        images: its values per image.
        comparisons: names of what was compared, each once.
    """

    found: Evaluation
    images: ImageScores = field(init=False)
    comparisons: set[tuple[str, str, str]] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.images = ImageScores(self.found)

    def score(self, row: str, name: str) -> Score:
        """A score by its name.

        Raises:
            ConfigError: there is none.
        """
        full = f"{self.found.split}/{row}/{name}"
        if full not in self.found.scores:
            has = sorted({known.split("/")[1] for known in self.found.scores})
            raise ConfigError(
                f"the study reads {full!r}, which the evaluation lacks; it has the rows {has}; give it the"
                " methods and callbacks of the study's configuration"
            )
        return self.found.scores[full]

    def disturbed(self, row: str, name: str) -> Score:
        """A score of D-WSOL."""
        return self.score(row, f"{_DISTURBED}/{name}")

    def present(self, row: str) -> Score:
        """Share of present classes whose map finds their own object."""
        return self.score(row, f"{_DISTURBED}, present classes/hit")

    def ranked(self, row: str, name: str) -> Score:
        """A score of maps by class rank."""
        return self.score(row, f"class ranks/{name}")

    def ranks(self, row: str) -> list[str]:
        """Queries by class rank, in order."""
        start = "class ranks/norm["
        names = self.images.names(row, lambda name: name.startswith(start))
        if not names:
            raise ConfigError(
                f"the study reads scores by class rank of {row!r}; give it the callback ClassRanks"
            )
        return [name.removeprefix(start).removesuffix("]") for name in names]

    def difference(self, one: str, other: str, score: str) -> Score:
        """Paired difference of a score of two methods, counted as a comparison."""
        self.comparisons.add((one, other, score))
        return self.images.difference((one, score), (other, score))

    def metric(self, row: str, start: str, end: str) -> str:
        """Full name of the metric's score that starts and ends so."""
        return self.images.one(row, lambda name: name.startswith(start) and name.endswith(end))


def below(score: Score, limit: float) -> bool:
    """Whether the whole interval is at or below the limit; not if there is none."""
    return score.high <= limit


def above(score: Score, limit: float) -> bool:
    """Whether the whole interval is at or above the limit; not if there is none."""
    return score.low >= limit


def together(parts: Sequence[bool]) -> Verdict:
    """``holds`` if all do, ``holds in part`` if some do."""
    if not parts:
        return "cannot be said"
    return "holds" if all(parts) else "holds in part" if any(parts) else "does not hold here"
