r"""Hierarchical attribution masks: gates on several layers, learned per image so that the output stays.

Every chosen stage output is multiplied element-wise by a gate, :math:`a_l \leftarrow M_l a_l`, which defines
:math:`f(x; M)`. Per image,

.. math:: J(M; x, c) = D(M) + \lambda \sum_l t_l \lVert M_l \rVert_1, \qquad M_l \ge 0

is minimised from :math:`M = 1`, where *D* says how far the output has moved. Regions whose gates survive are
the evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional import (
    Fusion,
    GatePenalty,
    frozen,
    fuse_layers,
    gate_map,
    gate_penalty_weights,
    gradient_scope,
    resize_maps,
    rng_preserved,
)
from verisal.types import SaliencyResult, StagedClassifier, check_query_class

from ._base import GateMethod, GateResult, staged

__all__ = ["HierarchicalMasks", "Keep", "Objective"]

Objective = Literal["class", "output", "evidence", "mixed", "maximise", "maximise_log_probability"]
Keep = Literal["best", "fidelity", "last"]


@final
@dataclass(frozen=True, kw_only=True)
class HierarchicalMasks(GateMethod):
    """Per-image optimisation of gates, fused over layers (HAF).

    Args:
        objective: what *D* keeps. ``evidence`` (default, ours): the part of the query logit above its value
            with all gates at 0, so that a class held down by negative evidence has nothing to keep.
            ``class``: the query logit. ``output``: all logits, mean over classes, no query. ``mixed``:
            ``class`` plus ``output``. ``maximise`` and ``maximise_log_probability``: raise the query's logit
            or log probability instead of keeping it, an ablation.
        reg_weight: lambda. Depends on network, layers and objective; see :func:`calibrate_reg_weight`.
        penalty: form of the weights ``t_l``.
        steps: T, Adam steps.
        learning_rate: Adam's rate; ``steps * learning_rate`` must reach 1, or no gate can reach 0.
        keep: ``best``: lowest J among admissible iterates 0..T. ``fidelity``: lowest D among iterates from
            T/2 on. ``last``: iterate T.
        gate_max: upper bound of gates, or None.
        fusion: how per-layer maps become one.
        chunk_size: images optimised at once; bounds memory, never changes the result beyond float rounding.

    Raises:
        ConfigError: ``steps * learning_rate < 1``, or values out of range.

    References:
        wang2020haf

    Differs from:
        - The paper's exact objective, weight and step count are not public to us; the form of the penalty
          and ``class`` follow third-party code, ``evidence``, ``per_channel``, ``relative`` and the geometric
          fusion are ours.
        - Gates start at 1 (after the first author's CDRP code), so that ``f(x; M) = f(x)`` at the start.
    """

    objective: Objective = "evidence"
    reg_weight: float = 3.0
    penalty: GatePenalty = "per_channel"
    steps: int = 60
    learning_rate: float = 0.05
    keep: Keep = "best"
    gate_max: float | None = None
    fusion: Fusion = "geometric"
    chunk_size: int = 64

    needs_module: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.steps < 1 or self.learning_rate <= 0 or self.reg_weight < 0 or self.chunk_size < 1:
            raise ConfigError(
                "steps and chunk_size must be at least 1, learning_rate positive, reg_weight not negative;"
                f" found steps={self.steps}, chunk_size={self.chunk_size},"
                f" learning_rate={self.learning_rate}, reg_weight={self.reg_weight}"
            )
        if self.steps * self.learning_rate < 1 - 1e-9:
            raise ConfigError(
                f"steps * learning_rate is {self.steps * self.learning_rate:.3g}; a gate falls by at most the"
                " learning rate per step, so it must be at least 1 for gates to reach 0"
            )

    def __call__(self, classifier: object, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """Fused map in ``saliency``, mean of raw maps in ``raw``, upsampled raw maps in ``raw_layers``."""
        network = staged(classifier, images, "HierarchicalMasks")
        check_query_class(query_class, len(images), network.num_classes)
        size = (images.shape[-2], images.shape[-1])
        parts = []
        for start in range(0, len(images), self.chunk_size):
            chunk = slice(start, start + self.chunk_size)
            result = self.gates(network, images[chunk], query_class[chunk])
            parts.append([resize_maps(gate_map(gate), size) for gate in result.gates])
        layers = tuple(torch.cat(layer) for layer in zip(*parts, strict=True))
        return SaliencyResult(
            saliency=fuse_layers(layers, self.fusion),
            raw=torch.stack(layers).mean(dim=0),
            raw_layers=layers,
            n_forward=self.steps + 1,
            n_backward=self.steps,
        )

    @property
    def uses_query(self) -> bool:
        """False for ``output``, which keeps all logits."""
        return self.objective != "output"

    def settings(self) -> dict[str, Any]:
        """Class name and every setting that can change a gate; chunk size and fusion cannot."""
        settings = asdict(self)
        for name in ("chunk_size", "fusion"):
            settings.pop(name)
        return {"saliency": type(self).__name__, **settings}

    def gates(self, classifier: StagedClassifier, images: Tensor, query_class: Tensor) -> GateResult:
        """Learn the gates of one batch; every image's result is independent of its batch mates.

        Args:
            classifier: with stages.
            images: ``(B, 3, H, W)`` float32 in [0, 1].
            query_class: ``(B,)`` int64; ignored by ``output``.

        Raises:
            ConfigError: a query class out of range, or a classifier without stages.
        """
        network = staged(classifier, images, "HierarchicalMasks")
        check_query_class(query_class, len(images), network.num_classes)
        with rng_preserved(images.device), frozen(network), gradient_scope(images.device.type):
            return _optimise(self, network, images.detach().clone(), query_class.clone())


class _Problem:
    """Distances and admissibility of one batch, relative to what the ungated network says."""

    def __init__(
        self, settings: HierarchicalMasks, network: StagedClassifier, images: Tensor, query: Tensor
    ) -> None:
        self.objective = settings.objective
        self.query = query
        with torch.no_grad():
            outputs = network.stage_outputs(images)
            self.activations = outputs.activations
            self.first = outputs.activations[0]
            self.logits = outputs.logits
            self.prediction = outputs.logits.argmax(dim=1)
            self.reference = self._of_query(outputs.logits)
            if self.objective == "evidence":
                nothing = [torch.zeros_like(activation[:1]) for activation in self.activations]
                self.floor = self._of_query(network.gated(self.first[:1], nothing).expand_as(self.logits))
                self.evidence = (self.reference - self.floor).clamp_min(0)

    def _of_query(self, logits: Tensor) -> Tensor:
        return logits.gather(1, self.query[:, None])[:, 0]

    def query_change(self, logits: Tensor) -> Tensor:
        return self._of_query(logits) - self.reference

    def distance(self, logits: Tensor) -> Tensor:
        match self.objective:
            case "class":
                return self.query_change(logits).square()
            case "output":
                return (logits - self.logits).square().mean(dim=1)
            case "mixed":
                return self.query_change(logits).square() + (logits - self.logits).square().mean(dim=1)
            case "evidence":
                return ((self._of_query(logits) - self.floor).clamp_min(0) - self.evidence).square()
            case "maximise":
                return -self._of_query(logits)
            case "maximise_log_probability":
                return -self._of_query(logits.log_softmax(dim=1))

    def admissible(self, logits: Tensor) -> Tensor:
        prediction = logits.argmax(dim=1)
        if self.objective in ("output", "mixed"):
            return prediction == self.prediction
        if self.objective in ("class", "evidence"):
            return (prediction == self.query) == (self.prediction == self.query)
        return torch.ones_like(prediction, dtype=torch.bool)


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


class _Kept:
    """The iterate to return, chosen per image as the optimisation goes."""

    def __init__(self, rule: Keep, steps: int, values: Tensor) -> None:
        batch = len(values)
        self.rule = rule
        self.first_step = {"best": 0, "fidelity": (steps + 1) // 2, "last": steps}[rule]
        self.values = values.clone()
        self.lowest = values.new_full((batch,), torch.inf)
        self.records = values.new_zeros(batch, 3)  # distance, penalty, query change
        self.step = torch.zeros(batch, dtype=torch.int64, device=values.device)
        self.unchanged = torch.zeros(batch, dtype=torch.bool, device=values.device)

    def offer(
        self, step: int, values: Tensor, problem: _Problem, logits: Tensor, record: Tensor, value: Tensor
    ) -> None:
        if step < self.first_step:
            return
        better = (value < self.lowest) & (
            problem.admissible(logits) if self.rule == "best" else torch.isfinite(value)
        )
        self.lowest = torch.where(better, value, self.lowest)
        self.records = torch.where(better[:, None], record, self.records)
        self.step = torch.where(better, step, self.step)
        self.unchanged = torch.where(better, logits.argmax(dim=1) == problem.prediction, self.unchanged)
        rows = better.nonzero()[:, 0]
        if len(rows) == len(better):
            self.values.copy_(values)
        elif len(rows):
            self.values.index_copy_(0, rows, values.index_select(0, rows))


def _optimise(
    settings: HierarchicalMasks, network: StagedClassifier, images: Tensor, query: Tensor
) -> GateResult:
    problem = _Problem(settings, network, images, query)
    rows = _Rows(problem.activations)
    gates = [view.detach().requires_grad_() for view in rows.views(rows.values)]
    weights = gate_penalty_weights([gate.shape for gate in gates], settings.penalty)
    weight_row = rows.spread(weights)
    gradient = torch.empty_like(rows.values)
    gradient_views = rows.views(gradient)
    optimiser = torch.optim.Adam([rows.values], lr=settings.learning_rate, fused=True)
    rows.values.grad = gradient
    kept = _Kept(settings.keep, settings.steps, rows.values)
    for step in range(settings.steps + 1):
        logits = network.gated(problem.first, gates)
        distance = problem.distance(logits)
        with torch.no_grad():
            # Gates are never negative, so their L1 norm is their sum.
            penalty = rows.values @ weight_row
            total = distance + settings.reg_weight * penalty
            record = torch.stack([distance, penalty, problem.query_change(logits)], dim=1)
            value = distance if settings.keep == "fidelity" else total
            kept.offer(step, rows.values, problem, logits, record, value)
        if step == settings.steps:
            break
        found = torch.autograd.grad(distance.sum(), gates)
        with torch.no_grad():
            for view, part, weight in zip(gradient_views, found, weights, strict=True):
                torch.add(part, settings.reg_weight * weight, out=view)
            optimiser.step()
            rows.values.clamp_(min=0, max=settings.gate_max)
    distance, penalty, change = kept.records.unbind(dim=1)
    return GateResult(
        gates=tuple(rows.views(kept.values)),
        distance=distance,
        penalty=penalty,
        objective=distance + settings.reg_weight * penalty,
        query_change=change,
        kept_step=kept.step,
        unchanged=kept.unchanged,
        zero_share=kept.values.eq(0).float().mean(dim=1),
    )
