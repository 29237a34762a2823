"""Outcome of adaptive attacks on a defence that may err or reject: per image, with intervals over images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from verisal._brief import brief
from verisal.errors import DataError
from verisal.functional.statistics import Bootstrap
from verisal.results import Score


@final
@dataclass(frozen=True)
class Strongest:
    """The worst of several attacks, image by image.

    Attributes:
        attack: ``(B,)`` int64, which attack it was; -1 where none fooled the classifier.
        fooled: ``(B,)`` bool, whether any did.
        score: ``(B,)`` the detector's score of that attack's image; NaN where none fooled.
    """

    attack: Tensor
    fooled: Tensor
    score: Tensor

    __repr__ = brief


def strongest(fooled: Tensor, scores: Tensor) -> Strongest:
    """Per image, the attack that fools the classifier with the lowest score; ties go to the first.

    Args:
        fooled: ``(A, B)`` bool, for A attacks on B images, as stored with 8 bits.
        scores: ``(A, B)`` of the detector itself, not of what an attack took for it; read where fooled.

    Raises:
        DataError: shapes that differ, no attack, or a score of a fooling image that is NaN.
    """
    if fooled.ndim != 2 or fooled.shape != scores.shape or len(fooled) == 0:
        raise DataError(
            f"fooled and scores must both be (attacks, images), found {tuple(fooled.shape)} and"
            f" {tuple(scores.shape)}"
        )
    broken = fooled & scores.isnan()
    if bool(broken.any()):
        raise DataError(
            f"{int(broken.sum())} images that fool the classifier have no score; ask the detector about them"
        )
    comparable = torch.where(fooled, scores, torch.inf)
    lowest = comparable.amin(dim=0)
    # A fooling image with an infinite score is still a fooling image.
    first = (fooled & (comparable == lowest)).to(torch.uint8).argmax(dim=0)
    any_fooled = fooled.any(dim=0)
    return Strongest(
        attack=torch.where(any_fooled, first, -1),
        fooled=any_fooled,
        score=torch.where(any_fooled, lowest, torch.nan),
    )


@final
@dataclass(frozen=True)
class EndToEnd:
    """Outcome of one attack, or of the strongest of several, at one eps.

    Attributes:
        fooled: share of images for which the attack fools the classifier, rejected or not.
        detected: share of those that the detector rejects.
        auroc: of their scores against those of the same images before the attack.
        right_or_rejected: share of all attacked images that are still classified right or are rejected.
        clean_rejected: share of all images that are rejected before the attack, the realised FPR.
    """

    fooled: Score
    detected: Score
    auroc: Score
    right_or_rejected: Score
    clean_rejected: Score

    def remark(self, eps: float) -> str:
        """Implication of a claim of this size, to stand beside it.

        Args:
            eps: of the attack, in [0, 1] pixel units.

        References:
            tramer2022
        """
        return (
            f"still right or rejected: {self.right_or_rejected.value:.3f} at eps {eps * 255:g}/255. If no"
            " attack can do better, an (inefficient) classifier follows whose robust accuracy is about that"
            f" at eps {eps * 255 / 2:g}/255; where that exceeds what robust classifiers reach, suspect the"
            " attack"
        )


def end_to_end(
    fooled: Tensor,
    scores: Tensor,
    clean_scores: Tensor,
    threshold: float,
    bootstrap: Bootstrap,
) -> EndToEnd:
    """Judge a classifier and a detector together on attacked images.

    The images are those that the classifier gets right before the attack. An image is rejected if its score
    lies strictly above the threshold. For the worst case over attacks pass what :func:`strongest` gives:
    an image that any attack brings through counts as lost.

    Args:
        fooled: ``(B,)`` bool.
        scores: ``(B,)`` of the attacked images; read where fooled.
        clean_scores: ``(B,)`` of the same images before the attack.
        threshold: chosen on clean validation images.
        bootstrap: of the images.

    Raises:
        DataError: sides that differ in length, or a threshold or a score of a fooling image that is NaN.
        NumericError: scores with two distinct values only.
    """
    if fooled.ndim != 1 or not fooled.shape == scores.shape == clean_scores.shape:
        raise DataError(
            "fooled, scores and clean scores must have one entry per image, found"
            f" {tuple(fooled.shape)}, {tuple(scores.shape)} and {tuple(clean_scores.shape)}"
        )
    if math.isnan(threshold):
        raise DataError("the threshold is not a number, so nothing can be rejected; choose it again")
    if bool((fooled & scores.isnan()).any()):
        raise DataError("an image that fools the classifier has no score; ask the detector about it")
    hits = scores[fooled]
    kept = ~fooled | (scores > threshold)
    return EndToEnd(
        fooled=bootstrap.mean(fooled).score(),
        detected=bootstrap.rate_above(hits, threshold).score(),
        auroc=bootstrap.auroc(hits, clean_scores[fooled]).score(),
        right_or_rejected=bootstrap.mean(kept).score(),
        clean_rejected=bootstrap.rate_above(clean_scores, threshold).score(),
    )


def nearest_of_other_class(
    features: Tensor, labels: Tensor, pool_features: Tensor, pool_labels: Tensor
) -> Tensor:
    """For every image the position of the pool's nearest image of another class, as a guide to imitate.

    Args:
        features: ``(B, D)`` of the images.
        labels: ``(B,)`` int64.
        pool_features: ``(N, D)`` of clean images.
        pool_labels: ``(N,)`` int64, the classes that the classifier gives them.

    Returns:
        ``(B,)`` int64.

    Raises:
        DataError: a pool without an image of another class, or features that are not numbers.
    """
    distance = torch.cdist(features, pool_features)
    distance = distance.masked_fill(labels[:, None] == pool_labels[None], torch.inf)
    if not pool_labels.numel() or not bool(distance.amin(dim=1).isfinite().all()):
        raise DataError(
            "the pool holds no image of another class for some image, or features that are not numbers; give"
            " more images, or look for NaN in the features"
        )
    return distance.argmin(dim=1)
