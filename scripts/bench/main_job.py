"""CPU and wall seconds of the main job by its stages: python scripts/bench/main_job.py --share 0.1.

``verisal fit --config detector`` in this process, from nothing: in a folder of its own, which is removed. The
work says what it is at by itself (``verisal.progress``). ``passes`` is the share of a stage's CPU time inside
of networks, forward and backward, whoever asks: of the attacked one, and of those that are trained.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

_BEGAN = time.perf_counter()
# As of the config, and the fewest that its tables can do with.
_COUNTS = {
    "fit_count": (260, 24),
    "val_count": (1100, 40),
    "val_attacked_count": (160, 8),
    "test_count": (300, 8),
}
# What the work says it is at, to the stage that it belongs to; "" is what comes between.
_STAGES: Sequence[tuple[str, str]] = (
    (r"loading libraries.*", "imports"),
    (r"rendering.*", "rendering"),
    (r"attacking .*, near the border.*", "attack: near the border"),
    (r"attacking [^:]*: (.*)", r"attack: \1"),
    (r"attacking .*", "attacks: between them"),
    (r"adding noise.*", "noise"),
    (r"measuring (.*) of \w+ images.*", r"measuring: \1"),
    (r"[^:]*: training", "training"),
    (r"[^:]*: validating", "validation"),
    (r"testing.*|scores and their intervals.*", "test"),
    (r"drawing figures.*", "report"),
)


@dataclass
class Spent:
    """Seconds of one stage: of the processor, of the clock, and of the processor inside of networks."""

    processor: float = 0.0
    clock: float = 0.0
    passes: float = 0.0


@final
@dataclass
class Stages:
    """Where the time goes: whatever passes belongs to what was said last."""

    spent: dict[str, Spent] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    depth: int = 0
    passes: float = 0.0
    last: tuple[float, float] = field(default_factory=lambda: (_processor(), time.perf_counter()))

    def note(self, words: str) -> None:
        """Count the time since the last note for this."""
        own = self.spent.setdefault(_stage(words), Spent())
        now = _processor(), time.perf_counter()
        own.processor += now[0] - self.last[0]
        own.clock += now[1] - self.last[1]
        own.passes += self.passes
        self.last, self.passes = now, 0.0

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Count what is done within as passes; calls within calls count once."""
        self.depth += 1
        start = time.process_time()
        try:
            yield
        finally:
            self.depth -= 1
            if not self.depth:
                self.passes += time.process_time() - start

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose time counts as passes."""

        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever it takes and gives
            with self.inside():
                return function(*args, **kwargs)

        return call

    def listen(self) -> None:
        """Hear what the work says, and what networks do."""
        from verisal.progress.steps import Running, Work

        step, advance = Work.step, Running.__call__

        @contextmanager
        def told_step(work: Work, doing: str, *, done: int = 0) -> Iterator[Running]:
            self.note(self.steps[-1] if self.steps else "")
            self.steps.append(doing)
            try:
                with step(work, doing, done=done) as running:
                    yield running
            finally:
                self.note(self.steps.pop())

        def told_advance(running: Running, items: int, note: str = "", *, part: str = "") -> None:
            self.note(f"{running.step.doing}: {part}")
            advance(running, items, note, part=part)

        Work.step, Running.__call__ = told_step, told_advance  # type: ignore[method-assign,assignment]

    def listen_to_networks(self) -> None:
        """Count passes, once torch is there."""
        import torch
        from torch import nn

        nn.Module.__call__ = self.counted(nn.Module.__call__)  # type: ignore[method-assign]
        torch.autograd.grad = self.counted(torch.autograd.grad)
        torch.autograd.backward = self.counted(torch.autograd.backward)


def _processor() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _stage(words: str) -> str:
    for pattern, stage in _STAGES:
        if (found := re.fullmatch(pattern, words)) is not None:
            return found.expand(stage)
    return "the rest: settings, checks, between steps"


def main() -> None:
    """Run the job, and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the numbers of images of the config")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("options", nargs="*", help="more options of the command, after --")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    stages = Stages()
    stages.listen()
    stages.note("loading libraries")
    import torch

    torch.set_num_threads(given.threads)
    stages.listen_to_networks()
    from verisal.cli._main import main as command

    stages.note("loading libraries")
    counts = {name: max(round(given.share * count), least) for name, (count, least) in _COUNTS.items()}
    with tempfile.TemporaryDirectory() as folder:
        words = ["fit", "--config", "detector", f"--run_dir={folder}/run", "--wandb.mode=disabled"]
        words += [f"--data.init_args.{name}={count}" for name, count in counts.items()]
        words += [f"--data.init_args.store={folder}/store", f"--trainer.max_epochs={given.epochs}"]
        code = command([*words, *given.options], began=_BEGAN)
    stages.note("")
    if code:
        sys.exit(f"the job ended with {code}")
    _show(stages, counts)


def _show(stages: Stages, counts: dict[str, int]) -> None:
    images = ", ".join(f"{name} {count}" for name, count in counts.items())
    print(f"\n{images}\n\n| stage | CPU seconds | share | wall seconds | passes |")
    print("|---|---:|---:|---:|---:|")
    whole = Spent(
        *(
            sum(getattr(one, name) for one in stages.spent.values())
            for name in ("processor", "clock", "passes")
        )
    )
    for name, own in [*stages.spent.items(), ("all", whole)]:
        if own.processor >= whole.processor / 1000:
            share = f"{own.processor / whole.processor:.1%}"
            passes = f"{own.passes / own.processor:.0%}"
            print(f"| {name} | {own.processor:.1f} | {share} | {own.clock:.1f} | {passes} |")


if __name__ == "__main__":
    main()
