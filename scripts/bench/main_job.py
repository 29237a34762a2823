"""Where the time of a command goes, stage by stage: python scripts/bench/main_job.py [COMMAND ...].

The command is one of verisal's, without that word; by default ``fit --config detector``, the main job. It
runs in a new folder, so from nothing, or in ``--folder``, where it finds what an earlier run has left. For
every kind of step that the command shows while it is at work, and for what lies between them, one line says
seconds on the clock, CPU seconds of all threads and processes, and the share of these that the layers of the
classifier, forward and back, would take alone.

Other work on the machine moves all of these seconds: compare the lines of one run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from verisal.progress.steps import Running, Work


@dataclass
class Spent:
    """What was spent until now, or on a kind of step."""

    wall: float = 0.0
    cpu: float = 0.0
    operations: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def __sub__(self, other: Spent) -> Spent:
        return Spent(*(getattr(self, each.name) - getattr(other, each.name) for each in fields(self)))


class Stages:
    """What was spent on each kind of step."""

    def __init__(self) -> None:
        self.spent: dict[str, Spent] = {}
        self.operations = 0.0
        self._last = self.now()

    def now(self) -> Spent:
        """What this process and its children have spent."""
        times = os.times()
        return Spent(time.perf_counter(), sum(times[:4]), self.operations)

    def end(self, kind: str) -> None:
        """What was spent since the last call was for this."""
        now = self.now()
        self.spent[kind] = self.spent.get(kind, Spent()) + (now - self._last)
        self._last = now

    def count(self, module: nn.Module, _given: object, output: object) -> None:
        """Multiply-adds of a layer that learns nothing, forward and, where a gradient passes, back."""
        if not isinstance(module, nn.Conv2d | nn.Linear) or module.weight.requires_grad:
            return
        if isinstance(output, Tensor):
            operations = float(output.numel() * module.weight[0].numel())
            self.operations += operations
            if output.requires_grad:
                output.register_hook(lambda _gradient: self._back(operations))  # type: ignore[no-untyped-call]

    def _back(self, operations: float) -> None:
        self.operations += operations


def kind_of(words: str) -> str:
    """The words of a step without numbers.

    >>> kind_of("attacking 260 images"), kind_of("epoch 3 of 10")
    ('attacking images', 'epoch of')
    """
    return " ".join(word for word in words.split() if not word.isdigit())


@contextmanager
def heard() -> Iterator[Stages]:
    """Hear the steps of what is done within, and the layers."""
    stages, step = Stages(), Work.step

    @contextmanager
    def timed(work: Work, doing: str, *, done: int = 0) -> Iterator[Running]:
        kind = kind_of(doing) or work.units
        stages.end(f"between, before {kind}")
        with step(work, doing, done=done) as running:
            yield running
        stages.end(kind)

    hook = register_module_forward_hook(stages.count)
    Work.step = timed  # type: ignore[method-assign, assignment]
    try:
        yield stages
    finally:
        Work.step = step  # type: ignore[method-assign]
        hook.remove()


def bare_rate(name: str) -> float:
    """Multiply-adds of a classifier per CPU second, of passes forward and back of 64 images."""
    from verisal.models import load_classifier

    classifier = load_classifier(name).to(memory_format=torch.channels_last).requires_grad_(False)
    images = torch.rand(64, 3, classifier.image_size, classifier.image_size).requires_grad_()
    with heard() as stages:
        for attempt in range(6):
            if attempt == 1:  # The first one is slower.
                stages.operations, began = 0.0, time.process_time()
            torch.autograd.grad(classifier(images).sum(), images)
        return stages.operations / (time.process_time() - began)


def main() -> None:
    """Run, and print one table a run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="to run in, and to leave as it is then")
    parser.add_argument("--classifier", default="emoji_scenes_64", help="for the rate of bare passes")
    parser.add_argument("--least", type=float, default=1.0, help="wall seconds that are worth a line")
    given, command = parser.parse_known_args()
    command = command or ["fit", "--config", "detector"]
    os.environ.setdefault("WANDB_MODE", "offline")
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        with heard() as stages:
            began = stages.now()
            status = _run(command)
            stages.end("after the last step")
        whole = stages.now() - began
        os.chdir("/")
    if status:
        sys.exit(status)
    _print(stages, whole, bare_rate(given.classifier), given.least)


def _run(command: list[str]) -> int:
    """One command of verisal in this process; its exit status."""
    from verisal.__main__ import entry

    sys.argv = ["verisal", *command]
    try:
        return int(entry() or 0)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)


def _print(stages: Stages, whole: Spent, rate: float, least: float) -> None:
    print(f"\n{torch.get_num_threads()} threads\n")
    print("| stage | wall, s | CPU, s | of these bare passes |")
    print("|---|---:|---:|---:|")
    short = Spent()
    for kind, spent in sorted(stages.spent.items(), key=lambda item: -item[1].wall):
        if spent.wall < least:
            short += spent
        else:
            _line(kind, spent, rate)
    _line(f"stages below {least:g} s", short, rate)
    _line("**all**", whole, rate)


def _line(kind: str, spent: Spent, rate: float) -> None:
    share = spent.operations / rate / max(spent.cpu, 1e-9)
    print(f"| {kind} | {spent.wall:.1f} | {spent.cpu:.1f} | {share:.0%} |")


if __name__ == "__main__":
    main()
