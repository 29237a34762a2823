"""Ties a slow, literal reference to the fast function that it replicates."""

from collections.abc import Callable
from typing import Any

REFERENCES: dict[Callable[..., Any], Callable[..., Any]] = {}


def replicates(fast):
    """Decorator of a reference: ``@replicates(fast)``. A fast function has one reference."""

    def tie(reference):
        if fast in REFERENCES:
            raise ValueError(f"{fast.__name__} has a reference already: {REFERENCES[fast].__name__}")
        REFERENCES[fast] = reference
        return reference

    return tie
