"""What settings of the hierarchical masks do, on scenes that no report uses: python scripts/tune_masks.py.

One line per lambda, steps, shown values, fusion and smoothing: best-threshold box accuracy (MaxBoxAcc) and
share of the energy inside the object, for the right class of correctly classified ``det_fit`` scenes. Gates
are learned once per lambda and number of steps. HierarchicalMasks has its defaults from this table.
"""

from __future__ import annotations

import argparse
import itertools

import torch

from verisal.data import EmojiScenes
from verisal.functional.regions import energy_inside, largest_component_ious
from verisal.models import load_classifier
from verisal.saliency import HierarchicalMasks
from verisal.saliency.gates.descent import Objective
from verisal.saliency.gates.masks import Fusion, Shown, fused_maps, raw_maps

_SHOWN: tuple[Shown, ...] = ("gate", "gated_activation")
_FUSIONS: tuple[Fusion, ...] = ("mean", "geometric")


def main() -> None:
    """Learn gates for every lambda and number of steps, and judge every way to show them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=240)
    parser.add_argument("--lambdas", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--steps", type=int, nargs="+", default=[30, 60])
    parser.add_argument("--smoothing", type=float, nargs="+", default=[0.0, 5.0, 7.0])
    parser.add_argument("--objective", default="evidence")
    arguments = parser.parse_args()
    objective: Objective = arguments.objective
    classifier = load_classifier("emoji_scenes_64").to(memory_format=torch.channels_last)
    scenes = EmojiScenes("det_fit", arguments.scenes).stack(range(arguments.scenes))
    with torch.no_grad():
        right = classifier(scenes.images).argmax(dim=1) == scenes.labels
    scenes = scenes.rows(right.nonzero()[:, 0].tolist())
    images = scenes.images.contiguous(memory_format=torch.channels_last)
    size = (images.shape[-2], images.shape[-1])
    masks = scenes.object_mask_of(scenes.labels)
    boxes = [
        own[labels == label]
        for own, labels, label in zip(scenes.boxes, scenes.object_labels, scenes.labels, strict=True)
    ]
    print(f"{len(scenes)} scenes, objective {objective}")
    print("lambda  steps  shown             fusion     smoothing  box    energy")
    for reg_weight, steps in itertools.product(arguments.lambdas, arguments.steps):
        method = HierarchicalMasks(objective=objective, reg_weight=reg_weight, steps=steps)
        learned = method.learn(classifier, images, scenes.labels)
        for shown, fusion, smoothing in itertools.product(_SHOWN, _FUSIONS, arguments.smoothing):
            layers = raw_maps(learned.gates, learned.activations, size, shown)
            maps = fused_maps(layers, fusion, smoothing)
            box = float((largest_component_ious(maps, boxes) >= 0.5).double().mean(dim=0).max())
            energy = float(energy_inside(maps, masks).nanmean())
            setting = f"{reg_weight:<7g} {steps:<6} {shown:<17} {fusion:<10} {smoothing:<10g}"
            print(f"{setting} {box:.3f}  {energy:.3f}", flush=True)


if __name__ == "__main__":
    main()
