"""Whether twice the steps find more: python scripts/adaptive_convergence.py --way frozen --images 16.

Attacks the shipped classifier and an alarm that needs no training: how much less evidence the masks keep
once the image has moved by one pixel. Prints the cost of a step, and the share of images that stay right or
rejected with the given steps and with twice as many; where it moves by more than a point, take more steps.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from verisal.attacks import AdaptivePGD, Defence, Selective, Weighted
from verisal.attacks.adaptive.attack import AdaptiveResult
from verisal.data import EmojiScenes
from verisal.detection.end_to_end import end_to_end, strongest
from verisal.detectors import DetectorFeatures
from verisal.functional.statistics import Bootstrap, threshold_at_fpr
from verisal.models import Classifier, load_classifier
from verisal.saliency import FrozenGates, HierarchicalMasks, PredictedGates, UnrolledGates
from verisal.saliency.gates.differentiable import DifferentiableGates

_POINT = 0.01


def evidence_lost(features: Mapping[str, Tensor]) -> Tensor:
    """``(B,)``: by how much the log of what the masks keep falls when the image moves, mean over stages."""
    kept = {name: value.float().flatten(1).sum(dim=1) for name, value in features.items() if "gated/" in name}
    pairs = [(value, kept[f"shifted/{name}"]) for name, value in kept.items() if f"shifted/{name}" in kept]
    # What is added keeps the logarithm of nothing finite.
    falls = [(before + 1).log() - (after + 1).log() for before, after in pairs]
    return torch.stack(falls).mean(dim=0)


def chosen_way(name: str, method: HierarchicalMasks, last_steps: int | None) -> DifferentiableGates:
    """The way through the gates that the command line names."""
    if name == "frozen":
        return FrozenGates(method=method)
    if name == "predicted":
        return PredictedGates(checkpoint="emoji_scenes_64_masks")
    return UnrolledGates(method=method, last_steps=last_steps)


class Study:
    """Images that the classifier gets right, the alarm as detector and as stand-in, and the threshold."""

    def __init__(
        self, classifier: Classifier, way: DifferentiableGates, made: DetectorFeatures, count: int
    ) -> None:
        self.classifier, self.made = classifier, made
        size = classifier.image_size
        scenes = EmojiScenes("det_test", 2 * count, size=size).stack(range(2 * count))
        right = classifier(scenes.images).argmax(dim=1) == scenes.labels
        self.images, self.labels = scenes.images[right][:count], scenes.labels[right][:count]
        clean = EmojiScenes("det_val", 200, size=size).stack(range(200)).images
        threshold = threshold_at_fpr(self.score(clean), 0.05)
        if threshold is None:
            raise SystemExit("too few clean images for a threshold")
        self.threshold = threshold
        self.defence = Defence(
            classifier=classifier,
            alarm=lambda x: evidence_lost(made.differentiable(classifier, x, gates=way)),
        )

    def score(self, images: Tensor) -> Tensor:
        """The detector itself."""
        return torch.cat(
            [evidence_lost(self.made(self.classifier, part)) for part in torch.split(images, 64)]
        )

    def run(self, steps: int, eps: float, restarts: int) -> tuple[float, float]:
        """Share of images right or rejected under the strongest attack, and seconds per image and step."""
        aims = (Weighted(mu=1.0), Selective())
        began = time.perf_counter()
        results: list[AdaptiveResult] = [
            AdaptivePGD(aim=aim, eps=eps, steps=steps, restarts=restarts)(
                self.defence, self.images, self.labels, sample_ids=range(len(self.images))
            )
            for aim in aims
        ]
        cost = (time.perf_counter() - began) / (len(self.images) * len(aims) * restarts * (steps + 1))
        fooled = torch.stack([result.fooled for result in results])
        worst = strongest(fooled, torch.stack([self.score(result.images) for result in results]))
        clean = self.score(self.images)
        left = end_to_end(worst.fooled, worst.score, clean, self.threshold, Bootstrap(0))
        print(
            f"{steps:>5} steps: fooled {left.fooled.value:.3f}, detected {left.detected.value:.3f},"
            f" AUROC {left.auroc.value:.3f}, right or rejected {left.right_or_rejected.value:.3f},"
            f" {1000 * cost:.1f} ms per image and step"
        )
        return left.right_or_rejected.value, cost


def main() -> None:
    """Attack twice and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--way", choices=("frozen", "predicted", "unrolled"), default="frozen")
    parser.add_argument("--last-steps", type=int, default=None, help="of the descent that are unrolled; all")
    parser.add_argument("--eps", type=float, default=4, help="in 1/255")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--restarts", type=int, default=1)
    arguments = parser.parse_args()
    classifier = load_classifier("emoji_scenes_64").to(memory_format=torch.channels_last)
    method = HierarchicalMasks(
        objective="evidence", reg_weight=1.0, penalty="per_channel", steps=20, learning_rate=0.05
    )
    way = chosen_way(arguments.way, method, arguments.last_steps)
    made = DetectorFeatures(
        saliency=method, queries=("prediction",), views=("original", "shifted"), gated_activation=True
    )
    study = Study(classifier, way, made, arguments.images)
    print(f"{way.way}, eps {arguments.eps:g}/255, {len(study.images)} images, {arguments.restarts} restarts")
    shares = [
        study.run(steps, arguments.eps / 255, arguments.restarts)[0]
        for steps in (arguments.steps, 2 * arguments.steps)
    ]
    moved = abs(shares[1] - shares[0])
    verdict = "stable" if moved <= _POINT else "not stable"
    print(f"twice the steps move it by {100 * moved:.1f} points: {verdict}")


if __name__ == "__main__":
    main()
