"""Descent on the gates of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, final

import torch
from torch import Tensor

from verisal._numbers import check_range
from verisal.functional.outputs import require_softmax
from verisal.saliency._base import ONE_SCORE, GateResult
from verisal.saliency.gates.masks import GatePenalty, gate_penalty_weights
from verisal.types import StagedClassifier, StageOutputs

_MARGIN = 0.5
Objective = Literal["class", "output", "evidence", "mixed", "maximise", "maximise_log_probability"]


@final
class GateProblem:
    r"""Distances, penalties and admissibility of one batch, relative to what the ungated network says.

    Per image, :math:`J(M) = D(M) + \lambda \sum_l t_l \lVert M_l \rVert_1`. Make and use it inside
    ``frozen(network)``.

    Args:
        objective: what *D* keeps; see :class:`HierarchicalMasks`.
        penalty: form of the weights ``t_l``.
        network: with stages.
        outputs: of the ungated network for the images.
        query: ``(B,)`` int64; not read by ``output``.
    """

    def __init__(
        self,
        objective: Objective,
        penalty: GatePenalty,
        network: StagedClassifier,
        outputs: StageOutputs,
        query: Tensor,
    ) -> None:
        require_softmax(network, "a method that learns gates", instead=ONE_SCORE)
        self.objective, self.network, self.query = objective, network, query
        self.activations = outputs.activations
        self.weights = gate_penalty_weights([part.shape for part in outputs.activations], penalty)
        self._logits = outputs.logits
        self._prediction = outputs.logits.argmax(dim=1)
        self._reference = self._of_query(outputs.logits)
        if objective == "evidence":
            nothing = [torch.zeros_like(activation[:1]) for activation in self.activations]
            with torch.no_grad():
                none_left = network.gated(self.activations[0][:1], nothing)
            self._floor = self._of_query(none_left.expand_as(outputs.logits))
            self._evidence = (self._reference - self._floor).clamp_min(0)

    @property
    def spread(self) -> Tensor:
        """``(B,)`` highest minus lowest logit of the ungated network, the scale of a change."""
        return self._logits.amax(dim=1) - self._logits.amin(dim=1)

    def gated(self, gates: Sequence[Tensor]) -> Tensor:
        """Logits with gates."""
        return self.network.gated(self.activations[0], gates)

    def penalty(self, gates: Sequence[Tensor]) -> Tensor:
        """``(B,)`` R of gates that are not negative."""
        terms = [
            weight * gate.flatten(1).sum(dim=1) for gate, weight in zip(gates, self.weights, strict=True)
        ]
        return torch.stack(terms).sum(dim=0)

    def distance(self, logits: Tensor) -> Tensor:
        """``(B,)`` D of the logits with gates."""
        match self.objective:
            case "class":
                return self.query_change(logits).square()
            case "output":
                return (logits - self._logits).square().mean(dim=1)
            case "mixed":
                return self.query_change(logits).square() + (logits - self._logits).square().mean(dim=1)
            case "evidence":
                return ((self._of_query(logits) - self._floor).clamp_min(0) - self._evidence).square()
            case "maximise":
                return -self._of_query(logits)
            case "maximise_log_probability":
                return -self._of_query(logits.log_softmax(dim=1))

    def query_change(self, logits: Tensor) -> Tensor:
        """``(B,)`` query logit with gates minus without."""
        return self._of_query(logits) - self._reference

    def unchanged(self, logits: Tensor) -> Tensor:
        """``(B,)`` bool, whether the predicted class is the same."""
        return logits.argmax(dim=1) == self._prediction

    def admissible(self, logits: Tensor) -> Tensor:
        """``(B,)`` bool, whether the iterate may be kept: what was predicted, if it is asked for, stays so.

        A query that was not predicted may come out on top: once the evidence for all other classes is gated
        away, the biases decide, and to prevent that is to keep evidence for another class.
        """
        prediction = logits.argmax(dim=1)
        if self.objective in ("output", "mixed"):
            return prediction == self._prediction
        if self.objective in ("class", "evidence"):
            return (prediction == self.query) | (self._prediction != self.query)
        return torch.ones_like(prediction, dtype=torch.bool)

    def inadmissibility(self, logits: Tensor) -> Tensor:
        """``(B,)``: how far the query's logit has fallen below another's where it was the highest, else 0.

        A smooth stand-in for :meth:`admissible` of the objectives with a query, for training.
        """
        others = logits.scatter(1, self.query[:, None], -torch.inf).amax(dim=1)
        gap = (others - self._of_query(logits) + _MARGIN).clamp_min(0)
        return gap * (self._prediction == self.query)

    def judge(self, gates: Sequence[Tensor], reg_weight: float) -> GateResult:
        """What gates of any origin keep and cost."""
        with torch.no_grad():
            logits = self.gated(gates)
            distance, penalty = self.distance(logits), self.penalty(gates)
        zeros = torch.stack([gate.eq(0).flatten(1).sum(dim=1) for gate in gates]).sum(dim=0)
        return GateResult(
            gates=tuple(gates),
            activations=self.activations,
            distance=distance,
            penalty=penalty,
            objective=distance + reg_weight * penalty,
            query_change=self.query_change(logits),
            kept_step=torch.zeros_like(self.query),
            unchanged=self.unchanged(logits),
            zero_share=zeros / sum(gate[0].numel() for gate in gates),
        )

    def _of_query(self, logits: Tensor) -> Tensor:
        return logits.gather(1, self.query[:, None])[:, 0]


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
