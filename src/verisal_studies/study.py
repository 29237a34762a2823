"""Studies: published claims, the rule by which each is judged, the verdicts, and the page that shows them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import ClassVar, Final, Literal

from verisal._files import write_atomic
from verisal.errors import ConfigError
from verisal.pictures import Pixels, write_png
from verisal.reporting.escaping import without_html
from verisal.results import Evaluation

Verdict = Literal["holds", "holds in part", "does not hold here", "cannot be said"]


def verdict_of(parts: Sequence[bool], *, spoilt: bool = False) -> Verdict:
    """``holds`` if all parts do, ``holds in part`` if some do and nothing spoils it, else no."""
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
        rule: the condition under which it holds, fixed before the numbers were seen.
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
        text: a description for those who cannot see it.
        pixels: ``(H, W, 3)`` uint8.
    """

    name: str
    text: str
    pixels: Pixels


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
        commands: the ones that make the page again.
        setting: what was measured on what, name to value.
        findings: the claims, at least one.
        summary: one sentence, for those who read nothing else.
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
        """The verdict that all claims have in common, else ``holds in part``."""
        words = {finding.verdict for finding in self.findings}
        return words.pop() if len(words) == 1 else "holds in part"


class Study(ABC):
    """Judges published claims by an evaluation.

    The same evaluation must give the same result, to the last digit: no time, no place, no random draw
    without a seed.

    Args:
        commands: the ones that make the page again.
        setting: what was measured on what, name to value, as the page shows it.

    Attributes:
        page: name of the study's text in ``pages``, without ending.
    """

    page: ClassVar[str]

    def __init__(self, *, commands: Sequence[str], setting: Mapping[str, str] | None = None) -> None:
        self.commands, self.setting = tuple(commands), dict(setting or {})

    @abstractmethod
    def result(self, evaluation: Evaluation) -> StudyResult:
        """The claims, judged by an evaluation.

        Raises:
            ConfigError: the evaluation lacks scores that the study reads; says which.
        """

    def judged(
        self,
        findings: Iterable[Finding],
        *,
        summary: str,
        setting: Mapping[str, str],
        values: Mapping[str, object],
        figures: Mapping[str, Pixels],
    ) -> StudyResult:
        """The result, on the study's page.

        The text has a title, the claim, and sections; numbers and tables stand in it as ``{name}``, pictures
        as ``![what is seen](name)``. A section without numbers or tables is left out if its pictures are.

        Args:
            findings: the claims.
            summary: one sentence, for those who read nothing else.
            setting: what was measured on what.
            values: by their names in the text.
            figures: by their names in the text; a picture that is not given is left out.
        """
        text = files(__package__).joinpath("pages", f"{self.page}.md").read_text(encoding="utf-8")
        head, *parts = text.removeprefix("# ").split("\n## ")
        title, claim = (_in_one_line(words).format_map(values) for words in head.split("\n", 1))
        sections = tuple(section for part in parts for section in _section(part, values, figures))
        return StudyResult(title, claim, self.commands, setting, tuple(findings), summary, sections)


def _section(part: str, values: Mapping[str, object], figures: Mapping[str, Pixels]) -> Iterator[Section]:
    title, _, body = part.partition("\n")
    texts, shown, pictures = [], [], 0
    for paragraph in body.strip().split("\n\n"):
        picture = re.fullmatch(r"!\[(.*)\]\((.*)\)", _in_one_line(paragraph))
        if picture is None:
            texts.append(_in_one_line(paragraph).format_map(values))
            continue
        pictures += 1
        if picture[2] in figures:
            shown.append(StudyFigure(picture[2], picture[1], figures[picture[2]]))
    if shown or not pictures or "{" in body:
        yield Section(title, "\n\n".join(texts), tuple(shown))


def _in_one_line(words: str) -> str:
    return words.strip().replace("\n", " ")


#: The most colours that a picture of a page has.
COLOURS: Final = 64


def page_text(result: StudyResult, figures: str) -> str:
    """The page, whose pictures are in the folder ``figures``; HTML in names shows as text."""
    return without_html("\n".join(_lines(result, figures)) + "\n")


def write_page(result: StudyResult, path: Path) -> None:
    """Write the page, and its pictures into the folder beside it that has the page's name without ending."""
    folder = path.with_suffix("")
    path.parent.mkdir(parents=True, exist_ok=True)
    for section in result.sections:
        for figure in section.figures:
            write_png(figure.pixels, folder / f"{figure.name}.png", colours=COLOURS)
    write_atomic(path, page_text(result, folder.name).encode())


def _lines(result: StudyResult, figures: str) -> Iterator[str]:
    yield from (f"# {result.title}", "", f"**Verdict: {result.verdict}.** {result.summary}", "")
    yield from ("```", *result.commands, "```", "")
    yield from ("## Claim", "", result.claim, "", "## Setting", "", "| | |", "|---|---|")
    yield from (f"| {name} | {value} |" for name, value in result.setting.items())
    yield from ("", "## Verdicts", "", *verdict_lines(result))
    for section in result.sections:
        yield from ("", f"## {section.title}")
        for figure in section.figures:
            yield from ("", f"![{figure.text}]({figures}/{figure.name}.png)")
        if section.text:
            yield from ("", section.text.strip())


def verdict_lines(result: StudyResult) -> Iterator[str]:
    """The table of the claims and their verdicts, in Markdown."""
    yield from ("| claim | holds when | verdict | evidence |", "|---|---|---|---|")
    for finding in result.findings:
        yield f"| {finding.claim} | {finding.rule} | **{finding.verdict}** | {finding.evidence} |"


def verdicts_of_page(path: Path) -> dict[str, tuple[str, str]]:
    """Claim to verdict and evidence, as a page shows them.

    Raises:
        ConfigError: no page there, or no verdict in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: the page of a study was expected, and cannot be read ({error})") from None
    found = re.findall(r"^\| (.+?) \| .+? \| \*\*(.+?)\*\* \| (.*) \|$", text, flags=re.MULTILINE)
    if not found:
        raise ConfigError(f"{path}: holds no table of claims and verdicts; name the page of a study")
    return {claim: (verdict, evidence) for claim, verdict, evidence in found}
