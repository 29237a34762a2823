"""The parts of a batch: images, labels, names, masks, boxes, found by name, or by kind and place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import cast

from torchvision import tv_tensors  # type: ignore[import-untyped]  # has no stubs

from verisal.callbacks.formats.values import (
    WAY_OUT,
    has_one_channel,
    is_image,
    is_images,
    is_word,
    items_of,
    shown,
    tensor_of,
)
from verisal.errors import ConfigError

_NAMES: Mapping[str, tuple[str, ...]] = {
    "images": ("images", "image", "imgs", "img", "pixel_values", "inputs", "input", "x"),
    "labels": ("labels", "label", "targets", "target", "y"),
    "ids": (
        *("image_ids", "image_id", "ids", "id", "paths", "path", "filenames", "filename", "file_name"),
        *("indices", "index", "idx"),
    ),
    "masks": ("masks", "mask"),
    "boxes": ("boxes", "box", "bboxes", "bbox"),
    "difficult": ("difficult", "iscrowd"),
}
_KNOWN = {name for names in _NAMES.values() for name in names}
_PICK = "pass batch=, a function that picks one and gives (images, labels)"


@dataclass(frozen=True)
class Parts:
    """The parts of a batch, or of what is said of one image, as they were given; None for what is not there.

    Attributes:
        images: of the whole batch.
        labels: classes of the images, or of their objects.
        label: classes of the images, where ``labels`` are those of their objects.
        ids: names of the images.
        masks: of the images' objects.
        boxes: of the images' objects.
        difficult: of the images' objects.
        targets: for every image what is said of it.
    """

    images: object = None
    labels: object = None
    label: object = None
    ids: object = None
    masks: object = None
    boxes: object = None
    difficult: object = None
    targets: object = None


def parts_of(batch: object) -> Parts:
    """The parts of a batch.

    Raises:
        ConfigError: there are no images in it, or something in it may be one of two parts.
    """
    if is_images(batch):
        return Parts(images=batch)
    if (named := named_values(batch)) is not None:
        return _of_names(named)
    items = items_of(batch)
    if not items:
        raise ConfigError(f"a batch must hold images and their labels, found {shown(batch)}; {WAY_OUT}")
    # Samples in a list are read as the columns that a collate function would make of them.
    if all(map(_is_tuple_sample, items)):
        return _of_places(_columns(items))
    if all(map(_is_named_sample, items)):
        records = [named_values(item) or {} for item in items]
        return _of_names({key: [record.get(key) for record in records] for key in records[0]})
    return _of_places(items)


def is_sample(item: object) -> bool:
    """True for one image, alone or with what is said of it."""
    return is_image(item) or _is_tuple_sample(item) or _is_named_sample(item)


def named_values(thing: object) -> Mapping[str, object] | None:
    """Values by name of a mapping, named tuple, dataclass or other object; None if it has no names."""
    if isinstance(thing, Mapping):
        return {str(key): value for key, value in thing.items()}
    if isinstance(thing, tuple):
        names = getattr(type(thing), "_fields", ())
        return dict(zip(names, thing, strict=True)) if _KNOWN.intersection(names) else None
    if thing is None or is_word(thing) or isinstance(thing, list | bytes) or tensor_of(thing) is not None:
        return None
    if is_dataclass(thing) and not isinstance(thing, type):
        return {item.name: getattr(thing, item.name) for item in fields(thing)}
    values = {name: getattr(thing, name, None) for name in _KNOWN}
    return {
        name: value for name, value in values.items() if value is not None and not callable(value)
    } or None


def annotation_parts(named: Mapping[str, object]) -> Parts:
    """What is said of images, by its names.

    Raises:
        ConfigError: two names of one part.
    """
    rest = dict(named)
    label = None
    if (
        "label" in rest
        and len(_found(rest, "labels")) > 1
        and (_found(rest, "boxes") or _found(rest, "masks"))
    ):
        # With objects, `labels` are theirs, and `label` is that of the image.
        label = rest.pop("label")
    found = {part: _only(rest, part) for part in ("labels", "masks", "boxes", "difficult")}
    return Parts(label=label, ids=next(iter(_found(rest, "ids").values()), None), **found)


def _found(named: Mapping[str, object], part: str) -> dict[str, object]:
    lower = {key.lower(): (key, value) for key, value in named.items() if value is not None}
    return dict(lower[name] for name in _NAMES[part] if name in lower)


def _only(named: Mapping[str, object], part: str) -> object:
    found = _found(named, part)
    if len(found) > 1:
        raise ConfigError(f"{' and '.join(map(repr, found))} may both be the {part} of a batch; {WAY_OUT}")
    return next(iter(found.values()), None)


def _of_names(named: Mapping[str, object]) -> Parts:
    parts = replace(annotation_parts(named), images=_images_of(named))
    labels = parts.labels
    return _with(replace(parts, labels=None), [labels])


def _images_of(named: Mapping[str, object]) -> object:
    found = _found(named, "images")
    others = {key: value for key, value in named.items() if key.lower() not in _KNOWN}
    candidates = found
    if len(found) != 1:
        candidates = {key: value for key, value in (found or others).items() if is_images(value)}
    if len(candidates) > 1:
        raise ConfigError(f"{' and '.join(map(repr, candidates))} may both be the images of a batch; {_PICK}")
    if not candidates:
        raise ConfigError(
            "a batch must hold images (B, C, H, W) under a name such as image or pixel_values, found"
            f" {shown(named)}; {WAY_OUT}"
        )
    return next(iter(candidates.values()))


def _of_places(items: Sequence[object]) -> Parts:
    for item in items:
        if (
            len(views := [view for view in items_of(item) or () if is_images(view) and not is_image(view)])
            > 1
        ):
            raise ConfigError(
                f"{' and '.join(map(shown, views))} in one list may both be the images of a batch; {_PICK}"
            )
    places = [place for place, item in enumerate(items) if is_images(item)]
    # One channel beside images of several is their mask.
    places = [place for place in places if not has_one_channel(items[place])] or places
    if len(places) > 1:
        words = " and ".join(f"item {place} ({shown(items[place])})" for place in places)
        raise ConfigError(f"{words} may both be the images of a batch; {_PICK}")
    named = [place for place, item in enumerate(items) if isinstance(item, Mapping)]
    if not places and len(named) == 1:
        rest = [item for place, item in enumerate(items) if place != named[0]]
        return _with(_of_names(named_values(items[named[0]]) or {}), rest)
    if not places:
        raise ConfigError(
            f"a batch must hold images (B, C, H, W), found a {type(items).__name__} of"
            f" {', '.join(map(shown, items[:4]))}; {WAY_OUT}"
        )
    rest = [item for place, item in enumerate(items) if place != places[0]]
    return _with(Parts(images=items[places[0]]), rest)


def _with(parts: Parts, values: Sequence[object]) -> Parts:
    """Parts and further ones, each of which its kind tells."""
    kinds = [(_kind_of(value, _count(parts.images)), value) for value in values]
    for kind, value in sorted(kinds, key=lambda pair: _ORDER.index(pair[0])):
        if kind == "nested":
            parts = _with(parts, items_of(value) or ())
        elif kind == "rows":
            parts = _with(parts, _columns(items_of(value) or ()))
        elif kind == "named":
            parts = _merged(parts, named_values(value) or {})
        elif kind in {"numbers", "words"}:
            # Labels come before names, and words are names where numbers are labels.
            parts = _set(parts, "labels" if parts.labels is None else "ids", value)
        elif kind != "nothing":
            parts = _set(parts, kind, value)
    return parts


def _merged(parts: Parts, named: Mapping[str, object]) -> Parts:
    if _found(named, "images"):
        raise ConfigError(f"images beside {shown(named)} may both be the images of a batch; {_PICK}")
    if not any(_found(named, part) for part in _NAMES):
        raise ConfigError(
            f"nothing is known of the names in {shown(named)}; collate with tuple(zip(*samples)) where"
            f" targets are dicts per image, or {WAY_OUT}"
        )
    more = _of_names({"images": parts.images, **named})
    for item in fields(Parts):
        value = getattr(more, item.name)
        if item.name != "images" and value is not None:
            parts = _set(parts, item.name, value)
    return parts


def _set(parts: Parts, part: str, value: object) -> Parts:
    if (known := getattr(parts, part)) is not None:
        raise ConfigError(f"{shown(known)} and {shown(value)} may both be the {part} of a batch; {WAY_OUT}")
    return replace(parts, **{part: value})


_ORDER = ("nothing", "nested", "rows", "named", "targets", "masks", "boxes", "numbers", "ids", "words")


def _kind_of(value: object, count: int) -> str:
    """The part that a value beside ``count`` images is, or how it has to be looked at."""
    if value is None:
        return "nothing"
    if isinstance(value, tv_tensors.BoundingBoxes):
        return "boxes"
    if (tensor := tensor_of(value)) is not None:
        return "numbers" if tensor.ndim < 3 else "masks"
    if named_values(value) is not None:
        return "named"
    if items := items_of(value):
        return _kind_of_items(items, count)
    raise ConfigError(f"nothing is known of {shown(value)} in a batch; {WAY_OUT}")


def _kind_of_items(items: Sequence[object], count: int) -> str:
    if all(isinstance(item, Mapping) or _is_listing(item) for item in items):
        return "targets"
    if items.count(None) < len(items) and all(item is None or is_word(item) for item in items):
        return "words" if any(isinstance(item, str) for item in items) else "ids"
    tensors = [tensor_of(item) for item in items]
    depths = {-1 if tensor is None else tensor.ndim for tensor in tensors}
    if _is_nested(items, count):
        return "nested"
    if all(
        item is None or (tensor is not None and tensor.ndim < 2)
        for item, tensor in zip(items, tensors, strict=True)
    ):
        return "numbers"
    if all(isinstance(item, tv_tensors.BoundingBoxes) for item in items):
        return "boxes"
    if depths == {3} or (depths == {2} and not any(t is not None and t.is_floating_point() for t in tensors)):
        return "masks"
    if len(items) == count and all(map(_is_row, items)):
        return "rows"
    raise ConfigError(f"nothing is known of {shown(items)} in a batch; {WAY_OUT}")


def _is_row(item: object) -> bool:
    """True for what is said of one image as a tuple, such as (label, mask) or (label, path)."""
    items = items_of(item) or ()
    return len(items) > 1 and not all(isinstance(entry, int | float) for entry in items)


def _columns(rows: Sequence[object]) -> list[object]:
    return list(zip(*cast("Sequence[Sequence[object]]", rows), strict=True))


def _is_nested(items: Sequence[object], count: int) -> bool:
    """True for a list of columns of the batch, as of targets that are tuples."""
    sizes = [_count(item) for item in items]
    tensors = [tensor_of(item) for item in items]
    alike = len({None if tensor is None else tensor.ndim for tensor in tensors}) == 1
    return set(sizes) == {count} and not (alike and len(items) == count)


def _count(column: object) -> int:
    tensor = tensor_of(column)
    if tensor is not None:
        return len(tensor) if tensor.ndim else -1
    return len(items_of(column) or ())


def _is_listing(item: object) -> bool:
    items = items_of(item)
    return items is not None and all(isinstance(entry, Mapping) for entry in items)


def _is_tuple_sample(item: object) -> bool:
    items = items_of(item) or ()
    return len(items) > 1 and is_image(items[0]) and not is_images(item) and named_values(item) is None


def _is_named_sample(item: object) -> bool:
    named = None if is_image(item) else named_values(item)
    return named is not None and any(map(is_image, _found(named, "images").values()))
