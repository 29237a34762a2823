"""Images, class numbers and names, of whatever holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors  # type: ignore[import-untyped]  # has no stubs

from verisal.errors import ConfigError

WAY_OUT = (
    "pass batch=, a function from the loader's batch to (images, labels) or to a dict with"
    " image, label, boxes, masks, id"
)
_SHOWN = 8


def tensor_of(value: object) -> Tensor | None:
    """A plain tensor of a tensor, an array or a number; None of anything else."""
    if isinstance(value, Tensor):
        return value.as_subclass(Tensor)
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        return torch.as_tensor(value)
    return torch.tensor(value) if isinstance(value, bool | int | float) else None


def items_of(value: object) -> Sequence[object] | None:
    """The items of a list or tuple; None of anything else."""
    return value if isinstance(value, list | tuple) else None


def is_word(value: object) -> bool:
    """True for a text or a path."""
    return isinstance(value, str | PurePath)


def shown(value: object) -> str:
    """A value as a message names it, e.g. ``float32 tensor (8, 3, 32, 32)``."""
    tensor = None if isinstance(value, bool | int | float) else tensor_of(value)
    if tensor is not None:
        return f"{str(tensor.dtype).removeprefix('torch.')} tensor {tuple(tensor.shape)}"
    kind = type(value).__name__
    if isinstance(value, Mapping):
        keys = ", ".join(map(str, list(value)[:_SHOWN]))
        return f"{kind} with keys {keys}" if value else f"{kind} without keys"
    items = items_of(value)
    return f"{kind} of {len(items)} x {type(items[0]).__name__}" if items else kind


def is_images(value: object) -> bool:
    """True for ``(B, C, H, W)`` of float or uint8, or a list of such ``(C, H, W)`` of one C."""
    if isinstance(value, tv_tensors.Mask):
        return False
    tensor = tensor_of(value)
    if tensor is not None:
        return tensor.ndim == 4 and _of_pixels(tensor)
    items = items_of(value) or ()
    return bool(items) and all(map(is_image, items)) and len(set(map(_channels, items))) == 1


def is_image(value: object) -> bool:
    """True for ``(C, H, W)`` of float or uint8, and for a picture of PIL: to be refused as an image."""
    if isinstance(value, tv_tensors.Mask):
        return False
    tensor = tensor_of(value)
    return _is_picture(value) or (tensor is not None and tensor.ndim == 3 and _of_pixels(tensor))


def has_one_channel(images: object) -> bool:
    """True if what :func:`is_images` holds for has a single channel, as masks have."""
    items = items_of(images)
    return _channels(items[0] if items else images) == 1


def _channels(image: Any) -> int:  # noqa: ANN401 - a tensor, an array or a picture
    return len(image.getbands()) if _is_picture(image) else int(image.shape[-3])


def _is_picture(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "PIL"


def stacked_images(images: object) -> Tensor:
    """``(B, C, H, W)`` of a tensor, or of a list of equally large ones.

    Raises:
        ConfigError: something else, images of several sizes, or channels that come last.
    """
    tensor = tensor_of(images)
    if tensor is None:
        parts = [tensor_of(item) for item in items_of(images) or ()]
        found = [part for part in parts if part is not None]
        if not found or len(found) < len(parts):
            raise ConfigError(
                f"images must be tensors (B, C, H, W), found {shown(images)}; give the data set a transform"
                " that ends in a tensor, e.g. torchvision.transforms.v2.ToImage()"
            )
        if sizes := sorted({tuple(part.shape) for part in found[1:]} - {tuple(found[0].shape)}):
            raise ConfigError(
                f"images of one batch must be equally large, found {tuple(found[0].shape)} and {sizes[0]};"
                " resize them in the transform, or group them by size: DataLoader(..., batch_sampler="
                "verisal.data.SizeGroups(sizes, batch_size)); images are never padded, as scores would count"
                " the padding"
            )
        tensor = torch.stack(found)
    if tensor.ndim != 4 or not _of_pixels(tensor):
        raise ConfigError(f"images must be (B, C, H, W), float or uint8, found {shown(tensor)}; {WAY_OUT}")
    if tensor.shape[3] <= 4 < tensor.shape[1]:
        raise ConfigError(
            f"images must have their channels second, (B, C, H, W), found {tuple(tensor.shape)};"
            " permute them in the transform, image.permute(2, 0, 1), or by batch="
        )
    return tensor


def class_numbers(values: object, count: int, names: Sequence[str] | None) -> Tensor:
    """``(B,)`` int64 of class numbers, of their names, or of one-hot rows; -1 for a number below 0.

    Raises:
        ConfigError: anything else.
    """
    tensor = tensor_of(values)
    if tensor is None:
        items = [class_number(item, names) for item in items_of(values) or ()]
        tensor = torch.tensor(items, dtype=torch.int64)
    if tensor.ndim == 2:
        tensor = tensor[:, 0] if tensor.shape[1] == 1 else _of_one_hot(tensor)
    if tensor.ndim != 1 or len(tensor) != count:
        raise ConfigError(
            f"labels must be {count} class numbers, one per image, found {shown(values)}; {WAY_OUT}"
        )
    if not torch.equal(tensor, tensor.round() if tensor.is_floating_point() else tensor):
        raise ConfigError(f"labels must be class numbers, found {tensor.tolist()[:_SHOWN]}; {WAY_OUT}")
    return tensor.to(torch.int64).clamp(min=-1)


def class_number(value: object, names: Sequence[str] | None) -> int:
    """A class number, or that of a class's name.

    Raises:
        ConfigError: something else, or a name that no class has.
    """
    if value is None:
        return -1
    if isinstance(value, str):
        if names is None or value not in names:
            known = "no names are known" if names is None else f"the classes are {', '.join(names[:_SHOWN])}"
            raise ConfigError(
                f"a label is the word {value!r}, and {known}; pass class_names=, the classes' names in their"
                " order, or give numbers"
            )
        return list(names).index(value)
    tensor = tensor_of(value)
    if tensor is None or tensor.numel() != 1 or float(tensor) != int(tensor):
        raise ConfigError(f"a label must be one class number, found {shown(value)}; {WAY_OUT}")
    return int(tensor)


def names_of(values: object, count: int) -> tuple[str, ...]:
    """``count`` names of images as words: of words, paths or whole numbers.

    Raises:
        ConfigError: anything else.
    """
    tensor = tensor_of(values)
    items = tensor.tolist() if tensor is not None and tensor.ndim == 1 else items_of(values)
    names = [_name(item) for item in items or ()]
    if len(names) != count or None in names:
        raise ConfigError(f"ids must be {count} words or whole numbers, found {shown(values)}; {WAY_OUT}")
    return tuple(name for name in names if name is not None)


def _name(value: object) -> str | None:
    if is_word(value):
        return str(value)
    tensor = None if isinstance(value, Integral) else tensor_of(value)
    if tensor is not None and tensor.numel() == 1 and not tensor.is_floating_point():
        value = int(tensor)
    return str(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def _of_one_hot(rows: Tensor) -> Tensor:
    """Class of every row ``(B, K)`` with a single 1."""
    ones, zeros = rows == 1, rows == 0
    if not bool((ones | zeros).all()):
        raise ConfigError(
            f"labels {tuple(rows.shape)} are neither class numbers nor one-hot, as if classes were mixed;"
            " evaluate without mixing, or pass batch= with one class number per image"
        )
    if not bool((ones.sum(dim=1) == 1).all()):
        raise ConfigError(
            f"labels {tuple(rows.shape)} name several classes of an image or none; say output='sigmoid' where"
            " each label is decided by itself, or pass batch= with the one class number per image to judge by"
        )
    return ones.to(torch.int64).argmax(dim=1)


def _of_pixels(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.dtype == torch.uint8
