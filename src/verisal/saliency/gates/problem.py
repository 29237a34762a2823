"""What gates are asked to keep, and what they cost: the objective of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor

from verisal.functional.outputs import require_softmax
from verisal.saliency._base import ONE_SCORE, GateResult
from verisal.saliency.gates.masks import GatePenalty, gate_penalty_weights
from verisal.types import StagedClassifier, StageOutputs

__all__ = ["GateProblem", "Objective"]

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
