"""Descent on the gates of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, final

import torch
from torch import Tensor

from verisal._numbers import check_range
from verisal.saliency._base import GateResult
from verisal.saliency.gates.problem import GateProblem

__all__ = ["GateDescent", "Keep", "Kept"]

Keep = Literal["best", "fidelity", "last"]


@final
@dataclass(frozen=True, kw_only=True)
class GateDescent:
    """Adam on all gates together, with a projection to ``[0, gate_max]`` after each step.

    Args:
        reg_weight: lambda.
        steps: T.
        learning_rate: Adam's rate.
        keep: which iterate is returned; see :class:`HierarchicalMasks`.
        gate_max: upper bound of gates, or None.

    Raises:
        ConfigError: values out of range.
    """

    reg_weight: float
    steps: int
    learning_rate: float
    keep: Keep = "best"
    gate_max: float | None = None

    def __post_init__(self) -> None:
        check_range(0, reg_weight=self.reg_weight, steps=self.steps)
        check_range(0, above=True, learning_rate=self.learning_rate, gate_max=self.gate_max)

    def run(self, problem: GateProblem, start: Sequence[Tensor] | None = None) -> GateResult:
        """The kept iterate of every image.

        Args:
            problem: of the batch.
            start: gates to begin from; ones if None.
        """
        rows = _Rows(problem.activations)
        gates = [view.detach().requires_grad_() for view in rows.views(rows.values)]
        if start is not None:
            with torch.no_grad():
                for gate, given in zip(gates, start, strict=True):
                    gate.copy_(given)
        weight_row = rows.spread(problem.weights)
        gradient = torch.empty_like(rows.values)
        gradient_views = rows.views(gradient)
        optimiser = torch.optim.Adam([rows.values], lr=self.learning_rate, fused=True)
        rows.values.grad = gradient
        kept = Kept(self.keep, self.steps, rows.values)
        for step in range(self.steps + 1):
            logits = problem.gated(gates)
            distance = problem.distance(logits)
            with torch.no_grad():
                # Gates are never negative, so their L1 norm is their sum.
                penalty = rows.values @ weight_row
                total = distance + self.reg_weight * penalty
                record = torch.stack([distance, penalty, problem.query_change(logits)], dim=1)
                value = distance if self.keep == "fidelity" else total
                kept.offer(step, rows.values, problem, logits, record, value)
            if step == self.steps:
                break
            found = torch.autograd.grad(distance.sum(), gates)
            with torch.no_grad():
                for view, part, weight in zip(gradient_views, found, problem.weights, strict=True):
                    torch.add(part, self.reg_weight * weight, out=view)
                optimiser.step()
                rows.values.clamp_(min=0, max=self.gate_max)
        distance, penalty, change = kept.records.unbind(dim=1)
        return GateResult(
            gates=tuple(rows.views(kept.values)),
            activations=problem.activations,
            distance=distance,
            penalty=penalty,
            objective=distance + self.reg_weight * penalty,
            query_change=change,
            kept_step=kept.step,
            unchanged=kept.unchanged,
            zero_share=kept.values.eq(0).float().mean(dim=1),
        )


class _Rows:
    """The gates of all stages as one row per image, and each stage's gate as a view of it.

    One row lets Adam, the projection and the copies run once instead of once per stage. Views share the
    activations' memory layout: a product of two layouts would copy one of them every step.
    """

    def __init__(self, activations: Sequence[Tensor]) -> None:
        self._activations = activations
        sizes = [activation[0].numel() for activation in activations]
        self._ends = torch.tensor(sizes).cumsum(dim=0).tolist()
        self.values = activations[0].new_ones(len(activations[0]), self._ends[-1])

    def views(self, rows: Tensor) -> list[Tensor]:
        """Stage views ``(B, C_l, H_l, W_l)`` of ``rows (B, N)``."""
        parts = []
        for activation, end in zip(self._activations, self._ends, strict=True):
            batch, channels, height, width = activation.shape
            part = rows[:, end - activation[0].numel() : end]
            if activation.is_contiguous():
                parts.append(part.view(activation.shape))
            else:
                parts.append(part.view(batch, height, width, channels).permute(0, 3, 1, 2))
        return parts

    def spread(self, per_stage: Sequence[float]) -> Tensor:
        """``(N,)``: one number per stage, repeated over the stage's gates."""
        counts = torch.tensor([self._ends[0], *(b - a for a, b in pairwise(self._ends))])
        return torch.tensor(per_stage).repeat_interleave(counts).to(self.values)


class Kept:
    """The iterate to return, chosen per image as the optimisation goes."""

    def __init__(self, rule: Keep, steps: int, values: Tensor) -> None:
        batch = len(values)
        self.rule = rule
        self.first_step = {"best": 0, "fidelity": (steps + 1) // 2, "last": steps}[rule]
        self.values = values.clone()
        self.lowest = values.new_full((batch,), torch.inf)
        # Distance, penalty, query change; not a number until an iterate is kept.
        self.records = values.new_full((batch, 3), torch.nan)
        self.step = torch.zeros(batch, dtype=torch.int64, device=values.device)
        self.unchanged = torch.zeros(batch, dtype=torch.bool, device=values.device)

    def offer(
        self, step: int, values: Tensor, problem: GateProblem, logits: Tensor, record: Tensor, value: Tensor
    ) -> None:
        """Take ``values`` of this step for the images in which the rule prefers them."""
        if step < self.first_step:
            return
        allowed = torch.isfinite(value)
        if self.rule == "best":
            allowed &= problem.admissible(logits)
        better = allowed & (value < self.lowest)
        self.lowest = torch.where(better, value, self.lowest)
        if step == 0:
            # What the descent starts from is returned where nothing that is allowed comes, but sets no bar.
            better = torch.ones_like(better)
        self.records = torch.where(better[:, None], record, self.records)
        self.step = torch.where(better, step, self.step)
        self.unchanged = torch.where(better, problem.unchanged(logits), self.unchanged)
        rows = better.nonzero()[:, 0]
        if len(rows) == len(better):
            self.values.copy_(values)
        elif len(rows):
            self.values.index_copy_(0, rows, values.index_select(0, rows))
