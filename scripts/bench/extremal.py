"""Cost of a step of extremal perturbation against the published algorithm: python scripts/bench/extremal.py.

The published algorithm is restated: the mask is pooled over all cells around every pixel, on a plane with a
margin around the image, and sorted; one image, all areas in one batch. Both start from cells at 1 and ask for
the same areas on a ResNet-18 with random weights, whose bare forward-plus-backward passes are timed beside
them. Prints medians over repeats in order A B B A, their ratio, and both objectives, counted on the image, at
the end;
then the peak memory of different numbers of masks at one chunk size, each in a process of its own.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18  # type: ignore[import-untyped]

from verisal.functional.scopes import frozen
from verisal.saliency import ExtremalPerturbation
from verisal.saliency.perturbation.smooth_masks import area_deviation, blur_pyramid, pyramid_blend

AREAS = ((0.1,), (0.025, 0.05, 0.1, 0.2))
STEP, SIGMA, COLDNESS = 7, 21.0, 20.0


class PublishedMask:
    """Soft-max pooling as published: neighbours unfolded, weighted and summed at every pixel."""

    def __init__(self, size: int) -> None:
        self.size, self.margin = size, int(SIGMA)
        self.padding, self.radius = 1 + math.ceil(2 * SIGMA / STEP), 1 + math.ceil(SIGMA / STEP)
        self.taps = 2 * self.radius + 1
        self.cells = math.ceil(size / STEP)
        self.middle = self.cells + 2 * self.padding - self.taps + 1
        self.plane = STEP * self.middle - STEP + 1
        places = torch.arange(self.plane)
        cells = (places // STEP)[:, None] + torch.arange(self.taps) - self.padding
        offsets = (places[:, None] - self.margin - STEP * cells).float().square().T
        distances = (offsets[:, None, :, None] + offsets[None, :, None, :]).sqrt()
        weights = (-2 * (distances / SIGMA - 0.5).clamp(min=0) ** 2).exp()
        self.weights = weights.reshape(1, self.taps**2, self.plane, self.plane)

    def __call__(self, cells: Tensor) -> Tensor:
        """``(N, 1, P, P)`` masks on the plane of ``cells (N, 1, h, w)``."""
        near = F.unfold(F.pad(cells, (self.padding,) * 4), self.taps)
        near = near.view(len(cells), self.taps**2, self.middle, self.middle)
        near = F.interpolate(near, scale_factor=STEP, mode="nearest")[:, :, : self.plane, : self.plane]
        near = self.weights * near
        return (near * (COLDNESS * near).softmax(dim=1)).sum(dim=1, keepdim=True).clamp(0, 1)

    def cropped(self, plane: Tensor) -> Tensor:
        """The image's part of the plane, ``(N, 1, H, W)``."""
        inner = slice(self.margin, self.margin + self.size)
        return plane[:, :, inner, inner]


def published(network: nn.Module, image: Tensor, query: int, areas: tuple[float, ...], steps: int) -> Tensor:
    """Masks ``(A, 1, H, W)`` of one image ``(1, 3, H, W)``."""
    size = image.shape[-1]
    pyramid = blur_pyramid(image, levels=8, max_sigma=20.0).expand(len(areas), -1, -1, -1, -1)
    generate = PublishedMask(size)
    ordered = torch.zeros(len(areas), generate.plane**2)
    for row, area in enumerate(areas):
        ordered[row, -math.ceil(size**2 * area) :] = 1
    cells = torch.ones(len(areas), 1, generate.cells, generate.cells, requires_grad=True)
    optimiser = torch.optim.SGD([cells], lr=0.01, momentum=0.9, dampening=0.9)
    weight = 300.0
    for step in range(steps):
        plane = generate(cells)
        masks = generate.cropped(plane)
        shown = pyramid_blend(pyramid, masks)
        reward = network(shown.flip(3) if step % 2 == 0 else shown)[:, query]
        deviation = (plane.flatten(1).sort(dim=1).values - ordered).square().mean(dim=1)
        energy = (reward - weight * deviation).sum()
        (cells.grad,) = torch.autograd.grad(-energy, cells)
        optimiser.step()
        with torch.no_grad():
            cells.clamp_(0, 1)
        weight *= 1.0035
    return generate.cropped(generate(cells)).detach()


def bare(network: nn.Module, image: Tensor, masks: int, steps: int) -> None:
    """Only the network's passes, at the same batch size."""
    for _ in range(steps):
        batch = image.repeat(masks, 1, 1, 1).requires_grad_()
        torch.autograd.grad(network(batch)[:, 0].sum(), batch)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(areas: tuple[float, ...], size: int, steps: int, repeats: int) -> None:
    """Print the seconds per step of the three, and the objectives."""
    network, image, query = _problem(size, 1)
    method = ExtremalPerturbation(areas=areas, steps=steps)
    calls: dict[str, Callable[[], object]] = {
        "published": lambda: published(network, image, int(query), areas, steps),
        "ours": lambda: method.masks(network, image, query),
        "network": lambda: bare(network, image, len(areas), steps),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with frozen(network):
        _ = [call() for call in calls.values()]
        for repeat in range(repeats):
            for name in list(calls) if repeat % 2 == 0 else reversed(calls):
                seconds[name].append(_seconds(calls[name]) / steps)
        theirs = published(network, image, int(query), areas, steps)
        ours = method.masks(network, image, query)[0].unsqueeze(1)
        values = [_objective(network, image, int(query), masks, areas) for masks in (theirs, ours)]
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    ratios = [a / b for a, b in zip(seconds["published"], seconds["ours"], strict=True)]
    print(f"{len(areas)} areas: " + ", ".join(f"{name} {value:.3f} s" for name, value in medians.items()))
    print(f"  ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print("  objective per area, published and ours:", *(value.numpy().round(4) for value in values))


@torch.no_grad()
def _objective(
    network: nn.Module, image: Tensor, query: int, masks: Tensor, areas: tuple[float, ...]
) -> Tensor:
    pyramid = blur_pyramid(image, levels=8, max_sigma=20.0).expand(len(areas), -1, -1, -1, -1)
    pixels = image.shape[-1] ** 2
    counts = [math.ceil(area * pixels) for area in areas]
    rows = masks.split(1)  # type: ignore[no-untyped-call]
    deviation = [area_deviation(mask, count) for mask, count in zip(rows, counts, strict=True)]
    reward: Tensor = network(pyramid_blend(pyramid, masks))[:, query]
    return reward - 300 * torch.cat(deviation)


def _problem(size: int, count: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    network = resnet18().eval()
    images = F.interpolate(torch.rand(count, 3, 14, 14), size=size, mode="bicubic").clamp(0, 1)
    with torch.no_grad():
        return network, images, network(images).argmax(dim=1)


def _peak(count: int, size: int, threads: int) -> float:
    torch.set_num_threads(threads)
    network, images, query = _problem(size, count)
    ExtremalPerturbation(areas=AREAS[1], steps=2, chunk_size=4)(network, images, query)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.steps} steps, load {load:.1f}")
    for areas in AREAS:
        measure(areas, arguments.size, arguments.steps, arguments.repeats)
    context = multiprocessing.get_context("spawn")
    for count in (1, 4):
        with context.Pool(1) as pool:
            peak = pool.apply(_peak, (count, arguments.size, arguments.threads))
        print(f"peak memory of {4 * count} masks, 4 at once: {peak:.0f} MiB")


if __name__ == "__main__":
    main()
