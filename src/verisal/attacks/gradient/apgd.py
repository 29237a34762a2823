"""Auto-PGD: gradient steps with momentum whose size adapts per sample; alone, and first in a chain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import final

import torch
from torch import Tensor

from verisal.attacks._base import Attack, Draw, check_ball, check_settings, require
from verisal.attacks._victim import LossName, Victim, dlr_classes, unit, wide
from verisal.attacks.black_box.square import SquareAttack
from verisal.functional.adversarial import noise_norm, project_noise
from verisal.types import Norm

_MOMENTUM = 0.75
# Lengths of the periods between two looks at the step size, as shares of all steps: the first, by how much
# each is shorter than the one before, and the shortest.
_FIRST, _SHRINK, _SHORTEST = 0.22, 0.03, 0.06


@final
@dataclass(frozen=True)
class APGD(Attack):
    r"""Projected gradient ascent with momentum that halves its step, per sample, when it no longer pays.

    .. math:: z_t = \Pi(x_t + \eta_t\,d(g_t)), \qquad
        x_{t+1} = \Pi(x_t + 0.75\,(z_t - x_t) + 0.25\,(x_t - x_{t-1}))

    with ``d`` as in :class:`PGD` and :math:`\Pi` the projection to the eps ball and [0, 1]; the first step
    has no momentum. The step starts at ``2 * eps``. At fixed steps, ever closer to each other, a sample
    halves its step and goes back to its best iterate if the loss rose in at most ``rho`` of the steps since
    the last look, or if the last look changed nothing and no better iterate was found since. Returns, per
    sample, the fooling iterate of highest loss, else the iterate of highest loss. Fooled samples take no
    part in later restarts.

    Costs ``steps + 1`` forward and ``steps`` backward passes per restart and image, and one forward pass for
    the verdict; less with ``stop_when_fooled``.

    Args:
        eps: radius of the ball; in [0, 1] for Linf, any length >= 0 for L2.
        norm: ``linf`` or ``l2``.
        loss: ``ce`` (cross-entropy), ``dlr`` (difference of logits ratio; at least 3 classes, 4 if targeted)
            or ``margin`` (difference of logits; any number of classes).
        steps: steps per restart.
        restarts: independent random starts.
        rho: share of rising steps that keeps the step as it is; in [0, 1].
        stop_when_fooled: a sample leaves at its first fooling iterate. Success stays the same and the
            attack is much cheaper, but the images lie near to the border and more of them return to the
            label when they are rounded to 8 bits.
        targeted: ``y`` is the class to reach.

    Raises:
        ConfigError: settings out of range, or a classifier with too few classes for ``dlr``.

    References:
        croce2020

    Differs from:
        the authors' code: it returns the last fooling iterate, and the clean image where there is none;
        the paper: a targeted attack does not know the label to leave, so the best other class stands in
        for it in the targeted dlr loss.
    """

    eps: float
    norm: Norm = "linf"
    loss: LossName = "ce"
    steps: int = 100
    restarts: int = 1
    rho: float = 0.75
    stop_when_fooled: bool = False
    targeted: bool = False

    def __post_init__(self) -> None:
        check_ball(self, self.eps, self.norm)
        require(self.loss in ("ce", "dlr", "margin"), "APGD.loss", self.loss, "'ce', 'dlr' or 'margin'")
        check_settings(self, "steps", "restarts", least=1)
        check_settings(self, "rho", least=0, most=1)

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        return self.attack_rows(victim, images, victim.rows, draw=draw)[0]

    def attack_rows(
        self, victim: Victim, images: Tensor, rows: Tensor, *, draw: Draw
    ) -> tuple[Tensor, Tensor]:
        """Attack only samples ``rows (n,)`` of the chunk ``images (B, C, H, W)``.

        Returns:
            Their images ``(n, C, H, W)`` and whether these fool the classifier ``(n,)``.
        """

        def run(restart: int, left: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return self._climb(victim, images[left], self._start(images, restart, draw)[left], left)

        return best_restart(run, images, rows, restarts=self.restarts)

    def _start(self, images: Tensor, restart: int, draw: Draw) -> Tensor:
        """Noise on the surface of the ball."""
        shape = images.shape[1:]
        stream = f"apgd start {restart}"
        if self.norm == "l2":
            return self.eps * unit(draw(lambda rng: torch.randn(shape, generator=rng), stream=stream))
        noise: Tensor = draw(lambda rng: 2 * torch.rand(shape, generator=rng) - 1, stream=stream)
        return self.eps * noise / wide(noise_norm(noise, "linf"))

    def _climb(
        self, victim: Victim, images: Tensor, noise: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One run from ``images + noise``: best iterate, its loss and whether it fools, per sample."""
        rise = victim.rising_loss(self.loss)
        at = (images + noise).clamp(0, 1)
        loss, gradient, logits = victim.gradient(at, rows, rise, later=self.stop_when_fooled)
        outcome = _Outcome(at.clone(), loss.clone(), victim.reached(logits, rows))
        state = _State(
            place=torch.arange(len(rows), device=rows.device),
            rows=rows,
            images=images,
            at=at,
            before=at,
            gradient=gradient,
            loss=loss,
            step=torch.full_like(loss, 2 * self.eps),
            best=at.clone(),
            best_gradient=gradient.clone(),
            best_loss=loss.clone(),
            best_loss_at_look=loss.clone(),
            rises=torch.zeros_like(rows),
            halved=torch.ones_like(rows, dtype=torch.bool),
        )
        looks = _looks(self.steps)
        for number in range(1, self.steps + 1):
            if self.stop_when_fooled:
                state = state.of(victim.left(~outcome.fools[state.place]))
                if len(state.rows) == 0:
                    break
            state.before, state.at = state.at, self._moved(state, momentum=number > 1)
            if number < self.steps:
                later = self.stop_when_fooled
                loss, gradient, logits = victim.gradient(state.at, state.rows, rise, later=later)
                state.gradient = gradient
            else:
                # Nothing steps from the last iterate, so its gradient is not needed.
                with torch.no_grad():
                    logits = victim.logits(state.at, state.rows)
                    loss = rise(logits, victim.labels[state.rows])
            outcome.offer(state.place, state.at, loss, victim.reached(logits, state.rows))
            state.note(loss)
            if number in looks:
                state.look(at_most=self.rho * looks[number])
        return outcome.images, outcome.loss, outcome.fools

    def _moved(self, state: _State, *, momentum: bool) -> Tensor:
        slope = state.gradient.sign() if self.norm == "linf" else unit(state.gradient)
        at = state.at
        step = self._projected(at + wide(state.step) * slope, state.images)
        if not momentum:
            return step
        mixed = at + _MOMENTUM * (step - at) + (1 - _MOMENTUM) * (at - state.before)
        return self._projected(mixed, state.images)

    def _projected(self, current: Tensor, images: Tensor) -> Tensor:
        return (images + project_noise(current - images, self.eps, self.norm)).clamp(0, 1)


def best_restart(
    run: Callable[[int, Tensor], tuple[Tensor, Tensor, Tensor]],
    images: Tensor,
    rows: Tensor,
    *,
    restarts: int,
) -> tuple[Tensor, Tensor]:
    """Best result of several runs on samples ``rows (n,)`` of ``images (B, C, H, W)``.

    A run is told its number and the samples that no run before has fooled; it gives their images, losses and
    whether they fool. Of a sample the first fooling image is kept, else the one of highest loss.

    Returns:
        Images ``(n, C, H, W)`` and whether they fool the classifier ``(n,)``.
    """
    best = images[rows]
    best_loss = best.new_full((len(rows),), -torch.inf)
    fooled = torch.zeros_like(rows, dtype=torch.bool)
    left = torch.arange(len(rows), device=rows.device)
    for restart in range(restarts):
        reached, loss, hit = run(restart, rows[left])
        better = hit | (loss > best_loss[left])
        best[left[better]] = reached[better]
        best_loss[left[better]] = loss[better]
        fooled[left] = hit
        left = left[~hit]
        if len(left) == 0:
            break
    return best, fooled


@dataclass
class _Outcome:
    """Best iterate of every sample of a run, also of those that have left it."""

    images: Tensor
    loss: Tensor
    fools: Tensor

    def offer(self, place: Tensor, images: Tensor, loss: Tensor, fools: Tensor) -> None:
        """Keep those iterates that fool where none did, or have a higher loss and fool as much."""
        known = self.fools[place]
        better = (fools & ~known) | ((fools == known) & (loss > self.loss[place]))
        self.images[place] = torch.where(wide(better), images, self.images[place])
        self.loss[place] = torch.where(better, loss, self.loss[place])
        self.fools[place] = torch.where(better, fools, known)


@dataclass
class _State:
    """State of the samples that are still in a run; one row each, so that all can be compacted."""

    place: Tensor
    rows: Tensor
    images: Tensor
    at: Tensor
    before: Tensor
    gradient: Tensor
    loss: Tensor
    step: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    best_loss_at_look: Tensor
    rises: Tensor
    halved: Tensor

    def of(self, kept: Tensor) -> _State:
        """The state of the samples in these places."""
        if len(kept) == len(self.rows):
            return self
        return replace(self, **{item.name: getattr(self, item.name)[kept] for item in fields(self)})

    def note(self, loss: Tensor) -> None:
        """Count rises of the loss and keep the best iterate with its gradient."""
        self.rises += loss > self.loss
        self.loss = loss
        better = loss > self.best_loss
        self.best = torch.where(wide(better), self.at, self.best)
        self.best_gradient = torch.where(wide(better), self.gradient, self.best_gradient)
        self.best_loss = torch.where(better, loss, self.best_loss)

    def look(self, *, at_most: float) -> None:
        """Halve the step, and return to the best iterate, where the loss rose too rarely or stalls."""
        stalls = ~self.halved & (self.best_loss <= self.best_loss_at_look)
        self.halved = (self.rises <= at_most) | stalls
        self.step = torch.where(self.halved, self.step / 2, self.step)
        halved = wide(self.halved)
        self.at = torch.where(halved, self.best, self.at)
        self.gradient = torch.where(halved, self.best_gradient, self.gradient)
        self.best_loss_at_look = self.best_loss.clone()
        self.rises = torch.zeros_like(self.rises)


def _looks(steps: int) -> dict[int, int]:
    """Step numbers after which the step size is looked at, with the number of steps since the last look."""
    looks: dict[int, int] = {}
    period, number = max(int(_FIRST * steps), 1), 0
    while number + period <= steps:
        number += period
        looks[number] = period
        period = max(period - max(int(_SHRINK * steps), 1), max(int(_SHORTEST * steps), 1))
    return looks


@final
@dataclass(frozen=True)
class AALight(Attack):
    """:class:`APGD` with cross-entropy, then with dlr, then :class:`SquareAttack`, each on the survivors.

    Where there are fewer classes than dlr needs (3, or 4 if targeted), the margin takes its place. A sample
    that no part fools returns the best iterate of the last part. This is *not* AutoAttack, which has two more
    parts, targeted ones, and fixed settings; its robust accuracy is lower or equal, and numbers of the two
    must not be compared.

    Args:
        eps: radius of the ball; in [0, 1] for Linf, any length >= 0 for L2.
        norm: ``linf`` or ``l2``.
        steps: steps of each APGD run.
        restarts: random starts of each APGD run.
        n_queries: queries of the Square attack.
        stop_when_fooled: see :class:`APGD`.
        targeted: ``y`` is the class to reach.

    Raises:
        ConfigError: settings out of range.

    References:
        croce2020, andriushchenko2020
    """

    rules = SquareAttack.rules
    eps: float
    norm: Norm = "linf"
    steps: int = 50
    restarts: int = 1
    n_queries: int = 500
    stop_when_fooled: bool = False
    targeted: bool = False

    def __post_init__(self) -> None:
        # Made here once, so that settings are refused before anything is attacked.
        _ = self._climb("ce"), self._search

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        result, rows = images.clone(), victim.rows
        for part in self._parts(victim):
            result[rows], fooled = part.attack_rows(victim, images, rows, draw=draw)
            rows = rows[~fooled]
            if len(rows) == 0:
                break
        return result

    def _parts(self, victim: Victim) -> Iterator[APGD | SquareAttack]:
        yield self._climb("ce")
        # Known by now, as the first part has asked for logits.
        enough = victim.num_classes >= dlr_classes(targeted=self.targeted)
        yield self._climb("dlr" if enough else "margin")
        yield self._search

    def _climb(self, loss: LossName) -> APGD:
        return APGD(
            self.eps,
            self.norm,
            loss=loss,
            steps=self.steps,
            restarts=self.restarts,
            stop_when_fooled=self.stop_when_fooled,
            targeted=self.targeted,
        )

    @property
    def _search(self) -> SquareAttack:
        return SquareAttack(self.eps, self.norm, n_queries=self.n_queries, targeted=self.targeted)
