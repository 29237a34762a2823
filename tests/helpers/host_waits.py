"""How often code makes the processor wait for a device, counted where there is none.

A value that is read (``item``, ``bool``, ``tolist``), and a shape that hangs on values (``nonzero``, a mask
as an index), end the queue of a device: nothing is computed until the answer has come. On a CPU they cost
nothing, so that nobody notices them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_READS = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "equal",
}
_INDEXED = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}
_COPIES = {"tolist", "cpu", "numpy"}


@dataclass
class Waits:
    """Waits by the line of the package that asked."""

    where: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return sum(self.where.values())

    def note(self) -> None:
        """Count the innermost line of the package; torch's optimisers keep their numbers on the processor."""
        frame = sys._getframe(1)
        while frame is not None:
            file = frame.f_code.co_filename
            if "/torch/optim/" in file:
                return
            if "/verisal/" in file:
                self.where[f"{file.rpartition('/verisal/')[2]}:{frame.f_lineno}"] += 1
                return
            frame = frame.f_back


class _Operations(TorchDispatchMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masked = name in _INDEXED and any(map(_is_mask, args[1]))
        unsized = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in _READS or masked or unsized:
            self.waits.note()
        return func(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in _COPIES and isinstance(args[0], Tensor):
            self.waits.note()
        return func(*args, **(kwargs or {}))


def _is_mask(index: object) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


@contextmanager
def counted_waits() -> Iterator[Waits]:
    """Count within."""
    waits = Waits()
    with _Calls(waits), _Operations(waits):
        yield waits


def waits_per_step(run: Callable[[int], object], *, steps: int = 6) -> tuple[float, dict[str, float]]:
    """Waits of every further step, and the lines that ask for them, of something that is told its steps."""
    counts = []
    for number in (steps, 2 * steps):
        with counted_waits() as waits:
            run(number)
        counts.append(waits.where)
    more = {line: (count - counts[0][line]) / steps for line, count in counts[1].items()}
    return sum(more.values()), {line: each for line, each in more.items() if each}
