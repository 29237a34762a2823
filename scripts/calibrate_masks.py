"""Choose lambda for a classifier: python scripts/calibrate_masks.py --objective class --steps 20.

Uses clean scenes of the split ``cls_val``, which no report reads, and prints what every lambda does.
"""

from __future__ import annotations

import argparse
from typing import get_args

import torch

from verisal.data import EmojiScenes
from verisal.models import load_classifier
from verisal.saliency import HierarchicalMasks, calibrate_reg_weight
from verisal.saliency.gates.descent import Objective


def main() -> None:
    """Calibrate and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classifier", default="emoji_scenes_64")
    parser.add_argument("--objective", choices=get_args(Objective), default="evidence")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--images", type=int, default=200)
    arguments = parser.parse_args()
    classifier = load_classifier(arguments.classifier).to(memory_format=torch.channels_last)
    scenes = EmojiScenes("cls_val", arguments.images, size=classifier.image_size)
    method = HierarchicalMasks(
        objective=arguments.objective, steps=arguments.steps, learning_rate=arguments.learning_rate
    )
    chosen, tried = calibrate_reg_weight(method, classifier, scenes.stack(range(arguments.images)).images)
    print(f"{'lambda':>8} {'unchanged':>10} {'median change':>14} {'gates at 0':>11}  accepted")
    for row in tried:
        print(
            f"{row.reg_weight:>8g} {row.unchanged:>10.3f} {row.relative_change:>14.4f}"
            f" {row.zero_share:>11.3f}  {'yes' if row.accepted else 'no'}"
        )
    print(f"chosen: reg_weight = {chosen:g}")


if __name__ == "__main__":
    main()
