"""Integrated gradients against bare network passes and captum itself: python scripts/bench/saliency.py.

Prints, per network, CPU seconds (which other work on the machine hardly changes) of our shell, of captum
called directly on the same work, and of the bare forward and backward passes at the same batch sizes, with
the ratios (median and range over repeats in order A B C
C B A, after the results were found equal); then the peak memory of 25 and of 200 steps, each in a process of
its own. With --calls: methods of one or few passes on eight small images, which shows what a call costs
besides its passes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable

import torch
from captum import attr  # type: ignore[import-untyped]  # it says nothing of its types
from torch import Tensor
from torchvision.models import resnet18  # type: ignore[import-untyped]  # nor does it

from verisal.functional.scopes import frozen
from verisal.models import Classifier, load_classifier
from verisal.saliency import GradCAM, Gradient, InputXGradient, IntegratedGradients, Occlusion, Saliency

_WINDOWS = 4


def _problem(name: str, batch: int) -> tuple[Classifier, Tensor, Tensor]:
    torch.manual_seed(0)
    if name == "emoji_scenes_64":
        classifier = load_classifier(name)
    else:
        stages = ("layer1", "layer2", "layer3", "layer4")
        names = [str(index) for index in range(1000)]
        classifier = Classifier(
            resnet18(weights=None), stages, class_names=names, image_size=224, normalization="imagenet"
        ).eval()
        classifier.requires_grad_(False)
    images = torch.rand(batch, 3, classifier.image_size, classifier.image_size)
    with torch.no_grad():
        return classifier, images, classifier(images).argmax(dim=1)


def _seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(name: str, batch: int, steps: int, chunk_size: int, repeats: int) -> str:
    """One row: median seconds of the three, and the paired ratios of ours to the other two."""
    classifier, images, query = _problem(name, batch)
    method = IntegratedGradients(steps=steps, chunk_size=chunk_size)

    def ours() -> Tensor:
        attribution = method(classifier, images, query).attribution
        if attribution is None:
            raise RuntimeError("integrated gradients without an attribution")
        return attribution

    def captum() -> Tensor:
        peer = attr.IntegratedGradients(classifier)
        found: Tensor = peer.attribute(
            images, target=query, n_steps=steps, method="riemann_middle", internal_batch_size=chunk_size
        )
        return found

    def bare() -> None:
        together = max(1, chunk_size // batch)
        with frozen(classifier):
            for start in range(0, steps, together):
                count = min(together, steps - start)
                points = images.repeat(count, 1, 1, 1).requires_grad_()
                score = classifier(points).gather(1, query.repeat(count)[:, None]).sum()
                torch.autograd.grad(score, points)

    torch.testing.assert_close(ours(), captum(), rtol=1e-4, atol=1e-5)
    bare()
    calls: list[Callable[[], object]] = [ours, captum, bare]
    rows = []
    for repeat in range(repeats):
        seconds = {call: _seconds(call) for call in (calls if repeat % 2 == 0 else calls[::-1])}
        rows.append([seconds[call] for call in calls])
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    ratios = [sorted(row[0] / row[other] for row in rows) for other in (1, 2)]
    shown = [f"{statistics.median(ratio):.3f} ({ratio[0]:.3f}-{ratio[-1]:.3f})" for ratio in ratios]
    times = " ".join(f"{median:>9.3f}" for median in medians)
    return f"{name:>16} {batch:>5} {steps:>5} {times} {shown[0]:>21} {shown[1]:>21}"


def measure_call(method: Saliency, repeats: int) -> str:
    """One row: median milliseconds of a call and of the passes in it, the median of their paired ratios."""
    classifier, images, query = _problem("emoji_scenes_64", 8)
    last = dict(classifier.network.named_modules())[classifier.stages[-1]]

    def passes() -> None:
        if isinstance(method, Occlusion):
            with torch.no_grad():
                for _ in range(_WINDOWS + 1):
                    classifier(images.clone()).softmax(dim=1)
            return
        given: list[Tensor] = []
        hook = last.register_forward_hook(lambda _module, _inputs, output: given.append(output))
        leaf = images.clone().requires_grad_()
        score = classifier(leaf).gather(1, query[:, None]).sum()
        torch.autograd.grad(score, given if isinstance(method, GradCAM) else [leaf])
        hook.remove()

    pairs = []
    method(classifier, images, query)
    for repeat in range(repeats):
        calls: list[Callable[[], object]] = [lambda: method(classifier, images, query), passes]
        seconds = [_seconds(call) for call in (calls if repeat % 2 == 0 else calls[::-1])]
        pairs.append(seconds if repeat % 2 == 0 else seconds[::-1])
    ours, bare = (1000 * statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    return f"{type(method).__name__:>16} {ours:>9.2f} {bare:>9.2f} {ratio:>12.3f}"


def _peak(steps: int) -> float:
    classifier, images, query = _problem("emoji_scenes_64", 16)
    IntegratedGradients(steps=steps)(classifier, images, query)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calls", type=int, default=0, help="Measure single calls alone, so many times.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"torch {torch.__version__}, {arguments.threads} threads, load {load}")
    if arguments.calls:
        print(f"{'one call':>16} {'ours ms':>9} {'bare ms':>9} {'ours / bare':>12}")
        window = Occlusion(window=32, stride=32)
        for method in (Gradient(), InputXGradient(), GradCAM(), window):
            print(measure_call(method, arguments.calls))
        return
    print(f"{'network':>16} {'batch':>5} {'steps':>5} {'ours s':>9} {'captum s':>9} {'bare s':>9}", end=" ")
    print(f"{'ours / captum':>21} {'ours / bare':>21}")
    for name, batch, steps, chunk_size in (("emoji_scenes_64", 16, 50, 64), ("resnet18", 2, 8, 16)):
        print(measure(name, batch, steps, chunk_size, arguments.repeats))
    context = multiprocessing.get_context("spawn")
    for steps in (25, 200):
        with context.Pool(1) as pool:
            print(f"peak memory of {steps} steps: {pool.apply(_peak, (steps,)):.0f} MiB")


if __name__ == "__main__":
    main()
