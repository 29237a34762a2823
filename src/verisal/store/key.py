"""Keys of stored features: plain data that names everything the values depend on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from verisal.errors import ConfigError

__all__ = ["canonical", "mismatch"]


def canonical(key: Mapping[str, Any]) -> str:
    """One JSON text for equal settings, whatever their order.

    Raises:
        ConfigError: naming the entry that is not plain data.

    >>> canonical({"b": (1, 2), "a": None})
    '{"a":null,"b":[1,2]}'
    """
    for name, value in _flat(key):
        if not (value is None or isinstance(value, str | int | float | list | tuple | Mapping)):
            raise ConfigError(f"store key {name}: expected plain data, found {type(value).__name__}")
    try:
        return json.dumps(key, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"store key is not plain data: {error}") from error


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401  plain data of any kind
    children: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        children = [(f"{name}.{child}" if name else str(child), item) for child, item in value.items()]
    elif isinstance(value, list | tuple):
        children = [(f"{name}[{index}]", item) for index, item in enumerate(value)]
    if name and not children:
        yield name, value
    for child, item in children:
        yield from _flat(item, child)


def mismatch(stored: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Every entry in which two keys differ, with both values.

    >>> mismatch({"net": {"sha": "ab"}}, {"net": {"sha": "cd"}, "eps": 2})
    "eps is nothing in the store, 2 expected; net.sha is 'ab' in the store, 'cd' expected"
    """
    first, second = ({name: repr(value) for name, value in _flat(key)} for key in (stored, expected))
    differing = [
        f"{name} is {first.get(name, 'nothing')} in the store, {second.get(name, 'nothing')} expected"
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    ]
    return "; ".join(differing)
