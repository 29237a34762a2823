"""What a study is: published claims, the rule by which each is judged, and the verdicts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from verisal.errors import ConfigError
from verisal.results import Evaluation

Verdict = Literal["holds", "holds in part", "does not hold here", "cannot be said"]


def verdict_of(parts: Sequence[bool], *, spoilt: bool = False) -> Verdict:
    """``holds`` if all parts do, ``holds in part`` if some do and nothing spoils it, else it does not."""
    if not parts:
        return "cannot be said"
    return "holds" if all(parts) else "holds in part" if any(parts) and not spoilt else "does not hold here"


def verdict_of_words(words: Sequence[str]) -> Verdict:
    """``holds`` if all are ``better``, ``holds in part`` if some are and none is ``worse``."""
    return verdict_of([word == "better" for word in words], spoilt="worse" in words)


@dataclass(frozen=True)
class Finding:
    """One claim and its verdict.

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
    """A part of the page.

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
    """A judged study, as its page shows it.

    Attributes:
        title: of the page.
        claim: what was published, in our words.
        commands: that make the page again.
        setting: what was measured on what, name to value.
        findings: the claims, at least one.
        summary: one sentence, for who reads nothing else.
        sections: the evidence.

    Raises:
        ConfigError: no claim is judged, or two figures have one name.
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
    """Judges published claims by an evaluation.

    The same evaluation must give the same result, to the last digit: no time, no place, no random draw
    without a seed.

    Args:
        setting: what was measured on what, name to value, as the page shows it.
        commands: that make the page again.
    """

    title: str
    claim: ClassVar[str]

    def __init__(self, setting: Mapping[str, str], commands: Sequence[str]) -> None:
        self.setting, self.commands = dict(setting), tuple(commands)

    @abstractmethod
    def result(self, evaluation: Evaluation) -> StudyResult:
        """What an evaluation says about the claims.

        Raises:
            ConfigError: the evaluation lacks scores that the study reads; says which.
        """

    def judged(
        self,
        findings: Iterable[Finding],
        sections: Iterable[Section],
        *,
        summary: str,
        setting: Mapping[str, str],
    ) -> StudyResult:
        """The result under the study's own title, claim and commands."""
        own = (self.title, self.claim, self.commands)
        return StudyResult(*own, setting, tuple(findings), summary, tuple(sections))
