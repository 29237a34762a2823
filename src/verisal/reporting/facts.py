"""Facts about a run: settings, times, versions and the command, as reports tell them."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, final

_PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "wandb", "numpy", "albumentations")


@dataclass(frozen=True)
class RunFacts:
    """Facts about the run itself.

    Attributes:
        seed: seed of the run, None if unknown.
        config: all settings as plain data.
        wall_times: seconds by what they were spent on, ``total`` among them.
        versions: package to version.
        name: of the run, as a rule that of its folder.
        task: what was trained or evaluated.
        data: what it was done on.
        command: that started the run; empty for a run that no command started.
        config_file: name of the file beside the report with all settings; empty without one.
        machine: processor or accelerator, and operating system.
        finished: date and time.
    """

    seed: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    wall_times: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    task: str = ""
    data: str = ""
    command: str = ""
    config_file: str = ""
    machine: str = ""
    finished: str = ""

    def lines(self) -> dict[str, str]:
        """What there is to say, by what it is about."""
        told = {
            "run": self.name,
            "task": self.task,
            "data": self.data,
            "seed": "" if self.seed is None else str(self.seed),
            "machine": self.machine,
            "finished": self.finished,
        }
        return {name: words for name, words in told.items() if words}

    def times(self) -> dict[str, str]:
        """Wall times in words."""
        return {name: duration(seconds) for name, seconds in self.wall_times.items()}


@final
class Clock:
    """Times of a run, all of which are counted for something.

    Args:
        began: when the run was started, by ``time.perf_counter``.
    """

    def __init__(self, began: float) -> None:
        self._began = self._last = began
        self._spent: dict[str, float] = {}

    def count(self, name: str) -> None:
        """Add the time since the last call, or since the start, to what it was spent on."""
        now = time.perf_counter()
        self._spent[name] = self._spent.get(name, 0.0) + now - self._last
        self._last = now

    def times(self) -> dict[str, float]:
        """Seconds by what they were spent on, and ``total`` until now."""
        return {**self._spent, "total": time.perf_counter() - self._began}


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    versions = {"python": platform.python_version()}
    for package in ("verisal", *_PACKAGES):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def machine_words(accelerator: str = "") -> str:
    """The accelerator where there is one, processors and operating system."""
    processors = f"{os.cpu_count()} processors ({platform.machine()})"
    return ", ".join(part for part in (accelerator, processors, platform.system()) if part)


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(12.34), duration(487.2), duration(7260)
    ('12.3 s', '8 min 7 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
