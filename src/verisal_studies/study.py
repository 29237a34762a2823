"""What a study is: published claims, the rule by which each is judged, and what was found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from verisal.errors import ConfigError
from verisal.results import Evaluation

__all__ = ["Finding", "Section", "Study", "StudyFigure", "StudyResult", "Verdict"]

Verdict = Literal["holds", "holds in part", "does not hold here", "cannot be said"]


@dataclass(frozen=True)
class Finding:
    """One claim and what became of it.

    Attributes:
        claim: a sentence, in our words.
        rule: when it is said to hold, fixed before the numbers were seen.
        verdict: by that rule.
        evidence: one sentence with the numbers and intervals that decided.
    """

    claim: str
    rule: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True)
class StudyFigure:
    """A picture of the page.

    Attributes:
        name: of its file, without ending.
        text: what it shows, for those who cannot see it.
        pixels: ``(H, W, 3)`` uint8.
    """

    name: str
    text: str
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Section:
    """A part of the page: figures, then text.

    Attributes:
        title: its heading.
        text: Markdown.
        figures: shown above the text.
    """

    title: str
    text: str
    figures: tuple[StudyFigure, ...] = ()


@dataclass(frozen=True)
class StudyResult:
    """What a study found.

    Attributes:
        title: of the page.
        claim: what was published, in our words.
        commands: that make the page again.
        setting: what was measured on what, name to value.
        findings: the claims, at least one.
        summary: one sentence, for who reads nothing else.
        sections: the evidence.
    """

    title: str
    claim: str
    commands: tuple[str, ...]
    setting: Mapping[str, str]
    findings: tuple[Finding, ...]
    summary: str
    sections: tuple[Section, ...] = ()

    def __post_init__(self) -> None:
        if not self.findings:
            raise ConfigError("a study must judge at least one claim, found none")
        names = [figure.name for section in self.sections for figure in section.figures]
        if len(set(names)) < len(names):
            raise ConfigError(f"figures of a study must have names of their own, found {sorted(names)}")

    @property
    def verdict(self) -> Verdict:
        """Of all claims together: what all have in common, else ``holds in part``."""
        words = {finding.verdict for finding in self.findings}
        return words.pop() if len(words) == 1 else "holds in part"


class Study(ABC):
    """Reads what an evaluation found and judges published claims by it.

    The same evaluation must give the same result, to the last digit: no time, no place, no random draw
    without a seed.
    """

    @abstractmethod
    def result(self, found: Evaluation) -> StudyResult:
        """What an evaluation says about the claims.

        Raises:
            ConfigError: the evaluation lacks scores that the study reads; says which.
        """
