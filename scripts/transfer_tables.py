"""Print the tables of a transfer study in Markdown: python scripts/transfer_tables.py RUN.

RUN is the folder that ``verisal test --config configs/study/transfer.yaml`` names at its end.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_COLUMNS = {
    "mean unseen": ("auroc/mean_unseen", True),
    "worst unseen": ("auroc/worst_unseen", True),
    "TPR at 5 %, mean unseen": ("tpr_at_fpr5/mean_unseen", False),
    "FPR clean": ("fpr/clean", False),
    "FPR noise": ("fpr/noise_linf_8", False),
    "FPR worst benign": ("fpr/worst_benign", False),
    "right or rejected": ("end_to_end/right_or_rejected", False),
}


def main(run: Path) -> None:
    """Print all tables."""
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    metrics, timings = report["metrics"], report["timings"]
    families = report["config"]["data"]["init_args"]["families"]
    fits = report["config"]["data"]["init_args"]["fits"]
    head = report["config"]["model"]["init_args"]["head"]
    rows = sorted(
        {name.split("/")[1] for name in metrics if name.endswith("/auroc/mean_unseen")},
        key=lambda row: -metrics[f"test/{row}/auroc/mean_unseen"]["value"],
    )
    print(f"Detectors, fitted on {', '.join(fits['default'])}:\n")
    _table(
        ["", *_COLUMNS, "ms per image"],
        [
            [
                f"`{row}`",
                *(_cell(metrics.get(f"test/{row}/{name}"), whole) for name, whole in _COLUMNS.values()),
                f"{timings[f'{row}: ms per image']:.1f}",
            ]
            for row in rows
        ],
    )
    print(f"AUROC of `{head}` minus that of another row, paired over images:\n")
    columns = ("mean_unseen", "worst_unseen")
    _table(
        ["", *(column.replace("_", " ") for column in columns)],
        [
            [
                f"`{row}`",
                *(
                    _cell(metrics.get(f"test/{head}_minus_{row}/difference/{column}"), True)
                    for column in columns
                ),
            ]
            for row in rows
            if row != head
        ],
    )
    print(f"AUROC of `{head}` by what it was fitted on (rows) and what it is tested on:\n")
    wanted = [*families, "mean_unseen", "worst_unseen"]
    _table(
        ["fitted on", *(name.replace("_", " ") for name in wanted)],
        [
            [
                fit,
                *(_cell(metrics.get(f"test/{head}/auroc_fitted_on_{fit}/{name}"), False) for name in wanted),
            ]
            for fit in fits
        ],
    )
    adaptive = sorted({name.split("/")[1] for name in metrics if "/adaptive_right_or_rejected/" in name})
    for row in adaptive:
        groups = [
            name.rsplit("/", 1)[1]
            for name in metrics
            if name.startswith(f"test/{row}/adaptive_right_or_rejected/")
        ]
        print(f"Attackers who know `{row}`:\n")
        parts = ("fooled", "detected", "auroc", "right_or_rejected")
        _table(
            ["attack", *(part.replace("_", " ") for part in parts)],
            [
                [group, *(_cell(metrics.get(f"test/{row}/adaptive_{part}/{group}"), True) for part in parts)]
                for group in groups
            ],
        )


def _cell(score: dict[str, Any] | None, whole: bool) -> str:
    if score is None or score["value"] is None:
        return ""
    interval = whole and score["low"] is not None
    return f"{score['value']:.3f}" + (f" [{score['low']:.3f}, {score['high']:.3f}]" if interval else "")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"| {' | '.join(columns)} |")
    print(f"|---|{'---:|' * (len(columns) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/transfer_tables.py RUN")
    main(Path(sys.argv[1]))
