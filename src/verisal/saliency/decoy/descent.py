r"""The constrained problem of many patches at once, by a penalty whose weight every patch adapts.

Per patch and sign *s*, with :math:`\delta` zero outside of the patch and :math:`x + \delta` in [0, 1],

.. math:: \max_\delta \operatorname{mean}_{patch} (s \delta)^+ \quad
    \text{subject to} \quad \lVert F_l(x + \delta) - F_l(x) \rVert_\infty \le \epsilon

Only layers 1..l are run. Patches that share an image touch no common feature, so each has its own weight, its
own largest change of a feature and its own kept iterate.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from verisal._brief import brief
from verisal.saliency.decoy.layer import Features
from verisal.saliency.decoy.problem import Rows

_BETAS, _ADAM_EPS = (0.9, 0.99), 1e-8
# A scaled iterate aims just inside of the tolerance, because the layers are not linear.
_INSIDE = 0.995
# How often what is still infeasible at the end is drawn nearer to the image.
_LAST_TRIES = 8
# By what it shrinks each time, at least.
_SHRINK = 0.8
# Share of the first learning rate that the last step has; gain of a round below which a decoy is finished.
_FINAL_RATE, _HARDLY = 1 / 64, 0.01


@dataclass(frozen=True)
class Solution:
    """Changes that were found, by row.

    Attributes:
        change: ``(N, C, H, W)``, zero on patches for which nothing feasible was found.
        found: ``(N, ky, kx)`` bool, True if the patch holds a feasible iterate.
        passes: ``(N,)``, runs of layers 1..l.
    """

    change: Tensor
    found: Tensor
    passes: Tensor

    __repr__ = brief


@dataclass(frozen=True)
class DecoyDescent:
    """Adam on the penalised objective, in rounds.

    Every iterate is also drawn towards the image until it would be feasible if the layers were linear, and
    that, verified after the round, is kept if it is the best so far: the penalty need not end feasible.

    The settings are those of :class:`Decoy`. The learning rate falls geometrically to a 64th; a decoy whose
    patches all hold a feasible iterate that a round has hardly improved is finished.
    """

    steps: int
    rounds: int
    learning_rate: float
    multiplier: float
    factor: float

    def run(self, features: Features, rows: Rows, start: Tensor) -> Solution:
        """Solve all rows; ``start (N, C, H, W)`` is a small change in the direction of the sign."""
        best = _Best.of(rows)
        state = _State.of(rows, start, self.multiplier)
        active = torch.arange(len(rows.images), device=start.device)
        passes = torch.zeros(len(active), device=start.device)
        here = rows
        for number in range(self.rounds):
            before = best.gain[active]
            kept = best.part(active)
            for step in range(self.steps):
                share = (number * self.steps + step) / max(1, self.rounds * self.steps - 1)
                rate = self.learning_rate * _FINAL_RATE**share
                self._step(features, here, state, kept, rate, number * self.steps + step + 1)
            _verify(features, here, kept)
            passes[active] += self.steps + 1
            best.put(active, kept)
            state.multiplier = torch.where(
                state.feasible, state.multiplier / self.factor, state.multiplier * self.factor
            )
            improved = kept.gain > before * (1 + _HARDLY)
            going = (improved | (kept.gain <= 0)).logical_and(here.patches.area > 0).flatten(1).any(dim=1)
            if not bool(going.any()):
                break
            if not bool(going.all()):
                active, here, state = active[going], here[going], state.part(going)
        return _assembled(features, rows, best, passes)

    def _step(
        self, features: Features, rows: Rows, state: _State, kept: _Best, rate: float, count: int
    ) -> None:
        leaf = state.change.requires_grad_()
        moved_features = features(rows.images + leaf)
        difference = (moved_features - rows.features).detach()
        over = difference.abs() > rows.epsilon[..., None]
        weight = rows.patches.to_features(state.multiplier * rows.unit)
        (gradient,) = torch.autograd.grad(
            moved_features, leaf, grad_outputs=weight * over * difference.sign()
        )
        change = leaf.detach()
        with torch.no_grad():
            moved = rows.moved(difference)
            state.feasible = rows.feasible(moved)
            kept.offer(rows, change, moved)
            channels = change.shape[1]
            share = rows.patches.to_pixels(1 / (channels * rows.patches.area).clamp_min(1))
            gradient = gradient * (share > 0) - rows.sign * share * (rows.sign * change > 0)
            state.change = state.stepped(gradient, change, rate, count).clamp(rows.low, rows.high)


@dataclass
class _State:
    change: Tensor
    mean: Tensor
    square: Tensor
    multiplier: Tensor
    feasible: Tensor

    @classmethod
    def of(cls, rows: Rows, start: Tensor, multiplier: float) -> _State:
        area = rows.patches.area
        return cls(
            start.clamp(rows.low, rows.high),
            torch.zeros_like(start),
            torch.zeros_like(start),
            torch.full_like(area, multiplier),
            torch.zeros_like(area, dtype=torch.bool),
        )

    def part(self, index: Tensor) -> _State:
        return _State(*(getattr(self, item.name)[index] for item in fields(self)))

    def stepped(self, gradient: Tensor, change: Tensor, rate: float, count: int) -> Tensor:
        first, second = _BETAS
        self.mean.lerp_(gradient, 1 - first)
        self.square.lerp_(gradient.square(), 1 - second)
        root = (self.square / (1 - second**count)).sqrt_().add_(_ADAM_EPS)
        return change - rate / (1 - first**count) * self.mean / root


@dataclass
class _Best:
    """Feasible iterates, and scaled ones that promise more and are yet to be verified."""

    change: Tensor
    gain: Tensor
    candidate: Tensor
    promise: Tensor

    @classmethod
    def of(cls, rows: Rows) -> _Best:
        none = torch.zeros_like(rows.patches.area)
        return cls(torch.zeros_like(rows.images), none, torch.zeros_like(rows.images), none.clone())

    def part(self, index: Tensor) -> _Best:
        return _Best(*(getattr(self, item.name)[index] for item in fields(self)))

    def put(self, index: Tensor, part: _Best) -> None:
        for item in fields(self):
            getattr(self, item.name)[index] = getattr(part, item.name)

    def offer(self, rows: Rows, change: Tensor, moved: Tensor) -> None:
        """Keep the iterate where it is feasible; elsewhere note what it would be, drawn towards the image."""
        gain, feasible = rows.gain(change), rows.feasible(moved)
        self._keep(rows, change, gain, feasible & (gain > self.gain))
        scale = _scale(rows, moved)
        better = ~feasible & (scale * gain > torch.maximum(self.gain, self.promise))
        self.promise = (scale * gain).where(better, self.promise)
        chosen = rows.patches.to_pixels(better.float()) > 0
        self.candidate = (rows.patches.to_pixels(scale) * change).where(chosen, self.candidate)

    def verify(self, rows: Rows, moved: Tensor) -> None:
        """Keep the candidates that are feasible; draw the others nearer to the image, to be tried again."""
        feasible = rows.feasible(moved)
        self._keep(rows, self.candidate, self.promise, feasible & (self.promise > self.gain))
        # A rectified feature that is off stays off for a while, however linear the layers are elsewhere.
        scale = torch.where(feasible, 1.0, _scale(rows, moved).clamp_max(_SHRINK))
        self.candidate, self.promise = self.candidate * rows.patches.to_pixels(scale), self.promise * scale

    def _keep(self, rows: Rows, change: Tensor, gain: Tensor, better: Tensor) -> None:
        self.gain = gain.where(better, self.gain)
        self.change = change.where(rows.patches.to_pixels(better.float()) > 0, self.change)


def _scale(rows: Rows, moved: Tensor) -> Tensor:
    """``(N, ky, kx)``: by what a change must shrink to be feasible, if the layers were linear."""
    # Where nothing moved there is nothing to divide by.
    return torch.where(rows.feasible(moved), 1.0, _INSIDE * rows.epsilon / moved.maximum(rows.epsilon))


def _verify(features: Features, rows: Rows, best: _Best) -> None:
    with torch.no_grad():
        best.verify(rows, rows.moved(features(rows.images + best.candidate) - rows.features))


def _assembled(features: Features, rows: Rows, best: _Best, passes: Tensor) -> Solution:
    """The kept iterates of all patches in one image, measured together; what is not feasible is taken out."""
    for _ in range(_LAST_TRIES):
        _verify(features, rows, best)
    with torch.no_grad():
        moved = rows.moved(features(rows.images + best.change) - rows.features)
        solved = rows.feasible(moved) & (best.gain > 0)
        change = best.change * rows.patches.to_pixels(solved.float())
    return Solution(change, solved, passes + _LAST_TRIES + 1)
