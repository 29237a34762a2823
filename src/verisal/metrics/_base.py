"""The base of saliency metrics: per-image rows gathered over batches and processes, then reduced."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from inspect import Parameter, signature
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from verisal._brief import described, in_short
from verisal.errors import ConfigError, DataError
from verisal.functional.per_image import at_row, one_of, rows_waiting
from verisal.functional.statistics import Bootstrap, Resampled
from verisal.metrics._given import AnyBoxes, AnyMaps, AnyMasks, AnyTensor, Asked, Given, has_object
from verisal.metrics._table import ImageRows, ImageTable
from verisal.results import Score
from verisal.types import AnyClassifier, AnyQuery, Explained, check_range

_MARK = "annotated"


class SaliencyMetric(Metric, ABC):
    """A score of saliency maps, kept per image until the epoch ends.

    A metric of torchmetrics: :meth:`update` takes maps and what else the metric needs, :meth:`compute` gives
    the main score as a tensor, for ``MetricCollection`` and ``self.log``; :meth:`scores` gives all scores
    with intervals and counts.

    Sub-classes set ``name`` and ``columns`` and say what a batch's rows are and how rows become scores.
    ``better`` says which end of the main score is good, where one is; ``needs`` what :meth:`update` must be
    given beside the maps: ``objects`` (masks or boxes), ``boxes``, ``images``, ``classifier``, ``method``.
    ``asked`` are methods that the metric asks by itself, which its name does not say.

    Args:
        name: of the metric with every setting that changes its value: ``deletion[dataset_mean]``.
        columns: names of the R values kept per image.
        main: name of the main score; None for the first column's.
        seed: of what the metric draws, where it draws anything.
        dtype: that rows are kept in until the epoch ends: one that holds each of their values exactly.
        precise: the first columns, which are kept in float64 all the same.
    """

    full_state_update = False
    is_differentiable = False
    better: Literal["high", "low", ""] = ""
    needs: tuple[str, ...] = ()
    asked: tuple[object, ...] = ()

    def __init__(
        self,
        name: str,
        columns: Sequence[str],
        *,
        main: str | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        precise: int = 0,
    ) -> None:
        super().__init__()
        check_range(0, seed=seed)
        self.name, self.columns, self.seed = name, tuple(columns), seed
        self.main = self.columns[0] if main is None else main
        kept = (*columns, _MARK) if self.needs_annotation else columns
        self._kept = ImageTable(kept, dtype=dtype, precise=precise)

    @property
    def needs_annotation(self) -> bool:
        """True if images without an annotated object cannot be scored."""
        return "objects" in self.needs or "boxes" in self.needs

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]  # torchmetrics has an attribute
        """Which end of the main score is good; None where neither is."""
        return None if not self.better else self.better == "high"

    @abstractmethod
    def rows_of(self, explained: Explained) -> Tensor:
        """``(B, R)`` values of one batch on the device of its images; NaN where an image cannot be scored."""

    def reduce(self, rows: Tensor, bootstrap: Bootstrap) -> Mapping[str, Resampled]:
        """Scores by name of ``rows (n, R)``, n at least 1, as they are kept; by default every column's mean.

        The names are short (``auc``, ``accuracy``); the metric's own name stands before them in a report.
        The bootstrap resamples the n images together.
        """
        return {name: bootstrap.mean(column) for name, column in zip(self.columns, rows.T, strict=True)}

    def update(
        self,
        maps: AnyMaps | Explained,
        masks: AnyMasks | None = None,
        *,
        boxes: AnyBoxes | None = None,
        images: AnyTensor | None = None,
        classifier: AnyClassifier | None = None,
        query_class: AnyQuery = None,
        method: Asked | None = None,
        image_ids: Sequence[str] | None = None,
    ) -> None:
        """Add a batch.

        Args:
            maps: ``(B, 1, H, W)`` or ``(B, H, W)``, tensor or array, signed ones by their value; a list of
                maps of one size; a :class:`.SaliencyResult`; or an :class:`.Explained`, which holds all that
                follows.
            masks: ``(B, H, W)`` or ``(B, 1, H, W)``, pixels of the objects of the query class, or per image
                ``(H, W)`` or ``(N, H, W)`` of its N objects: bool, 0 and 1, 0 and 255, or from 0 to 1, of
                which 0.5 and more is object.
            boxes: of the same objects, xyxy in pixels of the maps, half-open: per image ``(N, 4)``, or
                ``(B, 4)`` with one each; ``BoundingBoxes`` of torchvision in their own format. Of an image
                without masks, boxes stand in.
            images: ``(B, C, H, W)`` in [0, 1], the explained ones.
            classifier: images in [0, 1] to logits.
            query_class: ``(B,)`` or one number, the class that was explained; None for that of the
                :class:`.SaliencyResult`, or the predicted one if there is a classifier; else it is not known.
            method: what made the maps, for metrics that ask for maps of changed images: a
                :class:`.Saliency`, or a function of images and query class to maps.
            image_ids: B stable names, by which an image that comes twice counts once. None numbers the images
                of each process since the last reset: copies that a padding sampler adds to equal the shares
                of several processes (``DistributedSampler`` without ``drop_last``) then count twice.

        Raises:
            DataError: something that the metric needs is lacking, or shapes, sizes or values do not fit.
        """
        if isinstance(maps, Explained):
            others = (masks, boxes, images, classifier, query_class, method, image_ids)
            if any(other is not None for other in others):
                raise DataError("an Explained holds all that a metric needs: update(explained) alone")
            explained = maps
        else:
            given = Given(maps, masks, boxes, images, classifier, query_class, method, image_ids)
            kind = type(self).__name__
            explained = given.explained(metric=kind, needs=self.needs, first=self._kept.added)
        self.add_rows(explained.image_ids, self.measured(explained))

    def measured(self, explained: Explained) -> Tensor:
        """Rows of :meth:`rows_of`, with whether each image is annotated behind them if that is needed."""
        waiting = rows_waiting(explained.classifier, len(explained.images))
        if waiting is not None:
            parts = []
            for row in range(waiting):
                with at_row(explained.classifier, row):
                    parts.append(self.measured(one_of(explained, row)))
            return torch.cat(parts)
        rows = self.rows_of(explained)
        if not self.needs_annotation:
            return rows
        return torch.cat([rows, has_object(explained, self.needs).to(rows)[:, None]], dim=1)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401 - those of update
        """Add a batch, as :meth:`update`; the main score of this batch alone, on this process."""
        before = len(self._kept.rows)
        self.update(*args, **kwargs)
        value = self._scalar(self._main_of(self._kept.since(before)))
        self._forward_cache = value  # type: ignore[assignment]  # torchmetrics annotates the None alone
        return value

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        # The table gathers over processes by itself, and knows whether there is something to compute.
        return compute

    def add_rows(self, image_ids: Sequence[str], rows: Tensor) -> None:
        """Add rows that :meth:`measured` gave earlier.

        Raises:
            DataError: rows of a wrong shape.
        """
        self._kept.update(image_ids, rows)

    def table(self) -> ImageRows:
        """The rows of all processes."""
        rows: ImageRows = self._kept.compute()
        return rows

    def compute(self) -> Tensor:
        """The main score, float32 on the metric's device; NaN where no image could be scored.

        What was lacking for it is a warning, and so is :meth:`caution`. With several processes all must call.
        """
        table = self.table()
        value, words = self._main_of(table), self.missing(table)
        if not table.image_ids:
            words = f"{type(self).__name__}: no image was added before compute(), which is NaN"
        elif not words and math.isnan(value):
            words = self.unscored(table)
        elif not words:
            words = self.caution(table)
        if words:
            warnings.warn(words, stacklevel=2)
        return self._scalar(value)

    def scores(self, bootstrap: Bootstrap | None = None) -> dict[str, Score]:
        """Every score with its interval over images, how many counted and how many were undefined.

        With several processes all must call.

        Raises:
            DataError: no image was added.
        """
        return self.scores_of(self.table(), bootstrap or Bootstrap())

    def scores_of(self, table: ImageRows, bootstrap: Bootstrap) -> dict[str, Score]:
        """The scores of a table, which :meth:`table` has gathered once; its images are resampled together.

        Raises:
            DataError: a table without images.
        """
        rows, n = table.kept[:, : len(self.columns)], len(table.kept)
        if n == 0:
            raise DataError(f"{self.name}: no image was added before scores()")
        scores = self.reduce(rows, bootstrap.jointly(n))
        return {name: resampled.score() for name, resampled in scores.items()}

    def missing(self, table: ImageRows | None = None, *, of: str = "the explained class") -> str:
        """A sentence with the number of images that lack an annotation; empty where nothing is lacking.

        Args:
            table: from :meth:`table`; None gathers it, for which all processes must call.
            of: whose objects they are, in words.
        """
        if not self.needs_annotation:
            return ""
        annotated = (self.table() if table is None else table).kept[:, len(self.columns) :].double()
        found, total, kind = int(annotated.sum()), annotated.numel(), type(self).__name__
        thing, needed = ("box", "boxes") if "boxes" in self.needs else ("object", "masks or boxes")
        if found == total:
            return ""
        if found:
            return f"{kind}: {total - found} of {total} images have no {thing} of {of} and are left out"
        article = "an" if thing == "object" else "a"
        return (
            f"{kind}: 0 of {total} images have {article} {thing} of {of}; without {needed} its scores are NaN"
        )

    def unscored(self, table: ImageRows | None = None) -> str:
        """A sentence if no image could be scored though nothing was lacking; empty otherwise.

        Args:
            table: as of :meth:`missing`.
        """
        known = self.table() if table is None else table
        annotated = len(known.image_ids)
        if self.needs_annotation:
            annotated = int(known.kept[:, len(self.columns) :].double().sum())
        if not annotated or not math.isnan(self._main_of(known)):
            return ""
        return (
            f"{type(self).__name__}: none of {annotated} images can be scored, and its scores are NaN:"
            " their maps are constant or not finite, or the network's answers are not finite"
            + (", or one image is too few" if annotated == 1 else "")
        )

    def caution(self, table: ImageRows | None = None) -> str:
        """A sentence if scores were computed and say little; empty otherwise. May be overridden.

        Args:
            table: as of :meth:`missing`.
        """
        return ""

    def _main_of(self, table: ImageRows) -> float:
        return self.scores_of(table, Bootstrap(0))[self.main].value if table.image_ids else math.nan

    def _scalar(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float32, device=self.device)

    def plot(self, val: Any = None, ax: Any = None) -> Any:  # noqa: ANN401 - as torchmetrics has it
        """A matplotlib figure and its axes with the main score, or with values from :meth:`forward`."""
        return self._plot(val, ax)

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._kept.reset()

    def persistent(self, mode: bool = False) -> None:
        """Keep what was added in ``state_dict``, or not."""
        super().persistent(mode)
        self._kept.persistent(mode)

    def merge_state(self, incoming_state: Metric | dict[str, Any]) -> None:
        """Add the images of another metric of this kind, e.g. of another machine.

        Raises:
            ConfigError: something else than a metric of this kind with these settings.
            DataError: images of one name in both, such as those without ``image_ids``.
        """
        if not isinstance(incoming_state, type(self)) or incoming_state.name != self.name:
            raise ConfigError(f"merge_state() of {self!r} needs the same metric, found {incoming_state!r}")
        ours, theirs = (metric._kept.since(0).image_ids for metric in (self, incoming_state))
        if both := set(ours) & set(theirs):
            raise DataError(
                f"{len(both)} images have one name in both metrics, such as {min(both)!r}; give each its own:"
                " update(maps, ..., image_ids=...)"
            )
        self._kept.merge_state(incoming_state._kept)
        self._computed = None

    def __repr__(self) -> str:
        """Class and settings that are not the default, as far as attributes have their names."""
        shown = []
        for name, setting in signature(type(self).__init__).parameters.items():
            value = getattr(self, name, Parameter.empty) if name != "self" else Parameter.empty
            if value is not Parameter.empty and not _same(value, setting.default):
                words = in_short(value) if is_dataclass(value) else described(value)
                shown.append(f"{name}={words}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _same(value: object, default: object) -> bool:
    return value is default or (not isinstance(value, Tensor) and value == default)
