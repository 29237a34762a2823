"""CPU seconds and peak memory by the number of images: python scripts/bench/growth.py.

``--what benchmark`` is ``verisal validate`` of two methods and the two controls on scenes of 64 px, by boxes
and by curves, ``--what explain`` is ``verisal explain --maps-only`` of a folder, and ``--what check`` is
``verisal data check`` of one; each in a process of its own, with the helpers that it starts, for each number
of images. With --pixels PxAP is among the benchmark's metrics, which keeps most per image. The last columns
are what every further image costs, between the first row and the one at hand.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from explain import photograph

_SIDES = (160, 120)
_CONFIG = """\
seed_everything: 0
ckpt_path: none
model: {{class_path: FrozenClassifierTask, init_args: {{classifier: emoji_scenes_64}}}}
data:
  class_path: ImageData
  init_args: {{val_count: {count}, val_split: det_test, image_size: 64, batch_size: 25, num_workers: 0}}
trainer:
  callbacks:
    - class_path: SaliencyMetrics
      init_args:
        methods: &methods
          gradient: {{class_path: Gradient}}
          grad_cam: {{class_path: GradCAM}}
        metrics:
          - {{class_path: PointingGame}}
          - {{class_path: MaxBoxAcc}}
          - {{class_path: MaxBoxAccV2}}
          {pixels}
    - class_path: PerturbationCurves
      init_args:
        methods: *methods
        baselines: [{{class_path: Blur, init_args: {{sigma: 5}}}}]
        kinds: [insertion, deletion]
        steps: 32
"""


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", choices=["benchmark", "explain", "check"], default="benchmark")
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 400, 1600], help="of images")
    parser.add_argument("--pixels", action="store_true", help="with PxAP among the metrics")
    given = parser.parse_args()
    print("| images | CPU seconds | peak MB | CPU seconds a further image | KB a further image |")
    print("|---:|---:|---:|---:|---:|")
    first: tuple[int, float, float] | None = None
    for count in given.counts:
        seconds, peak = _measured(given.what, count, pixels=given.pixels)
        more = " | | |"
        if first is not None:
            images = count - first[0]
            more = f" | {(seconds - first[1]) / images:.3f} | {(peak - first[2]) / images * 1e3:.0f} |"
        first = first or (count, seconds, peak)
        print(f"| {count} | {seconds:.1f} | {peak:.0f}{more}", flush=True)


def _measured(what: str, count: int, *, pixels: bool) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of one command."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "verisal", *_command(what, Path(folder), count, pixels=pixels)]
        log = Path(folder) / "log.txt"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, *words],
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        # A command that fails early would look cheap.
        if process.returncode:
            sys.exit(f"the command ended with {process.returncode}:\n{log.read_text()[-2000:]}")
    # Linux counts in KiB.
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6


def _command(what: str, folder: Path, count: int, *, pixels: bool) -> list[str]:
    """Words of a command, whose files are made here."""
    if what == "benchmark":
        config = folder / "growth.yaml"
        extra = "- {class_path: PxAP}" if pixels else ""
        config.write_text(_CONFIG.format(count=count, pixels=extra))
        return ["validate", "--config", str(config), f"--run_dir={folder}/run"]
    photos = folder / "photos"
    # A data set has a folder for each class.
    folders = [photos / name for name in ("cats", "dogs")] if what == "check" else [photos]
    for place in folders:
        place.mkdir(parents=True)
    for number in range(count):
        file = folders[number % len(folders)] / f"{number:06}.jpg"
        photograph(number, _SIDES).save(file, quality=90)
    if what == "check":
        return ["data", "check", str(photos)]
    method = ["--classifier", "emoji_scenes_64", "--saliency", "GradCAM"]
    return ["explain", str(photos), *method, "--maps-only", "--output", str(folder / "maps")]


if __name__ == "__main__":
    main()
