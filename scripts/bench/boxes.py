"""Boxes at 1000 thresholds against one threshold after the other: python scripts/bench/boxes.py.

For smooth, bumpy and noisy maps: asserts that all boxes and the largest one's box are the same, then prints
milliseconds per map, overlaps with a true box included, and their ratio (medians over repeats in order
A B B A). ``contours`` is the published algorithm of the box accuracies, restated: threshold, outer contours,
their bounding boxes. ``labels`` labels the components of every threshold, which gives sizes in pixels too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from verisal.functional.regions import (
    best_ious,
    components,
    largest_boxes,
    largest_component_ious,
    map_levels,
    multi_component_ious,
)

Levels = NDArray[np.uint8]
Boxes = NDArray[np.int64]

_THRESHOLDS = 1000


def make_maps(kind: str, count: int, size: int) -> torch.Tensor:
    """Maps ``(count, 1, size, size)``: ``coarse`` from 7 x 7, ``fine`` from 28 x 28, ``bumpy``, ``noise``."""
    generator = torch.Generator().manual_seed(0)
    if kind == "noise":
        return torch.rand(count, 1, size, size, generator=generator)
    cells = {"coarse": 7, "fine": 28, "bumpy": size // 4}[kind]
    grid = torch.rand(count, 1, cells, cells, generator=generator)
    smooth = F.interpolate(grid, (size, size), mode="bilinear", align_corners=False)
    if kind != "bumpy":
        return smooth
    line = torch.linspace(-1, 1, size)
    return (-4 * (line[:, None] ** 2 + line**2)).exp() + 0.05 * smooth


def by_contours(levels: Levels) -> list[Boxes]:
    """Bounding boxes of the outer contours at every threshold, half-open."""
    found = []
    for index in range(_THRESHOLDS):
        _, binary = cv2.threshold(levels, index * 255 // _THRESHOLDS, 255, cv2.THRESH_BINARY)
        contours, hierarchy = cv2.findContours(binary, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        outer = [contour for contour, links in zip(contours, hierarchy[0], strict=True) if links[3] < 0]
        boxes = np.array([cv2.boundingRect(contour) for contour in outer], dtype=np.int64)
        boxes[:, 2:] += boxes[:, :2]
        found.append(boxes)
    return found


def by_labels(levels: Levels) -> list[Boxes]:
    """Box of the largest component at every threshold, half-open."""
    found = []
    for index in range(_THRESHOLDS):
        binary = (levels > index * 255 // _THRESHOLDS).astype(np.uint8)
        _, _, table, _ = cv2.connectedComponentsWithStats(binary, connectivity=8)
        box = table[1 + table[1:, cv2.CC_STAT_AREA].argmax(), :4].astype(np.int64)
        box[2:] += box[:2]
        found.append(box[None])
    return found


def overlap(boxes: list[Boxes], true: Boxes) -> NDArray[np.float64]:
    """Greatest overlap with one true box at every threshold; all boxes in one pass."""
    every = np.concatenate(boxes)
    common = np.minimum(every[:, 2:], true[2:]) - np.maximum(every[:, :2], true[:2])
    shared = common.clip(0).prod(axis=1)
    areas = (every[:, 2:] - every[:, :2]).prod(axis=1) + (true[2:] - true[:2]).prod()
    starts = np.cumsum([0, *(len(part) for part in boxes[:-1])])
    greatest: NDArray[np.float64] = np.maximum.reduceat(shared / (areas - shared), starts)
    return greatest


def _sweep(boxes_of: Callable[[Levels], list[Boxes]], levels: Levels, true: torch.Tensor) -> None:
    for one in levels:
        overlap(boxes_of(one), true.numpy())


def check(maps: torch.Tensor, true: torch.Tensor) -> None:
    """Raise unless every box and overlap is the same."""
    levels = map_levels(maps)
    found = components(levels)
    largest, best = largest_boxes(found), best_ious(found, [true[None]] * len(maps))
    for image, one in enumerate(levels.numpy()):
        contours, labels = by_contours(one), by_labels(one)
        of_contours = overlap(contours, true.numpy())
        for index in range(_THRESHOLDS):
            level = index * 255 // _THRESHOLDS
            mine = found.box[(found.image == image) & (found.level == level)]
            same = sorted(mine.tolist()) == sorted(contours[index].tolist())
            same &= largest[image, level].tolist() == labels[index][0].tolist()
            if not same or float(best[image, level]) != of_contours[index]:
                raise SystemExit(f"map {image}, threshold {index}: the boxes differ")


def compare(
    fast: Callable[[], object], slow: Callable[[], object], repeats: int
) -> tuple[float, float, float]:
    """Median seconds of both, and the median of the paired ratios slow / fast."""
    fast()
    pairs = []
    for repeat in range(repeats):
        seconds = {}
        for call in (fast, slow) if repeat % 2 == 0 else (slow, fast):
            start = time.perf_counter()
            call()
            seconds[call] = time.perf_counter() - start
        pairs.append((seconds[fast], seconds[slow]))
    ratio = statistics.median(slow_one / fast_one for fast_one, slow_one in pairs)
    return statistics.median(one for one, _ in pairs), statistics.median(one for _, one in pairs), ratio


def main() -> None:
    """Check, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--maps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", default=["coarse", "fine", "bumpy", "noise"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    size = arguments.size
    true = torch.tensor([size // 4, size // 5, 3 * size // 4, 2 * size // 3])
    print(f"{arguments.maps} maps of {size} px, {arguments.threads} threads, torch {torch.__version__}")
    print("maps     against    ms/map  theirs ms/map  ratio")
    for kind in arguments.kinds:
        maps = make_maps(kind, arguments.maps, size)
        check(maps[:1], true)
        levels, boxes = map_levels(maps).numpy(), [true[None]] * len(maps)
        rivals = {
            "contours": (
                partial(multi_component_ious, maps, boxes),
                partial(_sweep, by_contours, levels, true),
            ),
            "labels": (
                partial(largest_component_ious, maps, boxes),
                partial(_sweep, by_labels, levels, true),
            ),
        }
        for name, (fast, slow) in rivals.items():
            ours, theirs, ratio = compare(fast, slow, arguments.repeats)
            per_map = 1000 / len(maps)
            print(f"{kind:8s} {name:8s} {ours * per_map:8.1f} {theirs * per_map:14.1f} {ratio:6.1f}")


if __name__ == "__main__":
    main()
