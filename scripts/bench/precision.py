"""What memory layout and bfloat16 do to speed and results: python scripts/bench/precision.py.

Prints, per classifier and way of computing, images per second of a forward pass, of a forward pass with the
gradient by the image, and of HAF masks (median over repeats in which all ways take turns), and how far the
results are from those of float32 with channels first: the largest change of a logit and of a gradient, each
relative to the largest value of its image, and of a map scaled to [0, 1]; and how many predictions change.

With --gradients: how far weight gradients of one convolution are off in bfloat16, by the size of its maps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from verisal.data import EmojiScenes
from verisal.functional.scopes import frozen
from verisal.models import Classifier, load_classifier
from verisal.saliency import HierarchicalMasks
from verisal.types import StagedClassifier, StageOutputs

_NETWORKS = {"emoji_scenes_64": 64, "imagenet_efficientnet_lite0": 8}
_WAYS = ("float32", "channels_last", "bf16", "channels_last + bf16")


@final
class _Computed(StagedClassifier):
    """A classifier whose passes run under autocast, and whose logits and activations are float32."""

    def __init__(self, classifier: Classifier, *, device: str, bf16: bool) -> None:
        super().__init__()
        self.classifier, self._device, self._bf16 = classifier, device, bf16

    @property
    def stages(self) -> tuple[str, ...]:
        """Of the classifier."""
        return self.classifier.stages

    @property
    def num_classes(self) -> int:
        """Of the classifier."""
        return self.classifier.num_classes

    def _cast(self) -> AbstractContextManager[None]:
        return torch.autocast(self._device, dtype=torch.bfloat16, enabled=self._bf16)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        with self._cast():
            logits: Tensor = self.classifier(images)
        return logits.float()

    def prefix(self, images: Tensor) -> Tensor:
        """Activation of the first stage."""
        with self._cast():
            return self.classifier.prefix(images).float()

    def gated(self, first: Tensor, gates: Sequence[Tensor]) -> Tensor:
        """Logits with gates."""
        with self._cast():
            return self.classifier.gated(first, gates).float()

    def stage_outputs(self, images: Tensor) -> StageOutputs:
        """Logits and activations."""
        with self._cast():
            found = self.classifier.stage_outputs(images)
        return StageOutputs(found.logits.float(), tuple(part.float() for part in found.activations))


@dataclass(frozen=True)
class _Way:
    network: _Computed
    images: Tensor

    def forward(self) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.network(self.images)
        return logits

    def gradient(self, query: Tensor) -> Tensor:
        leaf = self.images.detach().clone().requires_grad_()
        with frozen(self.network):
            logits = self.network(leaf)
            (found,) = torch.autograd.grad(logits.gather(1, query[:, None]).sum(), leaf)
        return found

    def masks(self, query: Tensor, steps: int) -> Tensor:
        method = HierarchicalMasks(steps=steps, learning_rate=1 / steps)
        found = method(self.network, self.images, query).saliency
        return found / found.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)


def _images(name: str, size: int, count: int) -> Tensor:
    """Scenes, scaled where the network takes larger images; what is in them does not matter for speed."""
    scenes = EmojiScenes("det_val", count, size=64).stack(range(count)).images
    if size == 64:
        return scenes
    return nn.functional.interpolate(scenes, size=(size, size), mode="bicubic").clamp(0, 1)


def _way(name: str, way: str, images: Tensor, device: str) -> _Way:
    classifier = load_classifier(name).to(device)
    images = images.to(device)
    if "channels_last" in way:
        classifier = classifier.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    return _Way(_Computed(classifier, device=device, bf16="bf16" in way), images)


def _timed(calls: Iterable[Callable[[], Tensor]], device: str, repeats: int) -> list[tuple[float, Tensor]]:
    """Median seconds and result of each call; all take turns, so that a busy machine is unjust to none."""
    calls = list(calls)
    results = [call() for call in calls]
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for taken, call in zip(seconds, calls, strict=True):
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
    return [(statistics.median(taken), result) for taken, result in zip(seconds, results, strict=True)]


def _apart(found: Tensor, reference: Tensor) -> float:
    """Largest change relative to the largest value of its image."""
    scale = reference.flatten(1).abs().amax(dim=1).clamp_min(1e-12)
    return float(((found - reference).flatten(1).abs().amax(dim=1) / scale).max())


def measure(name: str, *, batch: int, steps: int, repeats: int, device: str) -> None:
    """Print one table."""
    size = load_classifier(name).image_size
    images = _images(name, size, batch)
    ways = [_way(name, way, images, device) for way in _WAYS]
    query = ways[0].forward().argmax(dim=1)
    forward = _timed([way.forward for way in ways], device, repeats)
    gradient = _timed([lambda way=way: way.gradient(query) for way in ways], device, repeats)  # type: ignore[misc]
    masks = _timed(
        [lambda way=way: way.masks(query, steps) for way in ways],  # type: ignore[misc]
        device,
        max(1, repeats // 4),
    )
    print(f"\n{name}, {size} px, {batch} images at once, HAF of {steps} steps, {device}")
    print(
        f"{'':>22} {'forward/s':>10} {'gradient/s':>11} {'masks/s':>9} {'logit':>9} {'gradient':>9}"
        f" {'map':>9} {'other class':>12}"
    )
    for index, way in enumerate(_WAYS):
        changes = [_apart(results[index][1], results[0][1]) for results in (forward, gradient, masks)]
        other = int((forward[index][1].argmax(dim=1) != query).sum())
        print(
            f"{way:>22} {batch / forward[index][0]:>10.1f} {batch / gradient[index][0]:>11.1f}"
            f" {batch / masks[index][0]:>9.2f} {changes[0]:>9.1e} {changes[1]:>9.1e} {changes[2]:>9.1e}"
            f" {other:>5} of {batch}"
        )


def weight_gradients(size: int, *, device: str, repeats: int = 100) -> tuple[int, float]:
    """In how many cases a convolution's weight gradient is not finite, and the largest relative error else.

    Each case runs after memory full of NaN was freed, which shows whether a kernel reads what nobody wrote.
    """
    broken, worst = 0, 0.0
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(32, 16, size, size, generator=generator).to(device)
    convolution = nn.Conv2d(16, 16, 3, stride=2, padding=1, bias=False).to(device)
    for _ in range(repeats):
        freed = [torch.full((count,), float("nan"), device=device) for count in (512, 1152, 2304, 4608, 9216)]
        del freed
        found = []
        for bf16 in (False, True):
            with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
                output = convolution(images)
            found.append(torch.autograd.grad(output.float().square().sum(), convolution.weight)[0])
        if bool(found[1].isfinite().all()):
            worst = max(worst, float((found[1] - found[0]).abs().max() / found[0].abs().max()))
        else:
            broken += 1
    return broken, worst


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classifier", choices=sorted(_NETWORKS), action="append")
    parser.add_argument("--batch", type=int, default=None, help="images at once")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--gradients", action="store_true", help="look at weight gradients alone")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"torch {torch.__version__}, {arguments.threads} threads, {torch.backends.cpu.get_cpu_capability()}"
    )
    if arguments.gradients:
        for size in (1, 2, 4, 8):
            broken, worst = weight_gradients(size, device=arguments.device)
            print(f"maps of {size} px: {broken} of 100 not finite, largest relative error {worst:.1e}")
        return
    for name in arguments.classifier or _NETWORKS:
        measure(
            name,
            batch=arguments.batch or _NETWORKS[name],
            steps=arguments.steps,
            repeats=arguments.repeats,
            device=arguments.device,
        )


if __name__ == "__main__":
    main()
