"""Vocabulary of verisal: the conventions, and the frozen records that rooms pass to each other.

Conventions, valid everywhere unless a docstring says otherwise:

- *image*: ``(B, C, H, W)`` float32 in [0, 1]; of three channels, red, green and blue. The classifier
  normalises inside itself.
- *label* is the ground truth, *query class* the class being explained (``(B,)`` int64, fixed from
  the clean image), *target* the goal of a targeted attack. They are never mixed.
- *attribution*: signed, ``(B, C, H, W)``. *saliency map*: non-negative, ``(B, 1, H, W)``, magnitudes kept.
- *gate*: non-negative factor on a stage's activation, shaped like it, initialised at 1.
- *box*: ``(N, 4)`` xyxy pixels, half-open. *object mask*: boolean, ``(H, W)`` per object.
- *detector score*: ``(B,)`` float, continuous; **higher = more adversarial**; positive = adversarial.
- *eps* and norms of adversarial noise are in [0, 1] pixel units (``8 / 255``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from verisal._brief import brief, described, ranged
from verisal._checks import AnyQuery as AnyQuery
from verisal._checks import Labels as Labels
from verisal._checks import check_images as check_images
from verisal._checks import check_query_class as check_query_class
from verisal._checks import check_range as check_range
from verisal._checks import query_classes as query_classes
from verisal.errors import DataError
from verisal.pictures import (
    OPACITY,
    DisplayChannels,
    Pixels,
    brightest,
    in_a_row,
    map_pixels,
    map_titles,
    maps_figure,
    overlaid,
    png,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Norm = Literal["linf", "l2"]
#: Images ``(B, C, H, W)`` in [0, 1] to logits ``(B, K)``; any function will do.
AnyClassifier = Callable[[Tensor], Tensor]
#: What logits are: of classes that exclude each other, of labels decided one by one, or no classes' at all,
#: but a number that is a score in its own units, such as what a regression network or a target gives.
OutputKind = Literal["softmax", "sigmoid", "score"]
# Maps in a picture, and the side in pixels to which small ones are enlarged.
_SHOWN, _SIDE = 8, 128
Split = Literal["cls_train", "cls_val", "det_fit", "det_val", "det_test"]


@dataclass(frozen=True)
class Sample:
    """One image with its ground truth.

    Attributes:
        image: ``(C, H, W)`` float32 in [0, 1].
        label: class index of the main object.
        image_id: stable name of the image; copies and adversarial versions keep it.
        object_labels: ``(N,)`` int64, class of every annotated object, the main one first.
        object_masks: ``(N, H, W)`` bool, the *visible* pixels of every object.
        boxes: ``(N, 4)`` float32 xyxy, half-open, tight around the visible pixels.
        difficult: ``(N,)`` bool, objects that are there but that no map is asked to find; by default none.

    Raises:
        DataError: shapes, dtypes or ranges that do not fit each other.
    """

    image: Tensor
    label: int
    image_id: str
    object_labels: Tensor
    object_masks: Tensor
    boxes: Tensor
    difficult: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))

    __repr__ = brief

    def __post_init__(self) -> None:
        count, size = len(self.object_labels), tuple(self.image.shape[1:])
        if len(self.difficult) == 0:
            object.__setattr__(self, "difficult", torch.zeros(count, dtype=torch.bool))
        for name, tensor, shape, dtype in (
            ("image", self.image, (len(self.image), *size) if len(size) == 2 else "(C, H, W)", torch.float32),
            ("object masks", self.object_masks, (count, *size), torch.bool),
            ("boxes", self.boxes, (count, 4), self.boxes.dtype),
            ("difficult", self.difficult, (count,), torch.bool),
        ):
            if tuple(tensor.shape) != shape or tensor.dtype != dtype:
                raise DataError(
                    f"sample {self.image_id}: {name} must be {shape} {str(dtype).removeprefix('torch.')},"
                    f" found {tuple(tensor.shape)} {tensor.dtype}"
                )


@dataclass(frozen=True)
class Batch:
    """Several samples; objects stay a tuple per image because their number differs.

    Lightning moves it by calling :meth:`to`; loaders use :meth:`collate` and :meth:`pin_memory`. Without
    ``difficult``, no object is. ``label_sets`` ``(B, K)`` int64 says of images with several labels what is
    there, 1, what is not, 0, and what is not known, -1; the ``labels`` are -1 then.
    """

    images: Tensor
    labels: Tensor
    image_ids: tuple[str, ...]
    object_labels: tuple[Tensor, ...]
    object_masks: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    difficult: tuple[Tensor, ...] = ()
    label_sets: Tensor | None = None

    __repr__ = brief

    def __post_init__(self) -> None:
        if not self.difficult:
            none = (torch.zeros_like(labels, dtype=torch.bool) for labels in self.object_labels)
            object.__setattr__(self, "difficult", tuple(none))

    def __len__(self) -> int:
        return len(self.image_ids)

    @classmethod
    def collate(cls, samples: Sequence[Sample]) -> Self:
        """Stack samples of one size; a ``collate_fn`` for loaders."""
        return cls(
            images=torch.stack([sample.image for sample in samples]),
            labels=torch.tensor([sample.label for sample in samples], dtype=torch.int64),
            image_ids=tuple(sample.image_id for sample in samples),
            object_labels=tuple(sample.object_labels for sample in samples),
            object_masks=tuple(sample.object_masks for sample in samples),
            boxes=tuple(sample.boxes for sample in samples),
            difficult=tuple(sample.difficult for sample in samples),
        )

    def object_mask_of(self, query_class: Tensor) -> Tensor:
        """``(B, H, W)`` bool: union of the visible pixels of the objects of each image's query class.

        Difficult objects have no part in it.
        """
        asked = self._asked(query_class)
        return torch.stack(
            [mask[rows].any(dim=0) for mask, rows in zip(self.object_masks, asked, strict=True)]
        )

    def boxes_of(self, query_class: Tensor) -> tuple[Tensor, ...]:
        """Per image the boxes ``(N, 4)`` of the objects of its query class but for difficult ones."""
        return tuple(boxes[rows] for boxes, rows in zip(self.boxes, self._asked(query_class), strict=True))

    def asked_labels(self) -> tuple[Tensor, ...]:
        """Per image the classes of its objects but for difficult ones."""
        pairs = zip(self.object_labels, self.difficult, strict=True)
        return tuple(labels[~difficult] for labels, difficult in pairs)

    def _asked(self, query_class: Tensor) -> list[Tensor]:
        """Per image which objects are of its query class and not difficult."""
        triples = zip(self.object_labels, self.difficult, query_class, strict=True)
        return [(labels == int(query)) & ~difficult for labels, difficult, query in triples]

    def rows(self, indices: Sequence[int]) -> Self:
        """The part of the batch with these positions, in this order."""
        index = torch.as_tensor(list(indices), dtype=torch.int64, device=self.labels.device)
        kept: dict[str, Any] = {"images": self.images[index], "labels": self.labels[index]}
        if self.label_sets is not None:
            kept["label_sets"] = self.label_sets[index]
        for name in ("image_ids", "object_labels", "object_masks", "boxes", "difficult"):
            values = getattr(self, name)
            kept[name] = tuple(values[position] for position in index.tolist())
        return replace(self, **kept)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Copy of the batch on ``device``."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Copy of the batch in page-locked memory."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        changed: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                changed[item.name] = function(value)
            elif value and isinstance(value[0], Tensor):
                changed[item.name] = tuple(function(tensor) for tensor in value)
        return replace(self, **changed)


@dataclass(frozen=True)
class StageOutputs:
    """Logits and the activation of every stage: ``logits (B, K)``, ``activations[l] (B, C_l, H_l, W_l)``."""

    logits: Tensor
    activations: tuple[Tensor, ...]

    __repr__ = brief


class StagedClassifier(nn.Module, ABC):
    """A classifier whose stages can be gated and read; ``models.Classifier`` is one."""

    @property
    @abstractmethod
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, in the order in which they run."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of classes K."""

    def note_size(self, images: Tensor, *, shown: tuple[int, int] | None = None) -> None:
        """Remember the height and width of ``images``, or of the parts of them that the network is ``shown``.

        They are for what is found out when it is first needed.

        Whoever reads :attr:`stages` or :attr:`num_classes` before the first pass calls this. A classifier
        that finds nothing out does nothing.
        """

    @abstractmethod
    def stage_outputs(self, images: Tensor) -> StageOutputs:
        """Logits and all stage activations in one pass."""

    @abstractmethod
    def prefix(self, images: Tensor) -> Tensor:
        """Activation of the first stage, which is all that the gated part needs."""

    @abstractmethod
    def gated(self, first: Tensor, gates: Sequence[Tensor]) -> Tensor:
        """Logits when every stage's activation is multiplied by its gate; ``first`` is ungated."""

    if TYPE_CHECKING:

        def __call__(self, images: Tensor) -> Tensor:
            """Logits ``(B, K)`` of images in [0, 1], which stay as they are."""


@dataclass(frozen=True)
class SaliencyResult:
    """Maps of one batch, as every saliency method returns them.

    Attributes:
        saliency: ``(B, 1, H, W)`` non-negative, at image resolution, magnitudes kept.
        attribution: ``(B, C, H, W)`` signed, or None where the method has none.
        raw: ``(B, 1, H, W)``, never normalised per image; equals ``saliency`` for most methods, the mean
            of ``raw_layers`` for hierarchical ones.
        raw_layers: per stage ``(B, 1, H, W)``, empty where the method has no layers.
        n_forward: network forward passes spent per image.
        n_backward: network backward passes spent per image.
        baseline: name of the baseline image that replaced removed pixels, empty where there is none.
        diagnostics: name to ``(B,)``: a method's own report of its work on each image.
        query_class: ``(B,)`` int64, the class that each map explains; None where nobody said, as of a map
            that depends on the image alone.
        class_names: of the classifier, in the order of its logits; empty where it says none.
    """

    saliency: Tensor
    raw: Tensor
    attribution: Tensor | None = None
    raw_layers: tuple[Tensor, ...] = ()
    n_forward: float = 0.0
    n_backward: float = 0.0
    baseline: str = ""
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)
    query_class: Tensor | None = None
    class_names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Shapes, ranges, classes and passes, without the values."""
        count, _, height, width = self.saliency.shape
        signed = (
            ""
            if self.attribution is None
            else f"; attribution {tuple(self.attribution.shape)}, {ranged(self.attribution)}"
        )
        asked = "" if self.query_class is None else f"; query class {described(self.query_class)}"
        layers = f"; {len(self.raw_layers)} layers" if self.raw_layers else ""
        baseline = f"; baseline {self.baseline}" if self.baseline else ""
        passes = f"; {self.n_forward:g} forward and {self.n_backward:g} backward passes an image"
        maps = f"{count} maps of {height} x {width} px, {ranged(self.saliency)}"
        return f"SaliencyResult({maps}{signed}{asked}{layers}{baseline}{passes})"

    def _repr_png_(self) -> bytes:
        """The first maps beside each other, each in the colours from 0 to its own brightest."""
        maps = self.saliency[:_SHOWN]
        return png(in_a_row(map_pixels(maps, end=brightest), side=_SIDE))

    def overlay(
        self, images: Tensor, *, opacity: float = OPACITY, display_channels: DisplayChannels = None
    ) -> Pixels:
        """The maps in colours over their images, as pictures for matplotlib, W&B and TensorBoard.

        Each map's colours run from 0 to its 99.5 % quantile, so that a few peaks do not leave the rest
        dark; where a map is 0, the image in grey is left.

        Args:
            images: ``(B, C, H, W)`` in [0, 1] that were explained, or the one image ``(C, H, W)`` where there
                is one map.
            opacity: of the brightest colour, in [0, 1].
            display_channels: of images that are neither grey nor RGB, the three channels whose mean is shown,
                or a function of images to RGB; None for the first three.

        Returns:
            ``(B, H, W, 3)`` uint8, or ``(H, W, 3)`` for one image without batch.

        Raises:
            DataError: images that are none, or not as many or as large as the maps.
            ConfigError: an opacity out of range, or channels that there are not.
        """
        check_range(0, 1, opacity=opacity)
        batch = images[None] if isinstance(images, Tensor) and images.ndim == 3 else images
        self._check_fits(batch)
        pictures = overlaid(batch, self.saliency, opacity=opacity, channels=display_channels)
        return pictures if batch is images else pictures[0]

    def plot(
        self,
        images: Tensor | None = None,
        *,
        opacity: float = OPACITY,
        display_channels: DisplayChannels = None,
        class_names: Sequence[str] = (),
    ) -> Figure:
        """A matplotlib figure of the first eight maps; with images, these above and the maps over them.

        Above each map stand the class that it explains and its largest value.

        Args:
            images: as of :meth:`overlay`, or None for the maps alone.
            opacity: as of :meth:`overlay`.
            display_channels: as of :meth:`overlay`.
            class_names: in the order of the logits; those of the classifier where none are given.

        Raises:
            DataError: images that are none, or not as many or as large as the maps.
            ConfigError: an opacity out of range, or channels that there are not.
        """
        check_range(0, 1, opacity=opacity)
        if images is not None:
            images = images[None] if isinstance(images, Tensor) and images.ndim == 3 else images
            self._check_fits(images)
            images = images[:_SHOWN]
        maps = self.saliency[:_SHOWN]
        titles = map_titles(maps, self.query_class, class_names or self.class_names)
        return maps_figure(maps, images, titles, opacity=opacity, channels=display_channels)

    def _check_fits(self, images: Tensor) -> None:
        check_images(images)
        if len(images) != len(self.saliency) or images.shape[2:] != self.saliency.shape[2:]:
            raise DataError(
                f"images must be those that were explained, {_sizes(self.saliency)}, found {_sizes(images)}"
            )


def _sizes(images: Tensor) -> str:
    return f"{len(images)} of {images.shape[2]} x {images.shape[3]} px"


@dataclass(frozen=True)
class Explained:
    """Maps of one batch and everything that a metric may ask about them.

    Attributes:
        classifier: maps images to logits; frozen.
        images: ``(B, C, H, W)`` in [0, 1].
        query_class: ``(B,)`` int64, the class that was explained, fixed from the clean image.
        result: what the method returned for these images and this query.
        image_ids: B stable names.
        explain: the method itself: images and query class to maps. Metrics that ask how maps change call it.
        object_masks: ``(B, H, W)`` bool, visible pixels of all objects of the query class, or None.
        boxes: per image ``(N, 4)`` xyxy half-open boxes of the objects of the query class, or None.
    """

    classifier: Callable[[Tensor], Tensor]
    images: Tensor
    query_class: Tensor
    result: SaliencyResult
    image_ids: tuple[str, ...]
    explain: Callable[[Tensor, Tensor], SaliencyResult]
    object_masks: Tensor | None = None
    boxes: tuple[Tensor, ...] | None = None

    __repr__ = brief


@runtime_checkable
class HasClassifier(Protocol):
    """A task around a classifier whose predictions can be explained."""

    @property
    def classifier(self) -> Callable[[Tensor], Tensor] | None:
        """Images in [0, 1] to logits; None before it is built."""
