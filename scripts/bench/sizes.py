"""Memory and CPU seconds of one large image: python scripts/bench/sizes.py GradCAM resnet18 2048 --tile 224.

One thread, a network of random weights, and the fewest passes of a method: they come one after the other,
so that more of them have the same peak, in which PyTorch and the image are. With --tile by Tiled, else whole.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

import torch
from torch import nn
from torchvision.models import resnet18  # type: ignore[import-untyped]  # it says nothing of its types

from verisal import saliency
from verisal.functional.baselines import Constant
from verisal.models import Classifier
from verisal.saliency import Saliency, Tiled


def _network(name: str) -> Classifier:
    torch.manual_seed(0)
    if name == "resnet18":
        stages = ("layer1", "layer2", "layer3", "layer4")
        return Classifier(resnet18(weights=None), stages, normalization="imagenet", image_size=224).eval()
    network = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )
    return Classifier(network, ("0", "2"), normalization="none", image_size=224).eval()


def _method(name: str, side: int) -> Saliency:
    least: dict[str, dict[str, object]] = {
        "Occlusion": {"window": side // 2, "stride": side // 2, "baseline": Constant()},
        "RISE": {"masks": 2, "baseline": Constant()},
        "IntegratedGradients": {"steps": 2},
        "SmoothGrad": {"samples": 2},
        "VarGrad": {"samples": 2},
        "GradientSHAP": {"samples": 2},
        "MeaningfulPerturbation": {"steps": 2, "baseline": Constant()},
        "ExtremalPerturbation": {"steps": 2},
        "HierarchicalMasks": {"steps": 2, "learning_rate": 0.5},
    }
    made: Saliency = getattr(saliency, name)(**least.get(name, {}))
    return made


def main() -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method")
    parser.add_argument("network", choices=["small", "resnet18"])
    parser.add_argument("side", type=int)
    parser.add_argument("--tile", type=int, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    method = _method(given.method, given.tile or given.side)
    if given.tile:
        method = Tiled(base=method, tile=given.tile)
    classifier, images = _network(given.network), torch.rand(1, 3, given.side, given.side)
    start = time.process_time()
    method(classifier, images, 1)
    seconds = time.process_time() - start
    # Not ru_maxrss, in which a process that is started by a large one has that one's peak.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    tiles = f"tiles of {given.tile}" if given.tile else "whole"
    print(f"{given.method} {given.network} {given.side} px, {tiles}: {int(peak) // 1024} MB, {seconds:.1f} s")


if __name__ == "__main__":
    main()
