"""Checks of images, classes and numbers that somebody hands over, each with the way out in one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from numbers import Real

import torch
from torch import Tensor

from verisal.errors import ConfigError, DataError

#: Classes of images: one for all, or one for each, a sequence or a tensor ``(B,)`` of any whole numbers.
Labels = int | Sequence[int] | Tensor
#: Class to explain: the predicted one, one for all images, or one per image.
AnyQuery = Labels | None


def check_images(images: Tensor) -> None:
    """Raise unless ``images`` is a float32 ``(B, C, H, W)`` batch in [0, 1].

    Raises:
        DataError: naming the shape, dtype or range found.
    """
    if not isinstance(images, Tensor):
        raise DataError(
            f"images must be a tensor (B, C, H, W) float32 in [0, 1], found {type(images).__name__}"
            f"{'; make it one: torch.from_numpy(images)' if type(images).__name__ == 'ndarray' else ''}"
        )
    if images.ndim != 4 or images.shape[1] < 1 or channels_last(images) or images.dtype != torch.float32:
        raise DataError(
            f"images must be (B, C, H, W) float32 in [0, 1], found {tuple(images.shape)} {images.dtype}"
            f"{_way_to_images(images)}"
        )
    if len(images) == 0:
        return
    low, high = (float(end) for end in images.detach().aminmax())
    if low != low:
        raise DataError(
            f"images must lie in [0, 1], found NaN in {_with_nan(images)} of {len(images)} images"
        )
    if not (low >= 0.0 and high <= 1.0):
        raise DataError(
            f"images must lie in [0, 1], found values from {low:.4g} to {high:.4g};"
            + (
                " they look normalised: give them as they were before, and the network as"
                if low < 0
                else " divide 8-bit images by 255, and leave the normalisation to"
            )
            + " verisal.models.Classifier(network, normalization=...); values in units of their own are made"
            " images by classifier.bounds.to_unit(values), after Classifier(network, bounds=(low, high))"
        )


def _with_nan(images: Tensor) -> int:
    return int(images.isnan().flatten(1).any(dim=1).sum())


def channels_last(images: Tensor) -> bool:
    """True for ``(B, H, W, C)`` of the usual kinds: no image is a few pixels wide and has more channels."""
    return images.shape[3] in (1, 3, 4) and images.shape[1] > 4


def _way_to_images(images: Tensor) -> str:
    """Advice for the mistakes that can be told apart by shape and dtype."""
    if images.ndim == 3:
        few = images.shape[0] in (1, 3)
        return f"; one image is a batch of one: image[None]{'' if few else ', grey ones images[:, None]'}"
    if images.ndim == 4 and channels_last(images):
        return "; channels come first: images.permute(0, 3, 1, 2)"
    if images.dtype == torch.uint8:
        return "; divide 8-bit images by 255: images / 255"
    return "; convert them: images.float()" if images.dtype in (torch.float64, torch.float16) else ""


def query_classes(given: Labels, batch: int, device: torch.device, *, what: str = "query class") -> Tensor:
    """``(batch,)`` int64: one class for all images, or one for each, of any integer type.

    Args:
        given: an int, a sequence of ints or a tensor.
        batch: number of images.
        device: of the result.
        what: names it in the error.

    Raises:
        ConfigError: naming what was found instead.

    >>> query_classes(3, 2, torch.device("cpu"))
    tensor([3, 3])
    """
    wanted = f"{what} must be an int or ({batch},) whole numbers, one class per image"
    try:
        classes = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{wanted}, found {given!r}") from error
    kind = classes.dtype
    whole = not (kind == torch.bool or kind.is_floating_point or kind.is_complex)
    # An empty list makes a tensor of floats.
    if classes.shape not in ((), (batch,)) or not (whole or classes.numel() == 0):
        raise ConfigError(
            f"{wanted}, found {tuple(classes.shape)} {str(kind).removeprefix('torch.')}"
            f"{_way_to_classes(classes, batch)}"
        )
    return classes.to(device, torch.int64).expand(batch).clone()


def _way_to_classes(classes: Tensor, batch: int) -> str:
    """Advice for the mistakes that can be told apart by shape and dtype."""
    if classes.shape == (batch, 1):
        return "; drop the last dimension: [:, 0]"
    if classes.ndim == 2 and len(classes) == batch:
        return "; of one row per image, such as one-hot labels, take the class: .argmax(dim=1)"
    return "; convert them: .long()" if classes.is_floating_point() and classes.shape == (batch,) else ""


def check_query_class(query_class: Tensor, batch: int, num_classes: int) -> None:
    """Raise unless ``query_class`` is ``(batch,)`` int64 with every value below ``num_classes``.

    Raises:
        ConfigError: naming the shape, dtype or class found.
    """
    if tuple(query_class.shape) != (batch,) or query_class.dtype != torch.int64:
        raise ConfigError(
            f"query class must be ({batch},) int64, one class per image,"
            f" found {tuple(query_class.shape)} {query_class.dtype}"
        )
    if batch and not 0 <= int(query_class.min()) <= int(query_class.max()) < num_classes:
        raise ConfigError(
            f"query class must lie in 0..{num_classes - 1} (K = {num_classes}),"
            f" found {int(query_class.min())}..{int(query_class.max())}"
        )


def check_range(
    least: float, most: float = math.inf, *, above: bool = False, **settings: float | Sequence[float] | None
) -> None:
    """Raise unless every setting, and every one of several numbers, is finite and within a range.

    Args:
        least: smallest number.
        most: greatest number.
        above: ``least`` itself is too small.
        settings: by name; None is a setting that was left out.

    Raises:
        ConfigError: naming the first setting that is not.

    >>> check_range(0, 1, dropout=1.5)
    Traceback (most recent call last):
    verisal.errors.ConfigError: dropout must be from 0 to 1, found 1.5
    """
    for name, given in settings.items():
        for value in given if isinstance(given, Sequence) and not isinstance(given, str) else (given,):
            if value is not None and not _fits(value, least, most, above=above):
                raise ConfigError(f"{name} must be {_expected(least, most, above=above)}, found {given!r}")


def as_tuples(record: object) -> None:
    """Turn the lists among a dataclass's fields into tuples, so that either may be given."""
    for item in fields(record):  # type: ignore[arg-type] # a dataclass
        if item.init and isinstance(value := getattr(record, item.name), list):
            object.__setattr__(record, item.name, tuple(value))


def _fits(value: object, least: float, most: float, *, above: bool) -> bool:
    if not isinstance(value, Real):
        return False
    try:
        number = float(value)
    except OverflowError:
        return False
    # NaN is in no range.
    return (least < number if above else least <= number) and number <= most and math.isfinite(number)


def _expected(least: float, most: float, *, above: bool) -> str:
    if math.isinf(most):
        return f"above {least}" if above and least else "positive" if above else f"at least {least}"
    return f"above {least} and at most {most}" if above else f"from {least} to {most}"
