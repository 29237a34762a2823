"""The report of a run in Markdown: what was found, what to know, tables, figures, and the run itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote

from verisal._plain import plain
from verisal.reporting.blocks import Block, blocks_of, counted
from verisal.reporting.drawn import DrawnFigure
from verisal.reporting.escaping import markdown_code, markdown_text
from verisal.reporting.facts import RunFacts
from verisal.reporting.publication import main_table
from verisal.reporting.words import opening, title_of
from verisal.results import Evaluation, Score, ScoreName


def markdown_report(evaluation: Evaluation, facts: RunFacts, figures: Sequence[DrawnFigure] = ()) -> str:
    """The whole report; names in it show as they are, whatever characters they have.

    Args:
        evaluation: all scores.
        facts: about the run itself.
        figures: files beside the report.
    """
    parts = (
        _head(evaluation, facts),
        _main(evaluation),
        *(_block(block) for block in blocks_of(evaluation.scores)),
        _tables(evaluation),
        _figures(figures),
        _images_and_timings(evaluation),
        _run(evaluation, facts),
    )
    return "\n".join(line for part in parts for line in part) + "\n"


def _head(evaluation: Evaluation, facts: RunFacts) -> Iterator[str]:
    yield from (f"# Results: {markdown_text(evaluation.split)}", "")
    for sentence in opening(evaluation):
        yield from (markdown_text(sentence), "")
    if evaluation.notes:
        yield from ("**Read this first**", "")
        yield from (f"- {markdown_text(note)}" for note in evaluation.notes)
        yield ""


def _main(evaluation: Evaluation) -> Iterator[str]:
    main = main_table(evaluation)
    if main is None:
        return
    yield from ("## Main table", "", "Intervals and counts are in the tables below.", "")
    yield from _rows(main.columns, ([str(row[0]), *map(_number, row[1:])] for row in main.rows))
    names = {ScoreName(score).column: name.split("/", 2)[2] for score, name in evaluation.logged.items()}
    if names:
        cells = [
            markdown_code(names[column]) if column in names else "" for column in evaluation.headline.values()
        ]
        yield f"| *logged as* `{evaluation.split}/.../` | {' | '.join(cells)} |"
    yield ""


def _block(block: Block) -> Iterator[str]:
    counts = block.counts()
    said = f"; {counts.words['']}" if counts.place == "all" else ""
    yield from (f"## {markdown_text(title_of(block.metric))}", "")
    yield f"Value [95 % interval over images]{said}."
    yield "n is the number of images that counted (+ those that could not be scored)."
    if any(score.few for score in block.cells.values() if score.value == score.value):
        yield "[too few]: so few images have no interval that holds as often as it says."
    yield ""
    beside = counts.words if counts.place == "rows" else {}
    rows = [
        [row, *([beside[row]] if beside else []), *(_cell(block, row, name) for name in block.columns)]
        for row in block.rows
    ]
    if counts.place == "columns":
        rows.append(["images", *(counts.words[name] for name in block.columns)])
    yield from _rows(["", *(["images"] if beside else []), *block.columns], rows)
    yield ""


def _cell(block: Block, row: str, column: str) -> str:
    score = block.cells.get((row, column))
    if score is None:
        return ""
    images = f" ({counted(score)})" if block.counts().place == "cells" else ""
    return value_words(score) + images


def value_words(score: Score) -> str:
    """A value and its interval."""
    return "n/a" if math.isnan(score.value) else f"{score.value:z.3f}{score.bracketed()}"


def _tables(evaluation: Evaluation) -> Iterator[str]:
    for title, table in evaluation.tables.items():
        yield from (f"## {markdown_text(title[0].upper() + title[1:])}", "")
        cells = ([_number(cell) or str(cell) for cell in row] for row in table.rows)
        yield from (_line(table.columns), f"|{'---|' * len(table.columns)}")
        yield from map(_line, cells)
        yield ""


def _figures(figures: Sequence[DrawnFigure]) -> Iterator[str]:
    if figures:
        yield from ("## Figures", "")
    for figure in figures:
        yield from (f"![{markdown_text(figure.title)}]({quote(figure.file)})", "")


def _images_and_timings(evaluation: Evaluation) -> Iterator[str]:
    if evaluation.counts:
        yield from ("## Images", "")
        yield from _rows(
            ["group", "images"], ([name, str(count)] for name, count in evaluation.counts.items())
        )
        yield ""
    if evaluation.timings:
        yield from ("## Timings", "", "Of this run, on this machine; they do not repeat exactly.", "")
        yield from _rows(
            ["what", "value"], ([name, f"{value:.4g}"] for name, value in evaluation.timings.items())
        )
        yield ""


def _run(evaluation: Evaluation, facts: RunFacts) -> Iterator[str]:
    yield from ("## Run", "")
    if facts.command:
        yield from ("```", plain(facts.command), "```", "")
    yield from (f"- {name}: {markdown_text(words)}" for name, words in facts.lines().items())
    yield from (
        f"- {markdown_text(name)}: {markdown_text(words)}" for name, words in evaluation.settings.items()
    )
    if facts.config_file:
        yield f"- all settings: [{markdown_text(facts.config_file)}]({quote(facts.config_file)})"
    yield from (f"- time, {name}: {words}" for name, words in facts.times().items())
    yield from (f"- {markdown_text(f'{package} {number}')}" for package, number in facts.versions.items())


def _rows(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table whose first column holds words and whose others hold numbers."""
    yield from (_line(columns), f"|---|{'---:|' * (len(columns) - 1)}")
    yield from map(_line, rows)


def _line(cells: Sequence[str]) -> str:
    return "".join(f"| {cell} " if cell else "| " for cell in map(markdown_text, cells)) + "|"


def _number(value: object) -> str:
    return f"{value:z.3f}" if isinstance(value, float) and not math.isnan(value) else ""
