"""Decoys in numbers: python scripts/bench/decoys.py.

On drawn scenes and the shipped classifier, prints what lattice masks cost and say beside single ones, then,
per base method and batch size, the cost of a decoy map over that of its base map, split into finding decoys
and explaining them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from verisal.data import EmojiScenes
from verisal.functional.comparison import spearman
from verisal.models import Classifier, load_classifier
from verisal.saliency import Decoy, Gradient, IntegratedGradients, Saliency, SmoothGrad

_BASES: dict[str, Saliency] = {
    "gradient": Gradient(),
    "smoothgrad": SmoothGrad(),
    "integrated": IntegratedGradients(),
}


def _seconds(call: Callable[[], object], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def forms(classifier: Classifier, images: Tensor, steps: int, rounds: int) -> None:
    """Single masks, lattices of several periods, and what separates them."""
    query = classifier(images).argmax(dim=1)
    print(
        f"{'masks':>12} {'s':>8} {'cost':>6} {'spearman':>8} {'violation':>9} {'infeasible':>10} {'dev':>8}"
    )
    whole: tuple[float, Tensor] | None = None
    periods: tuple[int | None, ...] = (None, None, 24)
    for number, period in enumerate(periods):
        masks = "lattice" if number else "single"
        method = Decoy(masks="lattice" if number else "single", period=period, steps=steps, rounds=rounds)
        start = time.process_time()
        result = method(classifier, images, query)
        seconds = time.process_time() - start
        whole = (seconds, result.saliency) if whole is None else whole
        found = {name: float(value.mean()) for name, value in result.diagnostics.items()}
        print(
            f"{masks + ' ' + str(period or ''):>12} {seconds:>8.2f} {seconds / whole[0]:>6.3f}"
            f" {float(spearman(result.saliency, whole[1]).mean()):>8.3f} {found['violation_max']:>9.2g}"
            f" {found['infeasible']:>10.3f} {found['deviation']:>8.4f}"
        )


def cost(classifier: Classifier, images: Tensor, name: str, steps: int, rounds: int, repeats: int) -> None:
    """One line: a map of 64 lattice masks over a map of the base."""
    query, base = classifier(images).argmax(dim=1), _BASES[name]
    method = Decoy(base=base, period=24, steps=steps, rounds=rounds)
    plain = _seconds(lambda: base(classifier, images, query), repeats)
    found = _seconds(lambda: list(method.decoys(classifier, images)), 1)
    whole = _seconds(lambda: method(classifier, images, query), 1)
    print(
        f"{name:>12} {len(images):>6} {plain:>9.4f} {whole:>9.2f} {whole / plain:>8.0f}"
        f" {found / plain:>9.0f} {(whole - found) / plain:>8.0f}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", type=int, default=2, help="for single and lattice masks; 0 leaves them out"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--bases", nargs="+", choices=_BASES, default=list(_BASES))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    classifier = load_classifier("emoji_scenes_64")
    scenes = EmojiScenes("cls_val", max(arguments.images, *arguments.batches))
    images = scenes.stack(range(len(scenes))).images
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.rounds}x{arguments.steps}")
    if arguments.images:
        forms(classifier, images[: arguments.images], arguments.steps, arguments.rounds)
    print(
        f"\n{'base':>12} {'images':>6} {'base s':>9} {'decoy s':>9} {'/ base':>8} {'find':>9} {'explain':>8}"
    )
    for name in arguments.bases:
        for batch in arguments.batches:
            cost(classifier, images[:batch], name, arguments.steps, arguments.rounds, arguments.repeats)


if __name__ == "__main__":
    main()
