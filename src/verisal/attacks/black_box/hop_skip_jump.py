"""HopSkipJump: walks along the border of a class by asking for predictions only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.attacks._base import Attack, Draw, check_settings
from verisal.attacks._victim import Victim, unit, wide
from verisal.functional.adversarial import noise_norm
from verisal.types import Norm

# Halvings of the jump before a sample stays where it is for this step.
_MAX_HALVINGS = 12


@final
@dataclass(frozen=True)
class HopSkipJumpL2(Attack):
    r"""Least L2 noise from the classifier's decisions alone: neither gradients nor logits are used.

    Starts from a random image of another class and bisects the line to the image for the border. Then, in
    each step *t*, asks for :math:`n\sqrt t` decisions around the border, takes their mean direction as that
    of the gradient, jumps along it by :math:`\|x_t - x\|_2 / \sqrt t`, halved until the image is still
    another class, and bisects again. The smallest noise found is returned. An image that is wrong already is
    returned as it is; one for which no start is found returns the last start tried, as a failure.

    Costs about ``sum(directions * sqrt(t))`` + (``steps`` + 1) * ``bisections`` forward passes per image and
    no backward pass: 800 with the settings below.

    Args:
        steps: steps along the border.
        directions: decisions asked in the first step.
        bisections: halvings of the line to the image.
        starts: random images tried as start.

    Raises:
        ConfigError: settings out of range.

    References:
        chen2020hopskipjump

    Differs from:
        the paper: starts are random images of all coarsenesses, not noise alone; the line is halved a given
        number of times *b*, and directions have length :math:`2^{-b} \sqrt d \|x_t - x\|_2` in every step;
        the smallest noise and not the last is returned; there is no targeted form, which needs images of the
        goal.
    """

    norm: ClassVar[Norm] = "l2"
    steps: int = 10
    directions: int = 30
    bisections: int = 12
    starts: int = 50

    def __post_init__(self) -> None:
        check_settings(self, "steps", least=0)
        check_settings(self, "directions", "bisections", "starts", least=1)

    @torch.no_grad()
    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        rows = victim.left(~_wrong(victim, images, victim.rows, later=True))
        best, rows = self._started(victim, images.clone(), rows, draw)
        if len(rows) == 0:
            return best
        clean = images[rows]
        border = self._bisected(victim, clean, best[rows], rows)
        best[rows] = border
        for step in range(1, self.steps + 1):
            slope = self._slope(victim, clean, border, rows, step, draw)
            jumped = self._jumped(victim, clean, border, rows, slope, step)
            border = self._bisected(victim, clean, jumped, rows)
            better = noise_norm(border - clean, "l2") < noise_norm(best[rows] - clean, "l2")
            best[rows] = torch.where(wide(better), border, best[rows])
        return best

    def _started(self, victim: Victim, images: Tensor, rows: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Images with a start of another class in ``rows``, and the rows for which one was found."""
        started = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        height, width = images.shape[2:]
        finest = int(math.log2(min(height, width)))
        for number in range(self.starts):
            if len(rows) == 0:
                break
            # From the finest cells to one colour, and again: what fools differs between classifiers.
            cells = 2 ** (finest - number % (finest + 1))
            grid: Tensor = draw(
                partial(_uniform, (images.shape[1], cells, cells)), stream=f"hop start {number}"
            )
            images[rows] = F.interpolate(grid[rows], size=(height, width), mode="nearest")
            wrong = _wrong(victim, images[rows], rows, later=True)
            started[rows] = wrong
            rows = rows[victim.left(~wrong)]
        return images, torch.nonzero(started).squeeze(1)

    def _bisected(self, victim: Victim, clean: Tensor, wrong: Tensor, rows: Tensor) -> Tensor:
        """The wrong image nearest to ``clean`` that halving the line to it finds."""
        low, high = torch.zeros(len(rows), device=rows.device), torch.ones(len(rows), device=rows.device)
        border = wrong
        for _ in range(self.bisections):
            middle = (low + high) / 2
            tried = torch.lerp(clean, wrong, wide(middle))
            inside = _wrong(victim, tried, rows)
            low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
            border = torch.where(wide(inside), tried, border)
        return border

    def _slope(
        self, victim: Victim, clean: Tensor, border: Tensor, rows: Tensor, step: int, draw: Draw
    ) -> Tensor:
        """Unit direction into the wrong class, from decisions around the border."""
        shape = clean.shape[1:]
        # The border is known within 2^-b of its distance, and a random direction of length r leaves it by
        # about r / sqrt(d): shorter ones could not tell the sides apart.
        length = 2.0**-self.bisections * math.sqrt(shape.numel()) * noise_norm(border - clean, "l2")
        count = int(self.directions * math.sqrt(step))
        total, signed = torch.zeros_like(clean), torch.zeros_like(clean)
        votes = torch.zeros(len(rows), device=rows.device)
        for number in range(count):
            drawn: Tensor = draw(partial(_normal, shape), stream=f"hop {step} {number}")
            moved = (border + wide(length) * unit(drawn[rows])).clamp(0, 1)
            direction = moved - border
            vote = torch.where(_wrong(victim, moved, rows), 1.0, -1.0)
            total += direction
            signed += wide(vote) * direction
            votes += vote / count
        # Less the mean vote, for less variance, unless all votes agree and nothing would be left.
        agreed = votes.abs() > 1 - 1 / count
        return unit(signed - wide(torch.where(agreed, 0.0, votes)) * total)

    def _jumped(
        self, victim: Victim, clean: Tensor, border: Tensor, rows: Tensor, slope: Tensor, step: int
    ) -> Tensor:
        """The border moved along ``slope`` as far as it stays wrong; unmoved where every length fails."""
        jumped = border.clone()
        length = noise_norm(border - clean, "l2") / math.sqrt(step)
        left = torch.arange(len(rows), device=rows.device)
        for _ in range(_MAX_HALVINGS):
            tried = (border[left] + wide(length[left]) * slope[left]).clamp(0, 1)
            wrong = _wrong(victim, tried, rows[left], later=True)
            jumped[left] = torch.where(wide(wrong), tried, jumped[left])
            left = left[victim.left(~wrong)]
            if len(left) == 0:
                break
            length[left] /= 2
        return jumped


def _wrong(victim: Victim, images: Tensor, rows: Tensor, *, later: bool = False) -> Tensor:
    return victim.reached(victim.logits(images, rows, later=later), rows)


def _uniform(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=rng)


def _normal(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=rng)
