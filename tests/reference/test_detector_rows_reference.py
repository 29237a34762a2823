"""Slow, literal forms of residuals, spectra, growth of distances and numbers of gradients."""

import cmath
import math

import pytest
import torch

from helpers.replicates import replicates
from verisal.detectors.gradients import gradient_statistics
from verisal.detectors.residuals import FILTERS, residual_kernels, residuals
from verisal.detectors.spectrum import log_spectrum
from verisal.detectors.statistical import growth

# What the neighbours predict less the pixel, by name, as the paper writes it: ``at(down, right)`` is a pixel.
RESIDUALS = {
    "mean3": lambda at: [sum(at(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)) / 9 - at(0, 0)],
    "first": lambda at: [at(0, 1) - at(0, 0), at(1, 0) - at(0, 0)],
    "second": lambda at: [
        (at(0, -1) + at(0, 1)) / 2 - at(0, 0),
        (at(-1, 0) + at(1, 0)) / 2 - at(0, 0),
    ],
    "third": lambda at: [
        (at(0, -1) + 3 * at(0, 1) - at(0, 2)) / 3 - at(0, 0),
        (at(-1, 0) + 3 * at(1, 0) - at(2, 0)) / 3 - at(0, 0),
    ],
    "square3": lambda at: [
        (2 * sum(at(*q) for q in SIDES) - sum(at(y, x) for y in (-1, 1) for x in (-1, 1))) / 4 - at(0, 0)
    ],
    "square5": lambda at: [
        (
            8 * sum(at(*q) for q in SIDES)
            - 6 * sum(at(y, x) for y in (-1, 1) for x in (-1, 1))
            - 2 * sum(at(2 * y, 2 * x) for y, x in SIDES)
            + 2 * sum(at(y, x) for y in (-2, 2) for x in (-1, 1))
            + 2 * sum(at(y, x) for y in (-1, 1) for x in (-2, 2))
            - sum(at(y, x) for y in (-2, 2) for x in (-2, 2))
        )
        / 12
        - at(0, 0)
    ],
}
SIDES = ((-1, 0), (1, 0), (0, -1), (0, 1))


@replicates(residuals)
def slow_residuals(images, filters, *, cut_off):
    rows = []
    for image in images.tolist():
        maps = []
        for channel in image:
            height, width = len(channel), len(channel[0])
            values = {}
            for row in range(height):
                for column in range(width):

                    def at(down, right, channel=channel, row=row, column=column, end=(height, width)):
                        y, x = min(max(row + down, 0), end[0] - 1), min(max(column + right, 0), end[1] - 1)
                        return 255 * channel[y][x]

                    found = [value for name in filters for value in RESIDUALS[name](at)]
                    values[row, column] = [min(max(value, -cut_off), cut_off) for value in found]
            maps += [
                [[values[row, column][number] for column in range(width)] for row in range(height)]
                for number in range(len(values[0, 0]))
            ]
        rows.append(maps)
    return torch.tensor(rows)


@replicates(log_spectrum)
def slow_spectrum(maps, *, limit):
    count, channels, height, width = maps.shape
    side = max((n for n in range(1, limit + 1) if 2 * n * n * channels <= limit), default=0)
    down, across = (min(2 * side, height), min(side, width // 2 + 1)) if side else (1, 1)
    rows = []
    for image in maps.tolist():
        numbers = []
        for channel in image:
            energy = []
            for u in range(-(height // 2), height - height // 2):
                energy.append([])
                for v in range(width // 2 + 1):
                    total = sum(
                        channel[y][x] * cmath.exp(-2j * cmath.pi * (u * y / height + v * x / width))
                        for y in range(height)
                        for x in range(width)
                    )
                    energy[-1].append(abs(total) ** 2 / (height * width))
            for i in range(down):
                for j in range(across):
                    top, bottom = i * height // down, -(-(i + 1) * height // down)
                    left, right = j * (width // 2 + 1) // across, -(-(j + 1) * (width // 2 + 1) // across)
                    cell = [energy[y][x] for y in range(top, bottom) for x in range(left, right)]
                    numbers.append(math.log(max(math.sqrt(sum(cell) / len(cell)), 1e-3)))
        rows.append(numbers)
    return torch.tensor(rows).reshape(count, channels * down * across)


@replicates(growth)
def slow_growth(sorted_distances):
    rows = [[math.log(row[-1] / near) for near in row] for row in sorted_distances.tolist()]
    return torch.tensor(rows, dtype=sorted_distances.dtype)


@replicates(gradient_statistics)
def slow_statistics(gradients):
    height, width = gradients.shape[-2:]
    rows = []
    for gradient in gradients.tolist():
        values = sorted(abs(value) for channel in gradient for line in channel for value in line)
        size = math.sqrt(sum(value**2 for value in values) / len(values))
        total = high = 0.0
        for channel in gradient:
            for u in range(height):
                for v in range(width):
                    part = sum(
                        channel[y][x] * cmath.exp(-2j * cmath.pi * (u * y / height + v * x / width))
                        for y in range(height)
                        for x in range(width)
                    )
                    total += abs(part) ** 2
                    # Frequencies repeat: u and height - u are one, up and down.
                    if max(min(u, height - u) / height, min(v, width - v) / width) > 0.25:
                        high += abs(part) ** 2
        tails = []
        for share in (0.5, 0.9, 0.99):
            place = share * (len(values) - 1)
            low = int(place)
            between = values[low] + (place - low) * (values[min(low + 1, len(values) - 1)] - values[low])
            tails.append(math.log(between / size))
        sizes = [math.log(sum(values) / len(values)), math.log(size), math.log(values[-1])]
        rows.append([*sizes, high / total, *tails])
    return torch.tensor(rows)


def images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("filters", [*((name,) for name in FILTERS), FILTERS], ids="-".join)
def test_residuals(filters):
    # Grey levels apart, so that the cut-off is reached by some and not by others.
    given = 0.5 + (images(2, 3, 6, 7) - 0.5) / 40
    fast = residuals(given, residual_kernels(filters), cut_off=2.0)
    torch.testing.assert_close(fast, slow_residuals(given, filters, cut_off=2.0), rtol=1e-4, atol=1e-4)
    assert 0 < (fast.abs() == 2).float().mean() < 0.9


@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (1, 1, 5, 7), (1, 2, 1, 1)])
@pytest.mark.parametrize("limit", [1, 12, 48, 4096])
def test_spectrum(shape, limit):
    given = images(*shape)
    torch.testing.assert_close(
        log_spectrum(given, limit=limit), slow_spectrum(given, limit=limit), rtol=1e-4, atol=1e-4
    )


def test_growth():
    rows = images(6, 9).sort(dim=1).values
    torch.testing.assert_close(growth(rows), slow_growth(rows))


@pytest.mark.parametrize("shape", [(3, 3, 6, 7), (2, 1, 4, 4)])
def test_gradients(shape):
    given = images(*shape) - 0.4
    torch.testing.assert_close(gradient_statistics(given), slow_statistics(given), rtol=1e-4, atol=1e-4)
