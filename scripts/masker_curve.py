"""Draw the mask model's quality against its passes: python scripts/masker_curve.py RUN [PICTURE].

RUN is the folder of a tested PlaceMaskerTask. One curve is the prediction and the steps of the evidence masks
that follow it; points beside it are the evidence masks from the start, masks by descent, and contributions
without gates.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "figures" / "mask_model.png"
_VALUES = {
    "energy_inside": "energy inside",
    "box_maximum": "box accuracy (MaxBoxAcc)",
    "deletion": "area under the deletion curve",
}
_OTHERS = ("no_gates", "evidence_masks_quick", "evidence_masks", "hierarchical_masks")


def points(report: Mapping[str, Any], row: str, value: str) -> tuple[float, float]:
    """Passes, forward and back, and the value of a row of a report."""
    passes = float(report["timings"][f"{row} (backward passes)"])
    return passes, float(report["metrics"][f"test/{row}/{value}"]["value"])


def rows_of(report: Mapping[str, Any]) -> list[str]:
    """The prediction and the rows with steps after it, by their number."""
    names = {name.split("/")[1] for name in report["metrics"]}
    steps = sorted(int(name.split("_")[1]) for name in names if name.startswith("masker_"))
    return ["masker", *(f"masker_{count}_steps" for count in steps)]


def picture(report: Mapping[str, Any]) -> Figure:
    """One panel for each value."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for axes, (value, words) in zip(figure.subplots(1, len(_VALUES)), _VALUES.items(), strict=True):
        curve = [points(report, row, value) for row in rows_of(report)]
        axes.plot(*zip(*curve, strict=True), marker="o", label="mask model, then steps")
        for row in _OTHERS:
            axes.plot(*points(report, row, value), marker="s", linestyle="none", label=row.replace("_", " "))
        axes.set(xlabel="passes, forward and back", ylabel=words, xscale="log")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7)
    return figure


def main() -> None:
    """Draw the picture of a run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of the tested run")
    parser.add_argument("picture", type=Path, nargs="?", default=PICTURE)
    arguments = parser.parse_args()
    report = json.loads((arguments.run / "report.json").read_text(encoding="utf-8"))
    picture(report).savefig(arguments.picture, dpi=110)
    print(f"wrote {arguments.picture}")


if __name__ == "__main__":
    main()
