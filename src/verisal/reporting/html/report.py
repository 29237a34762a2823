"""The report of a run as one HTML page."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import yaml

from verisal.reporting.blocks import Block, blocks_of, scale_of
from verisal.reporting.drawn import DrawnFigure
from verisal.reporting.facts import RunFacts
from verisal.reporting.html.images import Picture
from verisal.reporting.html.page import Cell, Column, Grid, Line, Page, Section, Shown, render
from verisal.reporting.meanings import meanings
from verisal.reporting.publication import main_cells
from verisal.reporting.words import in_words, is_control, opening, title_of
from verisal.results import Evaluation, Score, ScoreName, Table

# Cells with bars and counts, and cells at all: a page of a large study must open.
_MOST_BARS: Final = 2500
_MOST_CELLS: Final = 12_000
# What an alarm is judged by stands first, with the main table.
_FIRST: Final = ("auroc", "tpr_at_fpr5", "fpr")
_CHANCE: Final = "The upright line is chance."
_HEADINGS: Final[Mapping[str, str]] = {
    "roc": "ROC curves",
    "curves": "Curves",
    "table": "Comparisons",
    "panel": "Images and maps",
    "histogram": "Distributions of scores",
}


def html_report(evaluation: Evaluation, facts: RunFacts, figures: Sequence[DrawnFigure] = ()) -> str:
    """The whole report as text of one file, at most 3 MB.

    Args:
        evaluation: all scores.
        facts: about the run itself.
        figures: of the run.
    """
    main, rest = _grids(evaluation)
    sections = [
        *([Section("results", "Results", _HOW_TO_READ, grids=tuple(main))] if main else []),
        *_figures(figures),
        *(
            [Section("tables", "All numbers", _left_out(rest), grids=_within(rest), folded=True)]
            if rest
            else []
        ),
        *_run(evaluation, facts),
    ]
    name = facts.name or evaluation.split
    about = ", ".join(part for part in (facts.task, facts.data, facts.finished) if part)
    version = facts.versions.get("verisal", "")
    return render(
        Page(
            title=f"{name}: {'test' if evaluation.split == 'test' else 'validation'}",
            kind="Report of a run",
            about=about,
            opening=tuple(_in_table_words(evaluation)) or (_plainly(evaluation),),
            doubts=(*evaluation.notes, *_cautions(evaluation.scores)),
            sections=tuple(sections),
            made_by=f"Made by verisal {version}".strip(),
        )
    )


_HOW_TO_READ: Final = (
    "Bars are 95 % intervals over images, the mark in them is the value. A heading sorts by its column."
)


def _in_table_words(evaluation: Evaluation) -> Iterator[str]:
    """The opening with the names of rows and groups as the tables have them."""
    names = {part for name in evaluation.scores for part in (name.row, name.part) if part}
    for sentence in opening(evaluation):
        yield re.sub(r"[\w.-]+\w", lambda word: in_words(word[0]) if word[0] in names else word[0], sentence)


def _plainly(evaluation: Evaluation) -> str:
    rows = {name.row for name in evaluation.scores}
    return f"{len(evaluation.scores)} scores of {len(rows)} rows; the tables below have all of them."


def _cautions(scores: Mapping[ScoreName, Score]) -> Iterator[str]:
    """What the scores themselves say against trusting them."""
    known = [score for score in scores.values() if not math.isnan(score.value)]
    few = sum(score.few for score in known)
    if few:
        yield f"{few} of {len(scores)} numbers are of too few images for an interval that holds."
    if len(known) < len(scores):
        yield f"{len(scores) - len(known)} of {len(scores)} numbers are undefined, and shown as n/a."
    partly = [score for score in known if score.undefined]
    if partly:
        most = max(score.undefined for score in partly)
        yield f"{len(partly)} numbers leave out images that could not be scored, up to {most} of them."


def _grids(evaluation: Evaluation) -> tuple[list[Grid], list[Grid]]:
    """The main tables, and all others."""
    blocks = {block.metric: _of_block(block, evaluation.split) for block in blocks_of(evaluation.scores)}
    tables = [_of_table(title, table) for title, table in evaluation.tables.items()]
    main = list(_main(evaluation))
    first = [metric for metric in _FIRST if metric in blocks] or ([] if main else list(blocks)[:1])
    rest = [grid for metric, grid in blocks.items() if metric not in first]
    return [*main, *(blocks[metric] for metric in first)], [*rest, *tables]


def _main(evaluation: Evaluation) -> Iterator[Grid]:
    """One table for rows that have the same columns: methods apart from attacks, for one."""
    cells = main_cells(evaluation)
    titles = list(evaluation.headline)
    alike: dict[tuple[int, ...], list[str]] = {}
    for row, scores in cells.items():
        places = tuple(place for place, score in enumerate(scores) if score is not None)
        alike.setdefault(places, []).append(row)
    for places, rows in alike.items():
        words = [in_words(titles[place]) for place in places]
        title = "Main table" if len(alike) == 1 else ", ".join(word.rstrip(" ↑↓") for word in words[:2])
        lines = {row: [cells[row][place] for place in places] for row in rows}
        names = [evaluation.headline[titles[place]] for place in places]
        yield _main_part(evaluation.split, _capital(title), words, names, lines)


def _main_part(
    split: str,
    title: str,
    words: Sequence[str],
    names: Sequence[str],
    lines: Mapping[str, Sequence[Score | None]],
) -> Grid:
    columns = list(zip(*lines.values(), strict=True))
    scales = [scale_of([score for score in column if score is not None]) for column in columns]
    compared = any(map(is_control, lines))
    best = [_best(column, one) if compared else None for column, one in zip(columns, words, strict=True)]
    return Grid(
        title,
        "name",
        tuple(Column(one, f"bars: from {_axis(scale)}") for one, scale in zip(words, scales, strict=True)),
        tuple(
            Line(
                in_words(row),
                tuple(
                    Cell.of(score, name=ScoreName(split, row, name), scale=scale, best=_is(score, top))
                    for score, name, scale, top in zip(scores, names, scales, best, strict=True)
                ),
                note="control" if is_control(row) else "",
            )
            for row, scores in lines.items()
        ),
    )


def _is(score: Score | None, best: float | None) -> bool:
    return score is not None and score.value == best


def _best(column: Sequence[Score | None], title: str) -> float | None:
    values = [score.value for score in column if score is not None and not math.isnan(score.value)]
    choose = {"↑": max, "↓": min}.get(title[-1:])
    return choose(values) if choose and len(values) > 1 else None


def _of_block(block: Block, split: str) -> Grid:
    chance = 0.5 if block.metric.startswith("auroc") else None
    counts, scale = block.counts(), block.scale(holds=chance)
    mark = None if chance is None else round(100 * (chance - scale[0]) / (scale[1] - scale[0]), 1)

    def cell(row: str, column: str, best: float | None) -> Cell:
        score = block.cells.get((row, column))
        name = ScoreName(split, row, block.metric, "" if column == "all" else column)
        made = Cell.of(score, name=name, scale=scale, best=_is(score, best))
        return replace(made, mark=mark) if made.bar else made

    best = {
        column: _best([block.cells.get((row, column)) for row in block.rows], "↑")
        if block.metric == "auroc"
        else None
        for column in block.columns
    }
    said = counts.words
    return Grid(
        title_of(block.metric),
        "name",
        tuple(
            Column(in_words(name), said[name] if counts.place == "columns" else "") for name in block.columns
        ),
        tuple(
            Line(
                in_words(row),
                tuple(cell(row, column, best[column]) for column in block.columns),
                said[row] if counts.place == "rows" else "",
            )
            for row in block.rows
        ),
        note=" ".join(
            part
            for part in (
                f"Bars: from {_axis(scale)}.",
                f"{said['']} in every cell." if counts.place == "all" else "",
                _CHANCE if chance else "",
            )
            if part
        ),
    )


def _axis(scale: tuple[float, float]) -> str:
    return f"{scale[0]:.3g} to {scale[1]:.3g}"


def _of_table(title: str, table: Table) -> Grid:
    lines = tuple(
        Line(_words(row[0]), tuple(Cell(_words(value)) for value in row[1:])) for row in table.rows if row
    )
    heads = tuple(Column(in_words(name)) for name in table.columns[1:])
    first = in_words(table.columns[0]) if table.columns else ""
    return Grid(_capital(title), first, heads, lines)


def _words(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:z.3f}"
    return str(value)


def _within(grids: Sequence[Grid]) -> tuple[Grid, ...]:
    """As many tables as a page can hold, those beyond some size without bars."""
    kept, cells = [], 0
    for grid in grids:
        cells += grid.size
        if cells > _MOST_CELLS:
            break
        kept.append(replace(grid, dense=True) if cells > _MOST_BARS else grid)
    return tuple(kept)


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _left_out(grids: Sequence[Grid]) -> str:
    missing = len(grids) - len(_within(grids))
    return (
        f"{missing} further tables are too large for this page; report.json has their numbers."
        if missing
        else ""
    )


def _figures(figures: Sequence[DrawnFigure]) -> Iterator[Section]:
    for kind, heading in _HEADINGS.items():
        shown = tuple(
            Shown(one.title, one.file, Picture(one.pixels, one.content))
            for one in figures
            if one.kind == kind
        )
        if shown:
            folded = kind == "histogram" and len(shown) > 3
            yield Section(kind, heading, pictures=shown, folded=folded, wide=kind in ("roc", "table"))


def _run(evaluation: Evaluation, facts: RunFacts) -> Iterator[Section]:
    counts = {in_words(name): f"{count} images" for name, count in evaluation.counts.items()}
    told = facts.lines() | counts | dict(evaluation.settings)
    if words := meanings(evaluation):
        yield Section("words", "Words", facts=words)
    yield Section("run", "What was run, and on what", facts=told)
    if facts.wall_times or evaluation.timings:
        timings = {in_words(name): f"{value:.4g}" for name, value in evaluation.timings.items()}
        note = "Of this run on this machine; times do not repeat exactly."
        yield Section("times", "Times", note, facts=facts.times() | timings, folded=len(timings) > 20)
    settings = (
        "" if not facts.config else yaml.safe_dump(_plain(facts.config), sort_keys=False, allow_unicode=True)
    )
    note = (
        "The settings below, saved as a file, repeat the run: they are all there are, defaults included."
        if settings
        else ""
    )
    commands = (facts.command,) if facts.command else ()
    if commands or settings:
        yield Section("repeat", "How to repeat it", note, commands=commands, text=settings)
    if facts.versions:
        yield Section("versions", "Versions", facts=facts.versions)


def _plain(config: Mapping[str, object]) -> object:
    return json.loads(json.dumps(dict(config), default=str))
