"""Designs of RISE's masks: cells that are kept and shifts of their grids, block by block.

Mask n belongs to the first half of the masks where n is even and to the second where it is odd. The halves
share no random number, so that they are two independent estimates of one map.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from verisal.functional.seeding import derive_seed

Sampling = Literal["plain", "sobol", "orthogonal"]

LARGEST_SOBOL_CELLS = 145
"""Side of the largest grid whose cells and shifts are dimensions of a Sobol sequence (21201 at most)."""

# Masks that share a generator. Fixed, so that mask n is the same whatever the chunk size and the mask count.
_PLAIN_BLOCK = 256
_SOBOL_BLOCK = 128


def mask_blocks(
    sampling: Sampling, *, cells: int, keep_probability: float, seed: int, steps: tuple[int, int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of masks without end.

    Args:
        sampling: ``plain``: independent draws. ``sobol``: two scrambled Sobol sequences, one for each half,
            over all cells and both shifts. ``orthogonal``: one :func:`orthogonal_array` of each half
            a block, at one shift, and in the next block the same with every cell switched; the shifts of a
            half are a scrambled Sobol sequence.
        cells: s, along each side of a grid.
        keep_probability: with which a cell is kept; ``orthogonal`` keeps one half whatever it is.
        seed: of the masks.
        steps: height and width of a cell in pixels, above every shift.

    Yields:
        Cells ``(n, s, s)`` bool, and shifts ``(n, 2)`` int64 in pixels; n is even.
    """
    match sampling:
        case "plain":
            return _plain(cells, keep_probability, seed, steps)
        case "sobol":
            return _sobol(cells, keep_probability, seed, steps)
        case "orthogonal":
            return _orthogonal(cells, seed, steps)


def array_order(cells: int) -> int:
    """Masks of one orthogonal array: the least power of 2 above the number of cells."""
    return 1 << (cells * cells).bit_length()


def orthogonal_array(cells: int, generator: torch.Generator) -> Tensor:
    """Grids ``(m, s, s)`` bool that keep every cell, and every pair of cells, equally often.

    Of m grids, the least power of 2 above the number of cells, every cell is kept in m / 2 and any two
    together in m / 4. Columns of a Hadamard matrix, chosen, switched and with their rows ordered at random:
    each grid alone keeps its cells independently with probability one half.
    """
    order = array_order(cells)
    columns = torch.randperm(order - 1, generator=generator)[: cells * cells] + 1
    switched = torch.randint(2, (cells * cells,), generator=generator)
    rows = torch.randperm(order, generator=generator)
    # Entry (i, j) of Sylvester's Hadamard matrix is the parity of the bits that i and j share.
    shared = rows[:, None] & columns
    parity = switched.expand(order, -1).clone()
    for bit in range(order.bit_length()):
        parity ^= (shared >> bit) & 1
    return parity.bool().view(order, cells, cells)


def _plain(
    cells: int, keep_probability: float, seed: int, steps: tuple[int, int]
) -> Iterator[tuple[Tensor, Tensor]]:
    first = 0
    while True:
        generator = torch.Generator().manual_seed(derive_seed(seed, "rise", first))
        kept = torch.rand((_PLAIN_BLOCK, cells, cells), generator=generator) < keep_probability
        drawn = [torch.randint(step, (_PLAIN_BLOCK,), generator=generator) for step in steps]
        yield kept, torch.stack(drawn, dim=1)
        first += _PLAIN_BLOCK


def _sobol(
    cells: int, keep_probability: float, seed: int, steps: tuple[int, int]
) -> Iterator[tuple[Tensor, Tensor]]:
    halves = _sequences(cells * cells + 2, seed, "sobol")
    while True:
        points = _interleaved([half.draw(_SOBOL_BLOCK // 2) for half in halves])
        kept = points[:, :-2] < keep_probability
        yield kept.view(-1, cells, cells), _as_shifts(points[:, -2:], steps)


def _orthogonal(cells: int, seed: int, steps: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    generators = [
        torch.Generator().manual_seed(derive_seed(seed, "rise", "orthogonal", half)) for half in range(2)
    ]
    places = _sequences(2, seed, "orthogonal shifts")
    while True:
        kept = _interleaved([orthogonal_array(cells, generator) for generator in generators])
        shifts = torch.cat([_as_shifts(half.draw(1), steps) for half in places]).repeat(len(kept) // 2, 1)
        yield kept, shifts
        # With every cell switched, what an even number of cells does together stays: it leaves the map.
        yield ~kept, shifts


def _sequences(dimension: int, seed: int, stream: str) -> list[torch.quasirandom.SobolEngine]:
    """A scrambled Sobol sequence for each half."""
    return [
        torch.quasirandom.SobolEngine(dimension, scramble=True, seed=derive_seed(seed, "rise", stream, half))  # type: ignore[no-untyped-call]  # torch's own has no types
        for half in range(2)
    ]


def _interleaved(halves: list[Tensor]) -> Tensor:
    return torch.stack(halves, dim=1).flatten(0, 1)


def _as_shifts(points: Tensor, steps: tuple[int, int]) -> Tensor:
    """Shifts ``(n, 2)`` in pixels of points ``(n, 2)`` in [0, 1]."""
    limits = torch.tensor(steps)
    return torch.minimum((points * limits).long(), limits - 1)
