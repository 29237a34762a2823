"""Cost of occlusion and RISE, and of RISE's masks: python scripts/bench/perturbation.py.

Every comparison asserts equality first, then times both sides in the order A B B A and prints the medians,
the median of the paired ratios (other / ours; above 1 ours is faster) and their spread. "bare passes" is what
the classifier alone takes for as many images in passes of the same size; there the ratio is ours / bare.

Compared: captum's Occlusion with as many windows a pass as ours; the published RISE algorithm, restated (one
image at a time, masks resized and cut one by one, maps of all classes kept until the query is picked); masks
resized by scipy one by one as first published, by F.interpolate one by one, and by F.interpolate at once.
Sizes: S, the shipped classifier at 64 px, and L, a ResNet-18 with random weights at 224 px.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
import torchvision  # type: ignore[import-untyped]  # ships no stubs
from captum.attr import Occlusion as CaptumOcclusion  # type: ignore[import-untyped]  # ships no stubs
from scipy.ndimage import zoom
from torch import Tensor
from torch.nn import functional as F

from verisal.functional.baselines import Constant, compose
from verisal.models import load_classifier
from verisal.saliency import RISE, Occlusion
from verisal.saliency.perturbation.rise import cell_size, upsample_cells

GREY = Constant(level=0.5)
Classify = Callable[[Tensor], Tensor]


def _compare(name: str, ours: Callable[[], object], other: Callable[[], object], repeats: int) -> None:
    ours(), other()
    # With one thread CPU seconds say the same as wall seconds, and less of what else the machine does.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    pairs = []
    for repeat in range(repeats):
        seconds = {}
        for call in (ours, other) if repeat % 2 == 0 else (other, ours):
            start = clock()
            call()
            seconds[call] = clock() - start
        pairs.append((seconds[ours], seconds[other]))
    bare = name.endswith("bare passes")
    ratios = sorted(a / b if bare else b / a for a, b in pairs)
    mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"{name:<46} {mine * 1e3:>10.1f} {theirs * 1e3:>10.1f} {statistics.median(ratios):>7.3f}"
        f"  {ratios[0]:.3f}..{ratios[-1]:.3f}",
        flush=True,
    )


def _equal(name: str, ours: Tensor, other: Tensor, tolerance: float) -> None:
    difference = float((ours - other).abs().max())
    if not difference <= tolerance:
        raise SystemExit(f"{name}: differs by {difference:.2g}, more than {tolerance:.0e}")


def _bare(classifier: Classify, images: Tensor, total: int, at_once: int) -> Callable[[], None]:
    """Passes of ready images: ``total`` of them, at most ``at_once`` a pass."""
    ready = images.repeat(-(-at_once // len(images)), 1, 1, 1)[:at_once].contiguous()

    def passes() -> None:
        with torch.no_grad():
            for start in range(0, total, at_once):
                classifier(ready[: min(at_once, total - start)])

    return passes


def _random_cells(count: int, cells: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    steps = cell_size(cells, size)
    kept = (torch.rand(count, cells, cells, generator=generator) < 0.5).float()
    return kept, torch.stack([torch.randint(step, (count,), generator=generator) for step in steps], dim=1)


def _one_by_one(cells: Tensor, shifts: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = cell_size(cells.shape[-1], size)
    large = ((cells.shape[-1] + 1) * height, (cells.shape[-1] + 1) * width)
    masks = []
    for grid, (down, right) in zip(cells, shifts.tolist(), strict=True):
        mask = F.interpolate(grid[None, None], size=large, mode="bilinear", align_corners=False)[0]
        masks.append(mask[:, down : down + size[0], right : right + size[1]])
    return torch.stack(masks)


def _by_scipy(cells: Tensor, shifts: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = cell_size(cells.shape[-1], size)
    side = cells.shape[-1]
    factors = ((side + 1) * height / side, (side + 1) * width / side)
    masks = []
    for grid, (down, right) in zip(cells.numpy(), shifts.tolist(), strict=True):
        mask = zoom(grid, factors, order=1, mode="nearest", grid_mode=True)
        masks.append(torch.from_numpy(mask[down : down + size[0], right : right + size[1]]))
    return torch.stack(masks)[:, None]


def _at_once(cells: Tensor, shifts: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = cell_size(cells.shape[-1], size)
    large = ((cells.shape[-1] + 1) * height, (cells.shape[-1] + 1) * width)
    resized = F.interpolate(cells[:, None], size=large, mode="bilinear", align_corners=False)
    masks = cells.new_empty(len(cells), 1, *size)
    for index, (down, right) in enumerate(shifts.tolist()):
        masks[index] = resized[index, :, down : down + size[0], right : right + size[1]]
    return masks


def measure_masks(side: int, count: int, repeats: int, *, chunk: int) -> None:
    """All ``count`` masks in chunks; a plain interpolation in the same chunks and as a whole."""
    size = (side, side)
    grids, shifts = _random_cells(count, 7, size)
    out = grids.new_empty(chunk, 1, *size)
    chunks = [slice(start, start + chunk) for start in range(0, count, chunk)]

    def ours() -> None:
        for some in chunks:
            upsample_cells(grids[some], shifts[some], size, out=out[: len(grids[some])])

    def theirs(make: Callable[[Tensor, Tensor, tuple[int, int]], Tensor]) -> Callable[[], None]:
        _equal("masks", upsample_cells(grids, shifts, size), make(grids, shifts, size), 1e-5)

        def by_chunk() -> None:
            for some in chunks:
                make(grids[some], shifts[some], size)

        return by_chunk

    label = f"{count} masks {side} px"
    _compare(f"{label}: scipy, one by one", ours, theirs(_by_scipy), repeats)
    _compare(f"{label}: F.interpolate, one by one", ours, theirs(_one_by_one), repeats)
    _compare(f"{label}: F.interpolate, {chunk} at once", ours, theirs(_at_once), repeats)
    _compare(f"{label}: F.interpolate, all at once", ours, lambda: _at_once(grids, shifts, size), repeats)


def measure_occlusion(
    label: str, classifier: Classify, images: Tensor, query: Tensor, method: Occlusion, repeats: int
) -> None:
    """Against captum at the same number of windows a pass, and against bare passes."""
    window, windows_a_pass = method.window, max(1, method.chunk_size // len(images))
    theirs = CaptumOcclusion(classifier)

    def captum() -> Tensor:
        with torch.no_grad():
            found: Tensor = theirs.attribute(
                images,
                sliding_window_shapes=(3, window, window),
                strides=(3, method.stride, method.stride),
                baselines=0.5,
                target=query,
                perturbations_per_eval=windows_a_pass,
            )
        return found

    def ours() -> Tensor:
        found = method(classifier, images, query)
        assert found.attribution is not None  # noqa: S101 - occlusion always has one
        return found.attribution

    _equal("occlusion", ours(), captum()[:, :1], 1e-4)
    total = int(method(classifier, images, query).n_forward) * len(images)
    at_once = windows_a_pass * len(images)
    _compare(f"{label} occlusion: bare passes", ours, _bare(classifier, images, total, at_once), repeats)
    _compare(f"{label} occlusion: captum", ours, captum, repeats)


def _published_rise(
    classifier: Classify, images: Tensor, query: Tensor, grids: Tensor, shifts: Tensor, at_once: int
) -> Tensor:
    """One image after the other, masks made one by one, the map of every class kept until the end."""
    size = (images.shape[-2], images.shape[-1])
    maps = []
    with torch.no_grad():
        for image, wanted in zip(images, query, strict=True):
            total = torch.zeros(0)
            for start in range(0, len(grids), at_once):
                some = slice(start, start + at_once)
                masks = _one_by_one(grids[some], shifts[some], size)
                scores = classifier(compose(image, torch.full_like(image, 0.5), masks)).softmax(dim=1)
                part = torch.einsum("nk,nhw->khw", scores, masks[:, 0])
                total = part if not len(total) else total + part
            maps.append(total[wanted] / (len(grids) * 0.5))
    return torch.stack(maps)[:, None]


def measure_rise(
    label: str, classifier: Classify, images: Tensor, query: Tensor, method: RISE, repeats: int
) -> None:
    """Against the published algorithm on the same masks, and against bare passes."""
    size = (images.shape[-2], images.shape[-1])
    seen: list[Tensor] = []

    def spy(batch: Tensor) -> Tensor:
        seen.append(batch[:, :1])
        return batch.new_zeros(len(batch), 2)

    # White on black shows the masks that the method draws; the restated algorithm gets as many of its own.
    white = replace(method, baseline=Constant())
    white(spy, torch.ones_like(images[:1]), query[:1] * 0)
    with torch.no_grad():
        scores = torch.stack([classifier(compose(images, GREY(images), mask)) for mask in torch.cat(seen)])
    scores = scores.softmax(dim=2).gather(2, query.expand(len(scores), -1)[..., None])[..., 0]
    expected = torch.einsum("nb,nhw->bhw", scores, torch.cat(seen)[:, 0])[:, None] / (method.masks * 0.5)
    _equal("RISE", method(classifier, images, query).saliency, expected, 1e-4)
    grids, shifts = _random_cells(method.masks, method.cells, size)
    total, at_once = method.masks * len(images), max(1, method.chunk_size // len(images)) * len(images)

    def ours() -> Tensor:
        return method(classifier, images, query).saliency

    def published() -> Tensor:
        return _published_rise(classifier, images, query, grids, shifts, at_once)

    _compare(f"{label} RISE: bare passes", ours, _bare(classifier, images, total, at_once), repeats)
    _compare(f"{label} RISE: published algorithm", ours, published, repeats)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", nargs="+", choices=("masks", "S", "L"), default=["masks", "S", "L"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = "CPU" if arguments.threads == 1 else "wall"
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, {arguments.threads} threads, {clock} time, load {load:.1f}")
    print(f"{'':<46} {'ours ms':>10} {'other ms':>10} {'ratio':>7}  spread")
    generator = torch.Generator().manual_seed(0)
    if "masks" in arguments.sizes:
        measure_masks(64, 1024, arguments.repeats, chunk=64)
        measure_masks(224, 1024, arguments.repeats, chunk=16)
    if "S" in arguments.sizes:
        small = load_classifier("emoji_scenes_64")
        images = torch.rand(16, 3, 64, 64, generator=generator)
        query = torch.arange(16) % small.num_classes
        measure_occlusion(
            "S", small, images, query, Occlusion(baseline=GREY, score="logit"), arguments.repeats
        )
        measure_rise("S", small, images, query, RISE(baseline=GREY, masks=96), arguments.repeats)
    if "L" in arguments.sizes:
        torch.manual_seed(0)
        large = torchvision.models.resnet18().eval()
        images = torch.rand(4, 3, 224, 224, generator=generator)
        query = torch.tensor([0, 7, 500, 999])
        occlusion = Occlusion(window=112, stride=56, baseline=GREY, score="logit", chunk_size=16)
        measure_occlusion("L", large, images, query, occlusion, arguments.repeats)
        measure_rise(
            "L", large, images, query, RISE(baseline=GREY, masks=8, chunk_size=16), arguments.repeats
        )


if __name__ == "__main__":
    main()
