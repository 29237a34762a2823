"""What a metric is given, checked and put into the one record that every metric reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from torchvision.tv_tensors import BoundingBoxes  # type: ignore[import-untyped]  # has no stubs

from verisal._brief import brief
from verisal.errors import ConfigError, DataError
from verisal.functional.outputs import output_of
from verisal.functional.regions import masks_from_boxes
from verisal.functional.regions.corners import corners_of
from verisal.functional.scopes import gradient_scope, predicted_classes
from verisal.saliency import Saliency
from verisal.types import AnyClassifier, AnyQuery, Explained, SaliencyResult, check_images, query_classes

AnyTensor = Tensor | np.ndarray[Any, Any]
AnyMaps = SaliencyResult | AnyTensor | Sequence[AnyTensor]
#: One tensor for all images, or per image ``(H, W)`` or ``(N, H, W)``.
AnyMasks = Sequence[AnyTensor] | AnyTensor
#: Per image, or one tensor for all.
AnyBoxes = Sequence[AnyTensor] | AnyTensor
#: A method that can be asked for maps of other images: one of ours, or images and query class to maps.
Asked = Saliency | Callable[[Tensor, Tensor], AnyMaps]
#: A method that can be asked about any network: one of ours, or classifier, images and query class to maps.
AnyMethod = Saliency | Callable[[AnyClassifier, Tensor, Tensor], AnyMaps]

_LACKING = {
    "objects": ("masks or boxes", "masks"),
    "boxes": ("boxes", "boxes=boxes"),
    "images": ("images", "images=images"),
    "classifier": ("classifier", "classifier=classifier"),
    "method": ("method", "method=method"),
}
_UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Given:
    """What :meth:`.SaliencyMetric.update` was given; the attributes are its arguments."""

    maps: AnyMaps
    masks: AnyMasks | None
    boxes: AnyBoxes | None
    images: AnyTensor | None
    classifier: AnyClassifier | None
    query_class: AnyQuery
    method: Asked | None
    image_ids: Sequence[str] | None

    __repr__ = brief

    def explained(self, *, metric: str, needs: Sequence[str], first: int) -> Explained:
        """The record of the batch.

        Args:
            metric: its class, for what is said.
            needs: what the metric cannot do without.
            first: number of the batch's first image, for names where none are given.

        Raises:
            DataError: what is needed is lacking, or what is given does not fit.
        """
        self._check_needs(metric, needs)
        result = result_of(self.maps)
        given = None if self.images is None else _tensor(self.images, "images")
        result = result if given is None else _moved(result, given.device)
        maps, count = result.saliency, len(result.saliency)
        images = None if given is None else _images(given, maps)
        return Explained(
            classifier=self.classifier or _refusing(metric, "classifier"),
            # Of no channel: nothing is known of them but their number and size.
            images=maps[:, :0] if images is None else images,
            query_class=_query(self, maps, images),
            result=result,
            image_ids=_names(first, count) if self.image_ids is None else _ids(self.image_ids, count),
            explain=_refusing(metric, "method")
            if self.method is None
            else explaining(self.method, self.classifier),
            object_masks=None if self.masks is None else _masks(self.masks, maps),
            boxes=None if self.boxes is None else _boxes(self.boxes, maps),
        )

    def _check_needs(self, metric: str, needs: Sequence[str]) -> None:
        given = {
            "objects": self.boxes if self.masks is None else self.masks,
            "boxes": self.boxes,
            "images": self.images,
            "classifier": self.classifier,
            "method": self.method,
        }
        if any(given[need] is None for need in needs):
            words, typed = zip(*(_LACKING[need] for need in needs), strict=True)
            raise DataError(f"{metric} needs {_listed(words)}: update(maps, {', '.join(typed)})")


def result_of(maps: AnyMaps) -> SaliencyResult:
    """Anybody's maps ``(B, 1, H, W)`` or ``(B, H, W)``, or a list, as a result in float32 or float64.

    Raises:
        DataError: other shapes, or maps that are true and false.
    """
    if isinstance(maps, SaliencyResult):
        return maps
    values = (_joined(maps, "maps") if isinstance(maps, (list, tuple)) else _tensor(maps, "maps")).detach()
    if values.ndim == 3:
        values = values[:, None]
    if values.ndim != 4 or values.shape[1] != 1:
        advice = {
            2: "; of one image: maps[None]",
            4: "; reduce the channels first, e.g. maps.abs().amax(dim=1)",
        }.get(values.ndim, "")
        raise DataError(f"maps must be (B, 1, H, W) or (B, H, W), found {tuple(values.shape)}{advice}")
    if values.dtype == torch.bool:
        raise DataError("maps must be numbers, found true and false; masks come second: update(maps, masks)")
    values = values if values.dtype in (torch.float32, torch.float64) else values.float()
    return SaliencyResult(saliency=values, raw=values)


def explaining(method: Asked, classifier: AnyClassifier | None) -> Callable[[Tensor, Tensor], SaliencyResult]:
    """A method that is asked for maps of images and query class, whatever it is.

    Raises:
        DataError: one of ours without a classifier.
    """
    if isinstance(method, Saliency):
        if classifier is None:
            raise DataError(
                f"method {type(method).__name__} needs a classifier: update(..., classifier=classifier)"
            )
        network, ours = classifier, method

        def explain(images: Tensor, query_class: Tensor) -> SaliencyResult:
            return ours(network, images, query_class)

        return explain
    theirs = method

    def asked(images: Tensor, query_class: Tensor) -> SaliencyResult:
        # Others rely on gradients being on, and cannot differentiate tensors of inference mode.
        with gradient_scope(images.device.type):
            return _moved(result_of(theirs(images.clone(), query_class.clone())), images.device)

    return asked


def check_method(method: AnyMethod, whose: str) -> None:
    """Raise :class:`ConfigError` unless a method can be asked about any network."""
    try:
        signature(method).bind(None, None, None)
    except TypeError as error:
        raise ConfigError(
            f"{whose} must take (classifier, images, query_class), because it is asked about other networks,"
            f" found {getattr(method, '__name__', type(method).__name__)}{signature(method)}"
        ) from error


def maps_by(
    method: AnyMethod, classifier: AnyClassifier, images: Tensor, query_class: Tensor
) -> SaliencyResult:
    """Maps of a method of anybody, on the device of the images."""
    if isinstance(method, Saliency):
        return method(classifier, images, query_class)
    with gradient_scope(images.device.type):
        return _moved(result_of(method(classifier, images.clone(), query_class.clone())), images.device)


def has_object(explained: Explained, needs: Sequence[str]) -> Tensor:
    """``(B,)`` bool: images with an annotation as the metric needs it."""
    boxed = [len(own) > 0 for own in explained.boxes or ()] or [False] * len(explained.image_ids)
    annotated = torch.tensor(boxed, dtype=torch.bool, device=explained.images.device)
    if "boxes" in needs or explained.object_masks is None:
        return annotated
    return annotated | explained.object_masks.flatten(1).any(dim=1)


def object_masks_of(explained: Explained, name: str) -> Tensor:
    """Object masks ``(B, H, W)``; of images that have none, boxes stand in.

    Raises:
        DataError: neither masks nor boxes.
    """
    masks = explained.object_masks
    if explained.boxes is None:
        if masks is None:
            raise DataError(
                f"{name} needs object masks or boxes, found neither; leave it out on this data set"
            )
        return masks
    filled = masks_from_boxes(explained.boxes, (explained.images.shape[-2], explained.images.shape[-1]))
    if masks is None:
        return filled
    bare = ~masks.flatten(1).any(dim=1)
    return torch.where(bare[:, None, None], filled, masks)


def boxes_of(explained: Explained, name: str) -> tuple[Tensor, ...]:
    """Boxes of the query class, per image ``(N_i, 4)``.

    Raises:
        DataError: none.
    """
    if explained.boxes is None:
        raise DataError(f"{name} needs boxes, found none; leave it out on this data set")
    return explained.boxes


def _tensor(given: object, what: str) -> Tensor:
    """One tensor or array as a tensor."""
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        advice = ""
        if isinstance(given, Mapping) and "labels" in given:
            advice = (
                f"; of targets with labels give the objects of the explained class: {what}=[target[{what!r}]"
                "[target['labels'] == c] for target, c in zip(targets, query_class)]"
            )
        raise DataError(f"{what} must be tensors or arrays, found {type(given).__name__}{advice}") from error


def _joined(given: Sequence[object], what: str) -> Tensor:
    """Parts of one size, an image or a batch ``(B, C, H, W)`` each, as one tensor."""
    parts = [_tensor(part, what) for part in given]
    shapes = list(dict.fromkeys(tuple(part.shape) for part in parts))
    if len(shapes) > 1:
        raise DataError(
            f"{what} of one update must be of one size, found {_few(shapes)}; update once for each image, as"
            " a batch of one: update(maps[None], ...)"
        )
    if not parts:
        raise DataError(f"{what} must be of one image at least, found an empty list")
    return torch.cat(parts) if parts[0].ndim == 4 else torch.stack(parts)


def _images(images: Tensor, maps: Tensor) -> Tensor:
    whole = images.float() if images.is_floating_point() else images
    check_images(whole)
    _check_size(maps, whole, "images")
    return whole


def _query(given: Given, maps: Tensor, images: Tensor | None) -> Tensor:
    """The class that was explained: as given, of the maps, as predicted, or not known."""
    known = given.maps.query_class if isinstance(given.maps, SaliencyResult) else None
    query = known if given.query_class is None else given.query_class
    if query is not None:
        return query_classes(query, len(maps), maps.device)
    if given.classifier is not None and output_of(given.classifier) == "score":
        return torch.zeros(len(maps), dtype=torch.int64, device=maps.device)
    if given.classifier is None or images is None:
        return torch.full((len(maps),), _UNKNOWN, device=maps.device)
    return predicted_classes(given.classifier, images)


def _masks(masks: AnyMasks, maps: Tensor) -> Tensor:
    if isinstance(masks, (list, tuple)):
        given = _joined([_whole(_tensor(own, "masks")) for own in masks], "masks").to(maps.device)
    else:
        given = _tensor(masks, "masks").to(maps.device)
    given = given[:, 0] if given.ndim == 4 and given.shape[1] == 1 else given
    if given.ndim != 3 or len(given) != len(maps):
        raise DataError(
            f"masks must be ({len(maps)}, H, W) or ({len(maps)}, 1, H, W), one per map with all objects of"
            f" its class, found {tuple(given.shape)}"
        )
    _check_size(maps, given, "masks")
    if given.dtype == torch.bool:
        return given
    low, high = (float(end) for end in given.aminmax()) if given.numel() else (0.0, 0.0)
    if given.is_floating_point():
        if low < 0 or high > 1:
            raise DataError(f"masks of floats must lie in [0, 1], found values from {low:g} to {high:g}")
        return given >= 0.5
    values = torch.unique(given).tolist()
    if not (set(values) <= {0, 1} or set(values) <= {0, 255}):
        raise DataError(
            f"masks must be true on the objects of one class, found the values {_few(values)}; from a map of"
            " classes: masks = class_map == query_class[:, None, None]"
        )
    return given > 0


def _whole(masks: Tensor) -> Tensor:
    """One mask of all objects of an image, of ``(H, W)`` or ``(N, H, W)``."""
    if masks.ndim != 3:
        return masks
    return masks.amax(dim=0) if len(masks) else masks.new_zeros(masks.shape[1:])


def _boxes(boxes: AnyBoxes, maps: Tensor) -> tuple[Tensor, ...]:
    # A row of torchvision's boxes knows their format no more.
    each = _corners(boxes, maps) if isinstance(boxes, BoundingBoxes) else boxes
    listed = [_corners(own, maps).to(maps.device, torch.float32) for own in each]
    # One box of four numbers, or none of no numbers, is a row of its own.
    parts = [own.reshape(-1, 4) if own.shape == (4,) or not own.numel() else own for own in listed]
    if len(parts) != len(maps) or any(own.ndim != 2 or own.shape[1] != 4 for own in parts):
        raise DataError(
            f"boxes must be {len(maps)} tensors (N, 4), one per map, or ({len(maps)}, 4) with one box each,"
            f" found {len(parts)} of {_few([tuple(own.shape) for own in parts])}"
        )
    whole = torch.cat(parts) if parts else maps.new_empty(0, 4)
    if bool((whole[:, 2:] < whole[:, :2]).any()):
        wrong = whole[(whole[:, 2:] < whole[:, :2]).any(dim=1)][0].tolist()
        raise DataError(
            f"boxes must be (x1, y1, x2, y2), found {wrong}; of (x, y, width, height):"
            " torchvision.ops.box_convert(boxes, 'xywh', 'xyxy')"
        )
    if len(whole) and bool((whole <= 1).all()) and bool((whole != whole.round()).any()):
        raise DataError(
            f"boxes must be in pixels of the maps, found shares of the image such as {whole[0].tolist()};"
            " multiply by width, height, width and height"
        )
    height, width = maps.shape[-2:]
    outside = (whole[:, 0] >= width) | (whole[:, 1] >= height)
    if bool(outside.any()):
        raise DataError(
            f"boxes must be in pixels of the maps, which are {width} wide and {height} high, found"
            f" {whole[outside][0].tolist()}; scale the boxes as the images were scaled"
        )
    return tuple(parts)


def _corners(boxes: AnyTensor, maps: Tensor) -> Tensor:
    """Boxes as they are, those of torchvision's kind as xyxy."""
    if not isinstance(boxes, BoundingBoxes):
        return _tensor(boxes, "boxes")
    return corners_of(boxes, (maps.shape[-2], maps.shape[-1]), beside="a map")


def _check_size(maps: Tensor, others: Tensor, what: str) -> None:
    """Raise unless there are as many maps as masks or images, of the same height and width."""
    if len(maps) != len(others):
        raise DataError(f"there must be one map per image, found {len(maps)} maps and {len(others)} {what}")
    found, expected = tuple(maps.shape[-2:]), tuple(others.shape[-2:])
    if found != expected:
        raise DataError(
            f"maps are {found} and {what} {expected}; bring the maps to that size, e.g."
            f" torch.nn.functional.interpolate(maps, size={expected}, mode='bilinear') of (B, 1, H, W)"
        )


def _names(first: int, count: int) -> tuple[str, ...]:
    """Running numbers, apart from those of other processes."""
    process = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
    return tuple(f"{process:05d}/{first + place:09d}" for place in range(count))


def _ids(image_ids: Sequence[str], count: int) -> tuple[str, ...]:
    names = tuple(map(str, image_ids))
    if len(names) != count:
        raise DataError(f"image_ids must be one name per map, found {len(names)} for {count} maps")
    return names


def _refusing(metric: str, what: str) -> Callable[..., Any]:
    def refuse(*_: object) -> Any:  # noqa: ANN401 - it never returns
        raise DataError(f"{metric} needs {what}: update(maps, {what}={what})")

    return refuse


def _moved(result: SaliencyResult, device: torch.device) -> SaliencyResult:
    if result.saliency.device == device:
        return result
    signed = None if result.attribution is None else result.attribution.to(device)
    return SaliencyResult(result.saliency.to(device), result.raw.to(device), signed)


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _few(values: Sequence[object]) -> str:
    shown = ", ".join(map(str, values[:4]))
    return f"{shown}, ..." if len(values) > 4 else shown
