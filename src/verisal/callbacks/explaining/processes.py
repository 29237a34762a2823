"""Answers of all processes to one question, and their errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import distributed

from verisal.errors import VerisalError

_Value = TypeVar("_Value")


def agreed(compute: Callable[[], _Value]) -> list[_Value]:
    """What every process computes, by their numbers; an error of one is raised on all of them."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [compute()]
    value: _Value | None = None
    error: VerisalError | None = None
    try:
        value = compute()
    except VerisalError as found:
        error = found
    answers: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(answers, (value, error))
    for _, problem in answers:
        if problem is not None:
            raise problem
    return [answer for answer, _ in answers]
