"""A study's result as Markdown and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from verisal.checkpoint import write_atomic
from verisal.reporting import write_png
from verisal_studies.study import StudyResult

__all__ = ["page_text", "write_page"]

_COLOURS: Final = 64


def page_text(result: StudyResult, figures: str) -> str:
    """The page.

    Args:
        result: of a study.
        figures: folder of the pictures, as the page names it.
    """
    return "\n".join(_lines(result, figures)) + "\n"


def write_page(result: StudyResult, path: Path) -> None:
    """Write the page, and its pictures into the folder beside it that has the page's name without ending.

    Args:
        result: of a study.
        path: Markdown file to write; its folder is made where there is none.
    """
    folder = path.with_suffix("")
    path.parent.mkdir(parents=True, exist_ok=True)
    for section in result.sections:
        for figure in section.figures:
            write_png(figure.pixels, folder / f"{figure.name}.png", colours=_COLOURS)
    write_atomic(path, page_text(result, folder.name).encode())


def _lines(result: StudyResult, figures: str) -> Iterator[str]:
    yield from (f"# {result.title}", "", f"**Verdict: {result.verdict}.** {result.summary}", "")
    yield from ("```", *result.commands, "```", "")
    yield from ("## Claim", "", result.claim, "", "## Setting", "", "| | |", "|---|---|")
    yield from (f"| {name} | {value} |" for name, value in result.setting.items())
    yield from ("", "## Verdicts", "", "| claim | holds when | verdict | evidence |", "|---|---|---|---|")
    for one in result.findings:
        yield f"| {one.claim} | {one.rule} | **{one.verdict}** | {one.evidence} |"
    for section in result.sections:
        yield from ("", f"## {section.title}")
        for figure in section.figures:
            yield from ("", f"![{figure.text}]({figures}/{figure.name}.png)")
        if section.text:
            yield from ("", section.text.strip())
