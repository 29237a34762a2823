"""Tables of a finished benchmark as Markdown: python scripts/benchmark_tables.py RUN.

RUN is the folder of ``verisal validate --config configs/benchmark.yaml``. Prints the three tables of
docs/benchmark.md: all methods by a few scores, removal curves, and D-WSOL; numbers come from
RUN/report.val.json alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

_D_WSOL = "D-WSOL (our protocol)"
_SUMMARY = {
    "pointing ↑": "pointing_game[15px@224]/accuracy",
    "energy inside ↑": "energy_inside/energy",
    "MaxBoxAcc ↑": "max_box_acc[iou0.5]/maximum",
    "ROAD MoRF ↓": "road_morf[linear]/probability",
    "insertion ↑": "insertion[recommended]_steps32/auc",
    "deletion ↓": "deletion[recommended]_steps32/auc",
    "sensitivity ↓": "sensitivity_max[0.02,3]/value",
    "margin c1 ↑": f"{_D_WSOL}/margin_rel_c1",
    "margin c3 ↑": f"{_D_WSOL}/margin_rel_c3",
    "response c1 ↓": f"{_D_WSOL}/response_ratio_c1",
    "present ↑": f"{_D_WSOL}, present classes/hit",
}
_CURVES = {
    "insertion ↑": "insertion[recommended]_steps32/auc",
    "range over baselines": "insertion[recommended]_steps32/baseline_range",
    "deletion ↓": "deletion[recommended]_steps32/auc",
    "range over baselines ": "deletion[recommended]_steps32/baseline_range",
}
_DISTURBED = {
    "box accuracy c0": f"{_D_WSOL}/accuracy_c0",
    "margin c1": f"{_D_WSOL}/margin_rel_c1",
    "margin c2": f"{_D_WSOL}/margin_rel_c2",
    "margin c3": f"{_D_WSOL}/margin_rel_c3",
    "response c1": f"{_D_WSOL}/response_ratio_c1",
    "response c2": f"{_D_WSOL}/response_ratio_c2",
    "response c3": f"{_D_WSOL}/response_ratio_c3",
    "present classes hit": f"{_D_WSOL}, present classes/hit",
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    metrics = json.loads((parser.parse_args().run / "report.val.json").read_text())["metrics"]
    found = [name.split("/") for name in metrics]
    everywhere = dict.fromkeys(parts[1] for parts in found if parts[2] == "energy_inside")
    disturbed = dict.fromkeys(parts[1] for parts in found if parts[2] == _D_WSOL)
    print(_table(metrics, list(everywhere), _SUMMARY, intervals=False))
    print()
    print(_table(metrics, list(everywhere), _CURVES, intervals=True))
    print()
    print(_table(metrics, list(disturbed), _DISTURBED, intervals=True))


def _table(metrics: dict[str, Any], rows: list[str], columns: dict[str, str], *, intervals: bool) -> str:
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for row in rows:
        cells = [_cell(metrics.get(f"val/{row}/{name}"), intervals=intervals) for name in columns.values()]
        lines.append(f"| `{row}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(score: dict[str, Any] | None, *, intervals: bool) -> str:
    if score is None or score["value"] is None:
        return "n/a"
    if not intervals or score["low"] is None:
        return f"{score['value']:.3f}"
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


if __name__ == "__main__":
    main()
