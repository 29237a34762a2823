r"""Gates as a function of the image through which gradients flow, for attacks on whatever reads gates.

Learned gates :math:`M(x)` are where an optimisation ends, so :math:`dM/dx` is not given by a pass of the
classifier. Three ways to a gradient: through the steps of the optimisation (:class:`UnrolledGates`), none at
all (:class:`FrozenGates`), or that of a network that predicts the gates (:class:`PredictedGates`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional.scopes import frozen
from verisal.saliency.gates.descent import DescentState, GateProblem, stage_views, weight_row
from verisal.saliency.gates.hierarchical import HierarchicalMasks
from verisal.saliency.gates.learned import LearnedMask
from verisal.saliency.gates.method import GateMethod
from verisal.types import StagedClassifier, StageOutputs

GateFunction = Callable[[StagedClassifier, Tensor, StageOutputs, Tensor], tuple[Tensor, ...]]
"""Gates per stage of ``(classifier, images, stage outputs of the images, query class)``."""

# Adam's settings, as torch has them.
_DECAY, _DECAY_SQUARE, _TINY = 0.9, 0.999, 1e-8
_SMALLEST = 1e-30


class DifferentiableGates(ABC):
    """Gates of images, in the graph of the images' stage outputs; a :data:`GateFunction`."""

    @property
    @abstractmethod
    def way(self) -> str:
        """Way of the gradients, for reports: ``unrolled``, ``unrolled_last10``, ``frozen``, ``predicted``."""

    @abstractmethod
    def __call__(
        self, classifier: StagedClassifier, images: Tensor, outputs: StageOutputs, query_class: Tensor
    ) -> tuple[Tensor, ...]:
        """Gates per stage ``(B, C_l, H_l, W_l)``; every image's are independent of its batch mates.

        Call it with gradients on and autocast off, the classifier in eval mode.

        Args:
            classifier: with stages.
            images: ``(B, C, H, W)`` in [0, 1].
            outputs: of the classifier for the images, in the graph that gradients shall reach; without a
                graph the gates have none either.
            query_class: ``(B,)`` int64.
        """


@final
@dataclass(frozen=True, kw_only=True)
class FrozenGates(DifferentiableGates):
    """Gates learned anew for these images, and held constant when gradients are taken.

    Args:
        method: how they are learned.
    """

    method: GateMethod

    @property
    def way(self) -> str:
        """``frozen``."""
        return "frozen"

    def __call__(
        self, classifier: StagedClassifier, images: Tensor, outputs: StageOutputs, query_class: Tensor
    ) -> tuple[Tensor, ...]:
        """The gates that the method learns, without a graph."""
        return tuple(gate.detach() for gate in self.method.gates(classifier, images.detach(), query_class))


@final
@dataclass(frozen=True, kw_only=True)
class PredictedGates(DifferentiableGates):
    """Gates predicted by a mask network, in one pass through which gradients flow.

    Args:
        checkpoint: of the mask network; see :class:`LearnedMask`.

    Raises:
        ConfigError: no such weights, or a classifier that they were not trained for.
        CheckpointError: a damaged file, or one that holds no mask network.
    """

    checkpoint: str

    @property
    def way(self) -> str:
        """``predicted``."""
        return "predicted"

    @cached_property
    def _method(self) -> LearnedMask:
        return LearnedMask(checkpoint=self.checkpoint)

    def __call__(
        self, classifier: StagedClassifier, images: Tensor, outputs: StageOutputs, query_class: Tensor
    ) -> tuple[Tensor, ...]:
        """The gates that the network predicts."""
        return self._method.predicted(classifier, outputs, query_class)


@final
@dataclass(frozen=True, kw_only=True)
class UnrolledGates(DifferentiableGates):
    r"""Learned gates with the gradient of the descent that found them, of second order in the classifier.

    The descent is run once without a graph, which says at which step each image's kept iterate was found.
    The steps that lead to it are then repeated with a graph. Which iterate is kept, and which gates the
    projection has put to 0, are taken as given. The gates are those of the first run.

    Costs the descent itself and, per repeated step, a pass forward and back through which a second pass goes.
    Memory grows with the repeated steps: one classifier pass and its gradient each.

    Args:
        method: whose gates are differentiated.
        last_steps: how many steps before the kept iterate are repeated; None for all. What came before is
            taken as constant.

    Raises:
        ConfigError: ``last_steps`` below 1.

    Differs from:
        Adam in ``torch.optim``, whose result it equals up to rounding: a gate whose gradient has always
        been 0 gets slope 0 in place of an undefined one.
    """

    method: HierarchicalMasks
    last_steps: int | None = None

    def __post_init__(self) -> None:
        if self.last_steps is not None and self.last_steps < 1:
            raise ConfigError(
                f"last_steps must be at least 1, or null for all steps, found {self.last_steps}"
            )

    @property
    def way(self) -> str:
        """``unrolled``, followed by ``_last<k>`` unless all steps are."""
        whole = self.last_steps is None or self.last_steps >= self.method.steps
        return "unrolled" if whole else f"unrolled_last{self.last_steps}"

    def __call__(
        self, classifier: StagedClassifier, images: Tensor, outputs: StageOutputs, query_class: Tensor
    ) -> tuple[Tensor, ...]:
        """The gates of the descent, in the graph of its last steps."""
        with frozen(classifier):
            constant = StageOutputs(outputs.logits.detach(), tuple(a.detach() for a in outputs.activations))
            states: list[DescentState] = []
            problem = self._problem(classifier, constant, query_class)
            learned = self.method.descent.run(problem, note=states.append)
            if not outputs.logits.requires_grad:
                return learned.gates
            repeated = self.method.steps if self.last_steps is None else self.last_steps
            first = (learned.kept_step - repeated).clamp_min(0)
            # Every image starts from its own step.
            begin = [[part[row] for part in states[step]] for row, step in enumerate(first.tolist())]
            state = DescentState(*(torch.stack(part) for part in zip(*begin, strict=True)))
            state.values.requires_grad_()
            problem = self._problem(classifier, outputs, query_class)
            for offset in range(int((learned.kept_step - first).max())):
                gates = stage_views(state.values, problem.activations)
                distance = problem.distance(problem.gated(gates))
                (gradient,) = torch.autograd.grad(distance.sum(), state.values, create_graph=True)
                moved = self._moved(state, gradient, first + offset, problem)
                going = (first + offset < learned.kept_step)[:, None]
                parts = zip(moved, state, strict=True)
                state = DescentState(*(torch.where(going, new, old) for new, old in parts))
            # The values of the first run, so that no rounding of the second is in the result.
            values = torch.empty_like(state.values, requires_grad=False)
            for view, gate in zip(stage_views(values, problem.activations), learned.gates, strict=True):
                view.copy_(gate)
            rows = state.values + (values - state.values).detach()
            return tuple(stage_views(rows, problem.activations))

    def _problem(self, classifier: StagedClassifier, outputs: StageOutputs, query: Tensor) -> GateProblem:
        return GateProblem(self.method.objective, self.method.penalty, classifier, outputs, query)

    def _moved(
        self, state: DescentState, gradient: Tensor, number: Tensor, problem: GateProblem
    ) -> DescentState:
        """One step of Adam and the projection; ``number (B,)`` says which step it is for each image."""
        slope = gradient + self.method.reg_weight * weight_row(problem)
        mean = _DECAY * state.mean + (1 - _DECAY) * slope
        square = _DECAY_SQUARE * state.square + (1 - _DECAY_SQUARE) * slope.square()
        done = (number + 1)[:, None].to(slope)
        # The root has no slope at 0.
        root = square.clamp_min(_SMALLEST).sqrt() / (1 - _DECAY_SQUARE**done).sqrt()
        step = self.method.learning_rate / (1 - _DECAY**done) * mean / (root + _TINY)
        return DescentState((state.values - step).clamp(min=0, max=self.method.gate_max), mean, square)
