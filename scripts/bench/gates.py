"""Gated passes of a cut network against one with hooks: python scripts/bench/gates.py.

Asserts that both give the same logits and gradients, then prints milliseconds of one gated pass forward and
back, and their ratio (medians over repeats in order A B B A). Weights are random but for the shipped network.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from verisal.models import load_classifier
from verisal.models._layout import InputShape, probe_stages
from verisal.models.split import SplitNetwork, hooked_network, split_network

NETWORKS = ("emoji_scenes_64", "torchvision:resnet18", "torchvision:efficientnet_b0", "torchvision:swin_t")


def passed(split: SplitNetwork, first: Tensor, gates: list[Tensor]) -> list[Tensor]:
    """Logits, and the gradients of their squares."""
    logits = split.gated(first, tuple(gates))
    return [logits, *torch.autograd.grad(logits.square().sum(), gates)]


def milliseconds(run: Callable[[], object], count: int) -> float:
    """Of one of ``count`` runs."""
    start = time.perf_counter()
    for _ in range(count):
        run()
    return 1000 * (time.perf_counter() - start) / count


def main() -> None:
    """Print one line per network and batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.networks:
        classifier = load_classifier(name, **({"weights": None} if ":" in name else {}))
        network, stages, size = classifier.network, classifier.stages, classifier.image_size
        probe = probe_stages(network, stages, InputShape(classifier.channels, size, size))
        cut, hooks = split_network(network, stages, probe), hooked_network(network, stages, probe)
        for batch in options.batches:
            with torch.no_grad():
                activations = classifier.stage_outputs(torch.rand(batch, 3, size, size)).activations
            gates = [torch.full_like(part, 0.9).requires_grad_() for part in activations]
            pairs = [passed(split, activations[0], gates) for split in (cut, hooks)]
            for ours, theirs in zip(*pairs, strict=True):
                torch.testing.assert_close(ours, theirs)
            times: dict[str, list[float]] = {"cut": [], "hooks": []}
            for _ in range(options.repeats):
                for way, split in (("cut", cut), ("hooks", hooks), ("hooks", hooks), ("cut", cut)):
                    spent = milliseconds(partial(passed, split, activations[0], gates), options.passes)
                    times[way].append(spent)
            a, b = (statistics.median(times[way]) for way in ("cut", "hooks"))
            print(f"{name:30s} {batch:3d} images: cut {a:8.1f} ms, hooks {b:8.1f} ms, ratio {b / a:.2f}")


if __name__ == "__main__":
    main()
