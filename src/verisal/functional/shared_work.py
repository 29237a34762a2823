"""Expensive work done once for all who need it, within a scope that somebody opened for them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from typing import TypeVar, cast, final

from torch import Tensor, nn

from verisal.errors import ConfigError
from verisal.fingerprint import fingerprint, state_hash

T = TypeVar("T")


@dataclass(frozen=True)
class _Kept:
    value: object
    size: int
    seconds: float


@final
class SharedWork:
    """Results computed inside of :meth:`sharing`, found again by whoever asks there for the same.

    Decoys of one image are the same for every base method, and an attacked image is the same for every method
    that is judged on it: inside of one scope each is made once. Results are those without it.

    Args:
        max_bytes: of the tensors that are kept; what was used longest ago leaves first.

    Raises:
        ConfigError: no room for anything.
    """

    def __init__(self, max_bytes: int = 512 * 1024**2) -> None:
        if max_bytes < 1:
            raise ConfigError(f"max_bytes must be at least 1, found {max_bytes}; leave the scope out")
        self.max_bytes = max_bytes
        self.bytes = 0
        self.saved_seconds = 0.0
        """Seconds that the work found again would have taken."""
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()

    @contextmanager
    def sharing(self) -> Iterator[SharedWork]:
        """The scope in which :func:`shared` asks here first; the one around it is back afterwards."""
        token = _CURRENT.set(self)
        try:
            yield self
        finally:
            _CURRENT.reset(token)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.bytes = 0

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value kept under ``key``, or that of ``compute``, which then is kept."""
        known = self._kept.get(key)
        if known is not None:
            self._kept.move_to_end(key)
            self.saved_seconds += known.seconds
            return cast(T, known.value)
        start, before = time.perf_counter(), self.saved_seconds
        value = compute()
        # Work found again inside of this work belongs to what this would take alone.
        seconds = time.perf_counter() - start + self.saved_seconds - before
        self._keep(key, _Kept(value, _bytes_of(value), seconds))
        return value

    def _keep(self, key: Hashable, new: _Kept) -> None:
        if new.size > self.max_bytes:
            return
        self._kept[key] = new
        self.bytes += new.size
        while self.bytes > self.max_bytes:
            self.bytes -= self._kept.popitem(last=False)[1].size


_CURRENT: ContextVar[SharedWork | None] = ContextVar("verisal shared work", default=None)


def shared(key: Callable[[], Hashable | None], compute: Callable[[], T]) -> T:
    """The value of ``compute``, from the scope's :class:`SharedWork` if it is known there.

    Args:
        key: everything that decides the result, compared by equality; asked for inside of a scope only. None:
            it cannot be said, and nothing is shared.
        compute: gives the result, which nobody may change in place.
    """
    work = _CURRENT.get()
    if work is None:
        return compute()
    known = key()
    return compute() if known is None else work.get(known, compute)


def work_key(
    what: str, settings: Sequence[object], network: object, inputs: Sequence[Tensor] = ()
) -> Hashable | None:
    """Everything that decides a piece of work, for :func:`shared`.

    None where that cannot be said: settings that are no plain data, a network that is no ``nn.Module``.

    Args:
        what: kind of the work.
        settings: frozen objects with all that they are set to, and plain data.
        network: with its weights as they are now.
        inputs: with their values as they are now.
    """
    if not isinstance(network, nn.Module):
        return None
    try:
        named = fingerprint(*settings)
    except ConfigError:
        return None
    values = {f"{place} {tensor.device}": tensor for place, tensor in enumerate(inputs)}
    return (what, named, network, state_hash(network), state_hash(values))


def _bytes_of(value: object) -> int:
    if isinstance(value, Tensor):
        return value.untyped_storage().nbytes()
    if is_dataclass(value) and not isinstance(value, type):
        return sum(_bytes_of(getattr(value, item.name)) for item in fields(value))
    if isinstance(value, Mapping):
        return sum(map(_bytes_of, value.values()))
    return sum(map(_bytes_of, value)) if isinstance(value, (list, tuple)) else 0
