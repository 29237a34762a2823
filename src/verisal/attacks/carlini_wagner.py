"""Carlini and Wagner's attack of least L2 norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from verisal.attacks._base import Attack, Draw
from verisal.attacks._victim import Victim
from verisal.types import Norm

__all__ = ["CarliniWagnerL2"]

_EDGE = 1e-6
_BETAS = (0.9, 0.999)
_BISECT_AFTER = 1e10


@final
@dataclass(frozen=True)
class CarliniWagnerL2(Attack):
    """Least L2 noise with a given margin."""

    norm: ClassVar[Norm] = "l2"
    confidence: float = 0.0
    rounds: int = 5
    steps: int = 200
    lr: float = 0.01
    initial_c: float = 0.1
    check_every: int = 10
    min_gain: float = 1e-3
    targeted: bool = False
    warm: bool = False
    factor: float = 10.0

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        count = len(images)
        rows = torch.arange(count, device=images.device)
        low = images.new_zeros(count)
        high = images.new_full((count,), torch.inf)
        c = images.new_full((count,), self.initial_c)
        best, best_l2 = images.clone(), images.new_full((count,), torch.inf)
        start = torch.atanh((2 * images - 1) * (1 - 2 * _EDGE))
        w = start
        for _ in range(self.rounds):
            found, found_l2, last = self._descend(victim, images, w, c, rows)
            hit = found_l2.isfinite()
            if self.warm:
                w = last
            better = hit & (found_l2 < best_l2)
            best = torch.where(better.view(-1, 1, 1, 1), found, best)
            best_l2 = torch.where(better, found_l2, best_l2)
            high = torch.where(hit, torch.minimum(high, c), high)
            low = torch.where(hit, low, torch.maximum(low, c))
            mid = torch.where(low > 0, (low * high).sqrt(), high / self.factor)
            c = torch.where(high.isinf(), low * self.factor, mid)
        return torch.where(best_l2.isfinite().view(-1, 1, 1, 1), best, (torch.tanh(last) + 1) / 2)

    def _descend(
        self, victim: Victim, images: Tensor, start: Tensor, c: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        found, found_l2 = images.clone(), images.new_full((len(images),), torch.inf)
        last = start.clone()
        act = torch.arange(len(images))
        x, w, cc = images, start.clone(), c
        m, v = torch.zeros_like(w), torch.zeros_like(w)
        prev = images.new_full((len(images),), torch.inf)
        for t in range(1, self.steps + 1):
            tanh = torch.tanh(w)
            adv = (tanh + 1) / 2
            f, g, logits = victim.gradient(adv, rows[act], self._shortfall)
            d = adv - x
            l2 = d.flatten(1).square().sum(1)
            ok = (f <= 0) & victim.reached(logits, rows[act]) & (l2 < found_l2[act])
            k = act[ok]
            found[k] = adv[ok]
            found_l2[k] = l2[ok]
            g = (2 * d + cc.view(-1, 1, 1, 1) * g) * (1 - tanh.square()) / 2
            m = 0.9 * m + 0.1 * g
            v = 0.999 * v + 0.001 * g * g
            w = w - self.lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            if t % self.check_every == 0:
                loss = l2 + cc * f
                go = loss < prev * (1 - self.min_gain)
                prev = torch.where(go, loss, prev)
                if not go.all():
                    last[act[~go]] = w[~go]
                    act, x, w, cc, m, v, prev = act[go], x[go], w[go], cc[go], m[go], v[go], prev[go]
                    if not len(act):
                        break
        last[act] = w
        return found, found_l2, last

    def _shortfall(self, logits: Tensor, labels: Tensor) -> Tensor:
        own = logits.gather(1, labels[:, None]).squeeze(1)
        other = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        margin = own - other if self.targeted else other - own
        return (self.confidence - margin).clamp_min(0)
