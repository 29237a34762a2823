"""What the commands cost before they begin: python scripts/bench/start_up.py.

Every command runs in a process of its own, all of them in turn, ``--repeats`` times. Printed are medians of
the CPU time of these processes, which other work on the machine disturbs less than the time of the clock, and
their ratios to ``import torch`` and ``import lightning`` of the same run.

With --imports MODULE: the packages that an import of this module spends its time in, by ``-X importtime``.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

_TORCH, _LIGHTNING = "import torch", "import lightning"
_VERISAL = ("-m", "verisal")
# What is measured, and at most how many seconds or times an import it may take.
_COMMANDS: Mapping[str, tuple[Sequence[str], str]] = {
    _TORCH: (("-c", _TORCH), ""),
    _LIGHTNING: (("-c", "import lightning.pytorch"), ""),
    "import verisal": (("-c", "import verisal"), "0.5 s"),
    "verisal --version": ((*_VERISAL, "--version"), "0.5 s"),
    "verisal --help": ((*_VERISAL, "--help"), "0.5 s"),
    "verisal fti (misspelt)": ((*_VERISAL, "fti"), "0.5 s"),
    "verisal fit --help": ((*_VERISAL, "fit", "--help"), "0.5 s"),
    "verisal configs": ((*_VERISAL, "configs"), "0.5 s"),
    "verisal explain --help": ((*_VERISAL, "explain", "--help"), "2 s"),
    "verisal data check --help": ((*_VERISAL, "data", "check", "--help"), "2 s"),
    "verisal data check, one image": ((*_VERISAL, "data", "check", "photos"), "1.5 torch"),
    "import of verisal explain": (("-c", "import verisal.cli._explain_command"), "1.5 torch"),
    "import of the four stages": (("-c", "import verisal.cli._app"), "1.5 lightning"),
    "verisal fit --config detector --print_config": (
        (*_VERISAL, "fit", "--config", "detector", "--print_config"),
        "1.5 lightning",
    ),
}
_SHOWN = 15


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--imports", metavar="MODULE", help="show what an import spends its time in instead")
    given = parser.parse_args()
    if given.imports is not None:
        _show_imports(given.imports)
        return
    seconds: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "photos" / "cat").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(Path(folder) / "photos" / "cat" / "a.png")
        for _ in range(given.repeats):
            for name, (words, _) in _COMMANDS.items():
                seconds[name].append(_cpu_seconds(words, folder))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print("| command | CPU seconds | times `import torch` | times `import lightning` | at most |")
    print("|---|---:|---:|---:|---|")
    for name, value in medians.items():
        ratios = " | ".join(f"{value / medians[other]:.2f}" for other in (_TORCH, _LIGHTNING))
        limit = _COMMANDS[name][1]
        missed = "" if _kept(value, limit, medians) else " (missed)"
        print(f"| `{name}` | {value:.2f} | {ratios} | {limit}{missed} |")


def _cpu_seconds(words: Sequence[str], folder: str) -> float:
    """User and system time of a process that runs ``python WORDS`` in a folder."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(  # noqa: S603 - our own commands
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    # A command that fails early would look fast.
    if process.returncode not in (0, 2 if "fti" in words else 0):
        sys.exit(f"{' '.join(words)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime


def _kept(value: float, limit: str, medians: Mapping[str, float]) -> bool:
    number, _, unit = limit.partition(" ")
    if not number:
        return True
    scale = {"s": 1.0, "torch": medians[_TORCH], "lightning": medians[_LIGHTNING]}[unit]
    return value <= float(number) * scale


def _show_imports(module: str) -> None:
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-X", "importtime", "-c", f"import {module}"],
        capture_output=True,
        text=True,
        check=True,
    )
    own: Counter[str] = Counter()
    for found in re.finditer(r"import time:\s+(\d+) \|\s+\d+ \|\s+([^.\s]+)", done.stderr):
        own[found[2]] += int(found[1])
    total = sum(own.values())
    for package, microseconds in own.most_common(_SHOWN):
        print(f"{microseconds / 1e6:7.2f} s  {microseconds / total:4.0%}  {package}")


if __name__ == "__main__":
    main()
