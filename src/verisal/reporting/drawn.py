"""All figures of a run, drawn into its folder, as the reports show them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal, final

import torch

from verisal._brief import brief
from verisal._files import write_atomic
from verisal.pictures import Pixels, png
from verisal.reporting.curves import curve_pixels, roc_pixels
from verisal.reporting.histograms import histogram_pixels
from verisal.reporting.publication import Picture
from verisal.reporting.words import in_words
from verisal.results import Evaluation

Kind = Literal["roc", "curves", "table", "panel", "histogram"]
_COLOURS = 128


@final
@dataclass(frozen=True)
class DrawnFigure:
    """A figure in the folder of a run.

    Attributes:
        kind: what it shows.
        title: what it shows, in words.
        file: from the folder of the run, with ``/``.
        pixels: ``(H, W, 3)`` uint8.
        content: of the file.
    """

    kind: Kind
    title: str
    file: str
    pixels: Pixels
    content: bytes

    __repr__ = brief


def draw_run(
    run_dir: Path,
    evaluation: Evaluation,
    panels: Mapping[str, Sequence[Picture]],
    heatmaps: Mapping[str, Sequence[Picture]],
) -> tuple[DrawnFigure, ...]:
    """Draw every figure of an evaluation into ``figures`` in the run's folder.

    Args:
        run_dir: folder of the run.
        evaluation: curves and histograms.
        panels: by their kind, drawn.
        heatmaps: by their names, drawn.
    """
    prefix = "" if evaluation.split == "test" else f"{evaluation.split}_"
    figures: list[DrawnFigure] = []
    for kind, name, title, pixels in (
        *_curves(evaluation),
        *(("table", name, picture.caption, picture.pixels) for name, (picture,) in heatmaps.items()),
        *_panels(panels),
        *_histograms(evaluation),
    ):
        file = _new_file(f"figures/{prefix}{_file_name(name)}", {figure.file for figure in figures})
        # Numbers on a few colours; those of photographs and curves stay as they are.
        content = png(pixels, colours=_COLOURS if kind == "table" else None)
        (run_dir / file).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(run_dir / file, content)
        figures.append(DrawnFigure(kind, title, file, pixels, content))
    return tuple(figures)


_Drawn = Iterator[tuple[Kind, str, str, Pixels]]


def _curves(evaluation: Evaluation) -> _Drawn:
    for name in dict.fromkeys(curve.figure for curve in evaluation.curves):
        curves = [curve for curve in evaluation.curves if curve.figure == name]
        if name.startswith("roc_"):
            attack = name.removeprefix("roc_")
            title = f"ROC against {in_words(attack)} ({evaluation.split})"
            yield "roc", name, title, roc_pixels(curves, legend=_legend(evaluation, attack), title=title)
        else:
            title = f"{in_words(name)} ({evaluation.split})"
            yield "curves", name, title, curve_pixels(curves, title=title)


def _panels(panels: Mapping[str, Sequence[Picture]]) -> _Drawn:
    for kind, shown in panels.items():
        for number, picture in enumerate(shown):
            title = f"{in_words(kind)}, {picture.caption}"
            yield "panel", f"panel_{_file_name(kind)}_{number}", title, picture.pixels


def _histograms(evaluation: Evaluation) -> _Drawn:
    for histogram in evaluation.histograms:
        if any(bool(torch.isfinite(scores).any()) for scores in histogram.groups.values()):
            whose = histogram.figure.removeprefix("scores_")
            title = f"Scores of {in_words(whose)} ({evaluation.split})"
            yield "histogram", histogram.figure, title, histogram_pixels(histogram, title=title)


def _legend(evaluation: Evaluation, attack: str) -> dict[str, str]:
    """Legend text of every detector that has an AUROC against the attack."""
    legend = {}
    for name, score in evaluation.scores.items():
        if (name.metric, name.part) == ("auroc", attack):
            legend[name.row] = f"{in_words(name.row)}: AUROC {score.value:z.3f}{score.bracketed()}"
    return legend


def _new_file(path: str, taken: Collection[str]) -> str:
    """A file of its own: names that differ in odd characters alone are one on the disk."""
    names = (f"{path}{'' if number == 1 else f'_{number}'}.png" for number in count(1))
    return next(name for name in names if name not in taken)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "unnamed"
