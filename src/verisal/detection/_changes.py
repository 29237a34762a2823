"""Images that are attacked, made noisy or put near the border, and the classifier's verdict on them."""

from __future__ import annotations

import torch
from torch import Tensor

from verisal.attacks import Attack
from verisal.functional.adversarial import judge_8bit, near_border, round_to_8bit
from verisal.functional.outputs import ask
from verisal.models import Classifier
from verisal.types import Batch


def changed(classifier: Classifier, batch: Batch, attack: Attack, *, seed: int) -> Tensor:
    """Images ``(B, C, H, W)`` under an attack or noise.

    Those that the classifier gets wrong anyway stay clean, since they never count.
    """
    clean = as_8bit(batch)
    with torch.no_grad():
        correct = (ask(classifier, clean).argmax(dim=1) == batch.labels).nonzero()[:, 0]
    result = attack(
        classifier,
        clean[correct],
        batch.labels[correct],
        generator=torch.Generator().manual_seed(seed),
        sample_ids=[batch.image_ids[index] for index in correct.tolist()],
    )
    return clean.index_copy(0, correct, result.images)


def put_near_border(
    classifier: Classifier, batch: Batch, attacked: Tensor, fooled: Tensor, shares: Tensor
) -> Tensor:
    """Images between clean ones and those that fool, near the border; the others stay clean.

    Args:
        classifier: the one that is attacked.
        batch: the clean images.
        attacked: ``(B, C, H, W)`` in 256 grey levels.
        fooled: ``(B,)`` whether the classifier errs on them.
        shares: ``(B,)`` how far beyond the border, on the way to the attacked image.
    """
    clean, rows = as_8bit(batch), fooled.nonzero()[:, 0]
    near = near_border(
        classifier, clean[rows], attacked[rows].float() / 255, batch.labels[rows], shares[rows]
    )
    return clean.index_copy(0, rows, near)


def verdict_on(classifier: Classifier, batch: Batch, images: Tensor) -> dict[str, Tensor]:
    """What is kept of changed images: they, rounded to 8 bits, and what the classifier says of them then."""
    verdict = judge_8bit(classifier, batch.images, images, batch.labels)
    return {
        "image": verdict.images,
        "label": batch.labels,
        "prediction": verdict.prediction,
        "clean_correct": verdict.clean_correct,
        "success": verdict.success,
        "success_unrounded": verdict.success_unrounded,
        "l2": verdict.l2,
        "linf": verdict.linf,
    }


def as_8bit(batch: Batch) -> Tensor:
    """The clean images as a file of 8 bits holds them, in [0, 1]."""
    return round_to_8bit(batch.images).float() / 255
