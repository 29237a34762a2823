"""The page of a study as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from verisal.pictures import png
from verisal.reporting.escaping import without_marks
from verisal.reporting.html import Page, Section, Shown, markdown_sections, render
from verisal.reporting.html.images import Picture
from verisal_studies.study import COLOURS, StudyFigure, StudyResult, verdict_lines


def html_page(result: StudyResult, *, notes: Sequence[str] = ()) -> str:
    """The page with its pictures, at most 3 MB; links are left as plain words.

    Args:
        result: the judged study.
        notes: those of the evaluation, which a reader must know.
    """
    doubts = [
        f"{without_marks(finding.claim).rstrip('.')}: {finding.verdict}."
        for finding in result.findings
        if finding.verdict != "holds"
    ]
    sections = [
        Section("claim", "Claim", markup=markdown_sections(result.claim)),
        Section("verdicts", "Verdicts", markup=markdown_sections("\n".join(verdict_lines(result)))),
    ]
    for number, section in enumerate(result.sections):
        text = markdown_sections(section.text)
        pictures = tuple(map(_shown, section.figures))
        sections.append(Section(f"part-{number}", section.title, pictures=pictures, markup=text))
    setting = {without_marks(name): without_marks(value) for name, value in result.setting.items()}
    sections += [
        Section("run", "What was run, and on what", facts=setting),
        Section("repeat", "How to repeat it", commands=result.commands),
    ]
    return render(
        Page(
            title=result.title,
            kind="Study",
            about="",
            opening=(f"Verdict: {result.verdict}. {without_marks(result.summary)}",),
            doubts=(*doubts, *notes),
            sections=tuple(sections),
            made_by=f"Made by verisal {version('verisal')}",
        )
    )


def _shown(figure: StudyFigure) -> Shown:
    content = png(figure.pixels, colours=COLOURS)
    return Shown(figure.text, f"study/{figure.name}.png", Picture(figure.pixels, content))
