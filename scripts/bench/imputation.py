"""Linear imputation against one sparse solve per image and share: python scripts/bench/imputation.py.

For every removed share of 10 to 90 % of one image, by a smooth random map: seconds of the batched solver, of
assembling the sparse system and of factorising it (both for all channels at once), the ratio of one solve to
the solver (assembly included and left out), and the largest difference, which must stay below 1e-3 before
anything is timed; then the time of the solver for all shares in one batch. Medians over repeats in order
A B B A; one thread each.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import spsolve
from torch.nn import functional as F

from verisal.functional.baselines.filling import linear_imputation

Array = NDArray[np.float64]
Places = NDArray[np.int64]
SHARES = [share / 10 for share in range(1, 10)]


def problem(size: int, seed: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """One image, and a mask for every share, nested as along a removal curve."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, size // 4, size // 4, generator=generator)
    image = F.interpolate(coarse, size=(size, size), mode="bilinear")
    image = 0.7 * image + 0.3 * torch.rand(image.shape, generator=generator)
    smooth = F.interpolate(
        torch.rand(1, 1, 7, 7, generator=generator), size=(size, size), mode="bicubic"
    ).flatten()
    ranks = smooth.argsort().argsort().view(1, 1, size, size)
    return image, [(ranks >= share * size * size).float() for share in SHARES]


def assembled(image: Array, removed: NDArray[np.bool_]) -> tuple[csc_matrix, Array]:
    """Matrix and right-hand sides of one image's removed pixels, without a loop over pixels."""
    height, width = removed.shape
    rows, columns = np.nonzero(removed)
    count = len(rows)
    number = np.full(removed.shape, -1)
    number[removed] = np.arange(count)
    diagonal, known = np.zeros(count), np.zeros((count, len(image)))
    entries: list[tuple[Places, Places, float | Array]] = []
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            if down == right == 0:
                continue
            weight = 1 / 6 if down * right == 0 else 1 / 12
            row, column = rows + down, columns + right
            own = np.flatnonzero((row >= 0) & (row < height) & (column >= 0) & (column < width))
            diagonal[own] += weight
            other = number[row[own], column[own]]
            kept = own[other < 0]
            known[kept] += weight * image[:, row[kept], column[kept]].T
            entries.append((own[other >= 0], other[other >= 0], -weight))
    entries.append((np.arange(count), np.arange(count), diagonal))
    values = np.concatenate([np.broadcast_to(value, place.shape) for place, _, value in entries])
    places = tuple(np.concatenate([entry[axis] for entry in entries]) for axis in (0, 1))
    return csc_matrix((values, places), shape=(count, count)), known


def measure(image: torch.Tensor, mask: torch.Tensor, repeats: int) -> tuple[float, float, float, float]:
    """Seconds of solver, assembly and sparse solve, and the largest difference of a pixel."""
    pixels, removed = image[0].double().numpy(), mask[0, 0].numpy() < 0.5
    fast = linear_imputation(image, mask)[0].numpy()
    exact = spsolve(*assembled(pixels, removed)).T
    difference = float(np.abs(fast[:, removed] - exact).max())
    if difference > 1e-3:
        raise SystemExit(f"results differ by {difference:.2g}: nothing is timed")
    own, assembly, solve = [], [], []
    for repeat in range(repeats):
        for turn in range(2):
            start = time.perf_counter()
            if (repeat + turn) % 2:
                linear_imputation(image, mask)
                own.append(time.perf_counter() - start)
            else:
                system = assembled(pixels, removed)
                middle = time.perf_counter()
                spsolve(*system)
                assembly.append(middle - start)
                solve.append(time.perf_counter() - middle)
    medians = [statistics.median(times) for times in (own, assembly, solve)]
    return medians[0], medians[1], medians[2], difference


def main() -> None:
    """Print one line per share, and the sums."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    image, masks = problem(settings.size, settings.seed)
    print(f"{settings.size} px, 3 channels, one thread, torch {torch.__version__}; milliseconds")
    print(
        f"{'removed':>8}{'verisal':>9}{'assembly':>10}{'solve':>8}{'ratio':>7}{'solve only':>12}{'error':>8}"
    )
    total = np.zeros(3)
    for share, mask in zip(SHARES, masks, strict=True):
        own, assembly, solve, difference = measure(image, mask, settings.repeats)
        total += (own, assembly, solve)
        times = f"{own * 1e3:9.1f}{assembly * 1e3:10.1f}{solve * 1e3:8.1f}"
        print(f"{share:8.0%}{times}{(assembly + solve) / own:7.1f}{solve / own:12.1f}{difference:8.0e}")
    own, assembly, solve = total
    times = f"{own * 1e3:9.1f}{assembly * 1e3:10.1f}{solve * 1e3:8.1f}"
    print(f"{'all':>8}{times}{(assembly + solve) / own:7.1f}{solve / own:12.1f}")
    together = []
    for _ in range(settings.repeats):
        start = time.perf_counter()
        linear_imputation(image.expand(len(masks), -1, -1, -1), torch.cat(masks))
        together.append(time.perf_counter() - start)
    print(f"{'batch':>8}{statistics.median(together) * 1e3:9.1f}")


if __name__ == "__main__":
    main()
