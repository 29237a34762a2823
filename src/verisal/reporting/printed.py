"""The result of a run on the terminal: as many columns as fit, the notes, and what was found in words."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TextIO, final

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from verisal._plain import plain
from verisal.progress import paused
from verisal.reporting.blocks import Block, blocks_of
from verisal.reporting.publication import main_cells
from verisal.reporting.words import in_words, opening, title_of
from verisal.results import Evaluation, Score

_WIDEST = 100
_IN_A_FILE = 80
_FIRST = ("mean_unseen", "worst_unseen")
_MOST_NOTES = 5
_MOST_SENTENCES = 3
# Between two columns, and at both ends.
_GAP, _ENDS = 2, 3
# Parts of a name, behind each of which it may go on in the next line.
_PARTS = re.compile(r".+?(?:[_\-./ ]|(?<=[a-z0-9])(?=[A-Z])|$)")


@final
@dataclass(frozen=True)
class _Column:
    """One column of a printed table.

    Attributes:
        title: in words.
        cells: one for each row, of one or two lines.
        rank: columns of low ranks are shown first where not all fit.
        told: what holds of all its cells, below the title.
        bold: rows whose cells stand out.
    """

    title: str
    cells: Sequence[str]
    rank: float
    told: str = ""
    bold: frozenset[int] = frozenset()

    @property
    def width(self) -> int:
        """The least that splits no word and no number."""
        lines = [line for cell in self.cells for line in cell.split("\n")]
        return max(map(len, [*self.title.split(), self.told, *lines]), default=0)

    @property
    def comfortable(self) -> int:
        """A width at which the title takes two lines or so."""
        return max(self.width, len(self.title) // 2 + 3)


def print_results(evaluation: Evaluation, *, file: TextIO | None = None) -> None:
    """Print the main table, at most as wide as the terminal, or 80 columns in a file.

    That is the table of an evaluation's headline; without one, detectors by attacks with AUROC and its
    interval; without AUROC all scores. If not all columns fit, those that say least are left out and named:
    their words and numbers are never split. Names of rows go on in a second line, and are never cut. The most
    important sentences of the evaluation come last. Colours appear only on a terminal.

    Args:
        evaluation: all scores.
        file: where to print; standard output by default.
    """
    # The stream as it is now: while somebody's bars are shown it is one that prints above them.
    target = sys.stdout if file is None else file
    known = Console(file=target)
    width = min(known.width, _WIDEST) if known.is_terminal else _IN_A_FILE
    text = StringIO()
    _print(Console(file=text, width=width, highlight=False, force_terminal=known.is_terminal), evaluation)
    with paused():
        print(text.getvalue(), end="", file=target, flush=True)


def _print(out: Console, evaluation: Evaluation) -> None:
    main = main_cells(evaluation)
    if main:
        columns = list(_main_columns(list(evaluation.headline), list(main.values())))
        counted = any(" (" in cell for column in columns for cell in column.cells)
        told = "; in brackets, how many images count" if counted else ""
        _print_table(out, f"{evaluation.split}: main table{told}", list(main), columns)
    blocks = [] if main else blocks_of(evaluation.scores)
    for block in [block for block in blocks if block.metric == "auroc"] or blocks:
        below = ", 95 % interval below" if any(score.ends for score in block.cells.values()) else ""
        title = f"{evaluation.split}: {title_of(block.metric)}{below}"
        _print_table(out, title, block.rows, list(_block_columns(block)))
    for note in evaluation.notes[:_MOST_NOTES]:
        out.print(Text(f"note: {plain(note)}"))
    if (more := len(evaluation.notes) - _MOST_NOTES) > 0:
        out.print(Text(f"and {more} more notes in the report"))
    for sentence in opening(evaluation)[:_MOST_SENTENCES]:
        out.print(Text(plain(sentence), style="bold"))


def _print_table(out: Console, title: str, rows: Sequence[str], columns: Sequence[_Column]) -> None:
    names = [plain(row) for row in rows]
    full = max(map(len, names), default=0)
    longest = min(full, out.width // 3)
    shown = _chosen(columns, out.width - longest - _ENDS)
    spare = out.width - longest - _ENDS - sum(column.width + _GAP for column in shown)
    more = max(0, min(spare, full - longest))
    longest, spare = longest + more, spare - more
    table = RichTable(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    table.add_column("", overflow="fold", max_width=longest)
    for column in shown:
        more = max(0, min(spare, column.comfortable - column.width))
        spare -= more
        head = Text(f"{column.title}\n{column.told}".rstrip())
        table.add_column(head, justify="right", width=column.width + more)
    for place, name in enumerate(names):
        styled = [Text(one.cells[place], style="bold" if place in one.bold else "") for one in shown]
        table.add_row(Text(_on_lines(name, longest)), *styled)
    out.print(Text(plain(title)))
    out.print(table)
    if left := [column.title for column in columns if column not in shown]:
        count = "1 more column is" if len(left) == 1 else f"{len(left)} more columns are"
        out.print(Text(f"{count} in the report: {', '.join(left)}"))


def _on_lines(name: str, width: int) -> str:
    """A name on as many lines as it needs, broken between its parts where they fit."""
    lines = [""]
    for part in _PARTS.findall(name):
        if len(lines[-1] + part) > width and lines[-1]:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _chosen(columns: Sequence[_Column], room: int) -> list[_Column]:
    """As many columns as fit, those of low ranks first, in their order; at least one."""
    kept: list[_Column] = []
    for column in sorted(columns, key=lambda one: one.rank):
        if kept and sum(one.width + _GAP for one in (*kept, column)) > room:
            break
        kept.append(column)
    return [column for column in columns if column in kept]


def _main_columns(titles: Sequence[str], rows: Sequence[Sequence[Score | None]]) -> Iterator[_Column]:
    """Values, with the images that count in the title where they are as many in every row."""
    for rank, title in enumerate(titles):
        scores = [row[rank] for row in rows]
        counts = {score.n for score in scores if _known(score) is not None and score is not None and score.n}
        told = f"(n = {next(iter(counts))})" if len(counts) == 1 else ""
        cells = [_counted(score, each=len(counts) > 1) for score in scores]
        yield _Column(plain(in_words(title)), cells, rank, told)


def _block_columns(block: Block) -> Iterator[_Column]:
    """Value above interval; the best AUROC is bold."""
    for place, name in enumerate(block.columns):
        scores = [block.cells.get((row, name)) for row in block.rows]
        values = [value for score in scores if (value := _known(score)) is not None]
        best = max(values, default=None) if block.metric == "auroc" else None
        equal = [row for row, score in enumerate(scores) if best is not None and _known(score) == best]
        rank = float(place)
        if block.metric == "auroc":
            # What holds of new attacks says most, then attacks that are hard to find.
            mean = sum(values) / len(values) if values else math.inf
            rank = -1.0 if name in _FIRST else mean + 2 * name.startswith(("mean_", "worst_"))
        yield _Column(
            plain(in_words(name)), [_two_lines(score) for score in scores], rank, bold=frozenset(equal)
        )


def _known(score: Score | None) -> float | None:
    return None if score is None or math.isnan(score.value) else score.value


def _two_lines(score: Score | None) -> str:
    if score is None:
        return ""
    if math.isnan(score.value):
        return "n/a"
    if score.ends is None:
        return f"{score.value:z.3f}" + ("\ntoo few" if score.few else "")
    return f"{score.value:z.3f}\n{score.low:z.3f}-{score.high:z.3f}"


def _counted(score: Score | None, *, each: bool) -> str:
    """A value, with its images where they are not said above; nothing where it is undefined."""
    if score is None or math.isnan(score.value):
        return ""
    return f"{score.value:z.3f} ({score.n})" if each and score.n else f"{score.value:z.3f}"
