"""Signed and projected gradient steps: FGSM, PGD and BIM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from verisal.attacks._base import Attack, Draw, check_ball, check_settings, require
from verisal.attacks._victim import Victim, unit, wide
from verisal.attacks.gradient.apgd import best_restart
from verisal.functional.adversarial import project_noise
from verisal.types import Norm


@final
@dataclass(frozen=True)
class FGSM(Attack):
    r"""One signed step of the cross-entropy gradient.

    .. math:: x' = \mathrm{clip}_{[0,1]}(x + \epsilon\,\mathrm{sign}\,\nabla_x \mathrm{CE}(f(x), y))

    Pixels whose gradient is exactly zero stay as they are. Targeted: the step goes down instead of up.
    Costs 2 forward passes (one of them for the verdict) and 1 backward pass per image.

    Args:
        eps: step and largest change of a value, in [0, 1].
        targeted: ``y`` is the class to reach.

    Raises:
        ConfigError: ``eps`` outside [0, 1].

    References:
        goodfellow2015
    """

    norm: ClassVar[Norm] = "linf"
    eps: float
    targeted: bool = False

    def __post_init__(self) -> None:
        check_ball(self, self.eps)

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        _, gradient, _ = victim.gradient(images, victim.rows, victim.cross_entropy)
        step = -self.eps if self.targeted else self.eps
        return (images + step * gradient.sign()).clamp(0, 1)


@final
@dataclass(frozen=True)
class PGD(Attack):
    r"""Repeated gradient steps on the cross-entropy, each projected to the eps ball and then to [0, 1].

    .. math:: x_{t+1} = \mathrm{clip}_{[0,1]}(x + \Pi_\epsilon(x_t + \alpha\,d(g_t) - x))

    with ``d`` the sign of the gradient (Linf) or the gradient at unit length per sample (L2; a gradient of
    exactly zero gives no step). The last iterate is returned; with restarts, per sample, the first last
    iterate that fools the classifier, else the one of highest loss (targeted: lowest). Fooled samples take
    no part in later restarts. Costs ``steps`` forward and backward passes per restart, and one forward
    pass for the verdict of each restart and of the whole.

    Args:
        eps: radius of the ball; in [0, 1] for Linf, any length >= 0 for L2.
        norm: ``linf`` or ``l2``.
        steps: gradient steps per restart.
        step: length of a step; ``2.5 * eps / steps`` if None.
        random_start: start uniformly inside the ball rather than at the image.
        restarts: independent random starts.
        targeted: ``y`` is the class to reach.

    Raises:
        ConfigError: settings out of range, or several restarts without a random start.

    References:
        madry2018, kurakin2017
    """

    eps: float
    norm: Norm = "linf"
    steps: int = 10
    step: float | None = None
    random_start: bool = True
    restarts: int = 1
    targeted: bool = False

    def __post_init__(self) -> None:
        check_ball(self, self.eps, self.norm)
        check_settings(self, "steps", "restarts", least=1)
        check_settings(self, "step", least=0)
        require(
            self.random_start or self.restarts == 1,
            "PGD.restarts",
            self.restarts,
            "1 without a random start, as all restarts would be equal",
        )

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        if self.restarts == 1:
            return self._climb(victim, images, self._start(images, 0, draw), victim.rows)

        def run(restart: int, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            last = self._climb(victim, images[rows], self._start(images, restart, draw)[rows], rows)
            with torch.no_grad():
                logits = victim.logits(last, rows)
            loss = self._sign() * victim.cross_entropy(logits, victim.labels[rows])
            return last, loss, victim.reached(logits, rows)

        return best_restart(run, images, victim.rows, restarts=self.restarts)[0]

    def _climb(self, victim: Victim, images: Tensor, noise: Tensor, rows: Tensor) -> Tensor:
        step = self._sign() * (2.5 * self.eps / self.steps if self.step is None else self.step)
        current = (images + noise).clamp(0, 1)
        for _ in range(self.steps):
            _, gradient, _ = victim.gradient(current, rows, victim.cross_entropy)
            direction = gradient.sign() if self.norm == "linf" else unit(gradient)
            noise = project_noise(current + step * direction - images, self.eps, self.norm)
            current = (images + noise).clamp(0, 1)
        return current

    def _start(self, images: Tensor, restart: int, draw: Draw) -> Tensor:
        if not self.random_start:
            return torch.zeros_like(images)
        shape = images.shape[1:]
        stream = f"pgd start {restart}"
        if self.norm == "linf":
            uniform: Tensor = draw(lambda rng: torch.rand(shape, generator=rng), stream=stream)
            return self.eps * (2 * uniform - 1)
        direction = unit(draw(lambda rng: torch.randn(shape, generator=rng), stream=stream))
        # Radius of a point uniform in the ball: the share of the volume within r grows as r^n.
        share: Tensor = draw(lambda rng: torch.rand(1, generator=rng), stream=stream + " radius")
        return self.eps * wide(share.double().pow(1 / shape.numel()).float()) * direction

    def _sign(self) -> float:
        return -1.0 if self.targeted else 1.0


@final
@dataclass(frozen=True)
class BIM(Attack):
    """:class:`PGD` from the image itself, with steps of ``1.25 * eps / steps``; nothing is drawn at random.

    Args:
        eps: radius of the ball; in [0, 1] for Linf, any length >= 0 for L2.
        norm: ``linf`` or ``l2``.
        steps: gradient steps.
        targeted: ``y`` is the class to reach.

    Raises:
        ConfigError: settings out of range.

    References:
        kurakin2017
    """

    eps: float
    norm: Norm = "linf"
    steps: int = 10
    targeted: bool = False

    def __post_init__(self) -> None:
        check_settings(self, "steps", least=1)
        self._pgd()

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        return self._pgd()._perturb(victim, images, draw=draw)

    def _pgd(self) -> PGD:
        step = 1.25 * self.eps / self.steps
        return PGD(
            self.eps, self.norm, steps=self.steps, step=step, random_start=False, targeted=self.targeted
        )
