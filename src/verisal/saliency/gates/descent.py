"""The objective of gates on one batch, and the descent that finds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor

from verisal._brief import brief
from verisal.functional.outputs import output_of, require_softmax
from verisal.saliency._base import ONE_SCORE
from verisal.saliency.gates.masks import GatePenalty, gate_penalty_weights
from verisal.types import StagedClassifier, StageOutputs, check_range

Keep = Literal["best", "fidelity", "last"]
Objective = Literal["class", "output", "evidence", "mixed", "maximise", "maximise_log_probability"]
_MARGIN = 0.5


@dataclass(frozen=True)
class GateResult:
    """Learned gates and how they were learned, per image.

    Attributes:
        gates: per stage ``(B, C_l, H_l, W_l)``, non-negative.
        activations: per stage, ungated, of the same shapes.
        distance: ``(B,)`` D of the kept iterate.
        penalty: ``(B,)`` R of the kept iterate.
        objective: ``(B,)`` J of the kept iterate.
        query_change: ``(B,)`` query logit with gates minus without.
        kept_step: ``(B,)`` int64, 0 (untouched gates) .. T.
        unchanged: ``(B,)`` bool, True if the predicted class is the same.
        zero_share: ``(B,)`` share of gates at exactly 0.
    """

    gates: tuple[Tensor, ...]
    activations: tuple[Tensor, ...]
    distance: Tensor
    penalty: Tensor
    objective: Tensor
    query_change: Tensor
    kept_step: Tensor
    unchanged: Tensor
    zero_share: Tensor

    __repr__ = brief


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
        self._output = output_of(network)
        # A label that is decided by itself is asked for by itself, and a score is the only one.
        alone = objective in ("class", "evidence", "maximise")
        if not alone and (self._output == "sigmoid" or objective == "maximise_log_probability"):
            require_softmax(network, f"a method that learns gates (objective {objective})", instead=ONE_SCORE)
        self.objective, self.network, self.query = objective, network, query
        self.activations = outputs.activations
        self.weights = gate_penalty_weights([part.shape for part in outputs.activations], penalty)
        self._logits = outputs.logits
        self._prediction = outputs.logits.argmax(dim=1)
        self._reference = self.of_query(outputs.logits)

    @cached_property
    def floor(self) -> Tensor:
        """``(B,)``: the query's logit with all gates at 0, the same for every image."""
        nothing = [torch.zeros_like(activation[:1]) for activation in self.activations]
        with torch.no_grad():
            return self.of_query(self.network.gated(self.activations[0][:1], nothing).expand_as(self._logits))

    @cached_property
    def evidence(self) -> Tensor:
        """``(B,)``: how far the ungated query logit is above :attr:`floor`, 0 where it is below."""
        return (self._reference - self.floor).clamp_min(0)

    @property
    def spread(self) -> Tensor:
        """``(B,)`` highest minus lowest logit of the ungated network, the scale of a change.

        Of one logit its distance from 0, where the decision turns.
        """
        return logit_spread(self._logits)

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
                return ((self.of_query(logits) - self.floor).clamp_min(0) - self.evidence).square()
            case "maximise":
                return -self.of_query(logits)
            case "maximise_log_probability":
                return -self.of_query(logits.log_softmax(dim=1))

    def query_change(self, logits: Tensor) -> Tensor:
        """``(B,)`` query logit with gates minus without."""
        return self.of_query(logits) - self._reference

    def unchanged(self, logits: Tensor) -> Tensor:
        """``(B,)`` bool, True if the predicted class, or what is decided about the label, is the same."""
        if self._output == "sigmoid":
            return (self.of_query(logits) > 0) == (self._reference > 0)
        return logits.argmax(dim=1) == self._prediction

    def admissible(self, logits: Tensor) -> Tensor:
        """``(B,)`` bool, True if the iterate may be kept: a predicted class that is asked for stays so.

        A query that was not predicted may come out on top: once the evidence for all other classes is gated
        away, the biases decide, and to prevent that is to keep evidence for another class.
        """
        if self._output == "sigmoid":
            kept = (self.of_query(logits) > 0) | (self._reference <= 0)
            return kept if self.objective in ("class", "evidence") else torch.ones_like(kept)
        prediction = logits.argmax(dim=1)
        if self.objective in ("output", "mixed"):
            return prediction == self._prediction
        if self.objective in ("class", "evidence"):
            return (prediction == self.query) | (self._prediction != self.query)
        return torch.ones_like(prediction, dtype=torch.bool)

    def holds(self, logits: Tensor, share: float) -> Tensor:
        """``(B,)`` bool, False if less than this share of the query's evidence is left; True without any."""
        return (self.of_query(logits) - self.floor >= share * self.evidence) | (self.evidence <= 0)

    def inadmissibility(self, logits: Tensor) -> Tensor:
        """``(B,)``: how far the query's logit has fallen below another's where it was the highest, else 0.

        A smooth stand-in for :meth:`admissible` of the objectives with a query, for training.
        """
        others = logits.scatter(1, self.query[:, None], -torch.inf).amax(dim=1)
        gap = (others - self.of_query(logits) + _MARGIN).clamp_min(0)
        return gap * (self._prediction == self.query)

    def judge(self, gates: Sequence[Tensor], reg_weight: float) -> GateResult:
        """The result of gates of any origin."""
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

    def of_query(self, logits: Tensor) -> Tensor:
        """``(B,)``: the query's logit."""
        return logits.gather(1, self.query[:, None])[:, 0]


@final
@dataclass(frozen=True, kw_only=True)
class GateDescent:
    """Adam on all gates together, with a projection to ``[0, gate_max]`` after each step.

    The settings are those of :class:`HierarchicalMasks`; values out of range raise ``ConfigError``.
    """

    reg_weight: float
    steps: int
    learning_rate: float
    keep: Keep = "best"
    gate_max: float | None = None
    least_kept: float | None = None

    def __post_init__(self) -> None:
        check_range(0, reg_weight=self.reg_weight, steps=self.steps)
        check_range(0, 1, above=True, least_kept=self.least_kept)
        check_range(0, above=True, learning_rate=self.learning_rate, gate_max=self.gate_max)

    def run(
        self, problem: GateProblem, start: Sequence[Tensor] | None = None, *, note: Note | None = None
    ) -> GateResult:
        """The kept iterate of every image.

        Args:
            problem: of the batch.
            start: gates to begin from; ones if None.
            note: called with a copy of the state before each step 0..T.
        """
        activations = problem.activations
        # One row per image lets Adam, the projection and the copies run once instead of once per stage.
        values = activations[0].new_ones(len(activations[0]), sum(part[0].numel() for part in activations))
        gates = [view.detach().requires_grad_() for view in stage_views(values, activations)]
        if start is not None:
            with torch.no_grad():
                for gate, given in zip(gates, start, strict=True):
                    gate.copy_(given)
        weights = weight_row(problem)
        gradient = torch.empty_like(values)
        gradient_views = stage_views(gradient, activations)
        optimiser = torch.optim.Adam([values], lr=self.learning_rate, fused=True)
        values.grad = gradient
        kept = Kept(self.keep, self.steps, values)
        above = None if self.least_kept is None else LastAbove(self.least_kept, values)
        for step in range(self.steps + 1):
            if note is not None:
                moments = optimiser.state[values]
                none = torch.zeros_like(values)
                note(
                    DescentState(
                        values.clone(),
                        moments.get("exp_avg", none).clone(),
                        moments.get("exp_avg_sq", none).clone(),
                    )
                )
            logits = problem.gated(gates)
            distance = problem.distance(logits)
            with torch.no_grad():
                # Gates are never negative, so their L1 norm is their sum.
                penalty = values @ weights
                total = distance + self.reg_weight * penalty
                record = torch.stack([distance, penalty, problem.query_change(logits)], dim=1)
                value = distance if self.keep == "fidelity" else total
                kept.offer(step, values, problem, logits, record, value)
                if above is not None:
                    above.offer(step, values, problem, logits, record)
            if step == self.steps:
                break
            slopes = torch.autograd.grad(distance.sum(), gates)
            with torch.no_grad():
                for view, slope, weight in zip(gradient_views, slopes, problem.weights, strict=True):
                    torch.add(slope, self.reg_weight * weight, out=view)
                optimiser.step()
                values.clamp_(min=0, max=self.gate_max)
        if above is not None:
            above.replace(kept)
        distance, penalty, change = kept.records.unbind(dim=1)
        return GateResult(
            gates=tuple(stage_views(kept.values, activations)),
            activations=activations,
            distance=distance,
            penalty=penalty,
            objective=distance + self.reg_weight * penalty,
            query_change=change,
            kept_step=kept.step,
            unchanged=kept.unchanged,
            zero_share=kept.values.eq(0).float().mean(dim=1),
        )


def logit_spread(logits: Tensor) -> Tensor:
    """``(B,)`` highest minus lowest of logits ``(B, K)``; of one logit its distance from 0."""
    if logits.shape[1] == 1:
        return logits[:, 0].abs()
    return logits.amax(dim=1) - logits.amin(dim=1)


class DescentState(NamedTuple):
    """Gates of all stages as one row per image ``(B, N)``, and Adam's two moments of their slope."""

    values: Tensor
    mean: Tensor
    square: Tensor


Note = Callable[[DescentState], None]


def stage_views(rows: Tensor, activations: Sequence[Tensor]) -> list[Tensor]:
    """Each stage's gates ``(B, C_l, H_l, W_l)`` as a view of ``rows (B, N)``.

    Views share the activations' memory layout: a product of two layouts would copy one of them every step.
    """
    views, start = [], 0
    for activation in activations:
        batch, channels, height, width = activation.shape
        part = rows[:, start : start + activation[0].numel()]
        start += activation[0].numel()
        if activation.is_contiguous():
            views.append(part.view(activation.shape))
        else:
            views.append(part.view(batch, height, width, channels).permute(0, 3, 1, 2))
    return views


def weight_row(problem: GateProblem) -> Tensor:
    """``(N,)``: the penalty's weight of every gate of a row."""
    parts = zip(problem.weights, problem.activations, strict=True)
    return torch.cat([activation.new_full((activation[0].numel(),), weight) for weight, activation in parts])


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
        # In place, and without asking which these are: a device would have to be waited for in every step.
        torch.where(better[:, None], values, self.values, out=self.values)


class LastAbove:
    """Of each image, the last admissible gates before it first had less than a share of its evidence."""

    def __init__(self, share: float, values: Tensor) -> None:
        self.share = share
        self.lost = torch.zeros(len(values), dtype=torch.bool, device=values.device)
        # Takes whatever is lower, from the start on.
        self._kept = Kept("last", 0, values)

    def offer(self, step: int, values: Tensor, problem: GateProblem, logits: Tensor, record: Tensor) -> None:
        """Take ``values`` of this step for the images that have not lost their evidence so far."""
        self.lost |= ~problem.holds(logits, self.share)
        refused = self.lost | ~problem.admissible(logits)
        later = torch.full_like(record[:, 0], -float(step)).masked_fill(refused, torch.nan)
        self._kept.offer(step, values, problem, logits, record, later)

    def replace(self, kept: Kept) -> None:
        """Put them in the place of what was kept of the images that lost their evidence."""
        own, lost = self._kept, self.lost
        kept.values[lost], kept.records[lost] = own.values[lost], own.records[lost]
        kept.step[lost], kept.unchanged[lost] = own.step[lost], own.unchanged[lost]
