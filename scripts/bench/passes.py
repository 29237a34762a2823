"""Passes against noise of perturbation maps, plain and with fewer: python scripts/bench/passes.py.

Scenes at 64 px by the shipped classifier; with --folder, that many of a folder's pictures at 224 px by
EfficientNet-Lite0. Maps are of the predicted class.

RISE, mean over the images: ``noise`` is what the two halves of the masks say, ``error`` the relative L2
distance to maps of --reference orthogonal masks of another seed, both after the mean over positions is taken
away, and ``rank`` the Spearman correlation with them; ``plain`` is the number of plain masks of that error,
which falls with their square root. Then the same with a stop at each --until.

Occlusion: windows that were asked about, distance to the map of all windows, and rank correlation with it,
beside larger strides of all windows.

Extremal perturbation with --extremal: steps that were taken with a stop at each --change and with fewer steps
for all, distance to the map of all 800 steps and rank correlation with it, and the mask's own change.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from verisal.data import EmojiScenes, decode_image, resize_image
from verisal.fingerprint import row_digests
from verisal.functional.baselines import DatasetMean
from verisal.functional.comparison import spearman
from verisal.models import Classifier, load_classifier
from verisal.saliency import RISE, ExtremalPerturbation, Occlusion
from verisal.types import SaliencyResult


class Remembered:
    """A classifier that is asked about no picture twice, so that shorter runs are free after longer ones."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier, self._known = classifier, dict[bytes, Tensor]()

    def __call__(self, images: Tensor) -> Tensor:
        """Logits."""
        keys = row_digests(images, 16)
        new = {key: place for place, key in enumerate(keys) if key not in self._known}
        if new:
            logits = self.classifier(images[list(new.values())])
            self._known |= dict(zip(new, logits, strict=True))
        return torch.stack([self._known[key] for key in keys])


def _apart(found: Tensor, reference: Tensor) -> float:
    """Mean over the images of the relative L2 distance, without the mean over positions."""
    one, other = (maps.flatten(1) - maps.flatten(1).mean(dim=1, keepdim=True) for maps in (found, reference))
    return float(((one - other).norm(dim=1) / other.norm(dim=1)).mean())


def _attribution(result: SaliencyResult) -> Tensor:
    assert result.attribution is not None  # noqa: S101 - both methods have one
    return result.attribution


def measure_rise(
    classifier: Remembered, images: Tensor, query: Tensor, arguments: argparse.Namespace
) -> None:
    """Two tables: by number of masks, and by the noise at which an image stops."""
    base = RISE(baseline=DatasetMean(mean=classifier.classifier.normalization.mean))
    long = replace(base, masks=arguments.reference, sampling="orthogonal", seed=99)
    result = long(classifier, images, query)
    reference = _attribution(result)
    print(f"\nRISE; the reference's own noise {float(result.diagnostics['noise'].mean()):.3f}")
    print(
        f"{'sampling':<12} {'until':>6} {'masks':>7} {'fewest, most':>13} {'noise':>7} {'error':>7}"
        f" {'rank':>6} {'plain':>7}"
    )
    plain = 0.0
    for sampling in arguments.samplings:
        for count in (*arguments.masks, *arguments.until):
            method = replace(base, sampling=sampling, masks=max(arguments.masks))
            stops = isinstance(count, float)
            method = replace(method, until=count) if stops else replace(method, masks=count)
            result = method(classifier, images, query)
            maps, taken = _attribution(result), result.diagnostics["masks"]
            noise = float(result.diagnostics["noise"].mean())
            error, rank = _apart(maps, reference), float(spearman(maps, reference).mean())
            if sampling == "plain" and not stops:
                plain = error**2 * count
            print(
                f"{sampling:<12} {count if stops else '':>6} {float(taken.double().mean()):>7.0f}"
                f" {int(taken.min()):>6} {int(taken.max()):>6} {noise:>7.3f}"
                f" {error:>7.3f} {rank:>6.3f} {plain / error**2:>7.0f}",
                flush=True,
            )


def measure_occlusion(
    classifier: Remembered, images: Tensor, query: Tensor, windows: Sequence[tuple[int, int]]
) -> None:
    """Shares at which windows are left out, and strides."""
    baseline = DatasetMean(mean=classifier.classifier.normalization.mean)
    print(f"\nocclusion\n{'window':>6} {'stride':>6} {'refine':>7} {'passes':>7} {'error':>7} {'rank':>6}")
    for window, stride in windows:
        full = Occlusion(window=window, stride=stride, baseline=baseline)
        reference = _attribution(full(classifier, images, query))
        refined = [replace(full, refine=share) for share in (0.02, 0.05, 0.1, 0.2)]
        strides = [replace(full, stride=wide) for wide in sorted({stride * 3 // 2, stride * 2})]
        for method in (full, *refined, *strides):
            result = method(classifier, images, query)
            maps = _attribution(result)
            print(
                f"{window:>6} {method.stride:>6} {method.refine or '':>7} {result.n_forward:>7.1f}"
                f" {_apart(maps, reference):>7.3f} {float(spearman(maps, reference).mean()):>6.3f}",
                flush=True,
            )


def measure_extremal(classifier: Classifier, images: Tensor, query: Tensor, changes: Sequence[float]) -> None:
    """Changes at which a mask is done, and numbers of steps."""
    full = ExtremalPerturbation()
    reference = full(classifier, images, query).saliency
    print(
        f"\nextremal\n{'until':>7} {'steps':>6} {'fewest, most':>13} {'change':>7} {'error':>7} {'rank':>6}"
    )
    stopping = [replace(full, until=change) for change in changes]
    shorter = [replace(full, steps=count) for count in (100, 200, 400, 600)]
    for method in (full, *stopping, *shorter):
        result = method(classifier, images, query)
        steps, change = result.diagnostics["steps"], result.diagnostics["change"]
        print(
            f"{method.until or '':>7} {float(steps.mean()):>6.0f} {int(steps.min()):>6} {int(steps.max()):>6}"
            f" {float(change.mean()):>7.4f} {_apart(result.saliency, reference):>7.3f}"
            f" {float(spearman(result.saliency, reference).mean()):>6.3f}",
            flush=True,
        )


def _pictures(folder: Path, count: int, size: int) -> Tensor:
    """``(count, 3, size, size)``: pictures of a folder and of those in it, spread over their sorted names."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    chosen = found[:: max(1, len(found) // count)][:count]
    return torch.stack([resize_image(decode_image(path), size) for path in chosen])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=None, help="of pictures; scenes where there is none")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--samplings", nargs="*", default=["plain", "sobol", "orthogonal"])
    parser.add_argument("--masks", type=int, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--until", type=float, nargs="*", default=[0.3, 0.2, 0.1])
    parser.add_argument("--reference", type=int, default=4096, help="masks of the reference")
    parser.add_argument("--windows", type=int, nargs="*", default=None, help="window and stride, in turn")
    parser.add_argument("--extremal", action="store_true", help="measure extremal perturbation, too")
    parser.add_argument("--change", type=float, nargs="*", default=[0.1, 0.05, 0.02, 0.01])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    start = time.process_time()
    if arguments.folder is None:
        network = load_classifier("emoji_scenes_64")
        images = EmojiScenes("det_val", arguments.images).stack(range(arguments.images)).images
    else:
        network = load_classifier("imagenet_efficientnet_lite0")
        images = _pictures(arguments.folder, arguments.images, 224)
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, {len(images)} images of {images.shape[-1]} px, load {load:.1f}")
    classifier = Remembered(network)
    with torch.no_grad():
        query = network(images).argmax(dim=1)
    if arguments.samplings:
        measure_rise(classifier, images, query, arguments)
    usual = [8, 4, 16, 4] if arguments.folder is None else [16, 8]
    if sizes := usual if arguments.windows is None else arguments.windows:
        measure_occlusion(classifier, images, query, list(zip(sizes[::2], sizes[1::2], strict=True)))
    if arguments.extremal:
        measure_extremal(network, images, query, arguments.change)
    print(f"\n{time.process_time() - start:.0f} s of CPU time")


if __name__ == "__main__":
    main()
