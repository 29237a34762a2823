"""Names under which loggers have the scores of callbacks: lower case, digits, ``_`` and ``/``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from verisal.errors import ConfigError
from verisal.results import ScoreName, typed

_Method = TypeVar("_Method")


def named(methods: Mapping[str, _Method] | Sequence[_Method]) -> dict[str, _Method]:
    """Methods by name; those of a sequence are called like their classes, ``GradCAM`` is ``grad_cam``.

    Raises:
        ConfigError: two of one class in a sequence.
    """
    if isinstance(methods, Mapping):
        return dict(methods)
    by_name: dict[str, _Method] = {}
    for method in methods:
        name = _snake_case(type(method).__name__)
        if name in by_name:
            raise ConfigError(
                f"two of the methods are called {name!r}; give a dict of names and methods, such as"
                f" {{{name!r}: ..., '{name}_2': ...}}"
            )
        by_name[name] = method
    return by_name


def typed_rows(rows: Iterable[str]) -> dict[str, str]:
    """Rows by what stands for them in logged names.

    Raises:
        ConfigError: an empty name or one without a letter or digit, one with a slash, or two that read the
            same.
    """
    known: dict[str, str] = {}
    for row in rows:
        name = typed(row)
        if not name or "/" in row:
            raise ConfigError(
                "names of methods need a letter from a to z or a digit, and must not hold a slash; found"
                f" {row!r}"
            )
        if name in known:
            raise ConfigError(
                f"{known[name]!r} and {row!r} would both be logged as {name!r}; give one of them another name"
            )
        known[name] = row
    return {row: name for name, row in known.items()}


def typed_columns(columns: Iterable[str]) -> dict[str, str]:
    """Columns ``<metric>/<part>`` by what stands for them in logged names.

    The first column of a metric is its main score and goes without its part. A metric goes without its
    settings, ``insertion[blur5]`` as ``insertion``, unless a metric before it is called so: of several the
    first has the short name, so that a metric that is added behind the others changes no name.

    >>> typed_columns(["insertion[blur5]/auc", "insertion[gauss]/auc", "insertion[gauss]/range"])
    {'insertion[blur5]/auc': 'insertion', 'insertion[gauss]/auc': 'insertion_gauss', \
'insertion[gauss]/range': 'insertion_gauss/range'}

    Raises:
        ConfigError: two that read the same even with their settings.
    """
    metrics: dict[str, str] = {}
    found: dict[str, str] = {}
    for column in columns:
        name = ScoreName("any", "row", column)
        metric, part = name.metric, name.part
        if first := metric not in metrics:
            short = typed(metric.partition("[")[0])
            metrics[metric] = typed(metric) if short in metrics.values() else short
        found[column] = metrics[metric] if first else f"{metrics[metric]}/{typed(part)}"
    if len(set(found.values())) < len(found):
        twice = [column for column, name in found.items() if list(found.values()).count(name) > 1]
        raise ConfigError(f"{twice[0]!r} and {twice[1]!r} would both be logged as {found[twice[0]]!r}")
    return found


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
