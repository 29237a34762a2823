"""Keys of stored features: plain data that names everything the values depend on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from verisal.fingerprint import flat

__all__ = ["mismatch"]


def mismatch(stored: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Every entry in which two keys differ, with both values.

    >>> mismatch({"net": {"sha": "ab"}}, {"net": {"sha": "cd"}, "eps": 2})
    "eps is nothing in the store, 2 expected; net.sha is 'ab' in the store, 'cd' expected"
    """
    first, second = ({name: repr(value) for name, value in flat(key)} for key in (stored, expected))
    differing = [
        f"{name} is {first.get(name, 'nothing')} in the store, {second.get(name, 'nothing')} expected"
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    ]
    return "; ".join(differing)
