"""Write the page of a study of detectors: python scripts/detection_page.py RUN --page PAGE --title TITLE.

RUN is the folder that ``verisal test --config configs/study/detection_cifar10.yaml`` names at its end.
Everything on the page but its title and the lines of ``--about`` comes from RUN/report.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Score = Mapping[str, Any]
# What the alarm is to reach, set before any of these images was scored.
_MEAN, _WORST, _FALSE_ALARMS = 0.98, 0.95, 0.08


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the report, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--page", type=Path, required=True)
    parser.add_argument("--title", required=True)
    parser.add_argument("--about", action="append", default=[], help="a line on images, network or fit")
    given = parser.parse_args(arguments)
    report = json.loads((given.run / "report.json").read_text(encoding="utf-8"))
    given.page.parent.mkdir(parents=True, exist_ok=True)
    given.page.write_text("\n".join(_page(report, given.title, given.about)) + "\n", encoding="utf-8")


def _page(report: Mapping[str, Any], title: str, about: Sequence[str]) -> Iterator[str]:
    scores: Mapping[str, Score] = report["metrics"]
    settings = report["config"]["data"]["init_args"]
    head = report["config"]["model"]["init_args"]["head"]
    families, fitted = settings["families"], settings["fits"]["default"]
    attacks = [name for names in families.values() for name in names]
    rows = sorted(
        {name.split("/")[1] for name in scores if name.endswith("/auroc/mean_unseen")},
        key=lambda row: -(scores[f"test/{row}/auroc/mean_unseen"]["value"] or 0),
    )
    counts = report["counts"]
    benign = [
        name
        for name in counts
        if f"test/{head}/fpr/{name}" in scores and not name.endswith("_misclassified") and counts[name]
    ]
    yield f"# {title}"
    yield ""
    yield from (f"- {line}" for line in about)
    held = settings.get("threshold_noise") or ()
    also = f", and hold for {_listed(held)} of the same images as well" if held else ""
    yield (
        f"- Fitted on {_listed(fitted)} and {settings['near_border']} images near the decision border beside"
        " each of their images; every other attack was never fitted. Negatives of the fit: clean images,"
        f" {_listed(settings['fit_noise'] or settings['noise'])} and Gaussian noise as large as"
        f" `{settings['noise_like']}`. Thresholds for 5 % false alarms come from clean validation"
        f" images{also}."
    )
    yield (
        "- Intervals: 95 %, over images. All rows see the same images. The best mean over unseen families"
        " stands first."
    )
    yield ""
    yield "## Verdict"
    yield ""
    yield from _verdict(scores, head, rows, benign)
    yield ""
    yield "## AUROC against clean images"
    yield ""
    yield from _table(
        ["row", "mean unseen", "worst unseen", *attacks],
        rows,
        lambda row: [
            _cell(scores.get(f"test/{row}/auroc/mean_unseen"), whole=True),
            _cell(scores.get(f"test/{row}/auroc/worst_unseen"), whole=True),
            *(_cell(scores.get(f"test/{row}/auroc/{name}")) for name in attacks),
        ],
    )
    against = [name for name in attacks if f"test/{head}/auroc_against_noise/{name}" in scores]
    if against:
        yield "## AUROC against Gaussian noise of the attack's own norm"
        yield ""
        yield "A row that tells only that something was added is at .5 here."
        yield ""
        yield from _table(
            ["row", *against],
            rows,
            lambda row: [_cell(scores.get(f"test/{row}/auroc_against_noise/{name}")) for name in against],
        )
    yield "## Share of alarms at the threshold for 5 % false alarms"
    yield ""
    yield "On attacked images that fool the classifier:"
    yield ""
    yield from _table(
        ["row", *attacks],
        rows,
        lambda row: [_cell(scores.get(f"test/{row}/tpr_at_fpr5/{name}")) for name in attacks],
    )
    yield "False alarms, on images that are still classified right:"
    yield ""
    yield from _table(
        ["row", *benign],
        rows,
        lambda row: [_cell(scores.get(f"test/{row}/fpr/{name}"), whole=name == "clean") for name in benign],
    )
    costs = {name: value for name, value in report["timings"].items() if name.partition(": ")[0] in rows}
    if costs:
        yield "## Cost"
        yield ""
        yield "Passes through the classifier, and milliseconds per image, beside whatever else was running."
        yield ""
        kinds = ("forward passes per image", "backward passes per image", "ms per image")
        yield from _table(
            ["row", *kinds],
            rows,
            lambda row: [f"{costs[f'{row}: {kind}']:.3g}" for kind in kinds],
        )
    if any("/adaptive_" in name for name in scores):
        yield from _adaptive(scores, rows)
    yield "## Images and notes"
    yield ""
    yield ", ".join(f"{name} {count}" for name, count in counts.items() if count) + "."
    yield ""
    yield from (f"- {note}" for note in report["notes"])


def _adaptive(scores: Mapping[str, Score], rows: Sequence[str]) -> Iterator[str]:
    """What attackers who know a row leave of it, by radius."""
    known = [row for row in rows if any(name.startswith(f"test/{row}/adaptive_") for name in scores)]
    start = "adaptive_right_or_rejected/eps_"
    radii = sorted(
        {
            name.partition(start)[2]
            for name in scores
            if start in name and "_" not in name.partition(start)[2]
        },
        key=float,
    )
    yield "## Attackers who know classifier and row"
    yield ""
    yield (
        "Share of images that are still classified right or are rejected under the strongest of all adaptive"
        " attacks, by the radius in 1/255:"
    )
    yield ""
    yield from _table(
        ["row", *radii],
        known,
        lambda row: [_cell(scores.get(f"test/{row}/{start}{radius}"), whole=True) for radius in radii],
    )


def _verdict(
    scores: Mapping[str, Score], head: str, rows: Sequence[str], benign: Sequence[str]
) -> Iterator[str]:
    """Whether head and best row reach what they are to reach, and what is ahead."""
    for row in dict.fromkeys((head, rows[0])):
        mean, worst = (scores[f"test/{row}/auroc/{column}_unseen"] for column in ("mean", "worst"))
        rates = {name: scores[f"test/{row}/fpr/{name}"]["value"] for name in benign}
        highest = max(rates, key=lambda name: rates[name] or 0)
        over = [f"`{name}` {rate:.3f}" for name, rate in rates.items() if (rate or 0) > _FALSE_ALARMS]
        yield (
            f"- `{row}`: mean over unseen families {_cell(mean, whole=True)}, asked {_MEAN}:"
            f" **{_reached(mean['value'] >= _MEAN)}**; worst {_cell(worst, whole=True)}, asked {_WORST}:"
            f" **{_reached(worst['value'] >= _WORST)}**; false alarms at most {_FALSE_ALARMS} on every benign"
            f" group: **{_reached(not over)}** (highest: `{highest}` {rates[highest]:.3f}"
            + (f"; above: {', '.join(over)})." if over else ").")
        )
    ahead = []
    for row in rows:
        difference = scores.get(f"test/{head}_minus_{row}/difference/mean_unseen")
        if difference is not None and difference["high"] is not None and difference["high"] < 0:
            ahead.append(f"`{row}` ({-difference['value']:.3f})")
    yield (
        f"- Ahead of `{head}` in the mean over unseen families, by paired intervals:"
        f" {', '.join(ahead) if ahead else 'none'}."
    )


def _reached(yes: bool) -> str:
    return "reached" if yes else "not reached"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _cell(score: Score | None, *, whole: bool = False) -> str:
    if score is None or score["value"] is None:
        return ""
    interval = whole and score["low"] is not None
    return f"{score['value']:.3f}" + (f" [{score['low']:.3f}, {score['high']:.3f}]" if interval else "")


def _table(
    columns: Sequence[str], rows: Sequence[str], cells: Callable[[str], Sequence[str]]
) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|---|{'---:|' * (len(columns) - 1)}"
    for row in rows:
        yield f"| `{row}` | {' | '.join(cells(row))} |"
    yield ""


if __name__ == "__main__":
    main()
