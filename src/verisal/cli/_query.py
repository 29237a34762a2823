"""Which class of an image is explained: by its place, its name or its number."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor

from verisal.errors import ConfigError

__all__ = ["PLACES", "other_classes", "query_classes"]

PLACES = {"top1": 0, "second": 1, "least": -1}
"""Words for a class by its place among the likeliest."""

_NEAR = 6


def query_classes(word: str, logits: Tensor, class_names: Sequence[str]) -> Tensor:
    """``(B,)`` int64: the class that a word means on every image.

    Args:
        word: ``top1``, ``second``, ``least``, the name of a class, or its number from 0.
        logits: ``(B, K)``.
        class_names: K names.

    Raises:
        ConfigError: no such class; names those that are near.
    """
    if word in PLACES:
        return logits.argsort(dim=1, descending=True, stable=True)[:, PLACES[word]]
    return torch.full((len(logits),), _class_index(word, class_names), device=logits.device)


def other_classes(word: str, logits: Tensor, class_names: Sequence[str], *, taken: Tensor) -> Tensor:
    """As :func:`query_classes`; where that is the class ``taken (B,)``, the likeliest other one."""
    found = query_classes(word, logits, class_names)
    ranked = logits.argsort(dim=1, descending=True, stable=True)
    likeliest = torch.where(ranked[:, 0] == taken, ranked[:, 1], ranked[:, 0])
    return torch.where(found == taken, likeliest, found)


def _class_index(word: str, class_names: Sequence[str]) -> int:
    lowered = [name.lower() for name in class_names]
    if word in class_names:
        return list(class_names).index(word)
    if lowered.count(word.lower()) == 1:
        return lowered.index(word.lower())
    if word.isdecimal() and int(word) < len(class_names):
        return int(word)
    inside = [name for name in class_names if word.lower() in name.lower()]
    alike = [
        class_names[lowered.index(name)] for name in difflib.get_close_matches(word.lower(), lowered, n=_NEAR)
    ]
    near = list(dict.fromkeys([*alike, *inside]))[:_NEAR]
    hint = f"near it: {', '.join(near)}" if near else f"the first are {', '.join(class_names[:_NEAR])}"
    raise ConfigError(
        f"the classifier has no class {word!r}; {hint}; expected one of its {len(class_names)} names, a"
        f" number from 0 to {len(class_names) - 1}, or {', '.join(PLACES)}"
    )
