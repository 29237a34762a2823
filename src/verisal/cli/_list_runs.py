"""``verisal runs``: what was run, when, what became of it, and what it found."""

from __future__ import annotations

import json
import os
import platform
import shutil
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from verisal.errors import ConfigError
from verisal.progress import tell

_RECORD, _STATE = "run.json", "state.json"
# Where a report is, by the command; a fit is tested at its end.
_REPORTS = {
    "validate": ("report.val.json",),
    "fit": ("report.json", "report.val.json"),
    "test": ("report.json",),
}
# What a report is known for, the first that it has.
_KNOWN_FOR = ("auroc", "accuracy", "energy_inside", "insertion", "deletion", "relevance_gap")
_RATES = frozenset({"auroc", "accuracy"})


@final
@dataclass(frozen=True)
class _Run:
    """One run: its folder, task, command, start, what became of it, and what it found."""

    path: Path
    task: str
    stage: str
    created: str
    state: str
    found: str


def show_runs(given: Namespace) -> int:
    """Run ``verisal runs``.

    Args:
        given: what its parser read.

    Returns:
        0.

    Raises:
        ConfigError: no folder of runs, or no run of the task.
    """
    root = Path(given.root)
    if not root.is_dir():
        raise ConfigError(f"there is no folder {root}, where fit, validate, test and predict put runs")
    found = [run for folder in _folders(root) if (run := _read(folder, root)) is not None]
    runs = sorted(found, key=lambda run: (run.created, run.path.name), reverse=True)
    tasks = sorted({run.task for run in runs})
    if given.task is not None and given.task not in tasks:
        raise ConfigError(
            f"there is no run of {given.task!r} in {root}; there are runs of: {', '.join(tasks) or 'none'}"
        )
    wanted = [run for run in runs if given.task in (None, run.task)]
    shown = wanted[: given.limit]
    tell("\n".join(_lines(shown)) if shown else f"no run in {root} yet")
    if len(wanted) > len(shown):
        print(f"and {len(wanted) - len(shown)} earlier ones: --limit {len(wanted)}")
    return 0


def _folders(root: Path) -> Iterator[Path]:
    """Folders of runs, at most two below the root; links such as ``latest`` name one a second time."""
    for pattern in (f"*/{_RECORD}", f"*/*/{_RECORD}"):
        for record in root.glob(pattern):
            folder = record.parent
            if not folder.is_symlink() and not folder.parent.is_symlink() and folder.parent.name != "earlier":
                yield folder


def _read(folder: Path, root: Path) -> _Run | None:
    record = _json(folder / _RECORD)
    if not {"stage", "created"} <= record.keys():
        return None
    stage = str(record["stage"])
    report = next((found for name in _REPORTS.get(stage, ()) if (found := _json(folder / name))), {})
    task = folder.parent.name if folder.parent != root else folder.name
    return _Run(folder, task, stage, str(record["created"]), _state(folder, bool(report)), _found(report))


def _state(folder: Path, reported: bool) -> str:
    """What was written last; ``broken off`` where a process of this machine is gone and did not say so."""
    known = _json(folder / _STATE)
    state = str(known.get("state", "done" if reported else "unknown"))
    if state == "running" and known.get("host") == platform.node() and not _lives(known.get("process")):
        return "broken off"
    return state


def _lives(process: object) -> bool:
    if not isinstance(process, int):
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # It is another person's.
        return True
    return True


def _found(report: Mapping[str, Any]) -> str:
    """The figure that a run is known for: that of the row whose alarm counts, else that of the best row."""
    rows: dict[str, dict[str, list[float]]] = {}
    for name, score in report.get("metrics", {}).items():
        parts = name.split("/", 3)
        if len(parts) > 2 and isinstance(score.get("value"), int | float):
            rows.setdefault(parts[2], {}).setdefault(parts[1], []).append(float(score["value"]))
    metric = next((known for known in _KNOWN_FOR if known in rows), min(rows, default=""))
    if not metric:
        return ""
    head = report.get("config", {}).get("model", {}).get("init_args", {}).get("head")
    best = min if metric == "deletion" else max
    row = (
        head
        if head in rows[metric]
        else best(rows[metric], key=lambda name: sum(rows[metric][name]) / len(rows[metric][name]))
    )
    low, high = min(rows[metric][row]), max(rows[metric][row])
    shown = f"{low:.3f}" if f"{low:.3f}" == f"{high:.3f}" else f"{low:.3f} to {high:.3f}"
    return f"{metric} {shown} ({row})"


def _lines(runs: list[_Run]) -> list[str]:
    """A line for each, with its folder at the end where that fits, else below."""
    columns = [
        ("started", [run.created.replace("T", " ")[:16] for run in runs]),
        ("command", [run.stage for run in runs]),
        ("state", [run.state for run in runs]),
        ("found", [run.found or "-" for run in runs]),
    ]
    widths = [max(map(len, [head, *cells])) for head, cells in columns]
    rows = [
        [head for head, _ in columns],
        *([cells[row] for _, cells in columns] for row in range(len(runs))),
    ]
    facts = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    places = ["folder", *(str(run.path) for run in runs)]
    room = shutil.get_terminal_size((100, 24)).columns
    if max(len(fact) + 2 + len(place) for fact, place in zip(facts, places, strict=True)) < room:
        return [f"{fact}  {place}" for fact, place in zip(facts, places, strict=True)]
    below = [f"{fact.rstrip()}\n  {place}" for fact, place in zip(facts[1:], places[1:], strict=True)]
    return [facts[0].rstrip(), *below]


def _json(path: Path) -> dict[str, Any]:
    """What a file holds; nothing where it is not there, damaged or something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
