"""Records of what an evaluation gives: scores, curves, figures, and the evaluation that holds them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self, final, runtime_checkable

from torch import Tensor

from verisal._brief import brief
from verisal._checks import as_tuples
from verisal.pictures import OPACITY


@dataclass(frozen=True)
class Score:
    """One reported number with its 95 % interval over images.

    Attributes:
        value: the score; NaN where nothing could be scored.
        low: lower end of the interval; NaN where there is none.
        high: upper end of the interval; NaN where there is none.
        n: images (or image pairs) that counted.
        undefined: images that could not be scored and were left out.
        few: True if there are too few images for the interval to hold as often as it says, by its kind and
            ``n`` alone; reports say so in its place.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    undefined: int = 0
    few: bool = field(default=False, compare=False)

    @property
    def ends(self) -> tuple[float, float] | None:
        """The interval as reports show it: None where there is none, or too few images for one."""
        none = self.few or math.isnan(self.low) or math.isnan(self.high)
        return None if none else (self.low, self.high)

    def bracketed(self, digits: int = 3) -> str:
        """The interval in words, after a space: ``[0.900, 0.950]``, ``[too few]``, or nothing for none."""
        if self.ends is None:
            return " [too few]" if self.few else ""
        return f" [{self.low:z.{digits}f}, {self.high:z.{digits}f}]"


@final
class ScoreName(str):
    """Name of a score, ``<split>/<row>/<metric>/<part>``: a string that knows its parts.

    The row is a detector, a saliency method or a network; the part is an attack, a group of images, or one of
    several scores of the metric. A shorter name lacks the part, then the row.

    >>> name = ScoreName("test", "masks", "auroc", "cw_l2")
    >>> print(name, name.row, name.column)
    test/masks/auroc/cw_l2 masks auroc/cw_l2
    """

    __slots__ = ()

    def __new__(cls, *parts: str) -> Self:
        """Join the parts that are not empty; a whole name is one part."""
        return super().__new__(cls, "/".join(part for part in parts if part))

    @property
    def row(self) -> str:
        """Whose score it is."""
        return self.split("/", 2)[1] if self.count("/") > 1 else ""

    @property
    def column(self) -> str:
        """Metric and part, as a headline names the score of every row."""
        return self.split("/", 2)[-1]

    @property
    def metric(self) -> str:
        """The measured quantity."""
        # A slash in brackets, such as that of 8/255, is of a setting.
        return re.match(r"(\[[^]]*\]|[^/])*", self.column)[0]  # type: ignore[index]

    @property
    def part(self) -> str:
        """Attack, group or score within the metric; empty where there is one alone."""
        return self.column[len(self.metric) + 1 :]


def typed(words: str) -> str:
    """Words as one part of a logged name: lower case, digits and ``_``; a remark in parentheses is left out.

    >>> typed("Grad-CAM"), typed("D-WSOL (our protocol), present classes")
    ('grad_cam', 'd_wsol_present_classes')
    """
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"\(.*?\)", "", words).lower()).strip("_")


@dataclass(frozen=True)
class Curve:
    """One line of a figure; lines that share ``figure`` are drawn together.

    Attributes:
        figure: file-name-safe name, e.g. ``roc_cw_l2``.
        label: legend entry, e.g. ``masks``.
        x: ``(N,)``, rising.
        y: ``(N,)``.
        x_label: axis title with unit.
        y_label: axis title with unit.
        n: images of which it is the mean; None where it is none.
        ticks: names of the N positions on the x axis, where they are things and no numbers.
        low: ``(N,)`` lower end of a 95 % interval at every point, or None.
        high: ``(N,)`` upper end, or None.
    """

    figure: str
    label: str
    x: Tensor
    y: Tensor
    x_label: str
    y_label: str
    n: int | None = None
    ticks: tuple[str, ...] = ()
    low: Tensor | None = None
    high: Tensor | None = None

    __repr__ = brief


@dataclass(frozen=True)
class Histogram:
    """Scores of several groups in one figure, e.g. those of clean, noisy and attacked images.

    Attributes:
        figure: file-name-safe name, e.g. ``scores_masks``.
        groups: group name to ``(N,)`` scores.
        x_label: axis title.
        thresholds: name to position of a vertical line, e.g. ``FPR 5 %``.
        roles: group name to what its images are, by which it is coloured: ``clean``, ``benign`` (changed, but
            not by an attack), ``attack`` (that fooled the classifier) or ``failed`` (that did not).
    """

    figure: str
    groups: Mapping[str, Tensor]
    x_label: str
    thresholds: Mapping[str, float]
    roles: Mapping[str, str] = field(default_factory=dict)

    __repr__ = brief


@dataclass(frozen=True)
class Heatmap:
    """A table of numbers as a picture, each number written in its cell.

    Attributes:
        figure: file-name-safe name, e.g. ``transfer_masks``.
        title: what the picture shows, in words.
        rows: names from the top.
        columns: names from the left.
        values: ``(rows, columns)``; NaN leaves a cell empty.
        limits: values at the ends of the colour scale; values beyond take the end's colour.
        row_label: what the rows are.
        column_label: what the columns are.
        marked: ``(rows, columns)`` bool, cells with a frame, or None.
        caption: what the frames and the numbers mean.
    """

    figure: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Tensor
    limits: tuple[float, float]
    row_label: str
    column_label: str
    marked: Tensor | None = None
    caption: str = ""

    __repr__ = brief


@dataclass(frozen=True)
class Table:
    """Rows of plain values under named columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]


@dataclass(frozen=True)
class MaskPanel:
    """Pictures of one attacked image, by which a person believes or doubts an alarm.

    Attributes:
        image_id: of the clean image.
        attack: name of the attack.
        clean: ``(C, H, W)`` in [0, 1].
        attacked: ``(C, H, W)`` in [0, 1].
        clean_layers: stage name to ``(h, w)`` raw map of the clean image.
        attacked_layers: stage name to ``(h, w)`` raw map of the attacked image.
        clean_fused: ``(H, W)`` fused map of the clean image.
        attacked_fused: ``(H, W)`` fused map of the attacked image.
        caption: label, predictions and detector scores in words.
        opacity: of the fused maps over the images, in [0, 1]; 0 for no such pictures.
    """

    image_id: str
    attack: str
    clean: Tensor
    attacked: Tensor
    clean_layers: Mapping[str, Tensor]
    attacked_layers: Mapping[str, Tensor]
    clean_fused: Tensor
    attacked_fused: Tensor
    caption: str
    opacity: float = OPACITY

    __repr__ = brief


@dataclass(frozen=True)
class SaliencyPanel:
    """An image and the maps of several methods for one query.

    Attributes:
        image_id: of the image.
        image: ``(C, H, W)`` in [0, 1].
        maps: method name to ``(H, W)`` saliency map, or name of a further image to ``(C, H, W)`` in [0, 1].
        caption: label and query class in words.
        figure: file-name-safe name of its kind.
        opacity: of the maps over the image, in [0, 1]; 0 for the maps alone.
    """

    image_id: str
    image: Tensor
    maps: Mapping[str, Tensor]
    caption: str
    figure: str = "saliency"
    opacity: float = 0.0

    __repr__ = brief


@dataclass(frozen=True)
class Evaluation:
    """Results of one validation or test epoch; a task or callback keeps them in ``evaluation`` for reports.

    Attributes:
        split: first part of every metric name, ``val`` or ``test``.
        scores: by name; plain strings are names, too.
        counts: group name to the number of images in it.
        curves: lines to draw.
        histograms: score distributions to draw.
        panels: pictures to draw.
        heatmaps: tables to draw.
        tables: title to a table to print, e.g. of bands by their rank.
        samples: columns of the per-image table (ids, groups, scores), all of one length.
        timings: what was timed, with its unit, to its value; apart from the scores, which repeat exactly.
        notes: sentences that a reader of the table must know, e.g. "FPR 1 % not supported: ...".
        headline: column title of the main table to ``<metric>/<group>`` of the scores in it, in order.
        logged: names of scores to the names under which loggers have them, where these are others.
        summary: what was found, in sentences, the most important one first.
        settings: what it was measured with, e.g. an attack, to the settings in words.
    """

    split: str
    scores: Mapping[ScoreName, Score]
    counts: Mapping[str, int] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    histograms: tuple[Histogram, ...] = ()
    panels: tuple[MaskPanel | SaliencyPanel, ...] = ()
    heatmaps: tuple[Heatmap, ...] = ()
    tables: Mapping[str, Table] = field(default_factory=dict)
    samples: Mapping[str, Sequence[object]] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    headline: Mapping[str, str] = field(default_factory=dict)
    logged: Mapping[str, str] = field(default_factory=dict)
    summary: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    __repr__ = brief

    @property
    def logged_scores(self) -> dict[str, Score]:
        """The scores that loggers have, by the names there; with their intervals and counts."""
        return {short: self.scores[ScoreName(name)] for name, short in self.logged.items()}

    def __post_init__(self) -> None:
        as_tuples(self)
        object.__setattr__(self, "scores", {ScoreName(name): score for name, score in self.scores.items()})


@runtime_checkable
class Evaluates(Protocol):
    """A task or callback whose evaluation epochs end with an :class:`Evaluation`."""

    evaluation: Evaluation | None
