"""Kill the main job at random moments, go on with the printed command, and compare the reports.

    python scripts/kill_runs.py --count 20 --seed 0

Runs a small form of the main job once undisturbed. Then, as often as asked, from nothing: it ends the job at
a random moment of its time, by SIGTERM, SIGKILL or SIGINT in turn, goes on with the command that the job
printed (a killed process prints none: then with the documented one), and asks that every score of the report
and every row of the samples is the same, bit for bit. Options after ``--`` are passed on to the job.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

_NETWORKS = ("masks_activations", "masks", "raw_residuals")
SMALL = (
    "--data.init_args.fit_count=48",
    "--data.init_args.val_count=224",
    "--data.init_args.val_attacked_count=24",
    "--data.init_args.test_count=40",
    "--model.init_args.resamples=100",
    "--trainer.max_epochs=3",
    "--wandb.mode=offline",
    *(
        f"--model.init_args.detectors.{row}.init_args.source.init_args.saliency.init_args.{setting}"
        for row in ("masks_activations", "masks")
        for setting in ("steps=5", "learning_rate=0.2")
    ),
    *(f"--model.init_args.detectors.{row}.init_args.members=1" for row in _NETWORKS),
)
SIGNALS = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT)


def job(folder: Path, more: Sequence[str]) -> list[str]:
    """The command that starts the job in ``folder``, with a store of its own."""
    place = [f"--run_dir={folder / 'run'}", f"--data.init_args.store={folder / 'store'}"]
    return ["fit", "--config", "configs/detector.yaml", *SMALL, *place, *more]


def run(words: Sequence[str], stop: tuple[float, signal.Signals] | None = None) -> tuple[int, str]:
    """Exit code and messages of ``verisal WORDS``, ended by a signal after some seconds where asked."""
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "verisal", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if stop is not None:
        try:
            process.wait(stop[0])
        except subprocess.TimeoutExpired:
            process.send_signal(stop[1])
    messages = process.communicate()[1]
    return process.returncode, messages


def next_command(folder: Path, first: list[str], messages: str) -> list[str]:
    """The command that the stopped job printed, else the documented one, else the first once more."""
    printed = [line.partition("go on with: ")[2] for line in messages.splitlines() if "go on with: " in line]
    if printed:
        return shlex.split(printed[-1])[1:]
    config = folder / "run" / "config.yaml"
    if not config.is_file():
        return first
    return ["fit", "--config", str(config), "--run_dir", str(folder / "run"), "--resume", "auto"]


def outcome(folder: Path) -> tuple[object, str]:
    """Scores of the report and rows of the samples."""
    report = json.loads((folder / "run" / "report.json").read_text(encoding="utf-8"))
    return report["metrics"], (folder / "run" / "samples.csv").read_text(encoding="utf-8")


def main() -> int:
    """Count the runs that ended otherwise than the undisturbed one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=20, help="runs to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("more", nargs="*", help="options of the job")
    given = parser.parse_args()
    generator = random.Random(given.seed)  # noqa: S311 - moments, no secret
    wrong = 0
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        started = time.monotonic()
        code, messages = run(job(whole, given.more))
        seconds = time.monotonic() - started
        if code:
            raise SystemExit(f"the undisturbed job failed:\n{messages}")
        expected = outcome(whole)
        print(f"undisturbed: {seconds:.0f} s", flush=True)
        for number in range(given.count):
            folder = Path(place) / f"killed{number}"
            first = job(folder, given.more)
            moment, sent = generator.uniform(0.05, 1) * seconds, SIGNALS[number % len(SIGNALS)]
            code, messages = run(first, (moment, sent))
            stopped = code != 0
            commands = 0
            while code and commands < 3:
                commands += 1
                code, messages = run(next_command(folder, first, messages))
            same = code == 0 and outcome(folder) == expected
            wrong += not same
            ended = f"{sent.name} after {moment:.0f} s" if stopped else f"done before {sent.name}"
            print(f"{number + 1:2d}  {ended}, {commands} more: {'same' if same else 'DIFFERENT'}", flush=True)
            if code:
                print(messages, flush=True)
    print(f"{given.count - wrong} of {given.count} reports are the same, bit for bit")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
