"""Settings of frozen objects as plain data: what decides a result, for cache keys and reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

__all__ = ["settings_of"]


def settings_of(part: object) -> Any:  # noqa: ANN401 - plain data of any shape
    """Settings of an object, with those of everything nested in it, as plain data that names each class.

    What a dataclass keeps besides its settings (fields with ``init=False``) is left out.
    """
    if is_dataclass(part) and not isinstance(part, type):
        settings = {item.name: settings_of(getattr(part, item.name)) for item in fields(part) if item.init}
        return {"class": type(part).__name__, **settings}
    if isinstance(part, (list, tuple)):
        return [settings_of(item) for item in part]
    if isinstance(part, Mapping):
        return {name: settings_of(item) for name, item in part.items()}
    return part
