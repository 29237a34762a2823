r"""Numbers over images with the same numbers in bootstrap resamples of the images, and what is made of them.

``Bootstrap().mean(values).score()`` is a mean with its 95 % interval; ``.minus``, ``Resampled.mean``,
``Resampled.least`` and ``Resampled.greatest`` compare and combine numbers of the same resamples.

The bootstrap has no interval for a rate of 0 or 1, and too short a one near them. A number in [0, 1] (a
share: an area under a ROC curve, a mean of rates) is therefore taken for a rate among so many images as would
vary as much, and gets that rate's Clopper-Pearson limits, which hold at least as often as they say.
``scripts/interval_coverage.py`` measures how often.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Self, final

import torch
from torch import Tensor

from verisal._brief import brief
from verisal.errors import DataError
from verisal.functional.statistics.detection import (
    rate_above,
    refuse_decisions,
    resampled_auroc,
    resampled_fpr_at_tpr95,
    resampled_mean,
)
from verisal.functional.statistics.limits import (
    MISS,
    difference_limits,
    hit_difference_limits,
    images_worth,
    rate_limits,
)
from verisal.functional.statistics.resamples import Resamples
from verisal.results import Score
from verisal.types import check_range

#: Images from which on intervals hold in at least 92 of 100 sets (scripts/interval_coverage.py):
#: those of the bootstrap's percentiles, and that of the FPR at 95 % TPR. All others hold from 5 on.
FEWEST_FOR_PERCENTILES, FEWEST_FOR_TPR95 = 30, 20

_NO_DRAWS = torch.empty(0, dtype=torch.float64)


@final
@dataclass(frozen=True, eq=False)
class Resampled:
    """A number over images, and the same number in every bootstrap resample of them.

    Attributes:
        value: the number; NaN where it is undefined.
        draws: ``(S,)`` float64, NaN where a resample leaves it undefined; empty for no interval.
        n: images that count.
        undefined: images that were left out.
        kind: what the limits are. ``percentiles`` of the draws; ``share``: of a rate among so many images as
            would vary as much as the draws; ``rate``: of a rate among the images that count.
        worth: of how many images a share is worth where its draws do not say; ``n`` if None.
        ends: the limits themselves, where they are made from those of other numbers.
        fewest: images below which the limits hold too seldom; of ``percentiles`` it is known.
        counted: places of the images that count, for each number that it is made of; empty if not known.
    """

    value: float
    draws: Tensor = _NO_DRAWS
    n: int = 0
    undefined: int = 0
    kind: Literal["percentiles", "share", "rate"] = "percentiles"
    worth: float | None = None
    ends: tuple[float, float] | None = None
    fewest: int = 0
    counted: tuple[Tensor, ...] = ()

    __repr__ = brief

    def limits(self, miss: float = MISS) -> tuple[float, float]:
        """Lower and upper limit, each of which the truth passes with probability ``miss`` at most.

        NaN where nothing was resampled or only one image counts. A share's are a rate's among as many images
        as :func:`.images_worth` says of the variance of the draws.
        """
        if self.ends is not None:
            return self.ends
        drawn = self.draws[~self.draws.isnan()].double()
        images = self.n if self.worth is None else self.worth
        if self.kind == "percentiles":
            if self.n < 2 or not len(drawn):
                return math.nan, math.nan
            low, high = torch.quantile(drawn, drawn.new_tensor([miss, 1 - miss])).tolist()
            return low, high
        if math.isnan(self.value) or not images > 1 or not (self.kind == "rate" or len(drawn)):
            return math.nan, math.nan
        if self.kind == "share":
            images = images_worth(self.value, float(drawn.var(correction=0)), images)
        return rate_limits(self.value, images, miss=miss)

    def score(self) -> Score:
        """The number with its 95 % interval, which is said to be of too few images where it is."""
        fewest = self.fewest
        if self.kind == "percentiles" and not bool(self.draws.isnan().all()):
            fewest = FEWEST_FOR_PERCENTILES
        few = 0 < self.n < fewest
        return Score(self.value, *self.limits(), n=self.n, undefined=self.undefined, few=few)

    def minus(self, other: Self) -> Score:
        """The difference to another share in the same resamples, -1 to 1, with its paired 95 % interval.

        Raises:
            DataError: numbers that were not resampled together, or of other images.
        """
        if self.draws.shape != other.draws.shape:
            raise DataError(
                f"a difference needs numbers of the same resamples, found {len(self.draws)} and"
                f" {len(other.draws)}; take both from one bootstrap"
            )
        if not self.of_same_images(other):
            raise DataError(
                "a difference needs numbers of the same images, found some that only one of them counts;"
                " leave these out of both"
            )
        known = ~(self.draws.isnan() | other.draws.isnan())
        first, second = (draws[known].double() for draws in (self.draws, other.draws))
        centred = first - first.mean(), second - second.mean()
        scale = float(centred[0].norm() * centred[1].norm())
        if scale > 0 and self.value == other.value and bool(first.equal(second)):
            low = high = 0.0
        else:
            low, high = difference_limits(
                (self.value, *self.limits()),
                (other.value, *other.limits()),
                correlation=float(centred[0] @ centred[1]) / scale if scale > 0 else 0.0,
            )
        return Score(self.value - other.value, low, high, n=self.n, undefined=self.undefined)

    def of_same_images(self, other: Self) -> bool:
        """True if the same images count for both."""
        return len(self.counted) == len(other.counted) and all(map(torch.equal, self.counted, other.counted))

    @classmethod
    def mean(cls, parts: Sequence[Self]) -> Self:
        """The mean of shares, taken within each resample."""
        # Attacks on the same images err together: their standard errors add up.
        worth = (len(parts) / sum(part._worth**-0.5 for part in parts if part.n)) ** 2 if parts else 0.0
        return cls(
            sum(part.value for part in parts) / len(parts),
            torch.stack([part.draws for part in parts]).mean(dim=0),
            max(part.n for part in parts),
            max(part.undefined for part in parts),
            kind="share",
            worth=worth,
            counted=tuple(counted for part in parts for counted in part.counted),
        )

    @classmethod
    def least(cls, parts: Sequence[Self]) -> Self:
        """The least of several shares; both limits together hold in 95 % of sets or more.

        The least lower limit lies below the share that is truly least as often as that one's own does. That
        some upper limit lies below it can happen once per share, so each may miss only its part.
        """
        # min() of NaN hangs on the order.
        unknown = any(math.isnan(part.value) for part in parts)
        ends = [(part.limits()[0], part.limits(MISS / len(parts))[1]) for part in parts]
        if unknown or any(math.isnan(low) for low, _ in ends):
            ends = [(math.nan, math.nan)]
        return cls(
            math.nan if unknown else min(part.value for part in parts),
            torch.stack([part.draws for part in parts]).amin(dim=0),
            min(part.n for part in parts),
            max(part.undefined for part in parts),
            kind="share",
            worth=min(part._worth for part in parts),
            ends=(min(low for low, _ in ends), min(high for _, high in ends)),
            counted=tuple(counted for part in parts for counted in part.counted),
        )

    @classmethod
    def greatest(cls, parts: Sequence[Self]) -> Self:
        """The greatest of several shares, as :meth:`least`."""
        least = cls.least([replace(part, value=1 - part.value, draws=1 - part.draws) for part in parts])
        low, high = least.limits()
        value = least.value if math.isnan(least.value) else max(part.value for part in parts)
        return replace(least, value=value, draws=1 - least.draws, ends=(1 - high, 1 - low))

    @property
    def _worth(self) -> float:
        return self.n if self.worth is None else self.worth


@final
class Bootstrap:
    """Resamples of images, and the numbers over images that are asked of them.

    The same settings always give the same resamples, so that numbers of the same images compare.

    Args:
        resamples: number S of resamples; 0 for values without intervals.
        seed: of the draw.
        together: number of images that are resampled as one, of which each number is of a part: an image
            then takes everything that is made of it along. None: the images that count for a number are
            resampled for it.
        groups: of several numbers an image, such as one for each class in it: ``(N,)`` int64 from 0, the
            image of each, all of which are resampled together; None for one number an image.

    Raises:
        ConfigError: a number below 0.
    """

    def __init__(
        self,
        resamples: int = 2000,
        *,
        seed: int = 0,
        together: int | None = None,
        groups: Tensor | None = None,
    ) -> None:
        check_range(0, resamples=resamples, seed=seed, together=together)
        self.resamples, self.seed, self.together, self.groups = resamples, seed, together, groups
        self._resamples = Resamples(resamples, seed=seed)

    def jointly(self, images: int) -> Bootstrap:
        """The same resamples for numbers of parts of these images, which are resampled together.

        DataError for another number than that of the groups' members.
        """
        if self.groups is not None and len(self.groups) != images:
            raise DataError(f"{images} numbers were asked about, of which groups say {len(self.groups)}")
        joint = Bootstrap(self.resamples, seed=self.seed, together=images, groups=self.groups)
        joint._resamples = self._resamples
        return joint

    def weights(self, images: int) -> Tensor:
        """``(S, images)`` float32 on the CPU: how often each image occurs in each resample.

        Every row sums to the number of images. Needs 4 S n bytes.
        """
        parts = [part.float() for part in self._resamples.parts(images)]
        return torch.cat(parts) if parts else torch.zeros(self.resamples, images)

    def of(
        self,
        statistic: Callable[[Tensor], Tensor],
        counts: Tensor,
        *,
        images: Tensor | None = None,
        kind: Literal["percentiles", "share"] = "percentiles",
        worth: float | None = None,
        fewest: int = 0,
    ) -> Resampled:
        """Any number that hangs on how often each image counts.

        Args:
            statistic: from ``(S, n)`` weights of the images that count to ``(S,)`` numbers.
            counts: ``(N,)`` bool, which images count.
            images: ``(N,)`` int64, their places among those that are resampled together; in order if None.
            kind: as of :class:`Resampled`, like the next two.
            worth: of a share.
            fewest: of a share.
        """
        counts = counts.cpu()
        n, undefined = int(counts.sum()), int((~counts).sum())
        places = counts.nonzero()[:, 0] if images is None else images[counts].cpu()
        if not n:
            nothing = torch.full((self.resamples,), torch.nan, dtype=torch.float64)
            return Resampled(math.nan, nothing, 0, undefined, kind=kind, counted=(places,))
        value = float(statistic(torch.ones(1, n))[0])
        draws = self._draws(statistic, places)
        return Resampled(value, draws, n, undefined, kind, worth, fewest=fewest, counted=(places,))

    def _draws(self, statistic: Callable[[Tensor], Tensor], places: Tensor) -> Tensor:
        """``(S,)``: a number of what stands at these places, in each resample."""
        if not self.resamples:
            return _NO_DRAWS
        if self.groups is not None:
            groups = self.groups.cpu()
            total, places = int(groups.max()) + 1, groups[places]
        else:
            total = len(places) if self.together is None else self.together
            places = torch.arange(total) if self.together is None else places
        return torch.cat([statistic(part) for part in self._resamples.at(places, total)])

    def rate(self, value: float, n: int, undefined: int = 0, *, hits: Tensor | None = None) -> Resampled:
        """A rate among n images, which has a rate's exact limits and is not resampled.

        Of several numbers an image it is a rate among as many as would vary as much as resamples of the
        images, from the number of images to n; ``hits (N,)``, 0, 1 or NaN, say how much they do.
        """
        kind: Literal["percentiles", "rate"] = "rate" if self.resamples else "percentiles"
        worth = self._worth_of(hits, n) if self.resamples and self.groups is not None else None
        return Resampled(value, n=n, undefined=undefined, kind=kind, worth=worth)

    def _worth_of(self, hits: Tensor | None, n: int) -> float:
        """Of how many images with one number each the hits of groups are worth."""
        groups = torch.empty(0) if self.groups is None else self.groups.cpu()
        if hits is None:
            return min(n, len(torch.unique(groups)))
        places = hits.isfinite().cpu().nonzero()[:, 0]
        kept = hits.double().cpu()[places]
        if len(kept) < 2:
            return len(kept)
        images, share = len(torch.unique(groups[places])), float(kept.mean())
        draws = self._draws(partial(resampled_mean, kept), places)
        spread = float(draws.nan_to_num(share).var(correction=0))
        return min(max(images_worth(share, spread, images), images), len(kept))

    def mean(
        self, values: Tensor, *, kind: Literal["value", "measure", "difference", "hit difference"] = "value"
    ) -> Resampled:
        """Mean of per-image values.

        The interval is that of the bootstrap's percentiles. Values that are all 0 or 1 are hits, and their
        mean is a rate, which gets the limits of one.

        Args:
            values: ``(n,)``; NaN and infinity are undefined: counted, and left out.
            kind: ``measure``: never a hit, such as a similarity that is 1 throughout. ``difference``: each is
                the first method's value minus the second's on the same image, undefined if either is.
                ``hit difference``: the same of hits, hence -1, 0 or 1.
        """
        values = values.detach().double().cpu()
        defined = values.isfinite()
        kept = values[defined]
        n, undefined = len(kept), len(values) - len(kept)
        counted = (defined.nonzero()[:, 0],)
        if self.resamples and n > 1:
            if kind == "value" and _are_hits(kept):
                return replace(self.rate(float(kept.mean()), n, undefined, hits=values), counted=counted)
            # Two methods that agree on all images may agree because they are one; two rates may not.
            told = kind == "hit difference" or bool(kept.any())
            exact = kind.endswith("difference") and self.groups is None
            if exact and told and _are_hits(kept.abs()):
                ends = hit_difference_limits(int((kept == 1).sum()), int((kept == -1).sum()), n)
                mean = float(kept.mean())
                return Resampled(mean, n=n, undefined=undefined, kind="share", ends=ends, counted=counted)
        return self.of(partial(resampled_mean, kept), defined)

    def auroc(self, positive: Tensor, negative: Tensor, *, images: Tensor | None = None) -> Resampled:
        """AUROC, positives and negatives paired by image.

        Args:
            positive: ``(n,)`` scores of attacked images; NaN is undefined.
            negative: ``(n,)`` scores of the same images unattacked; see :func:`.pair_by_image`.
            images: their places, as of :meth:`of`.

        Raises:
            DataError: the two sides differ in length, or are not one-dimensional.
            NumericError: only two distinct score values.
        """
        defined = _defined(positive, negative)
        sides = positive[defined], negative[defined]
        refuse_decisions(*sides)
        return self.of(partial(resampled_auroc, *sides), defined, images=images, kind="share")

    def fpr_at_tpr95(self, positive: Tensor, negative: Tensor, *, images: Tensor | None = None) -> Resampled:
        """:func:`.fpr_at_tpr95`; arguments and errors as in :meth:`auroc`."""
        defined = _defined(positive, negative)
        statistic = partial(resampled_fpr_at_tpr95, positive[defined], negative[defined])
        return self.of(statistic, defined, images=images, kind="share", fewest=FEWEST_FOR_TPR95)

    def rate_above(self, scores: Tensor, threshold: float, *, images: Tensor | None = None) -> Resampled:
        """Share of scores strictly above a fixed threshold.

        The threshold is taken as given: the interval does not hold its uncertainty. It is a rate's, and a
        share's where images are resampled together.

        Args:
            scores: ``(n,)``, one per image; NaN is undefined.
            threshold: from held-out negatives; NaN leaves all images undefined.
            images: their places, as of :meth:`of`.
        """
        defined = ~scores.isnan() & (not math.isnan(threshold))
        if self.together is None:
            n, counted = int(defined.sum()), (defined.nonzero()[:, 0],)
            return replace(self.rate(rate_above(scores, threshold), n, len(scores) - n), counted=counted)
        events = (scores[defined] > threshold).double()
        return self.of(partial(resampled_mean, events), defined, images=images, kind="share")


def _are_hits(values: Tensor) -> bool:
    """True if all are 0 or 1, so that their mean is a rate; ``(n,)`` without NaN."""
    return bool(((values == 0) | (values == 1)).all())


def _defined(positive: Tensor, negative: Tensor) -> Tensor:
    if positive.shape != negative.shape or positive.ndim != 1:
        raise DataError(
            "paired scores must be (n,) of the same images in the same order, found"
            f" {[tuple(positive.shape), tuple(negative.shape)]}; pair them by image id first"
        )
    return ~(positive.isnan() | negative.isnan())
