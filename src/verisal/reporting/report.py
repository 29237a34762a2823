"""The report of a run: ``report.json``, ``report.md``, ``samples.csv`` and a printed table."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from verisal._files import write_atomic
from verisal.errors import DataError
from verisal.reporting.blocks import Block, blocks_of
from verisal.reporting.drawn import DrawnFigure
from verisal.reporting.facts import RunFacts
from verisal.reporting.html import html_report
from verisal.reporting.markdown import markdown_report
from verisal.reporting.publication import Table, main_cells
from verisal.reporting.words import title_of
from verisal.results import Evaluation, Score

_CELL = len("0.970-0.990")
_WIDTH = 100
_NARROW = len("randomisation")


def write_report(
    run_dir: Path,
    evaluation: Evaluation,
    *,
    facts: RunFacts,
    stem: str = "report",
    figures: Sequence[DrawnFigure] = (),
) -> None:
    """Write ``<stem>.json``, ``<stem>.md`` and ``<stem>.html``, each whole or not at all.

    ``metrics`` in the JSON file depends on nothing but the scores: equal runs give equal bytes. A value that
    is not a number is ``null``. ``logged`` leads from the names under which loggers have scores, where these
    are others, to the scores' own.

    Args:
        run_dir: folder of the run.
        evaluation: all scores.
        facts: about the run itself.
        stem: name of the files.
        figures: of the run, files in its folder.
    """
    content = {
        "metrics": {name: _plain(evaluation.scores[name]) for name in sorted(evaluation.scores)},
        "logged": {short: name for name, short in evaluation.logged.items()},
        "counts": dict(evaluation.counts),
        "timings": {name: round(value, 6) for name, value in evaluation.timings.items()},
        "summary": list(evaluation.summary),
        "notes": list(evaluation.notes),
        "settings": dict(evaluation.settings),
        "versions": dict(facts.versions),
        "seed": facts.seed,
        "config": dict(facts.config),
        "wall_times": {stage: round(seconds, 3) for stage, seconds in facts.wall_times.items()},
    }
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False, default=str)
    _write_text(run_dir / f"{stem}.json", text + "\n")
    _write_text(run_dir / f"{stem}.md", markdown_report(evaluation, facts, figures))
    _write_text(run_dir / f"{stem}.html", html_report(evaluation, facts, figures))


def write_samples(path: Path, samples: Mapping[str, Sequence[object]]) -> None:
    """Write the per-image table.

    Args:
        path: CSV file to write.
        samples: column name to values, all of one length.

    Raises:
        DataError: columns of different lengths.
    """
    lengths = {name: len(values) for name, values in samples.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"columns of the per-image table must have one length, found {lengths}")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(samples)
    writer.writerows(zip(*samples.values(), strict=True))
    write_atomic(path, table.getvalue().encode())


def result_table(evaluation: Evaluation) -> Table:
    """All scores as one table: ``row, metric, group, value, low, high, n, undefined, logged_as``.

    An interval of too few images is left out, and so is a name under which nothing is logged.
    """
    rows = []
    for name, score in evaluation.scores.items():
        low, high = score.ends or (math.nan, math.nan)
        logged = evaluation.logged.get(name, "")
        row = (name.row, name.metric, name.part or "all", score.value, low, high, score.n, score.undefined)
        rows.append((*row, logged))
    columns = ("row", "metric", "group", "value", "low", "high", "n", "undefined", "logged_as")
    return Table(columns, tuple(rows))


def print_results(evaluation: Evaluation, *, file: TextIO | None = None) -> None:
    """Print the main table: detectors by attacks, AUROC with its interval, at most 100 columns wide.

    An evaluation with a headline has that printed; one without AUROC all its scores. Colours appear only on
    a terminal.

    Args:
        evaluation: all scores.
        file: where to print; standard output by default.
    """
    out = Console(file=file)
    if not out.is_terminal or out.width > _WIDTH:
        out = Console(file=file, width=_WIDTH)
    main = main_cells(evaluation)
    if main:
        columns = {
            name.replace("_", " ").replace("[", " ["): [Text(_counted(score)) for score in scores]
            for name, *scores in zip(evaluation.headline, *main.values(), strict=True)
        }
        title = f"{evaluation.split}, main table (in brackets the images that count)"
        _print_columns(out, title, list(main), columns, width=_NARROW)
    blocks = [] if main else blocks_of(evaluation.scores)
    for block in [block for block in blocks if block.metric == "auroc"] or blocks:
        title = f"{title_of(block.metric)} ({evaluation.split}; 95 % interval below each value)"
        columns = {name: _cells(block, name) for name in block.columns}
        _print_columns(out, title, block.rows, columns, min_width=_CELL)
    for name, value in evaluation.timings.items():
        out.print(Text(f"{name}: {value:.4g}"))
    for note in evaluation.notes:
        out.print(Text(f"note: {note}"))


def _print_columns(
    out: Console,
    title: str,
    rows: Sequence[str],
    columns: Mapping[str, Sequence[Text]],
    *,
    width: int | None = None,
    min_width: int = 0,
) -> None:
    """Print as many columns side by side as fit, then the next ones."""
    names = list(columns)
    per_table = max(1, (out.width - max(map(len, rows)) - 3) // (width + 1 if width else min_width + 2))
    for start in range(0, len(names), per_table):
        shown = names[start : start + per_table]
        head = f"{title}, continued" if start else title
        table = RichTable(
            title=head, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 0, 0, 1), pad_edge=False
        )
        table.add_column("", no_wrap=True)
        for name in shown:
            table.add_column(Text(name), justify="right", overflow="fold", width=width, min_width=min_width)
        for place, row in enumerate(rows):
            table.add_row(Text(row), *(columns[name][place] for name in shown))
        out.print(table)


def _cells(block: Block, column: str) -> list[Text]:
    """Value above interval; the best AUROC is bold."""
    scores = [block.cells.get((row, column)) for row in block.rows]
    values = [score.value for score in scores if score is not None and not math.isnan(score.value)]
    best = max(values, default=None) if block.metric == "auroc" else None
    return [
        Text("") if score is None else Text(_two_lines(score), style="bold" if score.value == best else "")
        for score in scores
    ]


def _two_lines(score: Score) -> str:
    if math.isnan(score.value):
        return "n/a"
    if score.ends is None:
        return f"{score.value:z.3f}" + ("\ntoo few" if score.few else "")
    return f"{score.value:z.3f}\n{score.low:z.3f}-{score.high:z.3f}"


def _counted(score: Score | None) -> str:
    """A value and its images; nothing where it is undefined."""
    if score is None or math.isnan(score.value):
        return ""
    return f"{score.value:z.3f} ({score.n})" if score.n else f"{score.value:z.3f}"


def _plain(score: Score) -> dict[str, float | int | None]:
    return {
        "value": _finite(score.value),
        "low": _finite(score.low),
        "high": _finite(score.high),
        "n": score.n,
        "undefined": score.undefined,
        # Said only where it is so.
        **({"too_few": True} if score.few else {}),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Names of files that are no text have characters that no text has.
    write_atomic(path, text.encode("utf-8", "backslashreplace"))
