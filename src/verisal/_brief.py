"""Records in a line of text: what they hold by shape and range, not by value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass

from torch import Tensor, nn

_MANY_NUMBERS = 8
_LETTERS = 60


def brief(record: object) -> str:
    """The ``__repr__`` of a dataclass that holds tensors, or many entries: names, shapes, ranges and counts.

    Fields without anything in them are left out.
    """
    values = {item.name: getattr(record, item.name) for item in fields(record)}  # type: ignore[arg-type]
    entries = (f"{name}={described(value)}" for name, value in values.items() if not _empty(value))
    return f"{type(record).__name__}({', '.join(entries)})"


def described(value: object) -> str:
    """A value in at most a few words."""
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, nn.Module):
        return type(value).__name__
    if isinstance(value, Mapping):
        return _listed([f"{name}: {described(item)}" for name, item in value.items()], "{}")
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | range):
        return _listed([described(item) for item in value], "[]")
    if callable(value) and not isinstance(value, type):
        return getattr(value, "__name__", type(value).__name__)
    words = repr(value)
    return words if len(words) <= _LETTERS else f"{words[: _LETTERS - 3]}..."


def in_short(part: object) -> str:
    """Class and settings that are not the default, nested ones too."""
    if not is_dataclass(part) or isinstance(part, type):
        return getattr(part, "__name__", type(part).__name__)
    changed = (
        f"{item.name}={in_short(value) if is_dataclass(value) else value}"
        for item in fields(part)
        for value in [getattr(part, item.name)]
        if item.init
        and value != (item.default if item.default_factory is MISSING else item.default_factory())
    )
    settings = ",".join(changed)
    return type(part).__name__ + (f"({settings})" if settings else "")


def ranged(values: Tensor) -> str:
    """``0 to 0.21``: least and largest finite value, and if there are others."""
    finite = values.detach()[values.detach().isfinite()]
    if not finite.numel():
        return "no finite value"
    ends = f"{float(finite.min()):.3g} to {float(finite.max()):.3g}"
    return (
        ends if finite.numel() == values.numel() else f"{ends}, {values.numel() - finite.numel()} not finite"
    )


def _tensor(value: Tensor) -> str:
    if value.ndim <= 1 and value.numel() <= _MANY_NUMBERS and not value.is_meta:
        numbers = value.detach().cpu().tolist()
        if value.ndim == 0:
            return _number(numbers)
        return f"[{', '.join(map(_number, numbers))}]"
    shape = f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if not value.is_floating_point() or value.is_meta or not value.numel():
        return shape
    return f"{shape} from {ranged(value)}"


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _listed(entries: list[str], brackets: str) -> str:
    inside = ", ".join(entries)
    if len(inside) <= 2 * _LETTERS:
        return f"{brackets[0]}{inside}{brackets[1]}"
    first = entries[0] if len(entries[0]) <= _LETTERS else f"{entries[0][: _LETTERS - 3]}..."
    return f"{brackets[0]}{first}, {len(entries)} in all{brackets[1]}"


def _empty(value: object) -> bool:
    return value is None or (isinstance(value, (str, tuple, list, Mapping)) and not value)
