"""Judgement of maps of contributions: where they lie, what they do to the logit, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import final

import torch
from torch import Tensor

from verisal.functional.baselines import Blur, DatasetMean
from verisal.functional.regions import disturbed_queries, energy_inside, largest_component_ious
from verisal.functional.regions.boxes import NUM_LEVELS
from verisal.functional.removal import curve_area, perturbation_curve
from verisal.functional.scopes import frozen
from verisal.functional.statistics import Bootstrap
from verisal.metrics import ImageRows, MaxBoxAcc
from verisal.models import Classifier
from verisal.results import Evaluation, Score, ScoreName
from verisal.saliency import (
    EvidenceMasks,
    Gradient,
    HierarchicalMasks,
    LearnedMask,
    Saliency,
    UngatedContributions,
)
from verisal.saliency.gates.method import Joining
from verisal.tasks.masker.evaluation import kept_share, milliseconds_per_image, shuffled_gates
from verisal.tasks.masker.learning import divergence
from verisal.types import Batch, SaliencyResult

VALUES = (
    "unlike",
    "evidence_kept",
    "energy_inside",
    "deletion",
    "insertion",
    "response_runner_up",
    "response_absent",
)
"""Means over images. ``unlike``: divergence of the map from that of the evidence masks. ``evidence_kept``: by
the gated network, as a share of all. Responses: sum of the raw map over that for the predicted class."""
COLUMNS = (*VALUES, *(f"level_{level}" for level in range(NUM_LEVELS)))
"""Values kept per image: also whether the box is right, at every level of the map."""

# Steps of insertion and deletion.
_STEPS = 32
_KEPT = ("energy_inside", "deletion", "insertion")
_GOALS = ("evidence_masks", "hierarchical_masks")
_NOTES = (
    "Maps are those of contributions; hierarchical_masks as by default. kept_<metric>/<goal>:"
    " (masker - random) / (goal - random), 1 is as good. random: the predicted gates at shuffled places.",
    "A pass is one forward and one back of the whole classifier, as a gradient takes.",
)


@final
class Judge:
    """Values of all rows on batches, and what the methods cost.

    Args:
        refine_steps: numbers of steps after the prediction, a row each.
        seed: of the shuffled gates and the absent classes.

    Attributes:
        rows: names of all rows.
        timings: milliseconds per image and passes, after :meth:`measure`.
    """

    def __init__(self, refine_steps: Sequence[int], *, seed: int = 0) -> None:
        self._steps = {f"masker_{steps}_steps": steps for steps in refine_steps}
        self._seed = seed
        self._others: dict[str, Saliency] = {
            "evidence_masks": EvidenceMasks(),
            "evidence_masks_quick": EvidenceMasks(fall=1, settle=1),
            "hierarchical_masks": HierarchicalMasks(),
            "no_gates": UngatedContributions(),
        }
        self.rows = ("masker", *self._steps, "random", *self._others)
        self.timings: dict[str, float] = {}

    def values(
        self, masks: LearnedMask, classifier: Classifier, batch: Batch, rows: Sequence[str], *, curves: bool
    ) -> dict[str, Tensor]:
        """``(B, len(COLUMNS))`` float64 of each row; NaN where a value is undefined or not asked for.

        Args:
            masks: of the network that is judged.
            classifier: that is explained.
            batch: its objects say where the predicted class is, if they say anything.
            rows: names.
            curves: whether insertion and deletion are asked for.
        """
        logits = classifier(batch.images).detach()
        present = batch.object_labels
        asked = disturbed_queries(
            logits, batch.labels, present=present, image_ids=batch.image_ids, seed=self._seed
        ).query_class
        absent = [
            torch.tensor(
                [int(one) not in labels.tolist() for one, labels in zip(asked[c], present, strict=True)]
            )
            for c in (1, 2)
        ]
        goal = self._of("evidence_masks", masks, classifier, batch, asked[0])
        judged = {}
        for row in rows:
            maps = [self._of(row, masks, classifier, batch, asked[number]) for number in range(3)]
            judged[row] = self._columns(classifier, batch, asked[0], maps, absent, goal.saliency, curves)
        return judged

    def _of(
        self, row: str, masks: LearnedMask, classifier: Classifier, batch: Batch, query: Tensor
    ) -> SaliencyResult:
        if row != "random":
            return self._method(row, masks)(classifier, batch.images, query)
        size = (batch.images.shape[-2], batch.images.shape[-1])
        found = masks.find(classifier, batch.images, query)
        gates = shuffled_gates(
            [gate[:, :1] for gate in found.gates], seed=self._seed, image_ids=batch.image_ids
        )
        whole = [gate.expand_as(full) for gate, full in zip(gates, found.gates, strict=True)]
        shown = replace(found, gates=tuple(whole), joining=Joining(weights=tuple(gates)))
        return masks.show(classifier, shown, query, size)

    def _method(self, row: str, masks: LearnedMask) -> Saliency:
        if row in self._others:
            return self._others[row]
        return masks.with_steps(self._steps.get(row, 0))

    def _columns(
        self,
        classifier: Classifier,
        batch: Batch,
        query: Tensor,
        maps: Sequence[SaliencyResult],
        absent: Sequence[Tensor],
        goal: Tensor,
        curves: bool,
    ) -> Tensor:
        fused = maps[0].saliency
        raw = [_sums(result) for result in maps]
        nothing = torch.full_like(raw[0], math.nan)
        responses = [
            torch.where(there.to(raw[0].device) & (raw[0] > 0), own / raw[0], math.nan)
            for own, there in zip(raw[1:], absent, strict=True)
        ]
        areas = [nothing, nothing]
        if curves:
            asked = partial(perturbation_curve, classifier, batch.images, fused, query, steps=_STEPS)
            areas = [
                curve_area(*asked(baseline=DatasetMean(), direction="remove")),
                curve_area(*asked(baseline=Blur(), direction="insert")),
            ]
        columns = [
            divergence(fused, goal),
            self._kept(classifier, batch, query, maps[0]),
            energy_inside(fused, batch.object_mask_of(query)),
            *areas,
            *responses,
        ]
        ious = largest_component_ious(fused, batch.boxes_of(query))
        right = torch.where(ious.isnan(), math.nan, (ious >= 0.5).double())
        return torch.cat([torch.stack([column.double() for column in columns], dim=1), right.double()], dim=1)

    def _kept(self, classifier: Classifier, batch: Batch, query: Tensor, result: SaliencyResult) -> Tensor:
        kept = result.diagnostics.get("evidence_kept")
        if kept is None:
            return torch.full((len(batch),), math.nan)
        with torch.no_grad(), frozen(classifier):
            outputs = classifier.stage_outputs(batch.images)
            nothing = [torch.zeros_like(activation[:1]) for activation in outputs.activations]
            floor = classifier.gated(outputs.activations[0][:1], nothing).expand_as(outputs.logits)
            evidence = (outputs.logits - floor).gather(1, query[:, None])[:, 0]
        return torch.where(evidence > 0, kept / evidence, math.nan)

    def measure(self, masks: LearnedMask, classifier: Classifier, batch: Batch) -> None:
        """Measure milliseconds per image of every row on a batch, and count its passes."""
        images = batch.images
        with torch.no_grad():
            query = classifier(images).argmax(dim=1)

        def classify() -> None:
            with torch.no_grad():
                classifier(images)

        calls: dict[str, Callable[[], object]] = {"forward": classify}
        calls["pass"] = partial(Gradient(), classifier, images, query)
        for row in self.rows:
            if row != "random":
                calls[row] = partial(self._method(row, masks), classifier, images, query)
        taken = milliseconds_per_image(calls, len(batch))
        self.timings = {f"{name} (ms per image)": value for name, value in taken.items()}
        for row in calls:
            if row not in ("forward", "pass"):
                result = self._method(row, masks)(classifier, images[:1], query[:1])
                self.timings[f"{row} / pass"] = taken[row] / taken["pass"]
                self.timings[f"{row} (forward passes)"] = float(result.n_forward)
                self.timings[f"{row} (backward passes)"] = float(result.n_backward)


def _sums(result: SaliencyResult) -> Tensor:
    raw = result.saliency if result.raw is None else result.raw
    return raw.abs().sum(dim=(1, 2, 3)).double()


def report(
    split: str, tables: Mapping[str, ImageRows], *, timings: Mapping[str, float], bootstrap: Bootstrap
) -> Evaluation:
    """Means of every row and value, box accuracies, and what the prediction keeps of the optimised maps."""
    scores: dict[ScoreName, Score] = {}
    boxes = MaxBoxAcc()
    for row, table in tables.items():
        for index, name in enumerate(VALUES):
            values = table.rows[:, index]
            if bool(values.isfinite().any()):
                scores[ScoreName(split, row, name)] = bootstrap.mean(values).score()
        levels = table.rows[:, len(VALUES) :]
        if bool(levels.isfinite().any()):
            for name, value in boxes.reduce(levels, bootstrap).items():
                scores[ScoreName(split, row, f"box_{name}")] = value.score()
    rows = [row for row in tables if row.startswith("masker") and "random" in tables]
    for row, goal, name in product(rows, _GOALS, _KEPT):
        three = (tables[row], tables[goal], tables["random"])
        index = VALUES.index(name)
        if bool(tables[row].rows[:, index].isfinite().any()):
            scores[ScoreName(split, row, f"kept_{name}", goal)] = kept_share(three, index, bootstrap)
    return Evaluation(
        split,
        scores,
        counts={row: len(table.image_ids) for row, table in tables.items()},
        timings=dict(timings),
        notes=_NOTES if rows else (),
    )
