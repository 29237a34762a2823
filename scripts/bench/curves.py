"""Cost of insertion and deletion curves and of ROAD: python scripts/bench/curves.py.

Every comparison asserts equality first, then times both sides in the order A B B A and prints the medians,
the median of the paired ratios (other / ours; above 1 ours is faster) and its spread.

- torch-cam's DeletionInsertionMetric: both curves of the same maps, 224 px, 224 steps, a network that costs
  next to nothing. Each side's time is less that of bare passes of the network over as many images.
- bare passes: both curves with a ResNet-18 with random weights; there the ratio is ours / bare.
- Quantus' PixelFlipping: the deletion curve, 192 px, 192 steps. It removes single channel values, which are
  whole pixels here because every step is a multiple of three of them; at 224 px it refuses such steps.
- one sparse solve per image and share: ROAD without noise.

The other packages need an environment of their own; one that is missing is reported as such.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec

import torch
import torchvision  # type: ignore[import-untyped]  # ships no stubs
from imputation import assembled
from scipy.sparse.linalg import spsolve
from torch import Tensor, nn

from verisal.functional.baselines import Constant, LinearImputation
from verisal.functional.removal import curve_area, perturbation_curve, removal_scores
from verisal.functional.removal.curves import pixel_ranks

BLACK = Constant()
# Changed images that stay in the cache until the network has read them; torch-cam's own choice.
CHUNK, THEIR_CHUNK = 8, 32
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)


class Trivial(nn.Module):
    """Two logits that read four rows of the image."""

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 2)``."""
        return torch.stack([images[:, :, :4].mean(dim=(1, 2, 3)), images[:, 0, 0, 0] * 0.1], dim=1)


class GivenMaps:
    """What torch-cam's metric asks of an extractor."""

    def __init__(self, model: nn.Module, maps: Tensor) -> None:
        self.model, self.maps = model, maps

    def __call__(self, *_: object, **__: object) -> list[Tensor]:
        """The maps ``(B, H, W)`` of the only layer."""
        return [self.maps]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        """The maps of the only layer."""
        return cams[0]

    def _hooks_off(self) -> AbstractContextManager[None]:
        return nullcontext()


def seconds(call: Callable[[], object]) -> float:
    """Of the CPU with one thread, so that other work on the machine does not count; of the wall with more."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    call()
    return clock() - start


def in_turns(
    ours: Callable[[], object], other: Callable[[], object], repeats: int
) -> list[tuple[float, float]]:
    """Seconds of both, repeated in the order A B B A."""
    ours(), other()
    pairs = []
    for repeat in range(repeats):
        if repeat % 2 == 0:
            mine, theirs = seconds(ours), seconds(other)
        else:
            theirs, mine = seconds(other), seconds(ours)
        pairs.append((mine, theirs))
    return pairs


def report(name: str, pairs: Iterable[tuple[float, float]], *, inverse: bool = False) -> None:
    """Print one line."""
    ours, other = zip(*pairs, strict=True)
    ratios = sorted(a / b if inverse else b / a for a, b in zip(ours, other, strict=True))
    print(
        f"{name:<52} {statistics.median(ours) * 1e3:>9.1f} {statistics.median(other) * 1e3:>9.1f}"
        f" {statistics.median(ratios):>7.3f}  {ratios[0]:.3f}..{ratios[-1]:.3f}",
        flush=True,
    )


def require_equal(name: str, ours: Tensor, other: Tensor, tolerance: float) -> None:
    """Stop before anything is timed where results differ."""
    difference = float((ours.double() - other.double()).abs().max())
    if not difference <= tolerance:
        raise SystemExit(f"{name}: differs by {difference:.2g}, more than {tolerance:.0e}: nothing is timed")


def problem(count: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, maps without ties, query classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, side, side, generator=generator)
    places = [torch.randperm(side * side, generator=generator) for _ in range(count)]
    maps = torch.stack(places).view(count, 1, side, side).float()
    return images, maps, torch.zeros(count, dtype=torch.int64)


def both_curves(
    network: nn.Module, images: Tensor, maps: Tensor, query: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Areas of deletion and insertion, ``(B,)`` each."""
    fills = BLACK(images)
    deletion, insertion = (
        curve_area(
            *perturbation_curve(
                network,
                images,
                maps,
                query,
                baseline=fills,
                direction=direction,
                steps=steps,
                chunk_size=CHUNK,
            )
        )
        for direction in ("remove", "insert")
    )
    return deletion, insertion


def bare_passes(network: nn.Module, images: Tensor, total: int) -> None:
    """``total`` images of this size through the network."""
    ready = images[:1].expand(CHUNK, -1, -1, -1).contiguous()
    with torch.no_grad():
        for start in range(0, total, CHUNK):
            network(ready[: total - start])


def against_torchcam(count: int, steps: int, repeats: int) -> None:
    """Both curves, less bare passes."""
    if find_spec("torchcam") is None:
        print("torch-cam: not installed")
        return
    from torchcam.metrics import DeletionInsertionMetric

    network = Trivial()
    images, maps, query = problem(count, 224)

    def other() -> dict[str, float]:
        metric = DeletionInsertionMetric(
            GivenMaps(network, maps[:, 0]),
            partial(torch.softmax, dim=-1),
            steps=steps,
            batch_size=THEIR_CHUNK,
        )
        metric.update(images, query.tolist())
        areas: dict[str, float] = metric.summary()
        return areas

    ours = partial(both_curves, network, images, maps, query, steps)
    areas = other()
    for found, name in zip(ours(), ("deletion_auc", "insertion_auc"), strict=True):
        require_equal(f"torch-cam {name}", found.mean(), torch.tensor(areas[name]), 1e-5)
    bare = statistics.median(
        seconds(partial(bare_passes, network, images, 2 * count * (steps + 1))) for _ in range(repeats)
    )
    pairs = in_turns(ours, other, repeats)
    report(
        f"torch-cam: {count} images, less {bare * 1e3:.0f} ms of passes",
        [(a - bare, b - bare) for a, b in pairs],
    )


def against_bare_passes(steps: int, repeats: int) -> None:
    """Both curves of one image with a real network."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18().eval()
    images, maps, query = problem(1, 224)
    ours = partial(both_curves, network, images, maps, query, steps)
    # As many passes, as large: each curve is a queue of its own.
    bare = partial(bare_passes, network, images, steps + 1)
    pairs = in_turns(ours, lambda: (bare(), bare()), repeats)
    report(f"bare passes: ResNet-18, {steps} steps (ours / bare)", pairs, inverse=True)


def against_quantus(count: int, repeats: int) -> None:
    """The deletion curve of pixels."""
    if find_spec("quantus") is None:
        print("Quantus: not installed")
        return
    import quantus  # type: ignore[import-not-found]

    side = steps = 192
    network = Trivial().eval()
    images, maps, query = problem(count, side)
    metric = quantus.PixelFlipping(
        features_in_step=3 * side * side // steps,
        normalise=False,
        perturb_baseline="black",
        disable_warnings=True,
    )
    arrays = {"x_batch": images.numpy(), "y_batch": query.numpy(), "a_batch": maps.numpy()}

    def other() -> list[list[float]]:
        scores: list[list[float]] = metric(model=network, device="cpu", **arrays)
        return scores

    def ours() -> Tensor:
        return perturbation_curve(
            network, images, maps, query, baseline=BLACK, steps=steps, chunk_size=CHUNK
        )[1]

    require_equal("Quantus", ours()[:, 1:], torch.tensor(other()), 1e-5)
    report(f"Quantus: {count} images, {side} px, {steps} steps", in_turns(ours, other, repeats))


def against_sparse_solves(count: int, side: int, repeats: int) -> None:
    """ROAD with the most relevant pixels first."""
    network = Trivial()
    images, maps, query = problem(count, side)
    images = nn.functional.avg_pool2d(images, 9, stride=1, padding=4, count_include_pad=False)
    maps = nn.functional.avg_pool2d(maps, 31, stride=1, padding=15, count_include_pad=False)
    ranks = pixel_ranks(maps)[:, 0].numpy()
    pixels = images.double().numpy()

    def other() -> Tensor:
        scores = []
        for image, order in zip(pixels, ranks, strict=True):
            for share in SHARES:
                removed = order < round(share * side * side)
                filled = image.copy()
                filled[:, removed] = spsolve(*assembled(image, removed)).T
                scores.append(network(torch.from_numpy(filled)[None].float()).softmax(dim=1)[0, 0])
        return torch.stack(scores).view(count, -1)

    def ours() -> Tensor:
        baseline = LinearImputation(noise=0)
        return removal_scores(network, images, maps, query, baseline=baseline, shares=SHARES)[0]

    require_equal("ROAD", ours(), other(), 1e-3)
    report(f"sparse solves: {count} images, {len(SHARES)} shares, {side} px", in_turns(ours, other, repeats))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--steps", type=int, default=224)
    parser.add_argument("--network-steps", type=int, default=15, help="of the curves with the ResNet-18")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}")
    print(f"{'':<52} {'ours ms':>9} {'other ms':>9} {'ratio':>7}  spread")
    against_torchcam(arguments.images, arguments.steps, arguments.repeats)
    against_quantus(arguments.images, arguments.repeats)
    against_bare_passes(arguments.network_steps, arguments.repeats)
    against_sparse_solves(arguments.images, 224, arguments.repeats)


if __name__ == "__main__":
    main()
