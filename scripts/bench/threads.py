"""A job alone and twice at once, on threads chosen in several ways: python scripts/bench/threads.py.

The job is ``verisal explain`` of some pictures, without figures, in a process of its own. Printed are seconds
from its start to its end, medians of rounds in which all ways take turns: alone, and of the slower one of two
that begin together; and their ratio. Nothing else should be at work on the machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

_CORES = str(len(os.sched_getaffinity(0)))
# 300000 is the spin count of GNU's OpenMP where nobody says any.
_WAYS: Mapping[str, Mapping[str, str]] = {
    "one for each core, spinning (torch's own)": {"OMP_NUM_THREADS": _CORES, "GOMP_SPINCOUNT": "300000"},
    "one for each core, sleeping": {"OMP_NUM_THREADS": _CORES, "OMP_WAIT_POLICY": "passive"},
    "chosen by the command, spinning": {"GOMP_SPINCOUNT": "300000"},
    "chosen by the command": {},
}
_CONTROLLED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--classifier", default="emoji_scenes_64")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    rows: dict[str, list[tuple[float, float]]] = {way: [] for way in _WAYS}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "photos").mkdir()
        for seed in range(given.images):
            pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(root / "photos" / f"{seed:04}.png")
        words = ["explain", "photos", "--classifier", given.classifier, "--maps-only"]
        for _ in range(given.repeats):
            for way, settings in _WAYS.items():
                (alone,) = _seconds(root, words, settings, at_once=1)
                rows[way].append((alone, max(_seconds(root, words, settings, at_once=2))))
    print(f"{given.images} images, {given.classifier}, {_CORES} cores, {given.repeats} rounds\n")
    print("| threads | alone, s | two at once, s | ratio |")
    print("|---|---:|---:|---:|")
    for way, seconds in rows.items():
        alone, both = (statistics.median(values) for values in zip(*seconds, strict=True))
        print(f"| {way} | {alone:.1f} | {both:.1f} | {both / alone:.2f} |")


def _seconds(root: Path, words: list[str], settings: Mapping[str, str], *, at_once: int) -> list[float]:
    """Seconds of each of some commands that begin together."""
    environment = {name: value for name, value in os.environ.items() if name not in _CONTROLLED}
    began = time.perf_counter()
    running: list[subprocess.Popen[bytes]] = []
    for number in range(at_once):
        # A folder of its own for each: nothing is done that is done already.
        output = tempfile.mkdtemp(dir=root, prefix=f"{number}-")
        command = [sys.executable, "-m", "verisal", *words, "--output", output]
        running.append(
            subprocess.Popen(  # noqa: S603 - our own command
                command,
                cwd=root,
                env={**environment, **settings},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
    ended: dict[int, float] = {}
    while len(ended) < at_once:
        for process in running:
            if process.pid not in ended and process.poll() is not None:
                ended[process.pid] = time.perf_counter() - began
                if process.returncode:
                    sys.exit(f"verisal {' '.join(words)} ended with {process.returncode}")
        time.sleep(0.02)
    return list(ended.values())


if __name__ == "__main__":
    main()
