"""Cost of learning masks against bare network passes: python scripts/bench/masks.py.

Prints, per batch size, seconds of a loop of T optimisation steps, of T bare forward-plus-backward passes of
the gated part at the same batch size and memory layout, and their ratio (median over repeats in order
A B B A); then the peak memory of 20 and of 80 steps, each in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable

import torch

from verisal.functional.scopes import frozen
from verisal.models import Classifier, load_classifier
from verisal.saliency import HierarchicalMasks


def _problem(batch: int) -> tuple[Classifier, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    classifier = load_classifier("emoji_scenes_64").to(memory_format=torch.channels_last)
    size = classifier.image_size
    images = torch.rand(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        return classifier, images, classifier(images).argmax(dim=1)


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(batch: int, steps: int, repeats: int) -> tuple[float, float, float]:
    """Median seconds of the loop and of the bare passes, and the median of the paired ratios."""
    classifier, images, query = _problem(batch)
    method = HierarchicalMasks(objective="class", reg_weight=0.01, steps=steps)

    def loop() -> None:
        method.gates(classifier, images, query)

    def bare() -> None:
        with frozen(classifier):
            with torch.no_grad():
                activations = classifier.stage_outputs(images).activations
            gates = [torch.ones_like(activation).requires_grad_() for activation in activations]
            for _ in range(steps):
                logits = classifier.gated(activations[0], gates)
                torch.autograd.grad(logits.gather(1, query[:, None]).sum(), gates)

    loop(), bare()  # type: ignore[func-returns-value]
    pairs = []
    for repeat in range(repeats):
        first, second = (loop, bare) if repeat % 2 == 0 else (bare, loop)
        seconds = {first: _seconds(first), second: _seconds(second)}
        pairs.append((seconds[loop], seconds[bare]))
    ratio = statistics.median(a / b for a, b in pairs)
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), ratio


def _peak(steps: int) -> float:
    classifier, images, query = _problem(64)
    HierarchicalMasks(objective="class", reg_weight=0.01, steps=steps).gates(classifier, images, query)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, T = {arguments.steps}")
    print(f"{'batch':>6} {'loop s':>9} {'bare s':>9} {'ratio':>7}")
    for batch in (16, 64, 128):
        loop, bare, ratio = measure(batch, arguments.steps, arguments.repeats)
        print(f"{batch:>6} {loop:>9.3f} {bare:>9.3f} {ratio:>7.3f}")
    context = multiprocessing.get_context("spawn")
    for steps in (20, 80):
        with context.Pool(1) as pool:
            print(f"peak memory of {steps} steps: {pool.apply(_peak, (steps,)):.0f} MiB")


if __name__ == "__main__":
    main()
