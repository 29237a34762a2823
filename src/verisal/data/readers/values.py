"""Values in annotation files: what is not as expected is a DataError of one sentence, without its place."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

from verisal.errors import DataError

# Pixels; no picture is as large, and sums and products of such numbers are exact enough.
LARGEST = 1e9


@final
class Repeated(dict[str, Any]):
    """A JSON object with keys that stand twice, which are ``keys_twice``."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.keys_twice = twice(key for key, _ in pairs)


def composed(text: str) -> str:
    """A name as one sequence of characters: some systems store accents apart from their letters."""
    return unicodedata.normalize("NFC", text)


def twice(values: Iterable[str]) -> list[str]:
    """Values that occur more than once, in the order of their second time.

    >>> twice("abcbab")
    ['b', 'a']
    """
    seen, found = set[str](), dict[str, None]()
    for value in values:
        if value in seen:
            found[value] = None
        seen.add(value)
    return list(found)


def json_of(text: str) -> Any:  # noqa: ANN401 - whatever the file says
    """Content of a JSON text; objects with doubled keys are :class:`Repeated`."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise DataError("is no JSON that can be read: its lists are nested too deeply") from None
    except ValueError as error:
        raise DataError(f"is no whole JSON ({error})") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else Repeated(pairs)


def entry_of(value: object) -> Mapping[str, Any]:
    """A JSON object in which every key stands once."""
    if isinstance(value, Repeated):
        raise DataError(f"has the key {', '.join(map(repr, value.keys_twice))} twice; keep one")
    if not isinstance(value, dict):
        raise DataError(f"is {shown(value)}, expected an object")
    return value


def shown(value: object) -> str:
    """A value as a message names it: short, in the words of the file."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = f"the text {value!r}" if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def given(entry: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401 - judged by the caller
    """The value of a key that must be there."""
    if key not in entry:
        raise DataError(f"lacks {key}")
    return entry[key]


def identity(entry: Mapping[str, Any], key: str) -> int | str:
    """An id, a whole number or a text."""
    value = given(entry, key)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise DataError(f"{key} is {shown(value)}, expected a whole number or a text")
    return value


def name_of(entry: Mapping[str, Any], key: str) -> str:
    """A name that is not empty; a number counts as its digits."""
    value = given(entry, key)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{key} is {shown(value)}, expected a name")
    return composed(value.strip())


def number(value: object, name: str) -> float:
    """A finite number of pixels as JSON writes it, no larger than any picture."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{name} is {shown(value)}, expected a number")
    if not abs(value) <= LARGEST:
        problem = "not finite" if isinstance(value, float) and not math.isfinite(value) else "too large"
        raise DataError(f"{name} is {shown(value)}, which is {problem}; expected pixels")
    return float(value)


def numbers(value: object, name: str, expected: str) -> tuple[float, ...]:
    """A list of numbers."""
    if not isinstance(value, list):
        raise DataError(f"{name} is {shown(value)}, expected {expected}")
    # Files of millions of coordinates are well formed almost everywhere.
    if all(type(each) in (int, float) and -LARGEST <= each <= LARGEST for each in value):
        return tuple(map(float, value))
    return tuple(number(each, f"{name} value {index}") for index, each in enumerate(value))


def whole(value: object, name: str, *, least: int) -> int:
    """A whole number, at least ``least``."""
    found = number(value, name)
    if not found.is_integer() or found < least:
        raise DataError(f"{name} is {shown(value)}, expected a whole number of at least {least}")
    return int(found)


def numeral(text: str) -> float:
    """A number as CSV and XML write it, however large or not finite; ValueError where it is none."""
    if "_" in text:
        raise ValueError(text)
    return float(text)


def flag(value: object, name: str) -> bool:
    """Yes or no: 0 or 1, also as a text; false or true."""
    text = value.strip().lower() if isinstance(value, str) else value
    if text in (1, "1", "true"):
        return True
    # An empty cell or element says nothing.
    if text in (0, "0", "false", ""):
        return False
    raise DataError(f"{name} is {shown(value)}, expected 0 or 1")
