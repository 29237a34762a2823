"""How often the 95 % intervals hold the truth: python scripts/interval_coverage.py [--images 50 100 300].

Draws many sets of images from populations whose true value is known, makes the interval that a report would
print, and counts. One line per kind of score, population and number of images: share of intervals that hold
the truth, mean error of the value, mean width, and the same of the bootstrap's percentiles where those were
the interval before. Seeded; fifteen minutes on one thread with 400 sets. Reports say "too few" where fewer
images than 30 (percentiles) or 20 (FPR at 95 % TPR) would have an interval that holds too seldom.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from statistics import NormalDist
from typing import final

import torch
from torch import Tensor

from verisal.functional.statistics import Bootstrap, Resampled
from verisal.metrics import ImageRows, MaxBoxAcc, MaxBoxAccV2, PointingGame
from verisal.results import Score

_NORMAL = NormalDist()
_LEVELS = 255


@final
@dataclass(frozen=True)
class Population:
    """Something whose truth is known.

    Attributes:
        name: kind of score and population.
        truth: what the interval should hold.
        draw: the report's score of one set of n images, and that of the bootstrap's percentiles or None.
    """

    name: str
    truth: float
    draw: Callable[[int, torch.Generator], tuple[Score, Score | None]]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[50, 100, 300])
    parser.add_argument("--sets", type=int, default=400)
    parser.add_argument("--only", default="", help="populations whose name holds this")
    arguments = parser.parse_args()
    print("| score, population | images | covered | error | width | percentiles: covered | width |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for population in populations():
        if arguments.only in population.name:
            for images in arguments.images:
                print(line(population, images, arguments.sets), flush=True)


def line(population: Population, images: int, sets: int) -> str:
    """One line of the table."""
    generator = torch.Generator().manual_seed(images)
    drawn = [population.draw(images, generator) for _ in range(sets)]
    found = [score for score, _ in drawn]
    before = [score for _, score in drawn if score is not None]
    error = sum(score.value - population.truth for score in found) / sets
    then = f"{covered(before, population.truth):.3f} | {width(before):.3f}" if before else "| "
    return (
        f"| {population.name} | {images} | {covered(found, population.truth):.3f} | {error:+.3f}"
        f" | {width(found):.3f} | {then} |"
    )


def covered(scores: list[Score], truth: float) -> float:
    """Share of intervals that hold the truth, up to rounding."""
    return sum(score.low - 1e-9 <= truth <= score.high + 1e-9 for score in scores) / len(scores)


def width(scores: list[Score]) -> float:
    """Mean width."""
    return sum(score.high - score.low for score in scores) / len(scores)


def populations() -> Iterator[Population]:
    """All of them."""
    for rate in (0.01, 0.05, 0.3):
        yield Population(f"rate {rate}", rate, partial(_rate, rate))
    yield Population("difference of rates .02 and .02", 0.0, _rare_difference)
    yield Population("mean, normal", 0.0, lambda n, rng: _mean(torch.randn(n, generator=rng)))
    yield Population("mean, exponential", 1.0, lambda n, rng: _mean(-torch.rand(n, generator=rng).log()))
    yield Population("pointing game, 24 classes of uneven size", 0.9, _pointing)
    for area in (0.8, 0.95, 0.99):
        shift = 2**0.5 * _NORMAL.inv_cdf(area)
        for correlation in (0.0, 0.8):
            yield Population(
                f"AUROC {area}, correlation {correlation}",
                area,
                partial(_areas, shift, correlation),
            )
    yield Population("AUROC .99, one attack in 100 is missed", 0.99, _missed)
    yield Population("AUROC .99, exponential", 0.99, _exponential)
    for shift in (2.0, 4.0):
        truth = 1 - _NORMAL.cdf(shift + _NORMAL.inv_cdf(0.05))
        yield Population(f"FPR at 95 % TPR, {truth:.3f}", truth, partial(_fpr, shift))
    yield Population("difference of AUROC .99 and .95", 0.04, _area_difference)
    yield Population("difference of AUROC .99 and .99", 0.0, _equal_difference)
    yield Population("worst of 5 families, all .9", 0.9, lambda n, rng: _worst(n, [0.9] * 5, rng))
    yield Population("worst of 5 families, all .99", 0.99, lambda n, rng: _worst(n, [0.99] * 5, rng))
    spread = [0.99, 0.95, 0.9, 0.85, 0.8]
    yield Population("worst of 5 families, .8 to .99", 0.8, lambda n, rng: _worst(n, spread, rng))
    yield Population(
        "MaxBoxAcc, independent levels",
        0.7,
        lambda n, rng: _boxes(torch.rand(n, _LEVELS, generator=rng) < 0.7),
    )
    yield Population(
        "MaxBoxAcc, 25 independent blocks",
        0.7,
        lambda n, rng: _boxes((torch.rand(n, 25, generator=rng) < 0.7).repeat_interleave(11, 1)[:, :_LEVELS]),
    )
    best = float(_ranges(200_000, torch.Generator().manual_seed(0)).double().mean(dim=0).max())
    yield Population("MaxBoxAcc, each image right in a range", best, lambda n, rng: _boxes(_ranges(n, rng)))
    yield Population(
        "MaxBoxAccV2, 25 independent blocks",
        0.7,
        lambda n, rng: _boxes(
            (torch.rand(n, 3, 25, generator=rng) < 0.7).repeat_interleave(11, 2)[..., :_LEVELS].flatten(1)
        ),
    )


def _mean(values: Tensor) -> tuple[Score, Score]:
    bootstrap = Bootstrap(500)
    return bootstrap.mean(values).score(), bootstrap.mean(values, kind="measure").score()


def _rate(rate: float, images: int, rng: torch.Generator) -> tuple[Score, Score]:
    return _mean(torch.rand(images, generator=rng) < rate)


def _rare_difference(images: int, rng: torch.Generator) -> tuple[Score, Score]:
    hits = (torch.rand(2, images, generator=rng) < 0.02).double()
    values = hits[0] - hits[1]
    bootstrap = Bootstrap(500)
    return bootstrap.mean(values, kind="hit difference").score(), _percentiles(
        bootstrap.mean(values, kind="measure")
    )


def _pointing(images: int, rng: torch.Generator) -> tuple[Score, None]:
    """Classes that occur twice as often in the first half; every class is hit in nine of ten."""
    classes = (torch.rand(images, generator=rng) ** 1.5 * 24).floor()
    hits = torch.rand(images, generator=rng) < 0.9
    table = _table(torch.stack([hits.double(), classes.double()], dim=1))
    return PointingGame().scores_of(table, Bootstrap(500))["accuracy"], None


def _pair(images: int, shift: float, correlation: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    clean, own = torch.randn(2, images, generator=rng)
    return shift + correlation * clean + (1 - correlation**2) ** 0.5 * own, clean


def _area(positive: Tensor, negative: Tensor) -> tuple[Score, Score]:
    area = Bootstrap(500).auroc(positive, negative)
    return area.score(), _percentiles(area)


def _areas(shift: float, correlation: float, images: int, rng: torch.Generator) -> tuple[Score, Score]:
    return _area(*_pair(images, shift, correlation, rng))


def _missed(images: int, rng: torch.Generator) -> tuple[Score, Score]:
    positive, negative = _pair(images, 20.0, 0.0, rng)
    return _area(positive - 40 * (torch.rand(images, generator=rng) < 0.01), negative)


def _exponential(images: int, rng: torch.Generator) -> tuple[Score, Score]:
    positive, negative = -torch.rand(2, images, generator=rng).log()
    return _area(99 * positive, negative)


def _fpr(shift: float, n: int, rng: torch.Generator) -> tuple[Score, Score]:
    rate = Bootstrap(500).fpr_at_tpr95(*_pair(n, shift, 0.0, rng))
    return rate.score(), _percentiles(rate)


def _area_difference(images: int, rng: torch.Generator) -> tuple[Score, Score]:
    return _difference(images, (0.99, 0.95), rng)


def _equal_difference(images: int, rng: torch.Generator) -> tuple[Score, Score]:
    return _difference(images, (0.99, 0.99), rng)


def _difference(images: int, areas: tuple[float, float], rng: torch.Generator) -> tuple[Score, Score]:
    """Two detectors whose scores of an image have half of their variance in common."""
    common = torch.randn(2, images, generator=rng)
    bootstrap, found = Bootstrap(500), []
    for area in areas:
        own = (common + torch.randn(2, images, generator=rng)) / 2**0.5
        found.append(bootstrap.auroc(own[0] + 2**0.5 * _NORMAL.inv_cdf(area), own[1]))
    first, second = found
    apart = replace(first, value=first.value - second.value, draws=first.draws - second.draws)
    return first.minus(second), _percentiles(apart)


def _worst(images: int, areas: list[float], rng: torch.Generator) -> tuple[Score, Score]:
    clean, bootstrap = torch.randn(images, generator=rng), Bootstrap(500)
    shifts = [2**0.5 * _NORMAL.inv_cdf(area) for area in areas]
    worst = Resampled.least(
        [bootstrap.auroc(torch.randn(images, generator=rng) + shift, clean) for shift in shifts]
    )
    return worst.score(), _percentiles(worst)


def _percentiles(resampled: Resampled) -> Score:
    """With the interval that the bootstrap's percentiles alone would give."""
    return replace(resampled, kind="percentiles", ends=None).score()


def _ranges(images: int, rng: torch.Generator) -> Tensor:
    """``(n, L)``: each image is right from some level to another."""
    centre = 100 + 60 * torch.randn(images, 1, generator=rng)
    reach = 80 * torch.rand(images, 1, generator=rng)
    return (torch.arange(_LEVELS) - centre).abs() < reach


def _boxes(hits: Tensor) -> tuple[Score, Score]:
    metric = MaxBoxAcc() if hits.shape[1] == _LEVELS else MaxBoxAccV2()
    found = metric.scores_of(_table(hits.double()), Bootstrap())

    def at_best(weights: Tensor) -> Tensor:
        rates = (weights.double() @ hits.double()) / len(hits)
        return rates.view(len(weights), -1, _LEVELS).amax(dim=2).mean(dim=1)

    everyone = torch.ones(len(hits), dtype=torch.bool)
    return found["accuracy"], Bootstrap(300).of(at_best, everyone).score()


def _table(rows: Tensor) -> ImageRows:
    return ImageRows(tuple(f"{index:06d}" for index in range(len(rows))), rows)


if __name__ == "__main__":
    main()
