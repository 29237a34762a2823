"""The report of a run: ``report.json``, ``report.md``, ``samples.csv`` and a printed table."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from verisal._files import write_atomic
from verisal.errors import DataError
from verisal.reporting.publication import Table, main_cells, main_table
from verisal.results import Evaluation, Score, ScoreName

_PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "wandb", "numpy", "albumentations")
_TITLES = {
    "auroc": "AUROC",
    "tpr_at_fpr5": "Share of attacked images found (TPR) at 5 % FPR",
    "tpr_at_fpr1": "Share of attacked images found (TPR) at 1 % FPR",
    "fpr": "False alarms (FPR) at the 5 % threshold",
    "fpr1": "False alarms (FPR) at the 1 % threshold",
    "fpr_at_tpr95": "FPR where 95 % of attacked images are found",
    "alarm_rate": "Alarm rate at the 5 % threshold",
}
_CELL = len("0.970-0.990")
_WIDTH = 100
_NARROW = len("randomisation")


@dataclass(frozen=True)
class RunFacts:
    """Facts about the run itself.

    Attributes:
        seed: seed of the run, None if unknown.
        config: all settings as plain data.
        wall_times: seconds by stage.
        versions: package to version.
    """

    seed: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    wall_times: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Block:
    """Scores of one metric: cells by row (detector) and column (attack or group)."""

    metric: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Score]


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    versions = {"python": platform.python_version()}
    for package in ("verisal", *_PACKAGES):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def write_report(run_dir: Path, evaluation: Evaluation, *, facts: RunFacts, stem: str = "report") -> None:
    """Write ``<stem>.json`` and ``<stem>.md``, each whole or not at all.

    ``metrics`` in the JSON file depends on nothing but the scores: equal runs give equal bytes. A value that
    is not a number is ``null``. ``logged`` leads from the names under which loggers have scores, where these
    are others, to the scores' own.

    Args:
        run_dir: folder of the run.
        evaluation: all scores.
        facts: about the run itself.
        stem: name of both files.
    """
    content = {
        "metrics": {name: _plain(evaluation.scores[name]) for name in sorted(evaluation.scores)},
        "logged": {short: name for name, short in evaluation.logged.items()},
        "counts": dict(evaluation.counts),
        "timings": {name: round(value, 6) for name, value in evaluation.timings.items()},
        "notes": list(evaluation.notes),
        "versions": dict(facts.versions),
        "seed": facts.seed,
        "config": dict(facts.config),
        "wall_times": {stage: round(seconds, 3) for stage, seconds in facts.wall_times.items()},
    }
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False, default=str)
    _write_text(run_dir / f"{stem}.json", text + "\n")
    _write_text(run_dir / f"{stem}.md", _markdown(evaluation, facts))


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
    blocks = [] if main else _blocks(evaluation.scores)
    for block in [block for block in blocks if block.metric == "auroc"] or blocks:
        title = f"{_title(block.metric)} ({evaluation.split}; 95 % interval below each value)"
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


def _cells(block: _Block, column: str) -> list[Text]:
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


def _markdown(evaluation: Evaluation, facts: RunFacts) -> str:
    lines = [f"# Results: {evaluation.split}", ""]
    if evaluation.notes:
        lines += ["**Read this first**", "", *(f"- {note}" for note in evaluation.notes), ""]
    main = main_table(evaluation)
    if main is not None:
        lines += ["## Main table", "", "Intervals and counts are in the tables below.", ""]
        lines += [f"| {' | '.join(main.columns)} |", f"|---|{'---:|' * (len(main.columns) - 1)}"]
        lines += [f"| {' | '.join([str(row[0]), *map(_number, row[1:])])} |" for row in main.rows]
        lines += [*_logged_as(evaluation), ""]
    for block in _blocks(evaluation.scores):
        lines += [f"## {_title(block.metric)}", "", *_markdown_block(block), ""]
    for title, table in evaluation.tables.items():
        lines += [f"## {title[0].upper()}{title[1:]}", "", f"| {' | '.join(table.columns)} |"]
        lines += [f"|{'---|' * len(table.columns)}"]
        cells = ([_number(cell) or str(cell) for cell in row] for row in table.rows)
        lines += [*(f"| {' | '.join(row)} |" for row in cells), ""]
    if evaluation.counts:
        lines += ["## Images", "", "| group | images |", "|---|---:|"]
        lines += [f"| {name} | {count} |" for name, count in evaluation.counts.items()] + [""]
    if evaluation.timings:
        lines += ["## Timings", "", "Of this run, on this machine; they do not repeat exactly.", ""]
        lines += ["| what | value |", "|---|---:|"]
        lines += [f"| {name} | {value:.4g} |" for name, value in evaluation.timings.items()] + [""]
    lines += ["## Run", "", f"- seed: {facts.seed}"]
    lines += [f"- {stage}: {seconds:.1f} s" for stage, seconds in facts.wall_times.items()]
    lines += [f"- {package} {number}" for package, number in facts.versions.items()]
    return "\n".join(lines) + "\n"


def _logged_as(evaluation: Evaluation) -> list[str]:
    """A last row of the main table: what loggers call the column, behind split and row."""
    names = {ScoreName(score).column: name.split("/", 2)[2] for score, name in evaluation.logged.items()}
    if not names:
        return []
    cells = [f"`{names[column]}`" if column in names else "" for column in evaluation.headline.values()]
    return [f"| *logged as* `{evaluation.split}/.../` | {' | '.join(cells)} |"]


def _markdown_block(block: _Block) -> list[str]:
    few = any(score.few for score in block.cells.values() if score.value == score.value)
    lines = [
        "Value [95 % interval over images], n = images that counted (+ those that could not be scored).",
        *(["[too few]: so few images have no interval that holds as often as it says."] if few else []),
        "",
        f"| | {' | '.join(block.columns)} |",
        f"|---|{'---:|' * len(block.columns)}",
    ]
    for row in block.rows:
        cells = [_one_line(block.cells.get((row, name))) for name in block.columns]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return lines


def _one_line(score: Score | None) -> str:
    if score is None:
        return ""
    counted = f"n = {score.n}" + (f" + {score.undefined}" if score.undefined else "")
    if math.isnan(score.value):
        return f"n/a ({counted})"
    return f"{score.value:z.3f}{score.bracketed()} ({counted})"


def _blocks(scores: Mapping[ScoreName, Score]) -> list[_Block]:
    """One block per metric; known metrics first, in reading order, rows and columns as they come."""
    cells: dict[str, dict[tuple[str, str], Score]] = {}
    for name, score in scores.items():
        cells.setdefault(name.metric, {})[name.row, name.part or "all"] = score
    order = dict.fromkeys([*(metric for metric in _TITLES if metric in cells), *cells])
    blocks = []
    for metric in order:
        rows, columns = (tuple(dict.fromkeys(part)) for part in zip(*cells[metric], strict=True))
        blocks.append(_Block(metric, rows, columns, cells[metric]))
    return blocks


def _title(metric: str) -> str:
    return _TITLES.get(metric, metric.replace("_", " "))


def _counted(score: Score | None) -> str:
    """A value and its images; nothing where it is undefined."""
    if score is None or math.isnan(score.value):
        return ""
    return f"{score.value:z.3f} ({score.n})" if score.n else f"{score.value:z.3f}"


def _number(value: object) -> str:
    return f"{value:z.3f}" if isinstance(value, float) and not math.isnan(value) else ""


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
    write_atomic(path, text.encode())
