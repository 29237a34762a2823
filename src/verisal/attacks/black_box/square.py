"""Square attack: random search with squares, which asks the classifier for logits only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from verisal.attacks._base import Attack, Draw, check_ball, check_settings
from verisal.attacks._victim import Victim, margin, unit, wide
from verisal.functional.adversarial import noise_norm
from verisal.types import Norm

# Queries done, of 10 000 in all, after which the squares' area is halved once more.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# Random numbers are drawn for this many queries at once: a generator per sample and query would cost more
# than the classifier.
_BLOCK = 128
# Per query and sample: two window corners (2 x 2), then a sign per channel, then one for the window's
# orientation (L2) or for other signs (Linf).
_CORNERS = 4
# Channels of which a single random number can say which turn.
_MOST_TURNED = 20


@final
@dataclass(frozen=True)
class SquareAttack(Attack):
    r"""Random search: changes one square at a time and keeps what raises the margin loss.

    Linf: starts from vertical stripes of :math:`\pm\epsilon`; a query sets a square of every channel to
    :math:`\pm\epsilon`, with other signs where these would change nothing. L2: starts from a grid of bumps
    scaled to the ball; a query moves the budget of one window, and what is unused, into another as a bump
    that fades from its centre. The squares shrink by a fixed schedule. The loss is the best other logit minus
    the label's (targeted: the goal's minus the best other). Fooled samples leave the batch at once.

    Costs at most ``n_queries`` forward passes per image, one more for the verdict, and no backward pass.

    Args:
        eps: radius of the ball; in [0, 1] for Linf, any length >= 0 for L2.
        norm: ``linf`` or ``l2``.
        n_queries: forward passes per image, the start included; the schedule stretches over them.
        p_init: share of the image that the first squares cover, in (0, 1].
        targeted: ``y`` is the class to reach.

    Raises:
        ConfigError: settings out of range.

    References:
        andriushchenko2020

    Differs from:
        the authors' code: every image has its own windows, not one for the batch; windows never exceed the
        image's shorter side, and reach its last row and column; a window's L2 budget is that of all channels
        together, as in the authors' later code; the targeted form uses the margin and not the cross-entropy.
    """

    rules = 2

    eps: float
    norm: Norm = "linf"
    n_queries: int = 1000
    p_init: float = 0.8
    targeted: bool = False

    def __post_init__(self) -> None:
        check_ball(self, self.eps, self.norm)
        check_settings(self, "n_queries", least=1)
        check_settings(self, "p_init", least=0, most=1, above=True)

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        return self.attack_rows(victim, images, victim.rows, draw=draw)[0]

    @torch.no_grad()
    def attack_rows(
        self, victim: Victim, images: Tensor, rows: Tensor, *, draw: Draw
    ) -> tuple[Tensor, Tensor]:
        """Attack only samples ``rows (n,)`` of the chunk ``images (B, C, H, W)``.

        Returns:
            Their images ``(n, C, H, W)`` and whether these fool the classifier ``(n,)``.
        """
        clean = images[rows]
        best = (clean + self._start(images, draw)[rows]).clamp(0, 1)
        loss, fooled = self._asked(victim, best, rows)
        left = victim.left(~fooled)
        for query, numbers in enumerate(self._numbers(draw, images.shape[1])):
            if len(left) == 0:
                break
            side = self._side(query, images.shape[2], images.shape[3])
            move = _moved_linf if self.norm == "linf" else _moved_l2
            tried = move(clean[left], best[left], numbers[rows[left]], side, self.eps)
            new_loss, hit = self._asked(victim, tried, rows[left])
            better = hit | (new_loss > loss[left])
            best[left] = torch.where(wide(better), tried, best[left])
            loss[left] = torch.where(better, new_loss, loss[left])
            fooled[left] = hit
            left = left[victim.left(~hit)]
        return best, fooled

    def _numbers(self, draw: Draw, channels: int) -> Iterator[Tensor]:
        """Random numbers ``(B, 5 + C)`` of every query after the start: corners, signs, one for the rest."""
        queries = self.n_queries - 1
        for start in range(0, queries, _BLOCK):
            block: Tensor = draw(
                lambda rng: torch.rand(_BLOCK, _CORNERS + channels + 1, generator=rng),
                stream=f"square {start}",
            )
            yield from block.unbind(1)[: queries - start]

    def _asked(self, victim: Victim, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        logits = victim.logits(images, rows, later=True)
        return margin(logits, victim.labels[rows], targeted=self.targeted), victim.reached(logits, rows)

    def _side(self, query: int, height: int, width: int) -> int:
        """Side of the square of a query; odd for L2, whose windows have a centre."""
        done = int(query / self.n_queries * 10_000)
        area = self.p_init * height * width / 2 ** sum(done > after for after in _HALVINGS)
        side = min(max(round(math.sqrt(area)), 1), height, width)
        if self.norm == "linf":
            return side
        side = max(side, 3) | 1
        shorter = min(height, width)
        return side if side <= shorter else shorter - (shorter + 1) % 2

    def _start(self, images: Tensor, draw: Draw) -> Tensor:
        channels, height, width = images.shape[1:]
        if self.norm == "linf":
            signs = _signs(
                draw(lambda rng: torch.rand(channels, 1, width, generator=rng), stream="square start")
            )
            return (self.eps * signs).expand(-1, -1, height, -1).clone()
        side = max(height // 5, 1)
        down, across = height // side, width // side
        numbers = draw(
            lambda rng: torch.rand(channels + 1, down, across, generator=rng), stream="square start"
        )
        upright = numbers[:, channels:] < 0.5
        bumps = torch.where(upright[..., None, None], _bump(side, images), _bump(side, images).T)
        tiles = _signs(numbers[:, :channels])[..., None, None] * bumps
        # (B, C, down, across, side, side) to the image, where a margin below and to the right stays empty.
        grid = tiles.permute(0, 1, 2, 4, 3, 5).reshape(-1, channels, down * side, across * side)
        noise = torch.zeros_like(images)
        top, left = (height - down * side) // 2, (width - across * side) // 2
        noise[:, :, top : top + down * side, left : left + across * side] = grid
        return self.eps * unit(noise)


def _moved_linf(clean: Tensor, best: Tensor, numbers: Tensor, side: int, eps: float) -> Tensor:
    corner, _, signs = _windows(numbers, best, side)
    inside = _inside(corner, side, best)
    moved = torch.where(inside, clean + eps * signs, best).clamp(0, 1)
    # A query for an image that is known already would be lost. Only one choice of signs can give it, so that
    # any other will do: the bits of a number say which turn, for three channels of one from 1 to 7.
    known = (moved == best).flatten(1).all(dim=1)
    channels = best.shape[1]
    code = (numbers[:, -1:] * (2 ** min(channels, _MOST_TURNED) - 1)).long() + 1
    turned = known[:, None] & (code >> torch.arange(channels, device=code.device) & 1).bool()
    signs = torch.where(turned[..., None, None], -signs, signs)
    return torch.where(inside, clean + eps * signs, best).clamp(0, 1)


def _moved_l2(clean: Tensor, best: Tensor, numbers: Tensor, side: int, eps: float) -> Tensor:
    corner, other, signs = _windows(numbers, best, side)
    noise = best - clean
    first, second = _inside(corner, side, best), _inside(other, side, best)
    # What both windows hold in all channels, and a channel's share of what clamping to [0, 1] has left
    # unused. For each channel that is more than its share: scaled to the ball, the noise outside shrinks.
    unused = (eps**2 - noise_norm(noise, "l2").square()).clamp_min(0) / noise.shape[1]
    used = noise_norm(noise * (first | second), "l2").square()
    room = wide(unused + used).sqrt()
    upright = wide(numbers[:, -1] < 0.5)
    bump = torch.where(upright, _bump(side, noise), _bump(side, noise).T)
    index = _index(corner, side, noise)
    moved = torch.where(second, 0.0, noise)
    moved[index] = _flat_unit(signs * bump + _flat_unit(noise[index])) * room
    return (clean + eps * unit(moved)).clamp(0, 1)


def _windows(numbers: Tensor, images: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Upper left corners of two windows, ``(n, 2)`` int64 each, and signs ``(n, C, 1, 1)``."""
    height, width = images.shape[2:]
    free = numbers.new_tensor([height - side + 1, width - side + 1])
    corners = (numbers[:, :_CORNERS].view(-1, 2, 2) * free).long()
    return corners[:, 0], corners[:, 1], _signs(numbers[:, _CORNERS:-1])[..., None, None]


def _signs(uniform: Tensor) -> Tensor:
    """Minus one below a half, else one."""
    return torch.where(uniform < 0.5, -1.0, 1.0)


def _inside(corner: Tensor, side: int, images: Tensor) -> Tensor:
    """``(n, 1, H, W)`` bool, true in each sample's window."""
    height, width = images.shape[2:]
    down = torch.arange(height, device=corner.device) - corner[:, :1]
    across = torch.arange(width, device=corner.device) - corner[:, 1:]
    rows, columns = (down >= 0) & (down < side), (across >= 0) & (across < side)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _index(corner: Tensor, side: int, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Positions of the windows' values in ``images (n, C, H, W)``; indexing gives ``(n, C, side, side)``."""
    count, channels = images.shape[:2]
    sample = wide(torch.arange(count, device=corner.device))
    channel = torch.arange(channels, device=corner.device).view(1, -1, 1, 1)
    steps = torch.arange(side, device=corner.device)
    down = (corner[:, :1] + steps).view(-1, 1, side, 1)
    across = (corner[:, 1:] + steps).view(-1, 1, 1, side)
    return sample, channel, down, across


def _flat_unit(windows: Tensor) -> Tensor:
    """Every channel's window at length 1; zero stays zero."""
    return windows / windows.square().sum(dim=(2, 3), keepdim=True).sqrt().clamp_min(1e-12)


def _bump(side: int, like: Tensor) -> Tensor:
    """``(side, side)`` of length 1: a positive upper and a negative lower half, both fading outwards."""
    upper = side // 2
    bump = torch.zeros(side, side)
    if upper:
        bump[:upper] = _faded(upper, side)
    bump[upper:] = -_faded(side - upper, side)
    return (bump / bump.square().sum().sqrt()).to(like)


def _faded(height: int, width: int) -> Tensor:
    """``(height, width)`` of length 1: nested rectangles, the k-th adding ``1 / k^2``."""
    faded = torch.zeros(height, width)
    middle_row, middle_column = height // 2, width // 2
    for ring in range(max(middle_row, middle_column) + 1):
        rows = slice(max(middle_row - ring, 0), middle_row + ring + 1)
        columns = slice(max(middle_column - ring, 0), middle_column + ring + 1)
        faded[rows, columns] += 1 / (ring + 1) ** 2
    return faded / faded.square().sum().sqrt()
