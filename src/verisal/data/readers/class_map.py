"""Classes of a data set as classes of a classifier."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources

from verisal.data.readers.values import composed
from verisal.errors import ConfigError, DataError

SYNSETS = tuple((resources.files(__package__) / "synsets.txt").read_text(encoding="ascii").split())
"""WordNet ids of the 1000 classes of ImageNet in the order of their indices, which is that of the numbers."""


_SHOWN = 40


def class_indices(
    found: Sequence[str], class_names: Sequence[str], *, given: Mapping[str, str | int | None]
) -> dict[str, int | None]:
    """Name in the data set to index of the classifier's class; None for a class that is left out.

    A name is looked up in ``given``; then among the classifier's names, as it is, without regard to case,
    ``_`` and ``-``, and as one of several names with commas between; then as a WordNet id, if the
    classifier's 1000 classes are those of ImageNet.

    Raises:
        DataError: names without a class; lists them and the classifier's.
        ConfigError: ``given`` speaks of classes that one of the two does not have.
    """
    given = {composed(name): wanted for name, wanted in given.items()}
    unknown = sorted(set(given) - set(found))
    if unknown:
        raise ConfigError(f"class_map names {_shown(unknown)}; the images have {_shown(found)}")
    exact = {name: index for index, name in enumerate(class_names) if class_names.count(name) == 1}
    loose = _loose(class_names)
    indices: dict[str, int | None] = {}
    missing = []
    for name in found:
        wanted = given.get(name, name)
        if wanted is None:
            indices[name] = None
            continue
        index = wanted if isinstance(wanted, int) else exact.get(wanted, loose.get(_plain(wanted)))
        if index is not None and not isinstance(index, bool) and 0 <= index < len(class_names):
            indices[name] = index
        elif name in given:
            raise ConfigError(
                f"class_map: {name} is {wanted!r}, but the classifier has {len(class_names)} classes:"
                f" {_shown(class_names)}"
            )
        else:
            missing.append(name)
    if doubled := [name for name in missing if name in class_names]:
        places = (f"{name} ({', '.join(map(str, _places(name, class_names)))})" for name in doubled)
        raise DataError(
            f"the classifier has more than one class of the name {_shown(places)}; say in class_map the index"
            " of the one that is meant"
        )
    if missing:
        raise DataError(
            f"{len(missing)} classes of the images are none of the classifier's: {_shown(missing)}."
            f" The classifier knows {_shown(class_names)}."
            " Say in class_map which class each of them is, or null to leave it out"
        )
    return indices


def _places(name: str, class_names: Sequence[str]) -> list[int]:
    return [index for index, known in enumerate(class_names) if known == name]


def _loose(class_names: Sequence[str]) -> dict[str, int]:
    """Other ways to write a class that mean one class only."""
    ways: dict[str, set[int]] = {}
    for index, name in enumerate(class_names):
        for way in {_plain(part) for part in (name, *name.split(","))}:
            ways.setdefault(way, set()).add(index)
    loose = {way: next(iter(indices)) for way, indices in ways.items() if len(indices) == 1}
    if len(class_names) == len(SYNSETS) and _is_imagenet(class_names):
        loose |= {synset: index for index, synset in enumerate(SYNSETS)}
    return loose


def _is_imagenet(class_names: Sequence[str]) -> bool:
    return "tench" in class_names[0].lower() and "toilet" in class_names[-1].lower()


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", composed(name)).strip().casefold()


def _shown(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
