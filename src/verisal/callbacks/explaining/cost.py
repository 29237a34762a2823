"""Seconds that explaining takes of an epoch, and the number of images that keeps them few."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch

SHARE = 0.1
"""Largest share of an epoch that explaining takes where nobody says how many images are explained."""
LEAST_IMAGES = 8


@final
class Clock:
    """Seconds since the fit began or the last explained validation ended, and those of explaining in them."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._spent = 0.0
        self._began: float | None = None

    def restart(self) -> None:
        """Count from now."""
        self._since, self._spent = time.perf_counter(), 0.0

    @contextmanager
    def explaining(self, device: torch.device) -> Iterator[None]:
        """Count what is done meanwhile as explaining."""
        synchronise(device)
        self._began = time.perf_counter()
        try:
            yield
        finally:
            synchronise(device)
            self._spent = self.spent
            self._began = None

    @property
    def spent(self) -> float:
        """Seconds of explaining so far."""
        running = 0.0 if self._began is None else time.perf_counter() - self._began
        return self._spent + running

    @property
    def own(self) -> float:
        """Seconds of everything else so far."""
        return time.perf_counter() - self._since - self.spent

    @property
    def share(self) -> float:
        """Explaining as a share of all."""
        return self.spent / max(self.spent + self.own, 1e-9)


def affordable(budget: float, seconds_per_image: float) -> int:
    """The largest power of two of images that the seconds last for, at least 8.

    >>> affordable(10.0, 0.1), affordable(0.0, 0.1)
    (64, 8)
    """
    count = budget / max(seconds_per_image, 1e-9)
    return max(LEAST_IMAGES, 2 ** math.floor(math.log2(count))) if count >= 1 else LEAST_IMAGES


def synchronise(device: torch.device) -> None:
    """Wait for an accelerator, whose calls return before their work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
