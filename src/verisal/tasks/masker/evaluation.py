"""Values, costs and report of the mask network's evaluation."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from verisal.functional.baselines import DatasetMean
from verisal.functional.regions import energy_inside
from verisal.functional.removal import curve_area, perturbation_curve
from verisal.functional.seeding import derive_seed
from verisal.functional.statistics import Bootstrap, Resampled
from verisal.functional.statistics.detection import resampled_mean
from verisal.metrics import ImageRows
from verisal.results import Evaluation, Score, ScoreName
from verisal.saliency.gates.descent import GateProblem
from verisal.saliency.gates.masks import maps_of_gates
from verisal.types import Batch

COLUMNS = ("objective", "distance", "penalty", "logit_change", "unchanged", "energy_inside", "deletion")
"""Values kept per image. ``logit_change``: of the query logit, as a share of the spread of all logits."""

_KEPT = ("logit_change", "unchanged", "energy_inside", "deletion")
_REPEATS = 6
_NOTES = (
    "kept_<metric>/<optimisation>: (masker - random) / (optimised - random); 1 is as good as the"
    " optimisation, more is better. random: the predicted gates at shuffled positions.",
    "objective, distance and penalty are judged with the network's own lambda in every row.",
)


def judged_rows(
    problem: GateProblem, gates: Sequence[Tensor], batch: Batch, reg_weight: float, *, deletion: bool
) -> Tensor:
    """``(B, len(COLUMNS))`` float64 for gates of any origin; NaN for a deletion that is not asked for."""
    result = problem.judge(gates, reg_weight)
    size = (batch.images.shape[-2], batch.images.shape[-1])
    fused = maps_of_gates(result.gates, result.activations, size)
    area = torch.full_like(result.distance, math.nan)
    if deletion:
        fractions, scores = perturbation_curve(
            problem.network, batch.images, fused, problem.query, baseline=DatasetMean()
        )
        area = curve_area(fractions, scores)
    columns = [
        result.objective,
        result.distance,
        result.penalty,
        result.query_change.abs() / problem.spread,
        result.unchanged.double().where(result.distance.isfinite(), math.nan),
        energy_inside(fused, batch.object_mask_of(problem.query)),
        area,
    ]
    return torch.stack([column.double() for column in columns], dim=1)


def shuffled_gates(gates: Sequence[Tensor], *, seed: int, image_ids: Sequence[str]) -> list[Tensor]:
    """The same gate values at random positions, per image and stage: the control for where they are."""
    shuffled = []
    for stage, gate in enumerate(gates):
        flat = gate.flatten(2)
        rows = []
        for values, image_id in zip(flat, image_ids, strict=True):
            generator = torch.Generator().manual_seed(derive_seed(seed, image_id, "shuffled gates", stage))
            order = torch.randperm(flat.shape[-1], generator=generator)
            rows.append(values[:, order.to(gate.device)])
        shuffled.append(torch.stack(rows).view(gate.shape).contiguous(memory_format=torch.channels_last))
    return shuffled


def milliseconds_per_image(calls: Mapping[str, Callable[[], object]], images: int) -> dict[str, float]:
    """Median over repeats in alternating order, so that a drift of the machine meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(_REPEATS):
        names = list(calls)[:: 1 if repeat % 2 == 0 else -1]
        for name in names:
            start = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(taken) / images for name, taken in seconds.items()}


def build_evaluation(
    split: str, tables: Mapping[str, ImageRows], *, timings: Mapping[str, float], bootstrap: Bootstrap
) -> Evaluation:
    """Means of every row and column, and what the prediction keeps of each optimisation."""
    scores: dict[ScoreName, Score] = {}
    for row, table in tables.items():
        for index, column in enumerate(COLUMNS):
            values = table.rows[:, index]
            # The deletion is not asked for at every epoch; all else that is undefined is told.
            if column != "deletion" or bool(values.isfinite().any()):
                scores[ScoreName(split, row, column)] = bootstrap.mean(values).score()
    goals = [row for row in tables if row.startswith("optimised")]
    rows = [row for row in tables if row.startswith("masker") and "random" in tables]
    for row, goal, column in product(rows, goals, _KEPT):
        three = (tables[row], tables[goal], tables["random"])
        kept = kept_share(three, COLUMNS.index(column), bootstrap)
        scores[ScoreName(split, row, f"kept_{column}", goal)] = kept
    taken = {f"{name} (ms per image)": value for name, value in timings.items()}
    ratios = {
        f"{name} / classifier": value / timings["classifier"]
        for name, value in timings.items()
        if name != "classifier"
    }
    return Evaluation(
        split,
        scores,
        counts={row: len(table.image_ids) for row, table in tables.items()},
        timings=taken | ratios,
        notes=_NOTES if rows and goals else (),
    )


def kept_share(tables: Sequence[ImageRows], index: int, bootstrap: Bootstrap) -> Score:
    """(own - control) / (goal - control) of the means; undefined if the control may equal the goal.

    Args:
        tables: own, goal and control, of the same images.
        index: of the column.
        bootstrap: of the interval.
    """
    values = torch.stack([table.rows[:, index] for table in tables])
    defined = values.isfinite().all(dim=0)
    own, best, least = values[:, defined]

    def gap(weights: Tensor) -> Tensor:
        return resampled_mean(best, weights) - resampled_mean(least, weights)

    def kept(weights: Tensor) -> Tensor:
        return (resampled_mean(own, weights) - resampled_mean(least, weights)) / gap(weights)

    resampled = bootstrap.of(kept, defined)
    low, high = bootstrap.of(gap, defined).limits()
    if bootstrap.resamples and not (low > 0 or high < 0):
        resampled = Resampled(math.nan, n=resampled.n, undefined=resampled.undefined)
    return resampled.score()
