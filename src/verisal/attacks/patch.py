"""A patch: one rectangle of the image is the attacker's, and the rest stays as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor

from verisal.attacks._base import Attack, Draw, check_settings, require
from verisal.attacks._victim import LossName, Victim, margin, wide
from verisal.types import Norm

_LAST_STEP = 0.1
# Of Adam, and what keeps its quotient finite; gradients of images are often far below its usual 1e-8.
_FIRST_MOMENT, _SECOND_MOMENT, _TINY = 0.9, 0.999, 1e-12


@final
@dataclass(frozen=True)
class AdversarialPatch(Attack):
    r"""A rectangle of the image, of any content in [0, 1], which makes the classifier err.

    .. math:: P_{t+1} = \mathrm{clip}_{[0,1]}\Bigl(P_t + \alpha_t\,
        d\bigl(\textstyle\frac1n\sum_{i=1}^{n} \nabla_P\,\ell(f(x \oplus_{o_i} P), y)\bigr)\Bigr)

    with :math:`x \oplus_o P` the image with the patch at the place ``o``, and ``d`` the sign or the step of
    Adam. The patch has the sides of the image times the root of ``share``. It lies at ``down`` and
    ``across``, or at a place that is drawn for each image. With ``places=1`` it is made for this place
    alone; with more, the loss is the mean over this place and others that are drawn anew at every step, so
    that the patch works wherever it is put. The step falls to a tenth along half a cosine.

    Iterates are judged as ``levels`` grey levels hold them, while steps add up unrounded. Kept is the one
    that fools at its own place and, of several, at most of the step's places; of equal ones that of highest
    loss. A sample leaves the batch once it fools at all places of a step with the margin ``confidence``.

    Costs at most ``steps * places`` forward and backward passes per image, and one forward for the verdict.
    The boxes of the patches are in the result.

    Args:
        share: of the image's area that the patch covers, in (0, 1); rounded to whole pixels.
        steps: gradient steps.
        step: length of the first step, in [0, 1] pixel units.
        optimiser: ``sign``: every value moves by the step. ``adam``: by Adam's.
        loss: that is raised: ``ce`` (cross-entropy), ``margin`` or ``dlr``, see :class:`APGD`.
        confidence: margin in logits at which a sample is finished, at least 0; None to take all steps.
        places: places in the objective of a step, its own included.
        down: own place of every image, from 0 (top) to 1 (bottom); drawn if None.
        across: the same from 0 (left) to 1 (right).
        random_start: begin with uniform noise rather than with what the image shows there.
        grain: pixels from one point whose colour is free to the next; between them the patch is interpolated.
            Above 1 it is smooth, so that what looks for noise finds its edge at most.
        levels: grey levels that the patch is rounded to, at least 2; no rounding if None.
        targeted: ``y`` is the class to reach.

    Raises:
        ConfigError: settings out of range.

    References:
        brown2017, karmon2018

    Differs from:
        the papers: one patch per image, not one for all images of a set; places only, no turned or scaled
        patches; brown2017 raises the log-probability of a goal, which is ``loss="ce"`` and ``targeted``;
        iterates are judged as rounded.
    """

    norm: ClassVar[Norm] = "l2"
    share: float = 0.05
    steps: int = 100
    step: float = 0.1
    optimiser: Literal["sign", "adam"] = "sign"
    loss: LossName = "ce"
    confidence: float | None = 1.0
    places: int = 1
    down: float | None = None
    across: float | None = None
    random_start: bool = False
    grain: int = 1
    levels: int | None = 256
    targeted: bool = False

    def __post_init__(self) -> None:
        require(0 < self.share < 1, "AdversarialPatch.share", self.share, "a share of the area in (0, 1)")
        check_settings(self, "steps", "places", "grain", least=1)
        check_settings(self, "step", least=0, most=1, above=True)
        check_settings(self, "confidence", least=0)
        check_settings(self, "down", "across", least=0, most=1)
        check_settings(self, "levels", least=2)
        known = self.optimiser in ("sign", "adam")
        require(known, "AdversarialPatch.optimiser", self.optimiser, "'sign' or 'adam'")
        known = self.loss in ("ce", "dlr", "margin")
        require(known, "AdversarialPatch.loss", self.loss, "'ce', 'dlr' or 'margin'")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the patch in an image of ``height x width`` pixels.

        >>> AdversarialPatch(share=0.0625).size(224, 224)
        (56, 56)
        """
        side = math.sqrt(self.share)
        return max(round(height * side), 1), max(round(width * side), 1)

    def _boxes(self, images: Tensor, *, draw: Draw) -> Tensor:
        corners = self._corners(images, draw)
        height, width = self.size(*images.shape[2:])
        return torch.cat([corners.flip(1), corners.flip(1) + corners.new_tensor([width, height])], dim=1)

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        own, others = self._corners(images, draw), self._other_corners(images, draw)
        rise, rows = victim.rising_loss(self.loss), victim.rows
        shown = images[self._index(own, images)]
        size = shown.shape[2:]
        points = self._points(shown)
        if self.random_start:
            shape = points.shape[1:]
            points = draw(lambda rng: torch.rand(shape, generator=rng), stream="patch start")
        best = _Best(self._rounded(smooth(points, size)))
        climb = _Climb(self.optimiser, points)
        for number in range(self.steps):
            seen = self._rounded(smooth(points, size))
            slope, found = torch.zeros_like(seen), _Found.none(seen)
            for corners in (own[rows], *others[rows, number].unbind(dim=1)):
                at = self._index(corners, images)
                patched = _put(images[rows], seen, at)
                losses, gradient, logits = victim.gradient(patched, rows, rise, later=True)
                slope += gradient[at] / self.places
                lead = margin(logits, victim.labels[rows], targeted=self.targeted)
                found = found.and_at(losses, victim.reached(logits, rows), lead)
            best.offer(seen, rows, found)
            left = victim.left(~found.finished(self.places, self.confidence))
            direction = climb.direction(slope_of_points(slope, points), number)
            points = (points + self._length(number) * direction).clamp(0, 1)
            rows, points = rows[left], points[left]
            climb.keep(left)
            if len(rows) == 0:
                break
        return _put(images, best.patches, self._index(own, images))

    def _corners(self, images: Tensor, draw: Draw) -> Tensor:
        """Own places ``(B, 2)`` int64: the first row and column of each patch."""
        drawn: Tensor = draw(lambda rng: torch.rand(2, generator=rng), stream="patch place")
        corners = self._whole(drawn, images)
        for axis, given in enumerate((self.down, self.across)):
            if given is not None:
                corners[:, axis] = round(given * self._room(images)[axis])
        return corners

    def _other_corners(self, images: Tensor, draw: Draw) -> Tensor:
        """Places ``(B, steps, places - 1, 2)`` int64 besides a sample's own, of every step."""
        shape = (self.steps, self.places - 1, 2)
        drawn: Tensor = draw(lambda rng: torch.rand(shape, generator=rng), stream="patch places")
        return self._whole(drawn, images)

    def _whole(self, shares: Tensor, images: Tensor) -> Tensor:
        free = shares.new_tensor(self._room(images))
        # A share just below 1 may round up to the whole of what is free and one more.
        return torch.minimum((shares * (free + 1)).floor(), free).long()

    def _room(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns by which a patch can move."""
        height, width = self.size(*images.shape[2:])
        return images.shape[2] - height, images.shape[3] - width

    def _index(self, corners: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Positions of the patches' values in images ``(n, C, H, W)``, of corners ``(n, 2)``."""
        height, width = self.size(*images.shape[2:])
        down = corners[:, :1] + torch.arange(height, device=corners.device)
        across = corners[:, 1:] + torch.arange(width, device=corners.device)
        sample = wide(torch.arange(len(corners), device=corners.device))
        channel = torch.arange(images.shape[1], device=corners.device).view(1, -1, 1, 1)
        return sample, channel, down[:, None, :, None], across[:, None, None, :]

    def _points(self, patches: Tensor) -> Tensor:
        """The colours that are free ``(B, C, h', w')``: those of the pixels, or means around points."""
        if self.grain == 1:
            return patches
        height, width = (math.ceil(side / self.grain) + 1 for side in patches.shape[2:])
        return F.adaptive_avg_pool2d(patches, (height, width))

    def _rounded(self, patches: Tensor) -> Tensor:
        if self.levels is None:
            return patches
        return (patches * (self.levels - 1)).round() / (self.levels - 1)

    def _length(self, number: int) -> float:
        fall = (1 + math.cos(math.pi * number / self.steps)) / 2
        return self.step * (_LAST_STEP + (1 - _LAST_STEP) * fall)


def smooth(points: Tensor, size: Sequence[int]) -> Tensor:
    """The patch of ``size`` between the points, whose outermost lie on its edge."""
    if tuple(points.shape[2:]) == tuple(size):
        return points
    return F.interpolate(points, size=tuple(size), mode="bilinear", align_corners=True)


def slope_of_points(slope: Tensor, points: Tensor) -> Tensor:
    """The gradient by the points, of that by the pixels between them."""
    if slope.shape == points.shape:
        return slope
    with torch.enable_grad():
        leaf = points.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(smooth(leaf, slope.shape[2:]), leaf, slope)
    return gradient


def _put(images: Tensor, patches: Tensor, at: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    images = images.clone()
    images[at] = patches
    return images


class _Climb:
    """Directions of the steps, with what Adam remembers of each sample that is left."""

    def __init__(self, optimiser: Literal["sign", "adam"], patches: Tensor) -> None:
        self._optimiser = optimiser
        self._mean, self._square = torch.zeros_like(patches), torch.zeros_like(patches)

    def direction(self, slope: Tensor, number: int) -> Tensor:
        """Of step ``number`` from 0, about 1 long in every value."""
        if self._optimiser == "sign":
            return slope.sign()
        self._mean = _FIRST_MOMENT * self._mean + (1 - _FIRST_MOMENT) * slope
        self._square = _SECOND_MOMENT * self._square + (1 - _SECOND_MOMENT) * slope.square()
        mean = self._mean / (1 - _FIRST_MOMENT ** (number + 1))
        square = self._square / (1 - _SECOND_MOMENT ** (number + 1))
        return mean / (square.sqrt() + _TINY)

    def keep(self, left: Tensor) -> None:
        """Forget the samples that are not in the places ``left``."""
        self._mean, self._square = self._mean[left], self._square[left]


class _Found(NamedTuple):
    """What the iterates of ``n`` samples do at the places of one step, their own first."""

    asked: int
    own: Tensor
    fools: Tensor
    loss: Tensor
    margin: Tensor

    @classmethod
    def none(cls, patches: Tensor) -> _Found:
        """Before any place was asked about."""
        zero = patches.new_zeros(len(patches))
        return cls(0, zero.bool(), zero, zero, zero + torch.inf)

    def and_at(self, losses: Tensor, reached: Tensor, lead: Tensor) -> _Found:
        """With one more place."""
        return _Found(
            asked=self.asked + 1,
            own=self.own if self.asked else reached,
            fools=self.fools + reached,
            loss=self.loss + losses,
            margin=torch.minimum(self.margin, lead),
        )

    def finished(self, places: int, confidence: float | None) -> Tensor:
        """``(n,)`` bool: no further step is needed."""
        if confidence is None:
            return torch.zeros_like(self.own)
        return (self.fools == places) & (self.margin >= confidence)


class _Best:
    """The iterate to return, per image of a chunk."""

    def __init__(self, patches: Tensor) -> None:
        self.patches = patches.clone()
        # Whether it fools at its own place, then at how many: one number that orders both.
        self._rank = patches.new_full((len(patches),), -1.0)
        self._loss = patches.new_full((len(patches),), -torch.inf)

    def offer(self, patches: Tensor, rows: Tensor, found: _Found) -> None:
        rank = found.fools + (found.asked + 1) * found.own
        higher = (rank == self._rank[rows]) & (found.loss > self._loss[rows])
        better = (rank > self._rank[rows]) | higher
        self.patches[rows] = torch.where(wide(better), patches, self.patches[rows])
        self._rank[rows] = torch.where(better, rank, self._rank[rows])
        self._loss[rows] = torch.where(better, found.loss, self._loss[rows])
