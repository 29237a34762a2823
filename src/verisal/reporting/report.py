"""The report of a run: ``report.json``, ``report.md`` and ``samples.csv``."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path

from verisal._files import write_atomic
from verisal.errors import DataError
from verisal.reporting.drawn import DrawnFigure
from verisal.reporting.facts import RunFacts
from verisal.reporting.html import html_report
from verisal.reporting.markdown import markdown_report
from verisal.reporting.publication import Table
from verisal.results import Evaluation, Score

_LINES = 10_000


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
    write_atomic(path, _csv_parts(samples))


def _csv_parts(samples: Mapping[str, Sequence[object]]) -> Iterator[bytes]:
    """The table, some lines at a time: all of them are much more than their values."""
    rows = chain([tuple(samples)], zip(*samples.values(), strict=True))
    while some := list(islice(rows, _LINES)):
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows(some)
        yield table.getvalue().encode()


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
